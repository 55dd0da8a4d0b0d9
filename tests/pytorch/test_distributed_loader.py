"""One order of batches, however many processes divide them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flowyml import Store, groups, step
from flowyml.interfaces import Group
from flowyml_pytorch import distributed_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

ROWS = TensorDataset(torch.arange(50))


class One(Group):
    """One process of a group, which has nobody to talk to: a loader doesn't."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = self.local_rank = rank
        self.world_size = world_size
        self.device = "cpu"

    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        raise AssertionError("a loader has to be made without a word to the others")


@contextmanager
def process(rank: int, world_size: int) -> Iterator[None]:
    token = groups.joined.set(One(rank, world_size))
    try:
        yield
    finally:
        groups.joined.reset(token)


def on_all(world_size: int, *arguments: Any, **options: Any) -> list[DataLoader[Any]]:
    """Make a loader on each rank."""
    loaders = []
    for rank in range(world_size):
        with process(rank, world_size):
            loaders.append(distributed_loader(*arguments, **options))
    return loaders


def rows(loader: DataLoader[Any]) -> list[list[int]]:
    """Go through an epoch."""
    return [batch.tolist() for (batch,) in loader]


def together(loaders: list[DataLoader[Any]]) -> list[list[int]]:
    """Return what all ranks read in an epoch, batch by batch, in order of size."""
    return [sorted(chain(*shares)) for shares in zip(*map(rows, loaders), strict=True)]


@given(
    length=st.integers(1, 40),
    share=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    shuffle=st.booleans(),
)
def test_the_batches_are_the_same_for_every_number_of_processes(
    length: int, share: int, seed: int, shuffle: bool
) -> None:
    data = TensorDataset(torch.arange(length))
    size = min(6 * share, length - length % 6) or 6
    if length < size:
        return
    expected = None
    for world_size in (1, 2, 3, 6):
        options = {"shuffle": shuffle, "seed": seed, "drop_last": True}
        loaders = on_all(world_size, data, size, **options)
        found = [together(loaders) for _ in range(2)]
        assert all(len(loader) == length // size for loader in loaders)
        assert [len(batch) for batch in found[0]] == [size] * (length // size)
        expected = expected or found
        assert found == expected


def test_alone_the_order_is_the_one_that_the_ranks_divide() -> None:
    (alone,) = on_all(1, ROWS, 8, seed=3)
    pair = on_all(2, ROWS, 8, seed=3)
    for whole, one, other in zip(rows(alone), *map(rows, pair), strict=True):
        assert (whole[::2], whole[1::2]) == (one, other)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_rest_of_an_epoch_is_shared_equally(world_size: int) -> None:
    loaders = on_all(world_size, ROWS, 12, shuffle=False)
    *whole, rest = together(loaders)
    assert whole == [list(range(start, start + 12)) for start in (0, 12, 24, 36)]
    repeated = -len(ROWS) % world_size
    assert rest == sorted([48, 49, *range(repeated)])
    assert {len(loader) for loader in loaders} == {5}


def test_the_rest_is_left_out_when_shuffled_and_kept_otherwise() -> None:
    assert [len(distributed_loader(ROWS, 12, shuffle=shuffle)) for shuffle in (True, False)] == [
        4,
        5,
    ]
    assert len(distributed_loader(ROWS, 12, drop_last=False)) == 5


@pytest.mark.parametrize(
    "options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str
)
def test_each_iterator_is_the_next_epoch(options: dict[str, Any]) -> None:
    def epoch(number: int) -> list[list[int]]:
        fresh = distributed_loader(ROWS, 10, seed=1)
        fresh.sampler.set_epoch(number)
        return rows(fresh)

    loader = distributed_loader(ROWS, 10, seed=1, **options)
    assert rows(loader) == epoch(0)
    assert rows(loader) == epoch(1) != epoch(0)
    next(iter(loader))  # an epoch that is left at once is over
    assert rows(loader) == epoch(3)
    loader.sampler.set_epoch(1)
    assert rows(loader) == epoch(1)
    assert rows(loader) == epoch(2)


def test_two_iterators_at_once_are_two_epochs() -> None:
    loader, apart = (distributed_loader(ROWS, 10, seed=1) for _ in range(2))
    both = list(zip(loader, loader, strict=True))
    for expected, mixed in zip((rows(apart), rows(apart)), zip(*both, strict=True), strict=True):
        assert [batch.tolist() for (batch,) in mixed] == expected


def test_the_order_follows_from_the_steps_seed(store: Store) -> None:
    def order() -> list[list[int]]:
        return rows(distributed_loader(ROWS, 10))

    seeded = step(seed=5, store=store)(order)
    expected = rows(distributed_loader(ROWS, 10, seed=5))
    assert seeded() == seeded() == expected
    assert order() == rows(distributed_loader(ROWS, 10, seed=0)) != expected


class Noisy(Dataset[Any]):
    """Draws a random number for every item."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(())


def test_the_workers_of_each_rank_draw_numbers_of_their_own_the_same_every_time() -> None:
    def drawn() -> list[float]:
        loaders = on_all(2, Noisy(), 8, seed=2, num_workers=2)
        torch.rand(1)  # nothing of it comes from the global generator
        return [value for loader in loaders for batch in loader for value in batch.tolist()]

    found = drawn()
    assert len(set(found)) == 8
    assert drawn() == found


def test_a_loader_comes_back_and_goes_on_with_the_next_epoch(
    store: Store, run_script: Callable[..., str]
) -> None:
    with process(1, 2):
        loader = distributed_loader(ROWS, 10, seed=4)
    rows(loader)
    asset = store.save(loader, "loader")
    assert asset.required_trust == ()
    assert store.save(store.load("loader"), "loader").stored.digest == asset.stored.digest
    printed = run_script(
        "from flowyml import Store\n"
        "loader = Store.default().load('loader')\n"
        "print(type(loader.sampler).__name__, [b.tolist() for _ in range(2) for (b,) in loader])\n"
    )
    assert printed == f"EpochSampler {[*rows(loader), *rows(loader)]}\n"


def test_a_mesh_says_who_divides_the_batches() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        sampler = distributed_loader(ROWS, 10, seed=1, mesh=mesh["data"]).sampler
        assert (sampler.rank, sampler.num_replicas) == (1, 2)
        with pytest.raises(ValueError, match=r"has 2: \('data', 'model'\).*mesh\['data'\]"):
            distributed_loader(ROWS, 10, mesh=mesh)
    finally:
        dist.destroy_process_group()


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))

    def __len__(self) -> int:
        return 5


def test_batches_that_cant_be_divided_are_refused() -> None:
    with process(0, 3):
        with pytest.raises(ValueError, match="batch of 10 .* among 3 processes.* Pass 9 or 12,"):
            distributed_loader(ROWS, 10)
        with pytest.raises(ValueError, match="batch of 2 .* Pass 3,"):
            distributed_loader(ROWS, 2)
    with pytest.raises(ValueError, match="has to be 1 or more; got 0"):
        distributed_loader(ROWS, 0)
    with pytest.raises(ValueError, match="50 samples, which fill no batch of 64"):
        distributed_loader(ROWS, 64)
    with pytest.raises(TypeError, match="takes no sampler="):
        distributed_loader(ROWS, 10, sampler=[1, 2])
    with pytest.raises(TypeError, match="Stream hasn't"):
        distributed_loader(Stream(), 1)
