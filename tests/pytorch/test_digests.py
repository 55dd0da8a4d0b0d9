"""An object in memory has the digest that a store gives it, and finding it out leaves no trace."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from flowyml import Store, adapters
from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError, MaterializationWarning
from flowyml.store import manifest
from flowyml_pytorch.storing import content


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def digest_in_memory(obj: Any, format: str | None = None) -> str:
    """Return the content digest of an object, of which nothing is written."""
    materializer = adapters.materializer_of(obj)
    assert materializer is not None
    format = format or materializer.formats[0]
    found = materializer.digests(obj, format)
    assert isinstance(found, list)
    together = digest_of_bytes("\n".join(found).encode())
    return manifest.content_digest(materializer.key, format, (), together)


def scaled(module: Any, inputs: Any) -> None:
    """A hook."""


class Net(nn.Module):
    """What a module may be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 64)
        self.body = nn.Sequential(nn.Linear(64, 300), nn.Dropout(0.5), nn.BatchNorm1d(300))
        self.head = nn.Linear(64, 40, bias=False)
        self.head.weight = self.embed.weight
        self.row = self.body[0].weight.detach()[3]
        self.column = torch.randn(50, 7)[:, 2]
        self.array = np.arange(6.0).reshape(2, 3)
        self.rates = {"lr": 0.1, "seen": {3, 1, 2}, "nan": float("nan")}
        self.lazy = nn.LazyLinear(4)


def modules() -> dict[str, Callable[[], nn.Module]]:
    def quantized() -> nn.Module:
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(nn.Sequential(nn.Linear(200, 200), nn.ReLU()))

    def parametrized() -> nn.Module:
        return nn.utils.parametrizations.weight_norm(nn.Linear(30, 20))

    def hooked() -> nn.Module:
        net = nn.utils.spectral_norm(nn.Linear(30, 20))
        net.register_forward_pre_hook(scaled)
        return net

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return nn.Linear(3, 3)

    def channels_last() -> nn.Module:
        return nn.Conv2d(16, 64, 3).to(memory_format=torch.channels_last)

    def not_restorable() -> nn.Module:
        net = nn.Linear(3, 3)
        net.function = lambda x: x
        return net

    def without_contents() -> nn.Module:
        return nn.Sequential(nn.ReLU())

    return {
        "net": Net,
        "quantized": quantized,
        "parametrized": parametrized,
        "hooked": hooked,
        "on meta": on_meta,
        "channels last": channels_last,
        "not restorable": not_restorable,
        "nothing in it": without_contents,
        "half": lambda: nn.Linear(300, 300).to(torch.bfloat16).eval(),
        "many": lambda: nn.Sequential(*(nn.Linear(70, 70) for _ in range(60))),
    }


def trained(kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    net = nn.Linear(200, 100)
    optimizer = kind(net.parameters(), lr=0.01)  # type: ignore[call-arg]
    net(torch.ones(1, 200)).sum().backward()
    optimizer.step()
    return optimizer


def training() -> dict[str, Any]:
    net = nn.Linear(64, 3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    data = TensorDataset(torch.randn(40, 64), torch.arange(40) % 3)
    generator = torch.Generator().manual_seed(2)
    seen, held = random_split(data, [30, 10], torch.Generator().manual_seed(1))
    return {
        "model": net,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
        "loaders": [DataLoader(seen, 4, shuffle=True, generator=generator), DataLoader(held, 5)],
        "losses": (0.5, 0.25),
    }


def values() -> dict[str, Callable[[], Any]]:
    dense = torch.eye(3)
    whole = torch.randn(300, 300)
    dtypes = (torch.bool, torch.uint64, torch.float16, torch.float8_e4m3fn, torch.complex128)
    return {
        "a tensor": lambda: torch.randn(3, 4),
        "a large tensor": lambda: torch.randn(300, 100),
        "transposed": lambda: torch.randn(300, 100).t(),
        "a slice": lambda: whole[100:200, 50:60],
        "views": lambda: [whole, whole[3], whole.t(), whole.view(torch.int32)[0]],
        "expanded": lambda: torch.ones(3, 1).expand(3, 4000),
        "a parameter": lambda: nn.Parameter(torch.randn(3), requires_grad=False),
        "no elements": lambda: [torch.empty(0), torch.empty(0, 3), torch.tensor(1)],
        "equal": lambda: [torch.ones(9), torch.ones(9), torch.ones(9000), torch.ones(9000)],
        "dtypes": lambda: [torch.randint(0, 2, (40,)).to(dtype) for dtype in dtypes],
        "conjugated": lambda: torch.randn(5, dtype=torch.complex64).conj(),
        "sparse": lambda: [dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc()],
        "quantized": lambda: [
            torch.quantize_per_tensor(dense, 0.1, 2, torch.qint8),
            torch.quantize_per_channel(whole, torch.ones(300), torch.zeros(300), 0, torch.quint8),
        ],
        "meta": lambda: torch.empty(2, 3, device="meta"),
        "a state dict": Net().body.state_dict,
        "arrays": lambda: [dense, np.arange(9), np.asfortranarray(np.ones((3, 2))), np.float32(2)],
        "a module in a list": lambda: [Net(), 3],
        "training": training,
        "a generator": lambda: torch.Generator().manual_seed(3),
        "a scheduler": lambda: torch.optim.lr_scheduler.StepLR(trained(torch.optim.SGD), 3),
        "a lambda": lambda: torch.optim.lr_scheduler.LambdaLR(
            trained(torch.optim.SGD), lambda epoch: 0.5**epoch
        ),
        "a dataset": lambda: TensorDataset(torch.randn(50, 100)),
        "attributes": lambda: _with_attributes(torch.ones(2)),
    }


def _with_attributes(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = {"a": torch.ones(3)}  # type: ignore[attr-defined]
    return tensor


TORCH_WARNS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:torch.quantize_per", "ignore:Sparse", "ignore:Lazy"
)
OF_FLOWYML = pytest.mark.filterwarnings("ignore::flowyml.errors.MaterializationWarning")


@TORCH_WARNS
@OF_FLOWYML
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("format", ["module", "state_dict"])
@pytest.mark.parametrize("name", modules())
def test_a_module_has_the_digest_in_memory_that_it_gets_in_a_store(
    store: Store, name: str, format: str
) -> None:
    net = modules()[name]()
    before = digest_in_memory(net, format)
    assert store.save(net, "m", format=format).digest == before
    assert digest_in_memory(net, format) == before


@TORCH_WARNS
@OF_FLOWYML
@pytest.mark.parametrize("name", values())
def test_a_value_has_the_digest_in_memory_that_it_gets_in_a_store(store: Store, name: str) -> None:
    value = values()[name]()
    before = digest_in_memory(value)
    assert store.save(value, "v").digest == before


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_an_optimizer_has_one_digest(store: Store, kind: Any) -> None:
    optimizer = trained(kind)
    before = digest_in_memory(optimizer)
    assert store.save(optimizer, "o").digest == before
    optimizer.param_groups[0]["lr"] = 0.5
    assert digest_in_memory(optimizer) != before


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_architectures_of_a_library_have_one_digest(store: Store) -> None:
    zoo = pytest.importorskip("zoo", reason="needs transformers")
    for architecture in zoo.ARCHITECTURES[::4]:
        net = architecture.build()
        asset = store.save(net, architecture.name)
        assert digest_in_memory(net) == asset.digest, architecture.name


@pytest.mark.parametrize("verify", [True, False])
def test_what_was_loaded_has_the_digest_of_what_was_stored(store: Store, verify: bool) -> None:
    for name, value in {"net": Net(), "training": training(), "t": torch.randn(90, 90).t()}.items():
        asset = store.save(value, name)
        back = store.load(name, verify=verify, trust=asset.required_trust)
        assert digest_in_memory(back) == asset.digest, name


def test_a_version_that_shares_files_with_the_one_before_has_its_own_digest(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(100, 100) for _ in range(6)))
    digests = []
    for layer in net:
        with torch.no_grad():
            layer.weight[7, 7] += 1
        asset = store.save(net, "m")
        assert asset.digest == digest_in_memory(net) == digest_in_memory(store.load("m"))
        digests.append(asset.digest)
    assert len({*digests}) == 6
    assert store.save(net, "m").digest == digests[-1]


def test_a_digest_does_not_believe_what_the_version_before_says(store: Store) -> None:
    net = nn.Linear(100, 100)
    store.save(net, "m")
    path = store.path / "assets" / "m" / "v1.json"
    forged = manifest.read(path.read_bytes(), "m@v1")
    for row in forged.details["tensors"]:
        row[0] = "0" * 64
    path.chmod(0o644)
    path.write_bytes(manifest.write(forged))
    asset = store.save(net, "m")
    assert asset.digest == digest_in_memory(net)
    rows = manifest.read((path.parent / "v2.json").read_bytes(), "m@v2").details["tensors"]
    assert "0" * 64 not in {row[0] for row in rows}


def test_where_small_tensors_end_and_large_ones_begin_is_no_part_of_the_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(10, 10))
    digest = store.save(net, "a").digest
    monkeypatch.setattr("flowyml_pytorch.storing.pool._SMALLEST_OWN", 1)
    monkeypatch.setattr("flowyml_pytorch.storing.pool._LARGEST_SHARED", 2)
    other = store.save(net, "b")
    assert len(other.stored.files) > len(store.get("a").stored.files)
    assert other.digest == digest == digest_in_memory(net)


def _flipped(net: Net) -> None:
    net.body[0].weight.view(torch.int32)[150, 30] ^= 1


def _of_a_view(net: Net) -> None:
    net.column[20] += 1


def _of_another_dtype(net: Net) -> None:
    net.body[2].running_mean = net.body[2].running_mean.double()


def _transposed(net: Net) -> None:
    net.embed.weight.data = net.embed.weight.data.t().contiguous().t()


def _of_negative_zero(net: Net) -> None:
    net.body[2].bias[5] = -0.0


def _in_training(net: Net) -> None:
    net.body[1].eval()


def _frozen(net: Net) -> None:
    net.body[0].bias.requires_grad_(False)


def _apart(net: Net) -> None:
    net.head.weight = nn.Parameter(net.embed.weight.detach().clone())


def _of_an_array(net: Net) -> None:
    net.array[1, 1] = 9


@pytest.mark.filterwarnings("ignore:Lazy")
@pytest.mark.parametrize(
    "change",
    [
        *(_flipped, _of_a_view, _of_another_dtype, _transposed, _of_negative_zero, _in_training),
        *(_frozen, _apart, _of_an_array),
    ],
)
def test_any_change_is_another_digest(change: Callable[[Net], None]) -> None:
    net = Net()
    before = digest_in_memory(net)
    with torch.no_grad():
        change(net)
    assert digest_in_memory(net) != before


@pytest.mark.filterwarnings("ignore:Lazy")
def test_nothing_is_changed_by_asking_for_a_digest() -> None:
    net = Net()
    net.body[0].weight.grad = torch.ones(300, 64)

    def trace() -> list[Any]:
        return [
            [(id(t), t._version, t.requires_grad, id(t.grad)) for t in net.parameters()],
            [(name, [*vars(part)]) for name, part in net.named_modules()],
            [len(table) for part in net.modules() for table in vars(part).values()
             if isinstance(table, dict)],
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]  # fmt: skip

    before = trace()
    digest_in_memory(net)
    assert trace() == before
    assert isinstance(net.lazy.weight, nn.UninitializedParameter)
    loader = training()["loaders"][0]
    state = loader.generator.get_state()
    digest_in_memory(loader)
    assert torch.equal(loader.generator.get_state(), state)


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to open any file for writing."""
    refused: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            refused.append(str(arguments[0]))
        if active and event in ("os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"):
            refused.append(event)

    active = True
    sys.addaudithook(hear)  # it can't be removed again
    yield
    active = False
    assert refused == []


@TORCH_WARNS
@pytest.mark.usefixtures("no_files")
def test_no_file_is_written(tmp_path: Path) -> None:
    digest_in_memory(Net())
    digest_in_memory([torch.eye(3).to_sparse(), torch.randn(300, 300)])
    assert [*tmp_path.iterdir()] == []


def test_nobody_is_warned_of_what_is_only_digested() -> None:
    net, scheduler = modules()["not restorable"](), values()["a lambda"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        digest_in_memory(net)
        digest_in_memory(scheduler)


def test_what_can_be_saved_only_in_part_is_warned_of_when_it_is_saved(store: Store) -> None:
    net = modules()["not restorable"]()
    with pytest.warns(MaterializationWarning, match="weights only, because of function"):
        assert store.save(net, "m").digest == digest_in_memory(net)


def test_what_can_not_be_saved_has_no_digest(store: Store) -> None:
    loader = DataLoader(TensorDataset(torch.ones(3)), collate_fn=lambda items: items)
    with pytest.raises(MaterializationError, match=r"can't be saved because of collate_fn"):
        store.save(loader, "l")
    with pytest.raises(MaterializationError, match=r"can't be saved because of collate_fn"):
        digest_in_memory(loader)


def test_other_formats_have_no_digests_in_memory() -> None:
    net = nn.Linear(2, 2)
    materializer = adapters.materializer_of(net)
    assert materializer is not None
    assert materializer.digests(net, "safetensors") is None
    assert materializer.digests(net, "exported") is None


HOOKED = """
import sys, torch
from torch import nn
from flowyml import Store

class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.utils.spectral_norm(nn.Linear(3, 3))
        self.first = self.inner.register_forward_hook(hook)
        self.second = self.register_forward_pre_hook(hook, with_kwargs=True)

def hook(*arguments):
    return None

for _ in range(int(sys.argv[1])):
    nn.Linear(1, 1).register_forward_hook(hook)
torch.manual_seed(0)
net = Watched()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
optimizer.register_step_pre_hook(hook)
print(Store("s").save(net, "m").digest, Store("s").save(optimizer, "o").digest)
"""


def test_two_processes_come_to_one_digest_however_many_hooks_they_had(
    run_script: Callable[..., str],
) -> None:
    assert run_script(HOOKED, "0") == run_script(HOOKED, "5")


class Watched(nn.Module):
    """A module with hooks of every kind, and the handles to remove them."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(2, 2)
        self.handles = [self.early.register_forward_pre_hook(scaled) for _ in range(3)]
        self.handles.append(self.early.register_forward_pre_hook(scaled, with_kwargs=True))
        self.handles[1].remove()


def test_hooks_count_by_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(first: int) -> list[Any]:
        monkeypatch.setattr("torch.utils.hooks.RemovableHandle.next_id", first)
        torch.manual_seed(0)
        net = Watched()
        net.of_gradients = net.early.weight.register_hook(scaled)  # in a dict that is no module's
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(scaled)
        return [net, optimizer]

    assert digest_in_memory(built(0)) == digest_in_memory(built(1000))
    other = built(0)
    other[0].early._forward_pre_hooks.move_to_end(other[0].handles[0].id)
    assert digest_in_memory(other) != digest_in_memory(built(0))


def test_hooks_that_are_counted_anew_can_still_be_removed(store: Store) -> None:
    net = Watched()
    asset = store.save(net, "m")
    back = store.load("m", trust=asset.required_trust)
    assert digest_in_memory(back) == asset.digest
    assert len(back.early._forward_pre_hooks) == 3
    new = back.early.register_forward_pre_hook(scaled)
    assert len(back.early._forward_pre_hooks) == 4
    back.handles[3].remove()
    assert back.early._forward_pre_hooks_with_kwargs == OrderedDict()
    back.handles[0].remove()
    back.handles[1].remove()
    assert len(back.early._forward_pre_hooks) == 2
    new.remove()
    back.handles[2].remove()
    assert not back.early._forward_pre_hooks


def test_numbers_that_are_no_hooks_stay_what_they_are(store: Store) -> None:
    net = nn.Linear(2, 2)
    net.register_forward_hook(scaled)
    net.by_number = OrderedDict({70: "a", 7: "b"})
    store.save(net, "m")
    back = store.load("m", trust=[scaled])
    assert back.by_number == {70: "a", 7: "b"}


ANEW = """
import torch
from torch import nn
from flowyml import adapters
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100))
optimizer = torch.optim.Adam(net.parameters())
net(torch.randn(4, 100)).sum().backward()
optimizer.step()
value = {"net": net, "optimizer": optimizer, "seen": {"b", "a", "c"}}
print(adapters.materializer_of(value).digests(value, "torch"))
"""


def test_another_process_finds_the_same_digests(run_script: Callable[..., str]) -> None:
    first, second = run_script(ANEW), run_script(ANEW)
    assert first == second
    assert first.count("'") > 10


SHARDED = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from flowyml import adapters
from flowyml.errors import MaterializationError

def refused(value):
    materializer = adapters.materializer_of(value)
    try:
        materializer.digests(value, materializer.formats[0])
    except MaterializationError as error:
        return "is sharded over several processes" in str(error)

def net():
    return nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 3))

dist.init_process_group(
    "gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2,
    timeout=timedelta(seconds=30),
)
sharded = fully_shard(net(), mesh=init_device_mesh("cpu", (2,)))
flat = FullyShardedDataParallel(net(), device_id=torch.device("cpu"))
optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
values = [sharded, flat, {"net": sharded}, [flat], sharded.state_dict(), optimizer]
if sys.argv[2] == "0":  # nobody else takes part
    print("REFUSED", [refused(value) for value in values])
dist.barrier()
dist.destroy_process_group()
"""


def test_one_process_alone_asks_for_no_digest_of_what_is_sharded(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHARDED)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "script.py", str(tmp_path / "meeting"), str(rank)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    (out, err), _ = (rank.communicate(timeout=120) for rank in ranks)
    assert f"REFUSED {[True] * 6}" in out, err


def test_the_digest_of_an_element_counts_with_its_place_type_shape_and_strides() -> None:
    def digest(tensor: torch.Tensor) -> str:
        return content.digest_of_elements(content.on_cpu(tensor))

    x = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    others = [x.flip(0), x.view(torch.float32), x.reshape(3, 2), x.t(), x.t().contiguous().t()]
    assert digest(torch.arange(12, dtype=torch.int32)[6:].reshape(2, 3) - 6) == digest(x)
    assert (
        len({digest(each.contiguous() if n == 0 else each) for n, each in enumerate(others)}) == 5
    )
    assert digest(x) not in map(digest, others[1:])


def test_thousands_of_small_tensors_have_one_digest(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2500)))
    digest = digest_in_memory(net)
    assert store.save(net, "m").digest == digest
    assert digest_in_memory(store.load("m")) == digest
