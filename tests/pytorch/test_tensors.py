import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowyml import Store
from flowyml.errors import MaterializationError


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(4, 3).t(),
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.arange(5, dtype=torch.uint8),
        torch.randn(3).to(torch.bfloat16),
        torch.randn(2, dtype=torch.complex64),
        torch.tensor([True, False]),
        torch.eye(3).to_sparse(),
        nn.Parameter(torch.ones(2)),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_come_back(store: Store, tensor: Tensor) -> None:
    store.save(tensor, "t")
    back = store.load("t")
    assert (back.dtype, back.shape, back.layout) == (tensor.dtype, tensor.shape, tensor.layout)
    assert torch.equal(back.to_dense(), tensor.to_dense())
    if tensor.layout is torch.strided:
        assert back.stride() == tensor.stride()


def test_dicts_of_tensors_come_back_with_sharing(store: Store) -> None:
    whole = torch.arange(6.0)
    store.save({"a": whole, "b": whole, "c": whole[2:4]}, "d")
    back = store.load("d")
    back["a"][2] = 9
    assert back["b"][2] == back["c"][0] == 9
    assert store.load("d")["a"].tolist() == whole.tolist()


def test_a_state_dict_comes_back_as_one(store: Store) -> None:
    linear = nn.Linear(2, 2)
    store.save(linear.state_dict(), "s")
    back = store.load("s")
    assert type(back) is OrderedDict
    nn.Linear(2, 2).load_state_dict(back)


def test_no_whole_storage_is_written_for_a_slice(store: Store) -> None:
    whole = torch.zeros(1_000_000)
    assert store.save(whole[:3], "slice").stored.size < 5_000
    assert store.save({"a": whole[:3]}, "dict").stored.size < 5_000


def test_what_a_tensor_was_computed_from_is_left_out(store: Store) -> None:
    parameter = torch.ones(2, requires_grad=True)
    store.save((parameter * 2).exp(), "t")
    assert store.load("t").grad_fn is None


def test_into_copies_strictly(store: Store) -> None:
    store.save({"a": torch.ones(2), "b": torch.ones(3)}, "d")
    target = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert store.load("d", into=target) is target
    assert target["b"].tolist() == [1, 1, 1]
    with pytest.raises(MaterializationError, match="missing in the saved state: c.*not in.*: a, b"):
        store.load("d", into={"c": torch.zeros(1)})
    store.save(torch.ones(2), "t")
    assert store.load("t", into=torch.zeros(2)).tolist() == [1, 1]
    with pytest.raises(MaterializationError, match="holds a Tensor; into= is a dict"):
        store.load("t", into={})


def test_containers_keep_their_types_and_what_they_share(store: Store) -> None:
    shared = torch.ones(3)
    value = {
        "a": [shared, (shared, 1)],
        2: {"b": shared[1:], "c": None, "d": {"x", "y"}},
        "e": OrderedDict(z=np.arange(3), y=np.random.default_rng(0).normal(size=(50, 50))),
        (1, "t"): torch.zeros(0, 2),
        "list": [],
    }
    value["again"] = value["a"]
    store.save(value, "v")
    back = store.load("v")
    assert list(back) == list(value)
    assert back["again"] is back["a"]
    assert back["a"][0] is back["a"][1][0]
    back["a"][0][1] = 5
    assert back[2]["b"].tolist() == [5, 1]
    assert back[2]["d"] == {"x", "y"}
    assert np.array_equal(back["e"]["y"], value["e"]["y"])
    assert type(back["e"]) is OrderedDict
    assert back[(1, "t")].shape == (0, 2)


@pytest.mark.parametrize("value", [{"a": torch.ones(1), "b": object()}, [torch.ones(1), len]])
def test_a_container_with_something_unknown_is_not_saved_in_part(store: Store, value: Any) -> None:
    with pytest.raises(MaterializationError, match="No materializer handles"):
        store.save(value, "v")


def test_no_whole_storage_is_written_for_slices(store: Store) -> None:
    large = torch.zeros(1_000_000)
    ends = [large[:10], large[-10:], large[5:15], large[::100_000], large[3:4].expand(10_000)]
    store.save(ends, "v")
    back = store.load("v")
    assert store.stats().stored < 4_100_000  # the strided one reaches over most of it
    assert [t.stride() for t in back] == [t.stride() for t in ends]
    store.save([large[:10], large[-10:], large[5:15]], "w")
    assert sum(file.size for file in store.get("w").stored.files) < 10_000
    first, _, third = store.load("w")
    first[7] = 3
    assert third[2] == 3


def test_equal_tensors_are_stored_once_and_come_back_apart(store: Store) -> None:
    for size in (10, 10_000):
        store.save([torch.ones(size), torch.ones(size)], "v")
        one, two = store.load("v")
        one[0] = 5
        assert two[0] == 1
    assert store.stats().stored < 50_000


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64),
        *(torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint64, torch.complex32),
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (200, 100)])
def test_every_data_type_comes_back(store: Store, dtype: torch.dtype, shape: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is experimental, says torch
        tensor = torch.randint(0, 2, shape).to(dtype)
    store.save(tensor, "t")
    back = store.load("t")
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert back.untyped_storage().tolist() == tensor.untyped_storage().tolist()
    store.save([tensor, tensor.clone()], "t")
    assert len(store.load("t")) == 2


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensors_without_plain_elements_come_back(store: Store) -> None:
    dense = torch.eye(3)
    values = [
        dense.to_sparse(),
        dense.to_sparse_csr(),
        torch.quantize_per_tensor(dense, 0.1, 2, torch.qint8),
        torch.empty(2, 3, device="meta"),
        torch.ones(2, dtype=torch.complex64).conj(),
    ]
    store.save(values, "v")
    back = store.load("v")
    assert [t.layout for t in back] == [t.layout for t in values]
    assert torch.equal(back[0].to_dense(), dense)
    assert torch.equal(back[1].to_dense(), dense)
    assert torch.equal(back[2].int_repr(), values[2].int_repr())
    assert back[3].is_meta
    assert torch.equal(back[4], values[4])
    assert store.save(values, "v").digest == store.get("v@v1").digest


def test_memory_formats_are_kept(store: Store) -> None:
    weight = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    store.save([weight, weight.clone().permute(3, 0, 1, 2), torch.randn(3, 4).t()], "v")
    first, second, third = store.load("v")
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, weight)
    assert second.stride() == weight.permute(3, 0, 1, 2).stride()
    assert third.shape == (4, 3)
    assert not third.is_contiguous()


def test_a_device_can_be_chosen(store: Store) -> None:
    store.save(torch.ones(2), "t")
    assert store.load("t", device="meta").is_meta
    assert store.load("t", device=torch.device("cpu")).device.type == "cpu"


def test_leaves_keep_that_they_need_a_gradient(store: Store) -> None:
    store.save({"p": nn.Parameter(torch.ones(1)), "t": torch.ones(1, requires_grad=True)}, "d")
    back = store.load("d")
    assert isinstance(back["p"], nn.Parameter)
    assert back["t"].requires_grad


def test_subclasses_of_tensors_are_not_saved_as_what_they_are_not(store: Store) -> None:
    class Mine(Tensor):
        pass

    for value in (torch.ones(1).as_subclass(Mine), {"a": torch.ones(1).as_subclass(Mine)}):
        with pytest.raises(MaterializationError, match="No materializer handles"):
            store.save(value, "t")
