"""What comes back is what was saved, exactly, for what real models are made of.

Everything about a module is compared: classes, attributes, modes, identities, memory, and the
bits of its outputs in both modes. The rarer the case, the easier it is to lose in silence.
"""

from __future__ import annotations

import copy
import functools
import os
import pathlib
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from flowyml import Store
from flowyml.errors import MaterializationError, MaterializationWarning

zoo = pytest.importorskip("zoo", reason="needs transformers")

SOME = ("bert", "gpt2", "t5", "opt", "clip", "resnet", "wav2vec2", "mixtral", "mamba", "encodec")
ARCHITECTURES = [each for each in zoo.ARCHITECTURES if each.name in SOME]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """A small model, with whatever else a test wants it to keep."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


@dataclass(eq=False)
class Named:
    name: str
    parts: list[Any] = field(default_factory=list)


def reload(module: Any, store: Store, name: str = "m") -> Any:
    """Save and load; the record has to promise that all of it comes back."""
    stored = store.save(module, name).stored
    assert stored is not None
    assert stored.restore == "exact", stored.restore_reason
    return store.load(name, trust=stored.required_trust)


def kept(value: Any, store: Store) -> Any:
    return reload(Net(value=value), store).value


def bits(tensor: Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().resolve_conj().resolve_neg()
    elements = plain.contiguous().flatten().view(torch.uint8)
    return tensor.dtype, tensor.shape, tensor.stride(), bytes(elements.tolist())


def told(module: nn.Module) -> list[Any]:
    """Everything about a module but the identity of its parts."""
    found: list[Any] = []
    for path, each in module.named_modules(remove_duplicate=False):
        names = sorted(name for name in vars(each) if name != "_is_hf_initialized")
        kinds = [type(vars(each)[name]).__qualname__ for name in names]
        cls = type(each).__qualname__
        scratch = sorted(each._non_persistent_buffers_set)
        found.append((path, cls, each.training, names, kinds, scratch))
    first: dict[int, str] = {}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for path, tensor in tensors:
        same_as = first.setdefault(id(tensor), path)
        found.append((path, same_as, type(tensor), tensor.requires_grad, bits(tensor)))
    return found


def outputs(module: nn.Module, inputs: dict[str, Any]) -> list[Any]:
    """Return the bits of what a module computes from the same random numbers."""

    def flat(item: Any) -> list[Any]:
        if isinstance(item, Tensor):
            return [bits(item)]
        items = item.values() if isinstance(item, dict) else item
        return (
            [part for each in items for part in flat(each)]
            if isinstance(items, (list, tuple, type({}.values())))
            else []
        )

    torch.manual_seed(7)
    np.random.seed(7)  # the one that models draw masks from
    return flat(module(**inputs))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda item: item.name)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_transformer_comes_back_whole_and_so_does_its_next_version(
    store: Store, architecture: Any
) -> None:
    module, inputs = architecture.build(), architecture.example_inputs()
    module.train()
    [*module.modules()][-1].eval()
    parameters = [*module.parameters()]
    parameters[0].requires_grad_(False)
    random = torch.get_rng_state()
    loaded = reload(module, store)
    assert torch.equal(torch.get_rng_state(), random)
    assert told(loaded) == told(module)
    assert outputs(loaded, inputs) == outputs(module, inputs)
    assert outputs(loaded.eval(), inputs) == outputs(module.eval(), inputs)
    with torch.no_grad():
        parameters[len(parameters) // 2].add_(0.5)
    assert told(reload(module, store)) == told(module)


def test_what_was_loaded_has_the_digest_of_what_was_saved(store: Store) -> None:
    class_sets_before_init = zoo.ARCHITECTURES[[a.name for a in zoo.ARCHITECTURES].index("opt")]
    for number, module in enumerate((Net(tags=["a"]), class_sets_before_init.build())):
        first = store.save(module, f"m{number}")
        loaded = store.load(f"m{number}", trust=first.required_trust)
        assert store.save(loaded, f"again{number}").digest == first.digest


def trace(module: nn.Module) -> list[Any]:
    """Everything that saving could leave on a module."""
    parts = [
        (path, each.training, [(key, id(item)) for key, item in vars(each).items()])
        for path, each in module.named_modules()
    ]
    tensors = [*module.parameters(), *module.buffers()]
    grads = [None if t.grad is None else bits(t.grad) for t in tensors]
    versions = [(id(t), t._version, t.data_ptr(), t.requires_grad) for t in tensors]
    return [parts, versions, grads, torch.get_rng_state().tolist()]


REPARAMETRIZED: list[Callable[[], nn.Module]] = [
    lambda: parametrizations.spectral_norm(nn.Linear(3, 3)),
    lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()),
    lambda: prune.random_structured(nn.Linear(3, 3), "weight", 0.3, dim=0),
]


@pytest.mark.parametrize("build", REPARAMETRIZED)
@pytest.mark.parametrize("format", ["module", "state_dict"])
def test_saving_leaves_a_module_as_it_is(
    store: Store, build: Callable[[], nn.Module], format: str
) -> None:
    module = build()
    module(torch.randn(4, 3)).sum().backward()
    before = trace(module)
    store.save(module, "m", format=format)
    assert trace(module) == before


@pytest.mark.parametrize("build", REPARAMETRIZED)
def test_reparametrized_modules_compute_the_same_bits(
    store: Store, build: Callable[[], nn.Module]
) -> None:
    module = build()
    loaded, x = reload(module, store), torch.randn(4, 3)
    for mode in (True, True, False):  # the first pass of a spectral norm changes its second
        assert outputs(loaded.train(mode), {"input": x}) == outputs(
            module.train(mode), {"input": x}
        )


def test_weights_that_lie_in_one_flat_tensor_with_gaps_come_back(store: Store) -> None:
    lstm, flat, start = nn.LSTM(3, 4, 2), torch.randn(1000), 0
    for parameter in lstm.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel() + 7
    loaded = reload(lstm, store)
    assert outputs(loaded, {"input": torch.ones(5, 3)}) == outputs(
        lstm, {"input": torch.ones(5, 3)}
    )
    assert all(
        weight is getattr(loaded, name)
        for weight, name in zip(loaded._flat_weights, loaded._flat_weights_names, strict=True)
    )


def spanned(size: int, *views: tuple[int, int, torch.dtype]) -> list[Tensor]:
    """Return views of some bytes by start, end and data type."""
    memory = torch.arange(size, dtype=torch.uint8)
    return [memory[start:end].view(dtype) for start, end, dtype in views]


@pytest.mark.parametrize(
    "views",
    [
        spanned(16, (0, 16, torch.float32), (0, 16, torch.int32), (8, 16, torch.int16)),
        spanned(13, (0, 13, torch.uint8), (0, 12, torch.float32)),
        spanned(40, (3, 20, torch.uint8), (4, 16, torch.float32)),
        spanned(28, (0, 28, torch.float32), (0, 16, torch.int64)),
        spanned(28, (4, 28, torch.float32), (8, 24, torch.float64)),
        spanned(20, (1, 17, torch.uint8), (4, 16, torch.float32)),
    ],
    ids=[
        "aligned",
        "a byte more",
        "another start",
        "half a number more",
        "half a number before",
        "askew",
    ],
)
def test_views_of_one_memory_as_other_data_types_come_back(
    store: Store, views: list[Tensor]
) -> None:
    loaded = kept(views, store)
    assert [*map(bits, loaded)] == [*map(bits, views)]
    assert loaded[0].untyped_storage().data_ptr() == loaded[1].untyped_storage().data_ptr()


def stored_bytes(store: Store, name: str) -> int:
    stored = store.get(name).stored
    assert stored is not None
    return sum(file.size for file in stored.files)


def test_a_column_is_stored_without_the_matrix(store: Store) -> None:
    assert torch.equal(kept(torch.ones(500, 500)[:, 0], store), torch.ones(500))
    assert stored_bytes(store, "m") < 50_000


def test_what_lies_between_the_elements_of_a_column_is_no_part_of_its_digest(store: Store) -> None:
    secret = torch.full((100, 10), 42.0)
    secret[:, 0] = 0
    digests = {store.save(m[:, 0], "column").digest for m in (torch.zeros(100, 10), secret)}
    assert len(digests) == 1


def test_values_of_a_sparse_tensor_are_stored_without_the_rest_of_their_memory(
    store: Store,
) -> None:
    values = torch.randn(100_000)[:2]
    with torch.sparse.check_sparse_tensor_invariants():
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), values, (3,))
    kept(sparse, store)
    assert stored_bytes(store, "m") < 50_000


UNUSUAL = {
    "expanded": lambda: torch.ones(1).expand(1000, 1000),
    "transposed": lambda: torch.randn(4, 6).t(),
    "every second": lambda: torch.randn(6, 4)[:, ::2],
    "over itself": lambda: torch.randn(9).as_strided((3, 3), (1, 1)),
    "a stride without end": lambda: torch.as_strided(torch.ones(5), (1, 5), (2**50, 1)),
    "strides of nothing": lambda: torch.empty_strided((2, 0, 3), (100, 7, 1)),
    "empty": lambda: torch.randn(4)[4:],
    "a number": lambda: torch.tensor(-0.0),
    "no numbers": lambda: torch.tensor([float("nan"), -float("inf")]),
    "conjugated": lambda: torch.randn(2, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_parameters_come_back(store: Store, make: Callable[[], Tensor]) -> None:
    parameter = nn.Parameter(make())
    loaded = kept(parameter, store)
    assert bits(loaded) == bits(parameter)
    assert type(loaded) is nn.Parameter


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_what_has_no_form_costs_the_structure_and_not_the_weights(store: Store) -> None:
    parts = [torch.ones(2), torch.ones(3)]
    for value in (
        torch.nested.nested_tensor(parts, layout=torch.jagged),
        torch.nested.nested_tensor(parts),
        torch.ones(2).untyped_storage(),
    ):
        with pytest.warns(MaterializationWarning, match="value: "):
            stored = store.save(Net(value=value), "m").stored
        assert stored is not None
        assert stored.restore == "weights"


def kept_if_promised(value: Any, store: Store) -> Any:
    """Return what comes back, or the value itself where the record says that it can't."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaterializationWarning)
        stored = store.save(Net(value=value), "m").stored
    assert stored is not None
    if stored.restore == "weights":
        return value
    return store.load("m", trust=stored.required_trust).value


def test_a_tuple_in_its_own_list_keeps_what_the_list_holds(store: Store) -> None:
    items: list[Any] = [1]
    cycle = (items, 2)
    items.append(cycle)
    loaded = kept_if_promised(cycle, store)
    assert loaded[0][0] == 1
    assert loaded[0][1] is loaded


SETS = """
import sys, torch
from dataclasses import dataclass
from torch import nn
from flowyml import Store

@dataclass(eq=False)
class Named:
    name: str

class Net(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

shape = (3, 3)
values = {
    "text": {str(number) for number in range(20)},
    "shared": {("b", shape), ("a", shape), ("c", shape), ("d", shape)},
    "frozen": {frozenset([str(number), shape]) for number in range(6)},
    "dtypes": {torch.float32, torch.float16, torch.relu, nn.Linear},
}
store = Store(sys.argv[1])
for name in sys.argv[2:]:
    asset = store.save(Net(values[name]), name)
    print(asset.digest, store.load(name, trust=asset.required_trust).value == values[name])
"""


@pytest.mark.parametrize("name", ["text", "dtypes", "shared", "frozen"])
def test_a_set_comes_back_and_has_one_digest_in_every_process(tmp_path: Path, name: str) -> None:
    (tmp_path / "sets.py").write_text(SETS)
    ranks = [
        subprocess.Popen(
            [sys.executable, "sets.py", str(tmp_path / f"s{seed}"), name],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(2)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert all(out.endswith("True\n") for out, _ in said), said
    assert said[0][0] == said[1][0]


VALUES: dict[str, Any] = {
    "pure path": pathlib.PurePosixPath("a/b"),
    "path of Windows": pathlib.PureWindowsPath("C:\\a"),
    "signs of zeros": [-0.0, complex(-0.0, -0.0)],
    "half a surrogate": "\ud800",
    "two halves": "\ud83d\ude00",
    "keys": {1: 2, "1": 3, None: 4, (1, 2): 6, 1.5: 7, b"a": 8},
    "names of forms": {"$tensor": 0, "kind": {"$x": 1}, "$class": "x", "state": []},
    "a large number": 1 << 9000,
    "bytes of numpy": [np.bytes_(b"ab"), np.str_("ab"), np.float64(-0.0)],
    "empty text of numpy": np.str_(""),
    "text with a zero": np.bytes_(b"a\0"),
    "empty array": np.zeros((0, 3)),
    "array without width": np.zeros(2, "U0"),
    "a far range": range(1 << 70),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_keep_their_type_and_themselves(store: Store, value: Any) -> None:
    loaded = kept_if_promised(value, store)
    assert type(loaded) is type(value)
    assert repr(loaded) == repr(value)
    assert np.array_equal(loaded, value) if isinstance(value, np.ndarray) else loaded == value


def test_arrays_keep_their_order_in_memory_and_whether_they_are_read_only(store: Store) -> None:
    fortran, fixed = np.asfortranarray(np.ones((3, 4))), np.ones(3)
    fixed.flags.writeable = False
    loaded = kept_if_promised([fortran, fixed], store)
    assert loaded[0].strides == fortran.strides
    assert not loaded[1].flags.writeable


def test_partials_keep_what_they_share_and_were_given(store: Store) -> None:
    function = functools.partial(torch.add, 1)
    function.note = "x"  # type: ignore[attr-defined]
    loaded = kept_if_promised([function, function], store)
    assert loaded[0] is loaded[1]
    assert loaded[0].note == "x"


def test_an_ordered_dict_keeps_its_attributes(store: Store) -> None:
    value = OrderedDict(a=1)
    value.note = "x"  # type: ignore[attr-defined]
    assert kept_if_promised(value, store).note == "x"


def test_objects_that_refer_to_each_other_do_so_again(store: Store) -> None:
    module, other = Net(), Named("a")
    other.parts += [other, module, module.inner.weight]
    module.value = {"self": module, "list": [module], module.inner: other, other: 1}
    loaded = reload(module, store)
    assert loaded.value["self"] is loaded.value["list"][0] is loaded
    again = loaded.value[loaded.inner]
    assert again.parts == [again, loaded, loaded.inner.weight]
    assert loaded.value[again] == 1


class Delegating(nn.Module):
    """Hands on what it doesn't have, as adapters do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.options = {"depth": 3}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class Looking(nn.Module):
    """Looks in its options for what it doesn't have, and says so by KeyError."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.options = {"depth": 3}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return vars(self)["options"][name]


def test_a_module_that_hands_on_its_attributes_is_not_taken_for_its_part(store: Store) -> None:
    loaded = reload(Delegating(parametrizations.weight_norm(nn.Linear(2, 2))), store)
    assert type(loaded) is Delegating
    assert loaded.weight is not None


def test_a_module_with_attribute_access_of_its_own_comes_back(store: Store) -> None:
    assert reload(Looking(), store).depth == 3


def test_an_average_comes_back_with_what_it_counted(store: Store) -> None:
    average = AveragedModel(nn.Linear(2, 2))
    for _ in range(3):
        average.update_parameters(nn.Linear(2, 2))
    loaded = reload(average, store)
    assert type(loaded) is AveragedModel
    assert loaded.n_averaged == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from its compiler
def test_wrappers_in_a_container_are_saved_as_the_model_inside(store: Store) -> None:
    net = nn.Linear(2, 2)
    wrapped = [nn.DataParallel(net), torch.compile(net)]
    for wrapper in wrapped:
        store.save({"model": wrapper, "step": torch.tensor(1)}, "m")
        assert type(store.load("m")["model"]) is nn.Linear


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_saving_and_loading_work_in_every_mode_of_autograd(
    store: Store, context: Callable[[], Any]
) -> None:
    with context():
        module = Net(value=torch.randn(100, 100))
        assert bits(reload(module, store).value) == bits(module.value)
        reload(module, store)
    loaded = reload(module, store)
    loaded(torch.ones(1, 2)).sum().backward()
    assert loaded.inner.weight.grad is not None


def test_the_default_device_has_no_part_in_it(store: Store) -> None:
    module = Net(value=torch.randn(100, 100))
    for _ in range(2):  # the second version is compared with the first
        with torch.device("meta"):
            loaded = reload(module, store)
        assert bits(loaded.value) == bits(module.value)


def test_deterministic_algorithms_and_another_default_type_change_nothing(store: Store) -> None:
    module = Net(value=torch.randn(100, 100), nothing=torch.zeros(0, dtype=torch.float16))
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(2):
            loaded = reload(module, store)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert told(loaded) == told(module)
    assert bits(loaded.value) == bits(module.value)
    assert bits(loaded.nothing) == bits(module.nothing)


class WithExtra(Net):
    def get_extra_state(self) -> Any:
        return {"epoch": 3}

    def set_extra_state(self, state: Any) -> None:
        if state != {"epoch": 3}:
            raise ValueError(state)


class Refusing(Net):
    def _load_from_state_dict(self, *_: Any) -> None:
        raise ValueError("not today")


def holding(value: Tensor) -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Module())
    module[1].register_buffer("value", value)
    return module


UNFIT: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "extra state is unexpected": (WithExtra, Net),
    "extra state is missing": (Net, WithExtra),
    "it can't be written to": (
        lambda: holding(torch.ones(3)),
        lambda: holding(torch.zeros(1).expand(3)),
    ),
    "it isn't sparse": (
        lambda: holding(torch.eye(3).to_sparse().coalesce()),
        lambda: holding(torch.zeros(3, 3)),
    ),
    "its class refuses": (
        lambda: nn.Sequential(nn.Linear(2, 2), Refusing()),
        lambda: nn.Sequential(nn.Linear(2, 2), Refusing()),
    ),
}


@pytest.mark.parametrize(("saved", "into"), UNFIT.values(), ids=UNFIT)
def test_into_changes_nothing_when_it_fails(
    store: Store, saved: Callable[[], nn.Module], into: Callable[[], nn.Module]
) -> None:
    store.save(saved(), "m")
    target = into()
    before = [bits(parameter) for parameter in target.parameters()]
    with pytest.raises(MaterializationError):
        store.load("m", into=target)
    assert [bits(parameter) for parameter in target.parameters()] == before


def test_into_keeps_types_and_parameters_also_where_some_have_no_memory_yet(
    store: Store,
) -> None:
    store.save(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "m")
    with torch.device("meta"):
        empty = nn.Linear(2, 2).to(torch.bfloat16)
    target = nn.Sequential(nn.Linear(2, 2), empty)
    weight = target[0].weight
    store.load("m", into=target)
    assert target[1].weight.dtype == torch.bfloat16
    assert target[0].weight is weight


def test_versions_stay_exact_through_deletion_collection_and_damage(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(100, 100) for _ in range(4)), nn.Linear(3, 3))
    store.save(net, "m")
    with torch.no_grad():
        net[1].weight.add_(1)
        net[4].bias.add_(1)
    store.save(net, "m")
    store.delete("m@v1")
    store.gc(grace=0)
    assert told(store.load("m")) == told(net)
    with torch.no_grad():  # two change places, one is another zero
        net[0].weight.data, net[3].weight.data = net[3].weight.data, net[0].weight.data
        net[2].weight.zero_()
    assert told(reload(net, store)) == told(net)
    with torch.no_grad():
        net[2].weight.neg_()
    for file in store.get("m").stored.files:  # type: ignore[union-attr]
        blob = store.path / "blobs" / file.digest[:2] / file.digest[2:]
        damaged = bytearray(blob.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        blob.chmod(0o644)
        blob.write_bytes(damaged)
    assert told(reload(net, store)) == told(net)
    assert told(reload(copy.deepcopy(net).to(torch.bfloat16), store)) == told(
        net.to(torch.bfloat16)
    )
