from collections import OrderedDict
from typing import Any

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
    ids=str,
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


@pytest.mark.parametrize(
    "value", [{"a": torch.ones(1), "b": 1}, {1: torch.ones(1)}, {torch.ones(1)}]
)
def test_what_is_not_handled_yet_is_said_by_type(store: Store, value: Any) -> None:
    with pytest.raises(MaterializationError, match="No materializer handles"):
        store.save(value, "v")


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
