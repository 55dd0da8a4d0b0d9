"""Modules as exported programs: what comes back, and what never runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from flowyml.errors import (
    FlowymlError,
    MaterializationError,
    MaterializationWarning,
    UntrustedDataError,
)
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml.trust import Trust
from flowyml_pytorch.exporting import programs

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 2)
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.constant = torch.arange(2.0)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            factor = self.scratch * 2
        x = self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3))
        x = self.head(x) * factor + self.constant
        return {"out": x if scale is None else x * scale, "twice": x + x}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.constant = torch.ones(2)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        return {"y": self.inner(x) * scale + self.constant}


class EvenOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] % 2 == 0 else x


class OnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Busy(nn.Module):
    """Leaves much behind when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []
        self.register_buffer("count", torch.zeros(1))
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.count += 1
        random.random()
        return self.layer(x) + torch.rand(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(10_000.0)
        self.register_buffer("part", whole[3:5])
        self.register_buffer("other", whole[7:9])
        self.register_buffer("expanded", torch.ones(1).expand(2))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("conj", torch.randn(2, dtype=torch.complex64).conj())
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part * self.other + self.expanded + self.frozen + self.conj.real


@dataclass
class Box:
    item: Tensor


class Boxing(nn.Module):
    def forward(self, x: Tensor) -> Box:
        return Box(x * 2)


def saved(model: Any, folder: Path, example_inputs: Any = None) -> Saved:
    """Save a model, and describe it as a store would; its files are read-only there."""
    folder.mkdir(exist_ok=True)
    result = programs.save(model, folder, example_inputs)
    path = folder / "program.pt2"
    path.chmod(0o444)
    return Saved("m@v1", "exported", {path.name: path}, result)


def load(given: Saved, **options: Any) -> Any:
    return programs.load(given, LoadOptions(**options))


def bytes_of(given: Saved) -> bytes:
    return given.files["program.pt2"].read_bytes()


def test_a_module_comes_back_as_a_callable_that_computes_the_same(tmp_path: Path) -> None:
    module = Net().eval()
    given = saved(module, tmp_path, torch.randn(2, 3, 8, 8))
    assert given.result.restore == "exact"
    back = load(given)
    assert isinstance(back, nn.Module)
    assert not isinstance(back, Net)
    x = torch.randn(2, 3, 8, 8)
    expected, found = module(x), back(x)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert dict(back.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert back.state_dict().keys() == module.state_dict().keys()
    assert back.conv.weight.stride() == module.conv.weight.stride()


def test_it_comes_back_where_its_class_is_unknown(
    tmp_path: Path, run_script: Callable[..., str]
) -> None:
    module = Linear().eval()
    x, scale = torch.randn(2, 3), torch.randn(2, 2)
    saved(module, tmp_path / "saved", {"x": x, "scale": scale})
    torch.save({"x": x, "scale": scale}, tmp_path / "inputs.pt")
    printed = run_script(
        """
import sys
from pathlib import Path
import torch
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml_pytorch.exporting import programs

path = Path("saved/program.pt2")
result = SaveResult(details={"kind": "module", "training": False})
back = programs.load(Saved("m@v1", "exported", {path.name: path}, result), LoadOptions())
torch.save(back(**torch.load("inputs.pt"))["y"], "outputs.pt")
Path("again").mkdir()
programs.save(torch.nn.Sequential(torch.nn.Flatten()), Path("again"), torch.ones(2, 3))
print(Path("again/program.pt2").read_bytes().hex())
"""
    )
    assert torch.equal(torch.load(tmp_path / "outputs.pt"), module(x, scale=scale)["y"])
    again = saved(nn.Sequential(nn.Flatten()), tmp_path / "again here", torch.ones(2, 3))
    assert bytes.fromhex(printed) == bytes_of(again)  # in every process


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_works_whatever_that_of_the_examples(tmp_path: Path, batch: int) -> None:
    module = Net().eval()
    given = saved(module, tmp_path, torch.randn(batch, 3, 8, 8))
    assert given.result.details["dynamic"] == ["x"]
    back = load(given)
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        assert torch.allclose(back(x)["out"], module(x)["out"])
    with pytest.raises(AssertionError, match=r"x.size\(\)\[2\] == 8"):
        back(torch.randn(2, 3, 9, 8))


def test_what_the_trace_took_for_granted_is_checked(tmp_path: Path) -> None:
    back = load(saved(EvenOnly(), tmp_path, torch.ones(2, 3)))
    assert torch.equal(back(torch.ones(4, 3)), torch.full((4, 3), 2.0))
    with pytest.raises(AssertionError, match=r"x.size\(\)\[0\] % 2 == 0"):
        back(torch.ones(3, 3))


def test_a_size_that_cannot_vary_is_recorded(tmp_path: Path) -> None:
    given = saved(nn.Linear(3, 2), tmp_path, torch.ones(3))
    assert given.result.details["dynamic"] == []
    assert load(given)(torch.ones(3)).shape == (2,)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_as_before(tmp_path: Path, training: bool) -> None:
    module = Busy().train(training)
    module.layer(torch.ones(1, 2)).sum().backward()
    ran = []
    module.layer.register_forward_hook(lambda *_: ran.append(1))
    grad, states = module.layer.weight.grad, (torch.get_rng_state(), random.getstate())
    hooks = dict(module.layer._forward_hooks)
    x = torch.ones(2, 2)
    saved(module, tmp_path, x)
    assert (module.calls, module.seen, module.count.item()) == (0, [], 0)
    assert module.training is module.layer.training is training
    assert module.layer.weight.grad is grad
    assert module.layer._forward_hooks == hooks
    assert x.tolist() == [[1, 1], [1, 1]]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_equal_content_gives_equal_bytes_without_traces_of_the_machine(tmp_path: Path) -> None:
    module = Net().eval()
    first = saved(module, tmp_path / "a", torch.randn(2, 3, 8, 8))
    second = saved(module, tmp_path / "b", torch.randn(2, 3, 8, 8))
    assert bytes_of(first) == bytes_of(second)
    for trace in (__file__, str(Path(torch.__file__).parent), str(tmp_path), "in forward"):
        assert trace.encode() not in bytes_of(first)


def test_torch_reads_the_file_by_itself(tmp_path: Path) -> None:
    module = Tied().eval()
    given = saved(module, tmp_path, torch.ones(2, 2))
    program = torch.export.load(given.files["program.pt2"])
    x = torch.randn(3, 2)
    assert torch.equal(program.module()(x), module(x))


def test_ties_come_back_and_changes_stay_in_memory(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path, torch.ones(2, 2))
    before = bytes_of(given)
    back = load(given)
    assert back.one.weight is back.two.weight
    with torch.no_grad():
        back.one.weight.zero_()
    assert bytes_of(given) == before
    assert load(given).one.weight.any()


def test_tensors_are_stored_for_what_they_are(tmp_path: Path) -> None:
    module = Odd()
    given = saved(module, tmp_path, torch.ones(2, 2))
    back = load(given)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in module.state_dict().items())
    assert not back.frozen.requires_grad
    assert back.part.untyped_storage().nbytes() == 8
    assert given.files["program.pt2"].stat().st_size < 20_000


def test_a_wrapper_is_exported_as_the_model_inside(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    back = load(saved(torch.compile(module, backend="eager"), tmp_path, torch.ones(2, 3)))
    assert torch.equal(back.weight, module.weight)


def test_a_program_comes_back_as_one(tmp_path: Path) -> None:
    x = torch.ones(4, 3)
    program = torch.export.export(
        EvenOnly(), (x,), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    back = load(saved(program, tmp_path))
    assert isinstance(back, ExportedProgram)
    assert program.example_inputs[0][0] is x
    module = back.module()
    assert torch.equal(module(x), x * 2)
    with pytest.raises(AssertionError, match="% 2"):
        module(torch.ones(3, 3))


def test_without_example_inputs_it_is_said_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(MaterializationError, match=r"EvenOnly .*from_pytorch\(\.\.\., example_inp"):
        programs.save(EvenOnly(), tmp_path, None)


def test_what_torch_refuses_is_told_with_its_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MaterializationError, match="OnValues .*data-dependent"):
        programs.save(OnValues(), tmp_path, torch.ones(2))
    with pytest.raises(MaterializationError, match="Linear .*RuntimeError"):
        programs.save(nn.Linear(3, 2), tmp_path, torch.ones(2, 4))
    assert capfd.readouterr().err == ""


def test_what_loading_would_refuse_is_not_saved(tmp_path: Path) -> None:
    class Mapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(torch.sin)(x)

    with pytest.raises(MaterializationError, match=r"Node.target is 'torch\._functorch"):
        programs.save(Mapped(), tmp_path, torch.ones(2, 2))


def test_the_training_mode_stays_and_is_told(tmp_path: Path) -> None:
    with pytest.warns(MaterializationWarning, match=r"Net is exported in training mode.*eval\(\)"):
        given = saved(Net().train(), tmp_path, torch.randn(2, 3, 8, 8))
    back = load(given)
    assert back.training
    assert back.train() is back
    with pytest.raises(NotImplementedError, match=r"in training mode.*Call eval\(\)"):
        back.eval()
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(back(x)["out"], back(x)["out"])  # dropout


def test_the_evaluation_mode_stays(tmp_path: Path) -> None:
    back = load(saved(Net().eval(), tmp_path, torch.randn(2, 3, 8, 8)))
    assert not back.training
    assert back.eval() is back.train(False) is back
    with pytest.raises(NotImplementedError, match=r"in eval mode.*Call train\(\)"):
        back.train()


def test_it_trains_further(tmp_path: Path) -> None:
    back = load(saved(Tied(), tmp_path, torch.ones(2, 2)))
    before = back.one.weight.clone()
    optimizer = torch.optim.SGD(back.parameters(), lr=0.1)
    back(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(back.one.weight, before)


def test_a_module_is_filled_strictly(tmp_path: Path) -> None:
    module = Net().eval()
    given = saved(module, tmp_path, torch.randn(2, 3, 8, 8))
    other = Net()
    assert load(given, into=other) is other
    assert torch.equal(other.head.weight, module.head.weight)
    assert torch.equal(other.norm.running_mean, module.norm.running_mean)
    misfit = Net()
    misfit.head, misfit.more = nn.Linear(5, 2), nn.Linear(1, 1)
    with pytest.raises(MaterializationError, match=r"more.weight.*head.weight \(saved \[2, 4\]"):
        load(given, into=misfit)


def test_it_goes_to_the_device_that_is_asked_for(tmp_path: Path) -> None:
    class Making(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y = x @ x.t()
            return self.layer(x).sum() + torch.arange(2, device="cpu") + y.sum()

    given = saved(Making(), tmp_path, torch.ones(2, 2))
    back = load(given, device="cpu")
    assert torch.equal(back(torch.ones(2, 2)), load(given)(torch.ones(2, 2)))
    with pytest.raises(MaterializationError, match="device='nowhere'"):
        load(given, device="nowhere")
    there = load(saved(Tied(), tmp_path / "tied", torch.ones(2, 2)), device="meta")
    assert there.one.weight.device.type == there(torch.ones(3, 2, device="meta")).device.type


def test_a_device_that_is_not_here_becomes_the_cpu(tmp_path: Path) -> None:
    def on_a_gpu(entries: dict[str, bytes]) -> None:
        for name, content in entries.items():
            entries[name] = content.replace(
                b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 77}'
            )

    given = changed(saved(Net().eval(), tmp_path, torch.randn(2, 3, 8, 8)), on_a_gpu)
    assert load(given)(torch.randn(3, 3, 8, 8))["out"].shape == (3, 2)


def test_operators_of_other_libraries_need_trust(tmp_path: Path) -> None:
    @torch.library.custom_op("flowyml_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    doubled.register_fake(torch.empty_like)

    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.flowyml_tests.doubled(x)

    given = saved(Calling(), tmp_path, torch.ones(2))
    name = "torch.ops.flowyml_tests.doubled"
    assert given.result.required_trust == (name,)
    with pytest.raises(UntrustedDataError, match=name) as caught:
        load(given)
    assert caught.value.required == (name,)
    for trust in (name, "torch.ops.flowyml_tests.*"):
        assert load(given, trust=Trust.of(trust))(torch.ones(2)).tolist() == [2, 2]

    def elsewhere(entries: dict[str, bytes]) -> None:
        entries["models/model.json"] = entries["models/model.json"].replace(b"doubled", b"tripled")

    with pytest.raises(MaterializationError, match=r"doesn't have: flowyml_tests::tripled"):
        load(changed(given, elsewhere), trust=Trust.of("torch.ops.flowyml_tests.*"))


def test_containers_of_other_libraries_need_trust(tmp_path: Path) -> None:
    torch.export.register_dataclass(Box, serialized_type_name=f"{__name__}.Box")
    given = saved(Boxing(), tmp_path, torch.ones(2))
    assert given.result.required_trust == (f"{__name__}.Box",)
    with pytest.raises(UntrustedDataError, match=r"Box.*trust="):
        load(given)
    back = load(given, trust=Trust.of(f"{__name__}.*"))(torch.ones(2))
    assert type(back) is Box
    assert back.item.tolist() == [2, 2]


def test_what_defines_a_trusted_container_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bags.py").write_text(
        "import torch\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Bag:\n"
        "    y: torch.Tensor\n"
        "torch.export.register_dataclass(Bag, serialized_type_name='bags.Bag')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def bagged(entries: Entries) -> None:
        signature(entries, out_spec=structure("bags.Bag", '[["y"], []]'))

    given = changed(saved(Linear().eval(), tmp_path / "saved", INPUTS), bagged)
    with pytest.raises(UntrustedDataError, match="bags.Bag"):
        load(given)
    assert "bags" not in sys.modules
    assert type(load(given, trust=Trust.of("bags.*"))(**INPUTS)).__name__ == "Bag"
    elsewhere = structure("nowhere.Bag", "[]")
    unknown = changed(given, lambda e: signature(e, out_spec=elsewhere))
    with pytest.raises(MaterializationError, match="No module named 'nowhere'"):
        load(unknown, trust=Trust.of("nowhere.*"))


def test_two_threads_load_at_once(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path, torch.ones(2, 2))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(load(given))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4


# What a stranger may put in place of an honest file, every digest being right.

Entries = dict[str, bytes]
Attack = Callable[[Entries], None]
INPUTS = {"x": torch.ones(2, 3), "scale": torch.ones(2, 2)}
CODE = "__import__('os').mkdir('ran')"
HIDDEN = f"eval(bytes(({','.join(map(str, CODE.encode()))})))"  # without a dot


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def changed(given: Saved, change: Attack) -> Saved:
    """Write the archive again, as torch writes it, with other entries."""
    with zipfile.ZipFile(given.files["program.pt2"]) as archive:
        entries = {
            entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()
        }
    change(entries)
    path = Path("changed.pt2").absolute()
    path.unlink(missing_ok=True)
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.set_min_version(6)
    for name, content in entries.items():
        if name not in (".data/version", ".data/serialization_id", "byteorder"):
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return Saved(
        "evil@v1", "exported", {"program.pt2": path}, SaveResult(details={"kind": "module"})
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(Linear().eval(), tmp_path_factory.mktemp("honest"), INPUTS)


def edited(entries: Entries, change: Callable[[Any], Any], name: str = "models/model.json") -> None:
    data = json.loads(entries[name])
    change(data)
    entries[name] = json.dumps(data).encode()


def replaced(entries: Entries, *pairs: tuple[str, str]) -> None:
    """Replace JSON texts in the program's description."""
    for old, new in pairs:
        text = entries["models/model.json"].decode().replace(old, new)
        entries["models/model.json"] = text.encode()


def config(entries: Entries, kind: str, **fields: Any) -> None:
    name = f"data/{kind}/model_{kind}_config.json"
    edited(entries, lambda data: next(iter(data["config"].values())).update(fields), name)


def signature(entries: Entries, **fields: Any) -> None:
    def change(data: Any) -> None:
        data["graph_module"]["module_call_graph"][0]["signature"].update(fields)

    edited(entries, change)


def node(entries: Entries, **fields: Any) -> None:
    edited(entries, lambda data: data["graph_module"]["graph"]["nodes"][0].update(fields))


def structure(kind: str, context: Any) -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


def sample_inputs(entries: Entries) -> None:
    entries["data/sample_inputs/model.pt"] = pickled(((Payload(),), {}))


def pickled_weight(entries: Entries) -> None:
    entries["data/weights/weight_0"] = pickled([Payload()])
    config(entries, "weights", use_pickle=True)


def pickled_constant(entries: Entries) -> None:
    entries["data/constants/tensor_0"] = pickled([Payload()])
    config(entries, "constants", use_pickle=True)


def opaque_constant(entries: Entries) -> None:
    entries["data/constants/opaque_obj_0"] = pickle.dumps(Payload())
    config(entries, "constants", use_pickle=True, path_name="opaque_obj_0", tensor_meta=None)


def weights_of_old(entries: Entries) -> None:
    entries["data/weights/model.pt"] = pickled({"a": Payload()})


def size(entries: Entries) -> None:
    def change(data: Any) -> None:
        for tensor in data["graph_module"]["graph"]["tensor_values"].values():
            for part in tensor["sizes"]:
                if "as_expr" in part:
                    part["as_expr"]["expr_str"] = CODE

    edited(entries, change)


def placeholder(entries: Entries) -> None:
    evil = json.dumps(f"scale={CODE}")
    replaced(
        entries, ('{"name": "scale"}', f'{{"name": {evil}}}'), ('"scale": {"d', f'{evil}: {{"d')
    )


def parameter_name(entries: Entries) -> None:
    evil = json.dumps(f'a", {HIDDEN}) or getattr(self, "b')
    replaced(entries, ('"inner.weight"', evil))
    name = "data/weights/model_weights_config.json"
    entries[name] = entries[name].replace(b'"inner.weight"', evil.encode())


def enumeration(entries: Entries) -> None:
    Path("evil_module.py").write_text("import os; os.mkdir('ran')")
    key = {"__enum__": True, "fqn": "evil_module:Colour", "name": "red"}
    signature(entries, out_spec=structure("builtins.dict", json.dumps([key])))


def default_factory(entries: Entries) -> None:
    Path("evil_module.py").write_text("import os; os.mkdir('ran'); made = dict")
    context = {
        "default_factory_module": "evil_module",
        "default_factory_name": "made",
        "dict_context": ["y"],
    }
    signature(entries, out_spec=structure("collections.defaultdict", context))


SHARP: list[Attack] = [
    *(sample_inputs, pickled_weight, pickled_constant, opaque_constant, weights_of_old),
    *(size, placeholder, parameter_name, enumeration, default_factory),
]


@pytest.fixture
def importing_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("importing_from_here")
@pytest.mark.parametrize("attack", SHARP)
def test_torch_would_run_it_and_it_is_refused(honest: Saved, attack: Attack) -> None:
    evil = changed(honest, attack)
    with pytest.raises(UntrustedDataError, match="evil@v1.* of it was run"):
        load(evil)
    with pytest.raises(UntrustedDataError, match="evil@v1"):
        load(evil, into=Linear(), trust=Trust(("torch.*", "os.*", "builtins.*")))
    assert not Path("ran").exists()
    sys.modules.pop("evil_module", None)
    try:
        torch.export.load(evil.files["program.pt2"]).module()(**INPUTS)
    except Exception as error:
        del error
    assert Path("ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_guards_that_torch_would_run_are_refused(honest: Saved) -> None:
    evil = changed(honest, lambda e: edited(e, lambda data: data.update(guards_code=[CODE])))
    with pytest.raises(UntrustedDataError, match="guards_code"):
        load(evil)
    assert not Path("ran").exists()
    program = torch.export.load(evil.files["program.pt2"])
    program.example_inputs = ((), INPUTS)
    with pytest.raises(AssertionError):
        program.module()(**INPUTS)
    assert Path("ran").exists()


TARGETS = [
    *("builtins.eval", "os.system", "torch.os.system", "torch.load", "torch.serialization.load"),
    *("torch.ops.load_library", "torch.classes.load_library", "torch.hub.load", "torch.compile"),
    *("_operator.call", "_operator.methodcaller", "_operator.attrgetter", "math.factorial"),
    *("#evil:op", "torch.ops.aten.linear", "torch.ops.aten.linear.__call__", "torch.ops.aten.x.y"),
    *("torch.ops.aten.linear.overloads", "torch.ops.aten.from_file.default"),
    *("torch.ops.aten._print.default", "torch.ops.higher_order.triton_kernel_wrapper_functional"),
    *("torch.ops.higher_order.call_torchbind", "torch.ops.higher_order.aoti_call_delegate"),
    *("torch.ops.prims.__init__.default", "torch.ops.evil.__class__.default", ""),
    *("torch._functorch.predispatch._vmap_increment_nesting", "torch.ops.aten.linear.default\n"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_no_function_is_looked_up_but_those_of_a_graph(honest: Saved, target: str) -> None:
    with pytest.raises(UntrustedDataError, match="Node.target is"):
        load(changed(honest, lambda e: node(e, target=target)), trust=Trust(("torch.*", "os.*")))


EXPRESSIONS = [
    *(CODE, "Symbol('s0').func", "(lambda: 1)()", "[x for x in ()]", "Symbol(__import__('os'))"),
    "Float('1.5', precision=999999999)",
    *("Symbol('s0'); 1", "Integer(1).__class__", "Function('f')(1)", "S('1')", "sympify('1')"),
    *("Pow(Integer(10), Integer(1000000000))", "Symbol('s' + '0')", "Symbol('s0', integer=print)"),
    *("Pow(Pow(Pow(Integer(9), Integer(64)), Integer(64)), Integer(64))", "Symbol(f's{0}')"),
    *("Pow(Integer(2), Mul(Integer(9), Integer(9)))", "LShift(Integer(1), Integer(99999999))"),
    *("Symbol('u99999999999')", "Symbol('self')", "Integer('1')", "Integer(" + "9" * 50 + ")"),
    *("Add(" * 3000, "Add(" + "Integer(1)," * 3000 + ")", "Integer(1)\n", "1 if 1 else 2", "`1`"),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_no_formula_is_evaluated_but_arithmetic(honest: Saved, expression: str) -> None:
    def change(data: Any) -> None:
        for tensor in data["graph_module"]["graph"]["tensor_values"].values():
            tensor["sizes"] = [{"as_expr": {"expr_str": expression, "hint": None}}]

    with pytest.raises(UntrustedDataError, match="expr_str"):
        load(changed(honest, lambda e: edited(e, change)))


GUARDS = [
    *("L['x'].__class__", "L['x'].size().__len__()", "open('ran', 'w')", "L['x'].tolist() == 1"),
    *(
        "(lambda: 1)()",
        "L",
        "L['x'].size(*[1])[0] == 1",
        "L['x'].size()[0] ** 10 ** 10",
        "globals()",
    ),
    *("L['x'].size()[0] == 1, print()", "L['x'].size()[0] << 10000", "X['x'].size()[0] == 1"),
    *(
        'L["x"].size()[0] == 1',
        "L['x'].size()[0] == 1 # x",
        "L['x'].size()[0:1] == 1",
        "torch.load",
    ),
    *("math.factorial(L['x'].size()[0])", "L['x\\n'].size()[0] == 1", "(yield)", "[1][0]", "'a'"),
    *("L['x'].size()[0] == 1\n", "(x := 1)", "f'{1}'", "await x", "{**L}", "float('1')"),
]


@pytest.mark.parametrize("guard", GUARDS)
def test_no_guard_is_run_but_conditions_on_sizes(honest: Saved, guard: str) -> None:
    evil = changed(honest, lambda e: edited(e, lambda data: data.update(guards_code=[guard])))
    with pytest.raises(UntrustedDataError, match="guards_code"):
        load(evil)


NAMES = [
    "a b",
    "a=1",
    "a,b",
    "a\nb",
    "lambda",
    "__import__",
    "a.b",
    "self",
    "1",
    "",
    "a;b",
    "\uff45val",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_code(honest: Saved, name: str) -> None:
    def tensor(entries: Entries) -> None:
        replaced(entries, ('{"name": "linear"}', json.dumps({"name": name})))

    def keyword(entries: Entries) -> None:
        spec = json.dumps(json.dumps([name]))[1:-1]
        replaced(entries, (r"[\\\"x\\\", \\\"scale\\\"]", json.dumps(spec)[1:-1]))

    for attack in (tensor, keyword, lambda e: signature(e, forward_arg_names=["x", name])):
        with pytest.raises((UntrustedDataError, MaterializationError)):
            load(changed(honest, attack))


def misplaced(**fields: Any) -> Attack:
    return lambda entries: edited(entries, lambda data: data.update(fields))


def constant_input(entries: Entries) -> None:
    text = f"' or {CODE} or '"

    def change(data: Any) -> None:
        module = data["graph_module"]
        module["graph"]["inputs"][-1] = {"as_string": text}
        spec = {"constant_input": {"name": "scale", "value": {"as_string": "x"}}}
        module["signature"]["input_specs"][-1] = spec

    edited(entries, change)


def custom_object(entries: Entries) -> None:
    argument = {"as_custom_obj": {"name": "a", "class_fqn": "__torch__.torch.classes.evil.A"}}
    node(entries, inputs=[{"name": "x", "arg": argument, "kind": 1}])


def operator_argument(entries: Entries) -> None:
    node(entries, inputs=[{"name": "x", "arg": {"as_operator": "os.system"}, "kind": 1}])


def added(name: str, content: bytes = b"\x7fELF") -> Attack:
    return lambda entries: entries.update({name: content})


@pytest.mark.parametrize(
    "attack",
    [
        *(constant_input, custom_object, operator_argument),
        misplaced(verifiers=["EDGE"]),
        misplaced(range_constraints={"u99999999999": {"min_val": 1, "max_val": 2}}),
        lambda e: signature(e, out_spec=structure("builtins.eval", "null")),
        lambda e: signature(e, out_spec=structure("builtins.dict", '[{"a": 1}]')),
        lambda e: signature(e, in_spec=structure("builtins.list", "null")),
        lambda e: config(e, "weights", path_name="../../../etc/passwd"),
        lambda e: node(e, metadata={"source_fn_stack": "a,torch.os.system"}),
        lambda e: node(e, metadata={"from_node": "[]"}),
        added("data/aotinductor/model/evil.so"),
        added("data/aotinductor/model/evil.cpp"),
        added("models/other.json", b"{}"),
        added("data/constants/custom_obj_0"),
        added("extra/inner.zip", b"PK\3\4"),
        added("data/weights/../weight_0"),
        added("serialized_state_dict.pt", b""),
    ],
)
def test_what_no_honest_program_holds_is_refused(honest: Saved, attack: Attack) -> None:
    with pytest.raises(UntrustedDataError, match=r"evil@v1: (its program|changed.pt2)"):
        load(changed(honest, attack))
    assert not Path("ran").exists()


def payload(kind: str = "weights", **fields: Any) -> Attack:
    def change(data: Any) -> None:
        next(iter(data["config"].values()))["tensor_meta"].update(fields)

    return lambda entries: edited(entries, change, f"data/{kind}/model_{kind}_config.json")


@pytest.mark.parametrize(
    "attack",
    [
        payload(sizes=[{"as_int": 2**60}, {"as_int": 3}]),
        payload(sizes=[{"as_int": 2**62}, {"as_int": 2**62}], strides=[{"as_int": 0}] * 2),
        payload(strides=[{"as_int": -1}, {"as_int": 1}]),
        payload(storage_offset={"as_int": 2**40}),
        payload(sizes=[{"as_expr": {"expr_str": "Symbol('s0')"}}]),
        payload(dtype=0),
        payload(dtype="7"),
        lambda e: config(e, "weights", path_name="weight_77"),
        lambda e: config(e, "weights", is_param=False),
        lambda e: e.pop("data/weights/weight_0"),
        lambda e: e.update({"data/weights/weight_0": b"123"}),
        lambda e: e.update({"data/weights/weight_0": b""}),
        lambda e: e.pop("models/model.json"),
        lambda e: e.update({"models/model.json": b"{"}),
        lambda e: e.update({"models/model.json": b"[" * 100_000}),
        lambda e: e.update({"archive_format": b"pt3"}),
        misplaced(new_field=1),
        misplaced(schema_version={"major": 99, "minor": 0}),
        misplaced(range_constraints=[]),
        misplaced(opset_version={"aten": 2**70}),
        lambda e: node(e, inputs=[]),
        lambda e: node(e, outputs=[{"as_tensor": {"name": "other"}}]),
        lambda e: edited(e, lambda data: data["graph_module"]["module_call_graph"].clear()),
        lambda e: edited(e, lambda data: data.pop("graph_module")),
    ],
    ids=range(24),
)
def test_what_does_not_fit_together_is_told(honest: Saved, attack: Attack) -> None:
    with pytest.raises(MaterializationError, match="evil@v1"):
        load(changed(honest, attack))


def compressed(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)


def duplicated(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("program/models/model.json", b"{}")


def with_a_lying_header(content: bytes, path: Path) -> None:
    path.write_bytes(content.replace(b"weights/weight_0", b"weights/weight_9", 1))


@pytest.mark.parametrize(
    "damage",
    [
        *(compressed, duplicated, with_a_lying_header),
        lambda content, path: path.write_bytes(b""),
        lambda content, path: path.write_bytes(b"no archive"),
        lambda content, path: path.write_bytes(content[:-30]),
        lambda content, path: path.write_bytes(content[len(content) // 2 :]),
        lambda content, path: path.write_bytes(b"\0" * 64 + content),
        lambda content, path: path.write_bytes(content[:64] + b"\0" * 64 + content[64:]),
    ],
)
def test_an_archive_that_torch_does_not_write_is_refused(
    honest: Saved, damage: Callable[[bytes, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "program.pt2"
    damage(bytes_of(honest), path)
    with pytest.raises(MaterializationError, match=r"program.pt2 isn't an exported program"):
        load(Saved("m@v1", "exported", {path.name: path}, honest.result))


def test_no_random_damage_has_another_end_than_an_error(honest: Saved, tmp_path: Path) -> None:
    content, numbers, path = bytes_of(honest), random.Random(0), tmp_path / "program.pt2"
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(numbers.choice([1, 4])):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        path.write_bytes(damaged)
        try:
            load(Saved("m@v1", "exported", {path.name: path}, honest.result))
        except FlowymlError:
            refused += 1
    assert refused > 50


JUNK = [None, True, -1, 2**63, 1.5, "", "a", "a b", CODE, [], [[]], {}, {"as_int": 1}, "Infinity"]


def test_no_random_value_has_another_end_than_an_error(honest: Saved) -> None:
    numbers = random.Random(1)

    def change(data: Any) -> None:
        while True:
            keys = [*data] if isinstance(data, dict) else [*range(len(data))]
            key = numbers.choice(keys) if keys else None
            if key is None:
                return
            if not isinstance(data[key], (dict, list)) or numbers.random() < 0.1:
                data[key] = numbers.choice(JUNK)
                return
            data = data[key]

    refused = 0
    for _ in range(100):
        try:
            load(changed(honest, lambda e: edited(e, change)))
        except FlowymlError:
            refused += 1
    assert refused > 50
    assert not Path("ran").exists()
