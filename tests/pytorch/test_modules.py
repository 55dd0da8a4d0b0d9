"""A module comes back as it was: the live object, bit for bit."""

from __future__ import annotations

import enum
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowyml import Model, Store
from flowyml.errors import (
    MaterializationError,
    MaterializationWarning,
    StoreError,
    UnsupportedObjectError,
)


class Mode(enum.Enum):
    FAST = 1


class Net(nn.Module):
    """Attributes of many kinds, ties, shared parts, buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.again = self.block
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.plain = torch.full((2,), 7.0)
        self.activation = F.gelu
        self.functions = [torch.relu, torch.tanh, F.relu, torch.special.expit, torch.einsum]
        self.layer_class = nn.LayerNorm
        self.config = {"a": [1, (2, None)], 3: {4}, "size": torch.Size([1, 2]), "c": 1j}
        self.same_config = self.config
        self.cycle: list[Any] = [1]
        self.cycle.append(self.cycle)
        self.dtype, self.device = torch.bfloat16, torch.device("cpu")
        self.missing = self.nothing = None
        self.infinite, self.where = float("inf"), slice(1, None)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.activation(self.again(self.block(self.embed(tokens))))
        return self.head(self.norm(x))


def reload(module: nn.Module, store: Store, **options: Any) -> Any:
    store.save(module, "m")
    return store.load("m", **options)


def equal(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left, right)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    assert type(left) is type(right)
    states = left.state_dict(), right.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(equal(states[0][key], states[1][key]) for key in states[0])
    names = [[n for n, _ in m.named_parameters(remove_duplicate=False)] for m in (left, right)]
    assert names[0] == names[1]
    for one, other in zip(left.modules(), right.modules(), strict=True):
        assert type(one) is type(other)
        assert one.training == other.training
        assert set(vars(one)) == set(vars(other))
    for one_p, other_p in zip(left.parameters(), right.parameters(), strict=True):
        assert one_p.requires_grad == other_p.requires_grad
        assert type(one_p) is type(other_p)


def test_every_attribute_comes_back(store: Store) -> None:
    net = Net()
    net.norm.eval()
    net.block[0].weight.requires_grad_(False)
    loaded = reload(net, store)
    assert_same(net, loaded)
    assert loaded.head.weight is loaded.embed.weight
    assert loaded.again is loaded.block
    assert equal(loaded.kept, net.kept)
    assert equal(loaded.scratch, net.scratch)
    assert "scratch" not in loaded.state_dict()
    assert equal(loaded.plain, net.plain)
    assert loaded.activation is F.gelu
    assert loaded.functions == net.functions
    assert loaded.layer_class is nn.LayerNorm
    assert loaded.config == net.config
    assert loaded.same_config is loaded.config
    assert loaded.cycle[1] is loaded.cycle
    assert (loaded.dtype, loaded.device) == (torch.bfloat16, torch.device("cpu"))
    assert (loaded.infinite, loaded.where) == (float("inf"), slice(1, None))
    assert store.get("m").stored.restore == "exact"
    assert store.get("m").stored.required_trust == ()


def test_outputs_are_equal_bit_for_bit_in_both_modes(store: Store) -> None:
    net = Net()
    tokens = torch.randint(10, (8,))
    loaded = reload(net, store)
    for mode in (True, False):
        net.train(mode), loaded.train(mode)
        torch.manual_seed(1)
        expected = net(tokens)
        torch.manual_seed(1)
        assert equal(loaded(tokens), expected)


def test_a_loaded_module_trains_on_and_the_store_keeps_what_was_saved(store: Store) -> None:
    loaded = reload(Net(), store)
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(torch.randint(10, (8,))).sum().backward()
    optimizer.step()
    assert not equal(loaded.embed.weight, before["embed.weight"])
    store.verify()
    assert equal(store.load("m").embed.weight, before["embed.weight"])


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    lambda: nn.GRU(3, 4),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.Transformer(4, 2, 1, 1, 8, batch_first=True),
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, activation=F.gelu, batch_first=True), 2
    ),
    lambda: nn.BatchNorm2d(3, momentum=None),
    lambda: nn.EmbeddingBag(5, 3, mode="max"),
    lambda: nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]),
    lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}),
    lambda: nn.ModuleDict({"a": nn.Linear(1, 2), "b": nn.ReLU()}),
    lambda: nn.Conv2d(2, 3, 3, padding="same", padding_mode="circular"),
    lambda: nn.Upsample(scale_factor=2.0),
    lambda: nn.Linear(3, 3).to(torch.bfloat16),
    lambda: nn.Linear(3, 3, dtype=torch.complex64),
    lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 12, [4, 8], div_value=2.0),
    lambda: nn.CrossEntropyLoss(weight=torch.tensor([0.1, 0.9])),
    lambda: nn.Linear(2, 2, device="meta"),
    nn.Module,
]


@pytest.mark.parametrize("build", LAYERS)
def test_torchs_own_layers_come_back(store: Store, build: Callable[[], nn.Module]) -> None:
    module = build()
    loaded = reload(module, store)
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        assert loaded.weight.is_meta
        return
    assert_same(module, loaded)
    assert str(loaded) == str(module)


def test_a_loaded_lstm_works(store: Store) -> None:
    lstm = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    assert equal(reload(lstm, store)(x)[0], lstm(x)[0])


def test_equal_modules_have_one_digest_and_a_changed_weight_another(store: Store) -> None:
    net = Net()
    first, second = store.save(net, "a"), store.save(net, "b")
    with torch.no_grad():
        net.norm.weight[0] += 1e-6
    third = store.save(net, "a")
    assert first.digest == second.digest != third.digest


def read_by_hand(store: Store, ref: str) -> dict[str, Any]:
    """Read a module's state dict with ``json`` and ``torch.load`` alone."""
    opened: dict[str, Any] = {}
    for file in store.get(ref).stored.files:
        path = store.path / "blobs" / file.digest[:2] / file.digest[2:]
        if file.path.endswith(".json"):
            opened[file.path] = json.loads(path.read_text())
        else:
            opened[file.path] = torch.load(path, weights_only=True)
    structure = opened["structure.json"]
    manifest = json.loads((store.path / "assets" / ref / "v1.json").read_text())
    index = opened.get("tensors.json") or manifest["details"]
    rows = index["tensors"]
    state = {}
    for key, form in structure["state"]["$ordered"]:
        entry = structure["tensors"][form["$tensor"]]
        if "stored" not in entry:
            continue
        row = rows[entry["stored"]]
        _, name, offset, dtype, shape, stride = row
        tensor = opened[name]
        if offset is not None:
            tensor = tensor[offset:].view(torch.uint8)
            size = math.prod(shape) * getattr(torch, dtype).itemsize
            tensor = tensor[:size].view(getattr(torch, dtype)).as_strided(shape, stride)
        if "view" in entry:
            _, shape, stride, offset = entry["view"]
            tensor = tensor.as_strided(shape, stride, offset)
        state[key] = tensor
    return state


def test_every_blob_opens_with_plain_tools(store: Store) -> None:
    net = Net()
    store.save(net, "m")
    fresh = Net()
    fresh.load_state_dict(read_by_hand(store, "m"), strict=True)
    assert all(equal(fresh.state_dict()[key], net.state_dict()[key]) for key in net.state_dict())


def test_by_preference_the_state_dict_only(store: Store) -> None:
    net = Net()
    asset = store.save(Model.from_pytorch(net, "m"), format="state_dict")
    assert asset.stored.restore == "weights"
    assert asset.required_trust == ()
    state = store.load("m")
    assert list(state) == list(net.state_dict())
    fresh = Net()
    assert store.load("m", into=fresh) is fresh
    assert_same(fresh, net)


def test_into_fills_a_module_strictly(store: Store) -> None:
    store.save(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "m")
    other = nn.Sequential(nn.Linear(2, 4), nn.Module())
    other[1].extra = nn.Parameter(torch.zeros(1))
    before = other[0].weight.clone()
    with pytest.raises(MaterializationError) as caught:
        store.load("m", into=other)
    told = str(caught.value)
    assert "missing in the saved state: 1.extra" in told
    assert "not in what into= holds: 1.weight, 1.bias" in told
    assert "0.weight (saved [3, 2], into= has [4, 2])" in told
    assert equal(other[0].weight, before)
    with pytest.raises(UnsupportedObjectError, match="into= takes a torch.nn.Module"):
        store.load("m", into={})


class WithLambda(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.scale = lambda x: 2 * x


def test_what_cannot_be_rebuilt_is_saved_with_its_weights_and_says_why(store: Store) -> None:
    module = WithLambda()
    with pytest.warns(MaterializationWarning, match=r"inner\.scale: function .*into= a module"):
        store.save(module, "m")
    stored = store.get("m").stored
    assert stored.restore == "weights"
    assert "inner.scale" in stored.restore_reason
    with pytest.raises(MaterializationError, match="inner.scale.*pass it as into="):
        store.load("m")
    assert equal(store.load("m", into=WithLambda()).inner.weight, module.inner.weight)


def test_a_class_local_to_a_function_is_saved_with_its_weights(store: Store) -> None:
    class Local(nn.Linear):
        pass

    with pytest.warns(MaterializationWarning, match="Local.*can't be found again by its name"):
        store.save(Local(1, 1), "m")
    assert store.get("m").stored.restore == "weights"


def test_lazy_modules_are_still_lazy(store: Store) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d(), nn.Linear(2, 2))

    net = build()
    first, second = reload(net, store), store.load("m", into=build())
    for back in (first, second):
        assert isinstance(back[0], nn.LazyLinear)
        assert isinstance(back[0].weight, nn.UninitializedParameter)
        assert isinstance(back[1].running_mean, nn.UninitializedBuffer)
    x = torch.randn(3, 5)
    for module in (net, first):
        torch.manual_seed(0)
        module(x)
    assert type(first[0]) is nn.Linear
    assert first[0]._forward_pre_hooks == first[0]._load_state_dict_pre_hooks == {}
    assert equal(first[0].weight, net[0].weight)
    first[0].register_forward_hook(lambda *_: None)


DEFINITION = """
import sys, torch
from torch import nn
from flowyml import Model, Store

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return torch.relu(self.b(self.a(x)))
"""
SAVE = """
if __name__ == "__main__":
    torch.manual_seed(0)
    net = Net()
    Model.from_pytorch(net, "net").save()
    print(net(torch.ones(1, 3)).tolist())
"""
LOAD = """
model = Model.load("net")
assert model.data.a.weight is model.data.b.weight
print(model.data(torch.ones(1, 3)).tolist())
"""


def test_a_class_of_a_script_loads_in_the_same_script_and_where_it_is_imported(
    run_script: Callable[..., str],
) -> None:
    expected = run_script(DEFINITION + SAVE, name="training.py")
    assert run_script(DEFINITION + LOAD, name="training.py") == expected
    importing = "import torch; from flowyml import Model; import training\n"
    run_script(DEFINITION + SAVE, name="training.py")
    assert run_script(importing + LOAD, name="serving.py") == expected


def test_a_class_of_a_module_loads_where_the_module_is_the_script(
    run_script: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "training.py").write_text(DEFINITION)
    saving = "from training import *\n" + SAVE
    expected = run_script(saving, name="other.py")
    assert run_script(DEFINITION + LOAD, name="training.py") == expected


def test_a_large_module_comes_back_in_a_new_process(run_script: Callable[..., str]) -> None:
    """400 MB: eight layers of 12.5 million parameters."""
    code = """
import hashlib, sys, torch
from torch import nn
from flowyml import Store

def digest(tensor):
    return hashlib.blake2b(tensor.detach().numpy().tobytes()).hexdigest()

torch.manual_seed(0)
x = torch.randn(2, 3536)
if sys.argv[1] == "save":
    module = nn.Sequential(*[nn.Linear(3536, 3536) for _ in range(8)])
    Store.default().save(module, "large")
else:
    module = Store.default().load("large")
assert sum(p.nbytes for p in module.parameters()) > 400e6
print(digest(module(x)), digest(module[7].weight))
"""
    assert run_script(code, "save") == run_script(code, "load")


class Odd(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.value = value


class Settings(dict[str, int]):
    """A dict with something of its own, as many configurations are."""


class Bits(enum.Flag):
    A = 1
    B = 2


@pytest.mark.parametrize(
    "value", [Settings(a=1), Bits.A | Bits.B, object(), iter([]), {"f": lambda: 0}]
)
def test_attributes_that_cannot_come_back_cost_the_structure_and_are_named(
    store: Store, value: Any
) -> None:
    with pytest.warns(MaterializationWarning, match="because of value"):
        store.save(Odd(value), "m")
    assert store.get("m").stored.restore == "weights"
    fresh = store.load("m", into=Odd(None))
    assert fresh.line.in_features == 1


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1),
        np.float32(2),
        np.arange(6).reshape(2, 3),
        slice(None, 3),
        Path("a"),
    ],
)
def test_attributes_of_other_libraries_come_back(store: Store, value: Any) -> None:
    loaded = reload(Odd(value), store).value
    assert type(loaded) is type(value)
    assert np.array_equal(loaded, value) if isinstance(value, np.ndarray) else loaded == value


def test_tensors_under_equal_paths_do_not_overwrite_each_other(store: Store) -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    net = Odd({first: torch.ones(2), second: torch.zeros(2)})
    loaded = reload(net, store)
    assert [item.tolist() for item in loaded.value.values()] == [[1, 1], [0, 0]]
    net = Odd(None)
    net.register_buffer("q", torch.ones(1), persistent=False)
    vars(net)["q"] = torch.zeros(1)
    loaded = reload(net, store)
    assert (loaded._buffers["q"].item(), vars(loaded)["q"].item()) == (1, 0)


def test_equal_modules_of_two_scripts_have_one_digest(run_script: Callable[..., str]) -> None:
    code = """
import torch
from flowyml import Store
torch.manual_seed(0)
print(Store.default().save(torch.nn.Linear(2, 2), "m").digest)
"""
    assert run_script(code, name="one.py") == run_script(code, name="two.py")


def test_a_module_whose_own_state_dict_is_unusual_is_saved(store: Store) -> None:
    class Bare(nn.Linear):
        def state_dict(self) -> Any:  # type: ignore[override]
            return {key: item.data for key, item in self.named_parameters()}

    with pytest.warns(MaterializationWarning):
        store.save(Bare(2, 2), "m")
    assert store.load("m", into=nn.Linear(2, 2)).in_features == 2


def test_extra_state_that_is_no_plain_data_is_left_out_and_told(store: Store) -> None:
    with pytest.warns(MaterializationWarning, match="Extra"):
        store.save(extra := _extra(), "m")
    assert store.get("m").stored.restore == "weights"
    with pytest.warns(MaterializationWarning, match="saved without _extra_state"):
        loaded = store.load("m", into=_extra())
    assert equal(loaded.weight, extra.weight)


def _extra() -> nn.Module:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return object()

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError("there is none")

    return Extra(1, 1)


def test_attributes_of_tensors_come_back(store: Store) -> None:
    net = nn.Linear(2, 2)
    net.weight.group = {"decay": [0.1, None]}
    net.weight.beside = net.bias
    net.scratch = nn.Buffer(torch.ones(2), persistent=False)
    back = reload(net, store)
    assert back.weight.group == {"decay": [0.1, None]}
    assert back.weight.beside is back.bias
    assert isinstance(back.scratch, nn.Buffer)
    assert not back.scratch.persistent
    assert not hasattr(store.load("m", format="state_dict")["weight"], "group")
    del net.weight.beside
    net.bias.hook = lambda: None
    with pytest.warns(MaterializationWarning, match=r"because of bias\.hook: function"):
        store.save(net, "m")
    assert list(store.load("m", into=nn.Linear(2, 2, bias=True)).state_dict()) == ["weight", "bias"]


def test_a_deeply_nested_module_is_saved(store: Store) -> None:
    deep: nn.Module = nn.Linear(1, 1)
    for _ in range(300):
        outer = nn.Module()
        outer.inner = deep
        deep = outer
    with pytest.warns(MaterializationWarning, match="weights only"):
        store.save(deep, "m")
    assert len(read_by_hand(store, "m")) == 2


def test_an_asset_that_was_read_without_its_data_is_not_saved_as_nothing(store: Store) -> None:
    Model.from_pytorch(nn.Linear(1, 1), "m").save(store)
    read = store.get("m")
    read.tags["stage"] = "test"
    with pytest.raises(StoreError, match="read without its data"):
        read.save(store)
    assert store.versions("m") == ["v1"]


class Wider(nn.Conv2d):
    """A subclass that adds nothing of what Python calls on its own."""


class Remembering(nn.LSTM):
    pass


@pytest.mark.parametrize("module", [Wider(1, 1, 1), Remembering(2, 3)])
def test_a_plain_subclass_of_torchs_layers_needs_no_trust(store: Store, module: Any) -> None:
    loaded = reload(module, store)
    assert_same(module, loaded)
    assert store.get("m").stored.required_trust == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_wrapped_model_is_saved_as_the_model_inside(store: Store) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for wrapped in (torch.compile(net), nn.DataParallel(net)):
        loaded = reload(wrapped, store)
        assert type(loaded) is nn.Sequential
        assert list(loaded.state_dict()) == list(net.state_dict())
        assert Model.from_pytorch(wrapped).name == "Sequential"


def parametrized() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv1d(3, 3, 1), nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(net[0])
    nn.utils.parametrizations.orthogonal(net[1])
    nn.utils.parametrizations.spectral_norm(net[2])
    parametrize.register_parametrization(net[3], "weight", Symmetric())
    return net


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def test_parametrizations_come_back(store: Store) -> None:
    net = parametrized().eval()
    loaded = reload(net, store)
    assert store.get("m").stored.restore == "exact"
    assert list(loaded.state_dict()) == list(net.state_dict())
    for left, right in zip(net.modules(), loaded.modules(), strict=True):
        assert type(left).__name__ == type(right).__name__
    x = torch.randn(2, 3, 3)
    assert equal(loaded(x), net(x))
    parametrize.remove_parametrizations(loaded[3], "weight")
    assert type(loaded[3]) is nn.Linear
    assert equal(loaded[3].weight, net[3].weight)


def test_partials_of_torchs_functions_and_layers_come_back(store: Store) -> None:
    net = Odd([functools.partial(F.gelu, approximate="tanh"), functools.partial(nn.LayerNorm, 3)])
    gelu, norm = reload(net, store).value
    x = torch.randn(3)
    assert equal(gelu(x), F.gelu(x, approximate="tanh"))
    assert isinstance(norm(), nn.LayerNorm)
    assert store.get("m").required_trust == ()


def test_memory_shared_with_a_weight_is_shared_again(store: Store) -> None:
    line = nn.Linear(3, 2)
    net = Odd([line.weight.data, line.weight.detach().t(), line.weight.detach()[1:]])
    net.line = line
    whole, turned, part = reload(net, store).value
    loaded = store.load("m")
    with torch.no_grad():
        loaded.line.weight.fill_(7)
    assert {t.unique().item() for t in loaded.value} == {7.0}
    assert (whole.shape, turned.shape, part.shape) == ((2, 3), (3, 2), (1, 3))
    assert equal(turned, line.weight.t())
    assert store.stats().stored < 6000


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_into_fills_what_has_no_memory_yet_and_what_is_wrapped(store: Store) -> None:
    line = nn.Linear(2, 2)
    store.save(line, "m")
    bare = store.load("m", into=nn.Linear(2, 2, device="meta"))
    assert equal(bare.weight, line.weight)
    wrapped = torch.compile(nn.Linear(2, 2))
    assert store.load("m", into=wrapped) is wrapped
    assert equal(wrapped.weight, line.weight)


def test_a_saved_module_is_a_described_model(store: Store) -> None:
    store.save(nn.Linear(2, 2), "m")
    model = Model.load("m", store=store)
    assert (model.parameters, model.framework, type(model.data)) == (6, "pytorch", nn.Linear)
    assert model.metadata.properties["framework"] == "pytorch"


def test_what_is_saved_is_described_as_it_is_then(store: Store) -> None:
    net = nn.Linear(2, 2)
    model = Model.from_pytorch(net, "m", note="mine")
    net.weight.requires_grad_(False)
    net.half().eval()
    model.save(store)
    read = store.get("m")
    assert isinstance(read, Model)
    assert (read.frozen_parameters, read.dtype, read.training_mode) == (4, "torch.float16", False)
    assert read.metadata.properties["note"] == "mine"
    filled = Model.load("m", store=store, into=nn.Linear(2, 2))
    assert filled.dtype == "torch.float32"


def test_a_device_that_is_not_here_is_told_as_such(store: Store) -> None:
    store.save(nn.Linear(2, 2), "m")
    with pytest.raises(MaterializationError, match="device='gpu', which can't be used here"):
        store.load("m", device="gpu")


def test_a_directory_will_do_for_a_store(tmp_path: Path) -> None:
    model = Model.from_pytorch(nn.Linear(1, 1), "m").save(str(tmp_path / "other"))
    assert Model.load("m", store=tmp_path / "other").digest == model.digest
    with pytest.raises(TypeError, match="store= takes a Store or a directory; got a int"):
        Model.load("m", store=3)  # type: ignore[arg-type]


def test_what_example_inputs_showed_stays_while_the_layers_do(store: Store) -> None:
    Model.from_pytorch(nn.Linear(2, 2), "m", example_inputs=torch.ones(1, 2)).save(store)
    loaded = Model.load("m", store=store)
    loaded.data.eval()
    loaded.save(store)
    read = store.get("m@v2").metadata.properties
    assert (read["flops"], read["training_mode"]) == (8, False)
    loaded.data = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    loaded.save(store)
    assert store.get("m@v3").metadata.properties["flops"] is None
