"""DataLoaders come back and yield what the original yields next, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_convert,
    random_split,
)

from flowyml import Store
from flowyml.errors import IntegrityError, MaterializationError
from flowyml_pytorch.training.datasets import DatasetRef
from flowyml_pytorch.training.fingerprints import fingerprint_of
from flowyml_pytorch.training.loaders import KINDS, LOADER
from flowyml_pytorch.training.samplers import DATASET, SAMPLER

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # by torchdata
]

ITEMS = 14
DATA = torch.arange(ITEMS * 3, dtype=torch.float32).reshape(ITEMS, 3)


@pytest.fixture
def round_trip(store: Store) -> Callable[[Any], Any]:
    """Save an object and load it again, trusting what it says it needs."""

    def there_and_back(obj: Any) -> Any:
        asset = store.save(obj, "it")
        return store.load("it", trust=asset.required_trust)

    return there_and_back


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def check_goes_on(original: Any, back: Any, epochs: int = 3) -> list[Any]:
    """Let both yield from the same global state, which both have to leave the same."""
    told = []
    for _ in range(epochs):
        before = torch.get_rng_state()
        expected = list(original)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        assert same(list(back), expected)
        assert torch.equal(torch.get_rng_state(), after)
        assert expected
        told.append(expected)
    return told


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Numbers(Dataset[Any]):
    """A plain object with tensor, NumPy and JSON-able attributes."""

    def __init__(self, size: int = ITEMS, scale: float = 1.0) -> None:
        self.values = torch.arange(size) * scale
        self.labels = np.arange(size) % 3
        self.names = {"classes": ["a", "b", "c"]}

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names["classes"][self.labels[index]]
        return {"x": self.values[index], "y": self.labels[index], "name": name}

    def collate(self, items: list[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([item["x"] for item in items])


class Noisy(Dataset[Any]):
    """Draws from the global generator of the process in which an item is read."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        return DATA[index] + torch.rand(3)


class Backwards(Sampler[int]):
    """A user's sampler; it draws at once when it is iterated over."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(reversed(torch.randperm(self.size, generator=self.generator).tolist()))

    def __len__(self) -> int:
        return self.size


class Held(Dataset[Any]):
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return 0


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


class Counted(IterableDataset[Any]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))

    def __len__(self) -> int:
        return self.size


class TaggedLoader(DataLoader[Any]):
    def __init__(self, *args: Any, tag: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tag = tag


def stack_twice(items: list[Any], times: int = 2) -> torch.Tensor:
    return torch.stack([item[0] for item in items] * times)


def doubled(items: list[Any]) -> list[Any]:
    return items * 2


def start_worker(number: int) -> None:
    random.seed(number)


TENSORS = TensorDataset(DATA, torch.arange(ITEMS))

SAMPLING: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": lambda: {"batch_size": 4},
    "shuffled": lambda: {"batch_size": 4, "shuffle": True},
    "shuffled, own generator": lambda: {
        "batch_size": 4,
        "shuffle": True,
        "drop_last": True,
        "generator": generator(),
    },
    "random with replacement": lambda: {
        "batch_size": 16,
        "sampler": RandomSampler(TENSORS, True, num_samples=40, generator=generator()),
    },
    "random, two generators": lambda: {
        "batch_size": 4,
        "sampler": RandomSampler(TENSORS, generator=generator(1)),
        "generator": generator(2),
    },
    "subset": lambda: {
        "batch_size": 2,
        "sampler": SubsetRandomSampler([1, 3, 5, 7, 9], generator=generator()),
    },
    "subset by a tensor": lambda: {"sampler": SubsetRandomSampler(torch.tensor([1, 3, 5]))},
    "weighted": lambda: {
        "batch_size": 4,
        "sampler": WeightedRandomSampler(torch.rand(ITEMS), 9, generator=generator()),
    },
    "weighted, global": lambda: {
        "batch_size": 4,
        "sampler": WeightedRandomSampler([0.1] * ITEMS, 9, replacement=False),
    },
    "batches": lambda: {
        "batch_sampler": BatchSampler(RandomSampler(TENSORS, generator=generator()), 3, True)
    },
    "batches of a list": lambda: {"batch_sampler": [[0, 3], [5], [1, 2, 4]]},
    "distributed": lambda: {
        "batch_size": 3,
        "sampler": DistributedSampler(TENSORS, num_replicas=3, rank=1, seed=5),
    },
    "a user's sampler": lambda: {"batch_size": 4, "sampler": Backwards(ITEMS, generator())},
    "a list": lambda: {"batch_size": 2, "sampler": [4, 2, 0, 9]},
    "no batches": lambda: {"batch_size": None, "sampler": RandomSampler(TENSORS)},
}


ALIKE = {"subset by a tensor", "weighted, global", "batches of a list", "a list"}


@pytest.mark.parametrize(
    ("sampling", "workers"),
    [(name, 0) for name in SAMPLING] + [(name, 2) for name in SAMPLING if name not in ALIKE],
)
def test_a_loader_goes_on_where_it_was(
    sampling: str, workers: int, round_trip: Callable[[Any], Any]
) -> None:
    loader = DataLoader(TENSORS, num_workers=workers, **SAMPLING[sampling]())
    list(loader)
    back = round_trip(loader)
    assert type(back) is DataLoader
    assert type(back.sampler) is type(loader.sampler)
    assert len(back) == len(loader)
    check_goes_on(loader, back)


def test_a_loader_that_was_never_used_begins_where_the_original_does(
    round_trip: Callable[[Any], Any],
) -> None:
    loader = DataLoader(TENSORS, 4, shuffle=True, generator=generator())
    first, second, third = check_goes_on(loader, round_trip(loader))
    assert not same(first, second)
    assert not same(second, third)


def test_saving_changes_nothing(round_trip: Callable[[Any], Any]) -> None:
    loader, untouched = (
        DataLoader(Noisy(), 4, shuffle=True, generator=generator()) for _ in range(2)
    )
    state = torch.get_rng_state()
    round_trip(loader)
    assert torch.equal(torch.get_rng_state(), state)
    check_goes_on(loader, untouched)


@pytest.mark.parametrize("workers", [0, 2])
def test_random_items_are_drawn_from_the_same_seeds(
    workers: int, round_trip: Callable[[Any], Any]
) -> None:
    loader = DataLoader(Noisy(), 4, shuffle=True, generator=generator(), num_workers=workers)
    list(loader)
    check_goes_on(loader, round_trip(loader), epochs=2)


def test_an_epoch_that_has_begun_is_over_for_the_loader_that_comes_back(
    round_trip: Callable[[Any], Any],
) -> None:
    loader = DataLoader(TENSORS, 4, shuffle=True, generator=generator())
    iterator = iter(loader)
    next(iterator)
    check_goes_on(loader, round_trip(loader))


def test_a_generator_that_loader_and_sampler_share_stays_one(
    round_trip: Callable[[Any], Any],
) -> None:
    back = round_trip(DataLoader(TENSORS, 4, shuffle=True, generator=generator()))
    assert back.generator is back.sampler.generator
    assert back.sampler is back.batch_sampler.sampler
    assert back.dataset is back.sampler.data_source


def test_two_loaders_that_share_generator_and_data_still_do(
    round_trip: Callable[[Any], Any],
) -> None:
    shared = generator()
    train, valid = random_split(TENSORS, [10, 4], generator=generator(3))
    loaders = [
        DataLoader(train, 4, shuffle=True, generator=shared),
        DataLoader(valid, 4, shuffle=True, generator=shared),
    ]
    back = round_trip(loaders)
    assert back[0].generator is back[1].generator
    assert back[0].dataset.dataset is back[1].dataset.dataset
    for _ in range(2):
        for original, other in zip(loaders, back, strict=True):
            check_goes_on(original, other, epochs=1)


def test_the_epoch_of_a_distributed_sampler_comes_back_without_a_process_group(
    round_trip: Callable[[Any], Any],
) -> None:
    sampler = DistributedSampler(TENSORS, num_replicas=2, rank=1, seed=3, drop_last=True)
    sampler.set_epoch(4)
    back = round_trip(DataLoader(TENSORS, 2, sampler=sampler))
    assert (back.sampler.epoch, back.sampler.rank, back.sampler.num_replicas) == (4, 1, 2)
    for epoch in (4, 5, 6):
        sampler.set_epoch(epoch)
        back.sampler.set_epoch(epoch)
        assert list(back.sampler) == list(sampler)


DATASETS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: TENSORS,
    "a plain object": Numbers,
    "a subset by a list": lambda: Subset(Numbers(), [3, 1, 2]),
    "a subset by a range": lambda: Subset(TENSORS, range(2, 9)),
    "a subset by a tensor": lambda: Subset(TENSORS, torch.tensor([5, 4])),
    "a subset by an array": lambda: Subset(TENSORS, np.array([5, 4, 3])),
    "a subset of a subset": lambda: Subset(Subset(TENSORS, range(9)), [1, 7]),
    "a concatenation": lambda: ConcatDataset([TENSORS, Subset(TENSORS, [1, 2])]),
    "a stack": lambda: StackDataset(TENSORS, Numbers()),
    "a stack by name": lambda: StackDataset(x=TENSORS, y=Numbers()),
    "a chain": lambda: ChainDataset([Counted(3), Counted(5)]),
    "a list": lambda: [[1, 2], [3, 4], [5, 6]],
    "a tuple": lambda: (1, 2, 3),
    "a dict": lambda: {0: "a", 1: "b"},
    "a range": lambda: range(10),
    "a tensor": lambda: DATA,
    "an array": DATA.numpy,
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_comes_back(dataset: str, round_trip: Callable[[Any], Any]) -> None:
    loader = DataLoader(DATASETS[dataset](), batch_size=2)
    back = round_trip(loader)
    assert type(back.dataset) is type(loader.dataset)
    assert dataset in ("a tuple", "a range", "a chain") or back.dataset is back.sampler.data_source
    check_goes_on(loader, back, epochs=2)


def test_a_chain_is_read_by_two_workers(round_trip: Callable[[Any], Any]) -> None:
    loader = DataLoader(ChainDataset([Counted(3), Counted(5)]), 2, num_workers=2)
    assert len(check_goes_on(loader, round_trip(loader), epochs=1)[0]) == 8


def test_a_class_parameter_of_typing_is_no_attribute(round_trip: Callable[[Any], Any]) -> None:
    loader = DataLoader[int](TensorDataset(DATA), sampler=SequentialSampler(DATA))
    check_goes_on(loader, round_trip(loader), epochs=1)


def test_every_argument_comes_back(round_trip: Callable[[Any], Any]) -> None:
    loader = DataLoader(
        TENSORS,
        batch_size=3,
        num_workers=2,
        collate_fn=stack_twice,
        pin_memory=True,
        drop_last=True,
        timeout=30,
        worker_init_fn=start_worker,
        multiprocessing_context="spawn",
        prefetch_factor=4,
        persistent_workers=True,
        in_order=False,
    )
    back = round_trip(loader)
    assert vars(back).keys() == vars(loader).keys()
    for name in vars(loader).keys() - {"dataset", "sampler", "batch_sampler"}:
        assert vars(back)[name] == vars(loader)[name], name


def test_what_was_changed_after_the_loader_was_made_comes_back(
    round_trip: Callable[[Any], Any],
) -> None:
    loader: Any = DataLoader(TENSORS, 2, num_workers=2)
    loader.num_workers = 0  # its prefetch_factor is one that no constructor takes now
    loader.batch_sampler.batch_size = 5
    loader.purpose = {"split": "train"}
    back = round_trip(loader)
    assert back.purpose == {"split": "train"}
    assert len(check_goes_on(loader, back, epochs=1)[0][0][0]) == 5


def test_a_users_loader_class_comes_back(round_trip: Callable[[Any], Any]) -> None:
    loader = TaggedLoader(TENSORS, 3, shuffle=True, generator=generator(), tag="train")
    back = round_trip(loader)
    assert type(back) is TaggedLoader
    assert back.tag == "train"
    check_goes_on(loader, back, epochs=1)


@pytest.mark.parametrize(
    "collate",
    [doubled, default_convert, functools.partial(stack_twice, times=3)],
    ids=["function", "torch's own", "partial"],
)
def test_collate_functions_go_by_their_names(
    collate: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = DataLoader(TENSORS, 2, collate_fn=collate)
    check_goes_on(loader, round_trip(loader), epochs=1)


def test_a_method_of_the_dataset_collates_with_the_dataset_that_came_back(
    round_trip: Callable[[Any], Any],
) -> None:
    dataset = Numbers()
    loader = DataLoader(dataset, 2, collate_fn=dataset.collate)
    back = round_trip(loader)
    assert back.collate_fn.__self__ is back.dataset
    check_goes_on(loader, back, epochs=1)


def test_a_recipe_is_read_by_eye() -> None:
    loader = DataLoader(TENSORS, 4, shuffle=True, generator=generator(), num_workers=2)
    recipe = dict(LOADER.parts(loader))
    assert recipe.pop("dataset") is TENSORS
    assert recipe.pop("generator") is loader.generator
    assert recipe.pop("sampler") is loader.sampler
    assert recipe.pop("batch_sampler") is loader.batch_sampler
    assert json.loads(json.dumps(recipe)) == {
        "batch_size": 4,
        "drop_last": False,
        "collate_fn": "default_collate",
        "num_workers": 2,
        "worker_init_fn": None,
        "prefetch_factor": 2,
        "persistent_workers": False,
        "in_order": True,
        "timeout": 0,
        "pin_memory": False,
        "pin_memory_device": "",
        "multiprocessing_context": None,
    }
    assert SAMPLER.parts(loader.sampler) == {
        "data_source": TENSORS,
        "replacement": False,
        "num_samples": None,
        "generator": loader.generator,
    }
    assert DATASET.parts(Subset(TENSORS, [1, 2])) == {"dataset": TENSORS, "indices": [1, 2]}


class NoContext(multiprocessing.context.SpawnContext):
    """A start method of somebody else's."""


def _running() -> DataLoader[Any]:
    loader: Any = DataLoader(TENSORS, 8, num_workers=1, persistent_workers=True)
    list(loader)
    return loader


def _patched() -> DataLoader[Any]:
    loader: Any = DataLoader(TENSORS)
    loader._get_iterator = lambda: iter([1, 2])
    return loader


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a lambda": (lambda: DataLoader([1], collate_fn=lambda x: x), "collate_fn", "by its name"),
    "a local function for workers": (
        lambda: DataLoader([1], worker_init_fn=lambda _: None),
        "worker_init_fn",
        "by its name",
    ),
    "an open file": (lambda: DataLoader(Held(io.StringIO())), "dataset.handle", "StringIO"),
    "an iterator": (lambda: DataLoader(Held(iter([1]))), "dataset.handle", "iterator"),
    "a stream": (lambda: DataLoader(Stream()), "dataset", "Stream is an iterable stream"),
    "a chain with a stream": (
        lambda: DataLoader(ChainDataset([Counted(2), Stream()])),
        "dataset",
        "iterable stream",
    ),
    "an iterator as sampler": (lambda: DataLoader([1, 2], sampler=iter([0])), "sampler", "itera"),
    "a file in a subset": (
        lambda: DataLoader(Subset(Held(io.BytesIO()), [0])),
        "dataset.dataset.handle",
        "BytesIO",
    ),
    "another start method": (
        lambda: DataLoader([1], num_workers=1, multiprocessing_context=NoContext()),
        "multiprocessing_context",
        "NoContext",
    ),
    "running workers": (_running, "persistent_workers", "_iterator = None"),
    "a replaced method": (_patched, "_get_iterator", "replaced"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_captured_is_named(case: str, round_trip: Callable[[Any], Any]) -> None:
    make, path, reason = REFUSED[case]
    with pytest.raises(MaterializationError, match=reason) as caught:
        round_trip(make())
    assert f"because of {path}: " in str(caught.value)


def test_running_workers_can_be_let_go(round_trip: Callable[[Any], Any]) -> None:
    loader: Any = DataLoader(
        TENSORS, 4, shuffle=True, generator=generator(), num_workers=1, persistent_workers=True
    )
    list(loader)
    loader._iterator = None
    back = round_trip(loader)
    expected = [list(loader) for _ in range(2)]
    loader._iterator = None  # workers of two loaders at once wait for each other to end
    assert same([list(back) for _ in range(2)], expected)


def test_a_datapipe_is_refused_as_a_dataset(round_trip: Callable[[Any], Any]) -> None:
    with _quiet():
        from torch.utils.data.datapipes.iter import IterableWrapper

        loader = DataLoader(IterableWrapper(range(3)))
    with pytest.raises(MaterializationError, match="DataPipe") as caught:
        round_trip(loader)
    assert "because of dataset: " in str(caught.value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": "4"},
        {"num_workers": -1},
        {"num_workers": 2.5},
        {"timeout": float("nan")},
        {"generator": 3},
        {"sampler": None},
        {"collate_fn": "eval"},
        {"collate_fn": {"method": "collate", "of": 3}},
        {"worker_init_fn": [print]},
        {"multiprocessing_context": "os"},
        {"multiprocessing_context": print},
        {"pin_memory_device": None},
        {"attributes": {"_get_iterator": print}},
        {"attributes": {"num_workers": 7}},
        {"attributes": {"__class__": print}},
        {"attributes": [1]},
    ],
    ids=str,
)
def test_unfit_parts_are_refused(change: dict[str, Any]) -> None:
    parts = {**LOADER.parts(DataLoader(TENSORS, 4)), **change}
    with pytest.raises((TypeError, ValueError, KeyError)):
        LOADER.build(DataLoader, parts)


def test_a_missing_part_is_refused() -> None:
    for name in (parts := dict(LOADER.parts(DataLoader(TENSORS, 4)))):
        with pytest.raises(KeyError):
            LOADER.build(DataLoader, {key: part for key, part in parts.items() if key != name})


def test_huge_numbers_cost_nothing_before_an_epoch_begins() -> None:
    random_parts = dict(SAMPLER.parts(RandomSampler(TENSORS)))
    sampler = SAMPLER.build(RandomSampler, {**random_parts, "num_samples": 10**18})
    batches = SAMPLER.build(
        BatchSampler, {"sampler": sampler, "batch_size": 10**12, "drop_last": True}
    )
    parts = dict(LOADER.parts(DataLoader(TENSORS, 4)))
    huge = {"num_workers": 10**9, "batch_size": 10**12, "prefetch_factor": 10**9}
    loader = LOADER.build(DataLoader, {**parts, **huge, "batch_sampler": batches})
    assert (loader.num_workers, loader.batch_size) == (10**9, 10**12)
    assert len(loader) == 10**6


@pytest.mark.parametrize(
    ("kind", "cls", "parts"),
    [
        (LOADER, Numbers, {}),
        (SAMPLER, Backwards, {}),
        (SAMPLER, TensorDataset, {"tensors": ()}),
        (SAMPLER, SequentialSampler, {"data_source": 1, "attributes": {"__iter__": print}}),
        (SAMPLER, WeightedRandomSampler, {"weights": [1]}),
        (DATASET, TensorDataset, {"tensors": (1, 2)}),
        (DATASET, ConcatDataset, {"datasets": [], "cumulative_sizes": ["a"]}),
        (DATASET, Numbers, {}),
    ],
)
def test_a_kind_builds_only_what_is_its_own(kind: Any, cls: type, parts: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        kind.build(cls, parts)


# torchdata's loader, in the middle of an epoch.


class Remembering(IterableDataset[Any]):
    """A stream that says how far it has been read, as torchdata asks for it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.position = 0

    def __iter__(self) -> Iterator[int]:
        while self.position < self.size:
            self.position += 1
            yield self.position
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@pytest.fixture
def stateful() -> Any:
    """torchdata's loader class."""
    return pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    ).StatefulDataLoader


def _random_of_torchdata(**arguments: Any) -> Any:
    from torchdata.stateful_dataloader.sampler import RandomSampler as Stateful

    return Stateful(TENSORS, **arguments)


def _shared(**arguments: Any) -> dict[str, Any]:
    shared = generator()
    return {"sampler": _random_of_torchdata(generator=shared, **arguments), "generator": shared}


RESUMED: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": dict,
    "shuffled": lambda: {"shuffle": True},
    "shuffled, own generator": lambda: {"shuffle": True, "generator": generator()},
    "shuffled, drop_last": lambda: {"shuffle": True, "drop_last": True},
    "distributed": lambda: {"sampler": DistributedSampler(TENSORS, 2, 0)},
    "replacement": lambda: {
        "sampler": _random_of_torchdata(replacement=True, num_samples=70, generator=generator())
    },
    "snapshots now and then": lambda: {"shuffle": True, "snapshot_every_n_steps": 3},
}


def check_resumes(loader: Any, round_trip: Callable[[Any], Any], after: int) -> None:
    """Save in the middle of the second epoch; compare the rest of it, and the next epochs."""
    list(loader)
    running = iter(loader)
    for _ in range(after):
        next(running)
    back = round_trip(loader)
    assert type(back) is type(loader)
    before = torch.get_rng_state()
    expected = list(running)
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    assert expected
    assert same(list(back), expected)
    assert torch.equal(torch.get_rng_state(), state)
    check_goes_on(loader, back, epochs=2)


@pytest.mark.parametrize(
    ("sampling", "workers"),
    [(name, 0) for name in RESUMED]
    + [(name, 2) for name in ("sequential", "shuffled, own generator", "snapshots now and then")],
)
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(
    sampling: str, workers: int, stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(TENSORS, 2, num_workers=workers, **RESUMED[sampling]())
    check_resumes(loader, round_trip, after=2)


def test_a_stateful_loader_draws_random_items_as_the_original(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    check_resumes(stateful(Noisy(), 2, shuffle=True), round_trip, after=3)


@pytest.mark.parametrize("sampling", RESUMED)
def test_a_stateful_loader_between_two_epochs_begins_the_next(
    sampling: str, stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(TENSORS, 2, **RESUMED[sampling]())
    assert "state" not in LOADER.parts(loader)
    list(loader)
    assert "state" not in LOADER.parts(loader)
    check_goes_on(loader, round_trip(loader), epochs=2)


def test_a_stateful_loader_that_has_come_back_is_saved_again(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(TENSORS, 2, shuffle=True, generator=generator())
    running = iter(loader)
    first = next(running)
    back = round_trip(round_trip(loader))
    again = iter(back)
    assert same(next(again), next(running))
    back = round_trip(back)
    expected = list(running)
    assert same(list(back), expected)
    assert not same(first, expected[0])
    check_goes_on(loader, back, epochs=2)


def test_a_state_that_was_given_to_a_stateful_loader_comes_back(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    first = stateful(TENSORS, 2, shuffle=True, generator=generator())
    running = iter(first)
    next(running)
    loader = stateful(TENSORS, 2, shuffle=True, generator=generator())
    loader.load_state_dict(first.state_dict())
    back = round_trip(loader)
    expected = list(loader)
    assert same(list(back), expected)
    assert same(list(running), expected)
    check_goes_on(loader, back, epochs=2)


def test_a_stateful_loader_asked_for_its_state_before_it_began(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(TENSORS, 2, shuffle=True, generator=generator())
    loader.state_dict()
    back = round_trip(loader)
    check_goes_on(loader, back, epochs=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_says_how_far_it_was_read_goes_on(
    workers: int, stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(Remembering(12), 2, num_workers=workers)
    check_resumes(loader, round_trip, after=3)
    with pytest.raises(MaterializationError, match="iterable stream"):
        round_trip(stateful(Stream(), 2))


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (lambda: {"sampler": SubsetRandomSampler([1, 2, 3], generator=generator())}, "sampler"),
        (lambda: {"sampler": Backwards(ITEMS, generator())}, "sampler"),
        (
            lambda: {"batch_sampler": BatchSampler(RandomSampler(TENSORS), 2, False)},
            "batch_sampler",
        ),
        (lambda: _shared(replacement=True, num_samples=40), "generator"),
    ],
    ids=["subset", "a user's sampler", "torch's batches", "drawn several times"],
)
def test_an_order_that_cant_be_had_again_is_refused_in_the_middle_of_an_epoch(
    arguments: Callable[[], dict[str, Any]],
    path: str,
    stateful: Any,
    round_trip: Callable[[Any], Any],
) -> None:
    loader = stateful(TENSORS, **arguments())
    running = iter(loader)
    next(running)
    with pytest.raises(MaterializationError, match="in the middle of an epoch") as caught:
        round_trip(loader)
    assert f"because of {path}: " in str(caught.value)
    list(running)
    check_goes_on(loader, round_trip(loader), epochs=2)


def test_a_distributed_sampler_that_still_tells_of_the_epoch_before_is_refused(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

    loader = stateful(TENSORS, 2, sampler=StatefulDistributedSampler(TENSORS, 2, 0))
    check_resumes(loader, round_trip, after=2)
    iter(loader)
    with pytest.raises(MaterializationError, match="the epoch before") as caught:
        round_trip(loader)
    assert "because of sampler: " in str(caught.value)


def test_a_stateful_loader_has_all_its_attributes(
    stateful: Any, round_trip: Callable[[Any], Any]
) -> None:
    loader = stateful(TENSORS, 2, shuffle=True, snapshot_every_n_steps=5)
    back = round_trip(loader)
    assert vars(back).keys() == vars(loader).keys()
    assert type(back.sampler) is type(loader.sampler)
    assert type(back.batch_sampler) is type(loader.batch_sampler)
    assert back.snapshot_every_n_steps == 5


def test_the_state_of_a_stateful_loader_has_to_be_a_dict(stateful: Any) -> None:
    parts = dict(LOADER.parts(stateful(TENSORS)))
    with pytest.raises(TypeError, match="has to be a dict"):
        LOADER.build(stateful, {**parts, "state": [1]})


# References to datasets.


class Counting(Dataset[Any]):
    """Counts how often one is made."""

    made = 0

    def __init__(self, size: int) -> None:
        type(self).made += 1
        torch.rand(3)
        self.values = list(range(size))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> int:
        return self.values[index]

    def __getitems__(self, indices: list[int]) -> list[int]:
        return [self.values[index] * 10 for index in indices]


class FromFile(Dataset[Any]):
    def __init__(self, path: str | Path, *, fingerprint_too: str | None = None) -> None:
        self.items = json.loads(Path(path).read_text())
        if fingerprint_too is not None:
            self.fingerprint = fingerprint_too

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Picture:
    """What a fingerprint doesn't know."""


class Pictures(Dataset[Any]):
    def __init__(self, version: str = "1") -> None:
        self.version = version

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return Picture()


class Restless(Dataset[Any]):
    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        self.reads += 1
        return self.reads


def version_of(dataset: Any) -> str:
    return f"version {dataset.version}"


def no_dataset() -> int:
    return 3


def test_a_reference_stands_for_its_dataset(round_trip: Callable[[Any], Any]) -> None:
    ref = DatasetRef(f"{__name__}:Numbers", 9, scale=0.5)
    loader = DataLoader(ref, 4, shuffle=True, generator=generator())
    expected = DataLoader(Numbers(9, 0.5), 4, shuffle=True, generator=generator())
    check_goes_on(loader, expected)
    back = round_trip(loader)
    assert back.dataset is back.sampler.data_source
    check_goes_on(loader, back)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reference_goes_on_with_workers(workers: int, round_trip: Callable[[Any], Any]) -> None:
    loader = DataLoader(DatasetRef(Noisy), 4, shuffle=True, generator=generator())
    loader.num_workers, loader.prefetch_factor = workers, 2 if workers else None
    check_goes_on(loader, round_trip(loader), epochs=2)


def test_a_reference_makes_its_dataset_once_and_when_it_is_needed() -> None:
    Counting.made = 0
    ref = DatasetRef(Counting, 5)
    loader = DataLoader(ref, batch_size=5)
    assert Counting.made == 0
    state = torch.get_rng_state()
    assert len(ref) == 5
    assert torch.equal(torch.get_rng_state(), state)
    assert [batch.tolist() for batch in loader] == [[0, 10, 20, 30, 40]]
    assert Counting.made == 1
    assert not hasattr(DatasetRef(Numbers), "__getitems__")


def test_a_reference_stores_no_data() -> None:
    recipe = dict(KINDS[-1].parts(DatasetRef(f"{__name__}:Numbers", 9, scale=0.5)))
    assert recipe == {
        "target": Numbers,
        "args": [9],
        "kwargs": {"scale": 0.5},
        "fingerprint": fingerprint_of(Numbers(9, 0.5)),
        "fingerprint_by": "items",
    }


def test_data_that_changed_is_refused_by_name_and_fingerprints(
    tmp_path: Path, round_trip: Callable[[Any], Any]
) -> None:
    path = tmp_path / "data.json"
    path.write_text("[1, 2, 3]")
    loader = DataLoader(DatasetRef(FromFile, path))
    before = fingerprint_of([1, 2, 3])
    list(loader)
    path.write_text("[1, 2, 4]")
    with pytest.raises(IntegrityError) as caught:
        round_trip(loader)
    assert f"{__name__}:FromFile" in str(caught.value)
    assert str(path) in str(caught.value)
    assert before in str(caught.value)
    assert fingerprint_of([1, 2, 4]) in str(caught.value)


def test_data_that_is_gone_is_told_of(tmp_path: Path, round_trip: Callable[[Any], Any]) -> None:
    path = tmp_path / "data.json"
    path.write_text("[1, 2, 3]")
    loader = DataLoader(DatasetRef(FromFile, str(path)))
    list(loader)
    path.unlink()
    with pytest.raises(MaterializationError, match=r"FromFile.*gives no dataset.*FileNotFound"):
        round_trip(loader)


def test_items_that_have_no_fingerprint_ask_for_one(round_trip: Callable[[Any], Any]) -> None:
    with pytest.raises(MaterializationError, match=r"item 0 is a .*Picture.* pass fingerprint="):
        round_trip(DataLoader(DatasetRef(Pictures)))
    with pytest.raises(MaterializationError, match="differ each time") as caught:
        round_trip(DataLoader(DatasetRef(Restless)))
    assert "because of dataset.fingerprint: " in str(caught.value)
    assert round_trip(DatasetRef(Pictures, fingerprint="2026-01")).fingerprint() == "2026-01"
    back = round_trip(DatasetRef(Pictures, "3", fingerprint=version_of))
    assert back.fingerprint() == "version 3"


def test_a_functions_fingerprint_is_compared() -> None:
    parts = dict(KINDS[-1].parts(DatasetRef(Pictures, "3", fingerprint=version_of)))
    with pytest.raises(IntegrityError, match=r"version 4, the saved one is version 3"):
        KINDS[-1].build(DatasetRef, {**parts, "args": ["4"]})


def test_a_given_fingerprint_is_compared_with_the_datasets_own(
    tmp_path: Path, round_trip: Callable[[Any], Any]
) -> None:
    path = tmp_path / "data.json"
    path.write_text("[1]")
    ref = DatasetRef(FromFile, str(path), fingerprint_too="v1", fingerprint="v1")
    assert round_trip(ref).fingerprint() == "v1"
    with pytest.raises(MaterializationError, match="'v2' was given; the dataset's is 'v1'"):
        round_trip(DatasetRef(FromFile, str(path), fingerprint_too="v1", fingerprint="v2"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [1, 2, 3]),
        ([1, 2], [2, 1]),
        ([1], [1.0]),
        ([1], [True]),
        (["1"], [1]),
        ([[1, 2]], [(1, 2)]),
        ([[1, [2]]], [[[1], 2]]),
        ([torch.zeros(2)], [torch.zeros(2, 1)]),
        ([torch.zeros(2)], [torch.zeros(2, dtype=torch.int32)]),
        ([torch.zeros(2)], [np.zeros(2, np.float32)]),
        ([torch.zeros(2, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.bfloat16)]),
        ([{"a": 1}], [{"a": 2}]),
        ([0.0], [-0.0]),
        ([b"a"], ["a"]),
        ([None], [0]),
    ],
)
def test_different_items_have_different_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint_of(one) == fingerprint_of(one)
    assert fingerprint_of(one) != fingerprint_of(other)


def test_the_layout_of_a_tensor_doesnt_matter() -> None:
    assert fingerprint_of([DATA.T]) == fingerprint_of([DATA.T.contiguous()])
    assert fingerprint_of([torch.tensor(3), torch.empty(0)])


def test_first_and_last_of_many_items_count() -> None:
    items = [0] * 1000
    for index in (0, 999):
        changed = [*items]
        changed[index] = 1
        assert fingerprint_of(items) != fingerprint_of(changed)
    assert fingerprint_of(items) != fingerprint_of([0] * 1001)


def test_random_transforms_have_a_fingerprint_and_leave_the_seeds_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = fingerprint_of(Noisy())
    assert torch.equal(torch.get_rng_state(), states[0])
    torch.rand(5)
    assert fingerprint_of(Noisy()) == first
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ("Numbers", ValueError, "pkg.module:Name"),
        ("a.b:c()", ValueError, "pkg.module:Name"),
        (3, TypeError, "class or function"),
        (Numbers(), TypeError, "class or function"),
        (functools.partial(Numbers), TypeError, "class or function"),
        (torch.load, TypeError, "no source of data"),
        (torch.nn.Linear, TypeError, "no source of data"),
        (DatasetRef, TypeError, "no source of data"),
        (json.loads, TypeError, "no source of data"),
        (eval, TypeError, "class or function"),
        (Backwards, TypeError, "map-style"),
    ],
)
def test_a_reference_needs_the_name_of_a_dataset(
    target: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        DatasetRef(target)


def test_a_reference_takes_arguments_that_can_be_written_down() -> None:
    with pytest.raises(TypeError, match=r"arguments\[0\]\[1\] is a Tensor"):
        DatasetRef(Numbers, [1, DATA])
    with pytest.raises(TypeError, match=r"keyword arguments\['a'\] has key 1"):
        DatasetRef(Numbers, a={1: 2})


def test_a_reference_that_leads_to_no_dataset_says_so(round_trip: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="makes a int"):
        len(DatasetRef(no_dataset))
    for path in ("no_such_module:Data", f"{__name__}:NoSuchName", "os:getpid"):
        with pytest.raises(MaterializationError, match="gives no dataset") as caught:
            round_trip(DataLoader(DatasetRef(path)))
        assert "because of dataset.target: " in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "os:getpid"},
        {"target": torch.load},
        {"target": json.loads, "args": ["[1]"]},
        {"target": Backwards},
        {"target": Numbers()},
        {"args": "ab"},
        {"kwargs": {"fingerprint": version_of}},
        {"fingerprint": 3},
        {"fingerprint_by": "eval"},
        {"fingerprint_by": json.dumps},
    ],
)
def test_unfit_references_are_refused(change: dict[str, Any]) -> None:
    parts = {**KINDS[-1].parts(DatasetRef(Numbers)), **change}
    with pytest.raises((TypeError, ValueError, KeyError)):
        KINDS[-1].build(DatasetRef, parts)
