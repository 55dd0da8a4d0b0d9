"""Two stored versions side by side: which tensors and settings differ, and by how much."""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from flowyml import Store, adapters
from flowyml.errors import MaterializationError
from flowyml.interfaces import Change, Saved
from flowyml.store import loading, manifest
from flowyml_pytorch.storing import differences


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def saved(store: Store, ref: str) -> Saved:
    """Return what a materializer is given of a version."""
    name, version = ref.split("@")
    path = store.path / "assets" / name / f"{version}.json"
    found = manifest.read(path.read_bytes(), ref)
    blobs = store.path / "blobs"
    files = {file.path: blobs / file.digest[:2] / file.digest[2:] for file in found.stored.files}
    return loading.saved(found, files)


def compared(store: Store, before: str, after: str) -> dict[str, Change]:
    """Return how two versions differ, by the names of the changes."""
    materializer = adapters.materializer(store.get(before).stored.materializer)
    changes = materializer.compare(saved(store, before), saved(store, after))
    assert changes is not None
    assert len({change.name for change in changes}) == len(changes)
    return {change.name: change for change in changes}


def between(store: Store, before: Any, after: Any) -> dict[str, Change]:
    """Save two objects, and return how they differ; the other way round the same names differ."""
    store.save(before, "before")
    store.save(after, "after")
    one, two = (store.versions(name)[-1] for name in ("before", "after"))
    changes = compared(store, f"before@{one}", f"after@{two}")
    back = compared(store, f"after@{two}", f"before@{one}")
    assert {*changes} == {*back}
    assert all((c.before, c.after) == (back[n].after, back[n].before) for n, c in changes.items())
    return changes


def change_of(store: Store, before: Tensor, after: Tensor) -> Change:
    """Return how two tensors differ."""
    ((name, change),) = between(store, before, after).items()
    assert name == ""
    return change


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(80, 40)
        self.embed = nn.Embedding(40, 80)
        self.embed.weight = self.head.weight
        self.note = "first"


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_equal_objects_have_no_changes(store: Store) -> None:
    assert between(store, net(), net()) == {}
    sparse = [[torch.ones(3).to_sparse(), {"a": 1}] for _ in range(2)]
    assert between(store, *sparse) == {}


def test_a_changed_weight_is_told_number_by_number(store: Store) -> None:
    other = net()
    with torch.no_grad():
        other.conv1.weight[3, 0, 1, 2] += 0.5
        other.conv1.weight[7, 0, 0, 0] *= 3
    before, after = net().conv1.weight.detach().double(), other.conv1.weight.detach().double()
    gap = (before - after).abs()
    assert between(store, net(), other) == {
        "conv1.weight": Change(
            "conv1.weight",
            "float32 (32, 1, 3, 3)",
            "float32 (32, 1, 3, 3)",
            elements=288,
            different=2,
            first=(3, 0, 1, 2),
            first_before=f"{before[3, 0, 1, 2]:.9g}",
            first_after=f"{after[3, 0, 1, 2]:.9g}",
            max_absolute=gap.max().item(),
            max_relative=(gap / before.abs()).max().item(),
            norm=pytest.approx(gap.norm().item(), rel=1e-12),
            norm_before=pytest.approx(before.norm().item(), rel=1e-12),
        )
    }


def test_settings_and_modes_of_layers_are_told(store: Store) -> None:
    other = net()
    other.drop.p = 0.3
    other.drop.eval()
    other.note = "x" * 500
    other.conv1.bias.requires_grad_(False)
    changes = between(store, net(), other)
    told = {name: (change.before, change.after) for name, change in changes.items()}
    assert told == {
        "conv1.bias": ("float32 (32,), requires grad", "float32 (32,), requires no grad"),
        "drop.p": ("0.1", "0.3"),
        "drop.training": ("True", "False"),
        "note": ("'first'", told["note"][1]),
    }
    assert len(told["note"][1] or "") < 120
    assert changes["conv1.bias"].elements is None


def test_a_layer_more_is_told_with_its_tensors(store: Store) -> None:
    other = net()
    other.more = nn.Sequential(nn.Linear(3, 2))
    changes = between(store, net(), other)
    assert changes["more"] == Change("more", None, "torch.nn.modules.container.Sequential")
    assert changes["more.0.weight"] == Change("more.0.weight", None, "float32 (2, 3)")
    assert {name for name in changes if not name.startswith("_metadata")} == {
        *("more", "more.0.weight", "more.0.bias")
    }


def test_a_layer_of_another_class_is_told(store: Store) -> None:
    changes = between(
        store, nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Tanh())
    )
    assert changes["1"].before == "torch.nn.modules.activation.ReLU"
    assert changes["1"].after == "torch.nn.modules.activation.Tanh"
    assert "0" not in changes


def test_a_bias_that_is_gone_is_told(store: Store) -> None:
    changes = between(store, nn.Linear(2, 3), nn.Linear(2, 3, bias=False))
    assert (changes["bias"].before, changes["bias"].after) == ("float32 (3,)", "None")


def test_another_shape_is_told_without_numbers(store: Store) -> None:
    change = change_of(store, torch.ones(3, 4), torch.ones(4, 3))
    assert change == Change("", "float32 (3, 4)", "float32 (4, 3)")


def test_another_type_of_equal_numbers_has_no_different_ones(store: Store) -> None:
    change = change_of(store, torch.arange(5), torch.arange(5.0))
    assert (change.before, change.after) == ("int64 (5,)", "float32 (5,)")
    assert (change.elements, change.different, change.max_absolute) == (5, 0, 0.0)
    change = change_of(store, torch.tensor([1.0, 2.0]), torch.tensor([1 + 0j, 2 + 1j]))
    assert (change.different, change.max_absolute, change.first) == (1, 1.0, (1,))


def test_strides_that_differ_alone_are_told(store: Store) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    change = change_of(store, x, x.t().contiguous().t())
    assert (change.before, change.after) == (
        "float32 (2, 3), strides (3, 1)",
        "float32 (2, 3), strides (1, 2)",
    )


def test_a_tie_that_is_broken_is_told(store: Store) -> None:
    other = net()
    other.embed.weight = nn.Parameter(other.head.weight.detach().clone())
    changes = between(store, net(), other)
    assert changes["embed.weight"].before == "float32 (40, 80), the same as head.weight"
    assert changes["embed.weight"].after == "float32 (40, 80)"
    assert "head.weight" not in changes
    with torch.no_grad():
        other.embed.weight[2, 3] += 1
    assert between(store, net(), other)["embed.weight"].first == (2, 3)


def test_memory_that_is_not_shared_any_more_is_told(store: Store) -> None:
    x = torch.arange(9.0)
    changes = between(store, {"x": x, "y": x[2:4]}, {"x": x, "y": x[2:4].clone()})
    assert list(changes) == ["y"]
    assert (changes["y"].before or "").endswith("in the memory of x")
    assert (changes["y"].after or "").endswith("in memory of its own")


def test_what_is_not_a_number_equals_itself(store: Store) -> None:
    nan, inf = math.nan, math.inf
    before = torch.tensor([nan, 1.0, inf, -inf, nan])
    change = change_of(store, before, torch.tensor([nan, 2.0, inf, -inf, nan]))
    assert (change.different, change.first, change.max_absolute) == (1, (1,), 1.0)
    assert (change.max_relative, change.norm) == (1.0, 1.0)
    change = change_of(store, before, torch.tensor([1.0, 1.0, inf, -inf, nan]))
    assert (change.different, change.max_absolute, change.max_relative) == (1, inf, inf)
    assert (change.first_before, change.first_after) == ("nan", "1")
    change = change_of(store, torch.tensor([inf, 3.0]), torch.tensor([-inf, 3.0]))
    assert (change.different, change.max_absolute, change.max_relative) == (1, inf, inf)
    change = change_of(store, torch.tensor([inf, 3.0]), torch.tensor([5.0, 3.0]))
    assert (change.max_absolute, change.max_relative) == (inf, inf)


def test_bits_that_make_no_other_number_are_told_too(store: Store) -> None:
    change = change_of(store, torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert (change.elements, change.different, change.first, change.norm) == (2, 0, None, 0.0)


def test_a_zero_that_is_none_any_more_differs_infinitely(store: Store) -> None:
    change = change_of(store, torch.tensor([0.0, 4.0]), torch.tensor([1e-9, 5.0]))
    assert (change.different, change.max_absolute, change.max_relative) == (2, 1.0, math.inf)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64, torch.int32, torch.uint8])
def test_integers_differ_exactly(store: Store, dtype: torch.dtype) -> None:
    top, low = torch.iinfo(dtype).max, torch.iinfo(dtype).min
    change = change_of(
        store, torch.tensor([top, low], dtype=dtype), torch.tensor([top - 1, low], dtype=dtype)
    )
    assert (change.different, change.max_absolute, change.norm) == (1, 1.0, 1.0)
    assert (change.first_before, change.first_after) == (str(top), str(top - 1))
    change = change_of(store, torch.tensor([top], dtype=dtype), torch.tensor([low], dtype=dtype))
    assert change.max_absolute == float(top - low)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128),
        *(torch.complex32, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz),
        *(torch.float8_e8m0fnu, torch.uint16, torch.uint32, torch.int16),
    ],
)
def test_every_data_type_is_compared(store: Store, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is experimental, says torch
        before = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
        after = torch.tensor([1.0, 4.0, 4.0]).to(dtype)
    change = change_of(store, before, after)
    assert change.before == f"{str(dtype).removeprefix('torch.')} (3,)"
    assert (change.elements, change.different, change.first) == (3, 1, (1,))
    assert (change.max_absolute, change.max_relative) == (2.0, 1.0)
    assert change.norm_before == pytest.approx(math.sqrt(21))


def test_bools_and_complex_numbers_are_told_as_such(store: Store) -> None:
    change = change_of(store, torch.tensor([True, False]), torch.tensor([True, True]))
    assert (change.first_before, change.first_after, change.max_absolute) == ("False", "True", 1.0)
    change = change_of(store, torch.tensor([3 + 4j]), torch.tensor([0j]))
    assert (change.max_absolute, change.max_relative, change.norm_before) == (5.0, 1.0, 5.0)
    assert (change.first_before, change.first_after) == ("3+4j", "0+0j")


def test_numbers_that_are_extreme_have_a_norm(store: Store) -> None:
    for scale in (1e-200, 1e200):
        before = torch.tensor([3.0, 4.0], dtype=torch.float64) * scale
        change = change_of(store, before, torch.zeros(2, dtype=torch.float64))
        assert change.norm_before == pytest.approx(5 * scale)
        assert change.norm == pytest.approx(5 * scale)


def test_tensors_without_elements_are_compared(store: Store) -> None:
    empty = [[torch.empty(0), torch.empty(3, 0)] for _ in range(2)]
    assert between(store, *empty) == {}
    change = change_of(store, torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert (change.elements, change.different) == (0, 0)
    change = change_of(store, torch.tensor(1.0), torch.tensor(2.0))
    assert (change.first, change.before) == ((), "float32 ()")


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 105), (105,), (105, 1), (3, 35)])
@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 104, 1000])
def test_chunks_of_any_size_come_to_one_result(
    store: Store, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], chunk: int
) -> None:
    before = torch.randn(*shape).double()
    after = before.clone()
    places = sorted(torch.randperm(105)[:4].tolist())
    after.view(-1)[places] += torch.tensor([1.0, -5.0, 2.0, 0.25])
    after = after.transpose(0, -1).contiguous().transpose(0, -1)
    monkeypatch.setattr(differences, "_CHUNK", chunk)
    (change,) = differences.differences("x", before, after)
    assert change.different == 4
    assert change.first == tuple(int(i) for i in np.unravel_index(places[0], shape))
    assert change.max_absolute == (before - after).abs().max().item()
    assert change.norm == pytest.approx((before - after).norm().item())
    assert change.norm_before == pytest.approx(before.norm().item())


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize_per")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sparse_and_quantized_tensors_are_compared_part_by_part(store: Store) -> None:
    dense = torch.eye(3)
    other = dense.clone()
    other[1, 1] = 4
    for make in (Tensor.to_sparse, Tensor.to_sparse_csr, Tensor.to_sparse_csc):
        changes = between(store, {"t": make(dense)}, {"t": make(other)})
        assert list(changes) == ["t.values"]
        assert (changes["t.values"].first, changes["t.values"].max_absolute) == ((1,), 3.0)

    def quantized(scale: float) -> dict[str, Tensor]:
        return {"q": torch.quantize_per_tensor(dense, scale, 2, torch.qint8)}

    assert {*between(store, quantized(0.1), quantized(0.2))} == {"q.int_repr", "q.scale"}
    change = change_of(store, dense, dense.to_sparse())
    assert (change.before, change.after) == (
        "float32 (3, 3), dense",
        "float32 (3, 3), sparse or quantized",
    )


def optimizer(lr: float, steps: int) -> torch.optim.Optimizer:
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    found = torch.optim.Adam(layer.parameters(), lr=lr)
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        found.step()
    return found


def test_optimizers_differ_by_settings_and_moments(store: Store) -> None:
    assert {*between(store, optimizer(0.1, 0), optimizer(0.2, 0))} == {
        *("defaults.lr", "param_groups.0.lr")
    }
    changes = between(store, optimizer(0.1, 1), optimizer(0.1, 2))
    assert changes["state.0.step"].first_after == "2"
    assert changes["state.0.exp_avg"].different == 6
    assert changes["param_groups.0.params.1"].before == "float32 (2,)"
    assert not any("the key" in name for name in changes)
    begun = between(store, optimizer(0.1, 0), optimizer(0.1, 1))
    assert begun["state.1.exp_avg_sq"] == Change("state.1.exp_avg_sq", None, "float32 (2,)")
    assert not any("the key" in name for name in begun)


def test_loaders_differ_by_settings_data_and_order(store: Store) -> None:
    def loader(size: int, value: float, last: int, seed: int) -> DataLoader[Any]:
        data = TensorDataset(torch.full((60, 2), value))
        generator = torch.Generator().manual_seed(seed)
        indices = [*range(39), last]
        return DataLoader(Subset(data, indices), size, shuffle=True, generator=generator)

    assert between(store, loader(4, 0.0, 39, 0), loader(4, 0.0, 39, 0)) == {}
    assert "batch_size" in between(store, loader(4, 0.0, 39, 0), loader(5, 0.0, 39, 0))
    (data,) = between(store, loader(4, 0.0, 39, 0), loader(4, 1.0, 39, 0)).values()
    assert (data.name, data.different) == ("dataset.dataset.tensors.0", 120)
    (row,) = between(store, loader(4, 0.0, 39, 0), loader(4, 0.0, 50, 0)).values()
    assert row == Change("dataset.indices", "list of 40", "list of 40", 40, 1, (39,), "39", "50")
    (state,) = between(store, loader(4, 0.0, 39, 0), loader(4, 0.0, 39, 1)).values()
    assert state.name.endswith("generator.state")


def test_plain_values_in_containers_differ_by_their_places(store: Store) -> None:
    t = torch.ones(1)
    before = {"t": t, "a": (1, 2.0, True), "n": None, 3: "three", "f": math.nan, "s": {1, 2}}
    after = {"t": t, "a": (1, 2.5, 1), "n": 0, 3: "drei", "f": math.nan, "s": {1, 3}}
    changes = between(store, before, after)
    assert {name: (c.before, c.after) for name, c in changes.items()} == {
        "a.1": ("2.0", "2.5"),
        "a.2": ("True", "1"),
        "n": ("None", "0"),
        "3": ("'three'", "'drei'"),
        "s": ("{1, 2}", "{1, 3}"),
    }


def test_lists_of_other_lengths_differ_as_a_whole(store: Store) -> None:
    t = torch.ones(2)
    changes = between(store, {"l": [1, 2, t]}, {"l": [1, 5, t, 4, torch.zeros(3)]})
    assert changes["l"] == Change("l", "list of 3", "list of 5")
    assert changes["l.1"].after == "5"
    assert changes["l.4"] == Change("l.4", None, "float32 (3,)")
    assert {*changes} == {"l", "l.1", "l.4"}


def test_arrays_and_numbers_of_numpy_are_compared(store: Store) -> None:
    t, array = torch.ones(1), np.arange(6.0).reshape(2, 3)
    before = {"t": t, "a": array.copy(), "n": np.float32(2), "b": np.ones(2)}
    array[1, 0] += 2
    changes = between(store, before, {"t": t, "a": array, "n": np.float32(3), "b": np.ones(3)})
    assert (changes["n"].before, changes["n"].after) == ("2.0", "3.0")
    assert changes["b"] == Change("b", "array of <f8 (2,)", "array of <f8 (3,)")
    assert (changes["a"].first, changes["a"].max_absolute) == ((1, 0), 2.0)
    other = {**before, "a": np.asfortranarray(array)}
    change = between(store, before, other)["a"]
    assert (change.before, change.after) == ("array of <f8 (2, 3)", "array of <f8 (2, 3) F")
    assert (change.different, change.first, change.max_absolute) == (1, (1, 0), 2.0)


@pytest.mark.parametrize("format", ["state_dict", "safetensors"])
def test_weights_alone_are_compared_by_their_keys(store: Store, format: str) -> None:
    other = net()
    with torch.no_grad():
        other.conv1.bias[4] += 1
    for module in (net(), other):
        store.save(module, "m", format=format)
    changes = compared(store, "m@v1", "m@v2")
    assert list(changes) == ["conv1.bias"]
    assert (changes["conv1.bias"].first, changes["conv1.bias"].different) == ((4,), 1)
    other.more = nn.Linear(2, 2)
    store.save(other, "m", format=format)
    changes = compared(store, "m@v2", "m@v3")
    assert changes["more.weight"] == Change("more.weight", None, "float32 (2, 2)")


def test_a_module_is_compared_with_weights_alone(store: Store) -> None:
    other = net()
    with torch.no_grad():
        other.conv1.bias[4] += 1
    store.save(net(), "m")
    store.save(other, "m", format="state_dict")
    changes = compared(store, "m@v1", "m@v2")
    assert changes[""].after == "its state alone"
    assert changes["conv1.bias"].different == 1
    assert len(changes) == 2


def test_formats_that_say_nothing_of_each_other_are_not_compared(store: Store) -> None:
    store.save(net(), "m")
    store.save(net(), "m", format="safetensors")
    materializer = adapters.materializer("pytorch.module")
    assert materializer.compare(saved(store, "m@v1"), saved(store, "m@v2")) is None


ELSEWHERE = """
import sys, torch
from torch import nn
from flowyml import Store

class Gone(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.line = nn.Linear(2, 2)
        nn.init.constant_(self.line.weight, value)

for value in (1.0, 2.0):
    Store("store").save(Gone(value), "m")
"""


def test_classes_need_not_exist(store: Store, run_script: Callable[..., str]) -> None:
    run_script(ELSEWHERE.replace("nn.init", "torch.manual_seed(0); nn.init"))
    changes = compared(store, "m@v1", "m@v2")
    assert changes["line.weight"].max_absolute == 1.0
    with pytest.raises(Exception, match="Gone"):
        store.load("m")


def test_equal_tensors_are_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowyml_pytorch.storing import comparing, mapped

    read: list[int] = []
    original = mapped.Pool.tensor

    def tensor(pool: mapped.Pool, number: int) -> Tensor:
        read.append(number)
        return original(pool, number)

    monkeypatch.setattr(comparing.Pool, "tensor", tensor)
    other = net()
    with torch.no_grad():
        other.conv1.bias[4] += 1
    changes = between(store, [net(), torch.eye(3).to_sparse()], [other, torch.eye(3).to_sparse()])
    assert list(changes) == ["0.conv1.bias"]
    assert len(read) == 4  # twice there and twice back


def test_memory_stays_bounded(store: Store) -> None:
    before = torch.zeros(30_000_000)
    after = before.clone()
    after[25_000_000] = 1
    store.save(before, "t")
    store.save(after, "t")
    assert _peak_of(lambda: compared(store, "t@v1", "t@v2")) < 64


def _peak_of(function: Callable[[], Any]) -> float:
    """Return the most MB that this process has to itself while it runs a function."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process has to itself")
    most, done = 0.0, threading.Event()

    def anonymous() -> float:
        line = next(ln for ln in status.read_text().splitlines() if ln.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, anonymous())

    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return most - before


def test_a_structure_that_is_unfit_is_refused(store: Store) -> None:
    store.save(net(), "m")
    good = saved(store, "m@v1")
    bad = store.path / "structure.json"
    for text in ('{"schema": 1, "root": {"$object": 7}, "objects": [], "tensors": []}', "[]", "{"):
        bad.write_text(text)
        files = {**good.files, "structure.json": bad}
        unfit = Saved(good.ref, good.format, files, good.result)
        materializer = adapters.materializer("pytorch.module")
        with pytest.raises(MaterializationError, match=r"m@v1"):
            materializer.compare(good, unfit)


def test_what_refers_to_itself_is_compared(store: Store) -> None:
    def cyclic(end: int) -> nn.Module:
        torch.manual_seed(0)
        module = nn.Linear(2, 2)
        module.seen = [module, end]  # type: ignore[assignment]
        module.loop = OrderedDict()  # type: ignore[assignment]
        module.loop["self"] = module.loop  # type: ignore[operator, index]
        return module

    changes = between(store, cyclic(1), cyclic(2))
    assert list(changes) == ["seen.1"]
