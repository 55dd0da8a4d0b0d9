"""Checkpoints: training that is interrupted anywhere goes on as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from flowyml import Store, current, runs, step
from flowyml.errors import AssetNotFoundError, IntegrityError, MaterializationError
from flowyml_pytorch import Checkpoint

ROWS, SIZE, EPOCHS = 22, 4, 3


class Interrupted(Exception):  # noqa: N818  (what happens to the training, rather than an error)
    """Stands for the end of a process."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Augments what it gives with random numbers of all libraries."""

    def __init__(self) -> None:
        self.rows = rows()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        noise = torch.rand(1) + random.random() + float(np.random.rand())
        return row + noise * 0.1, row.sum()


def rows() -> Tensor:
    return torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))


def plain() -> TensorDataset:
    return TensorDataset(rows(), rows().sum(1))


class Remembering(Noisy):
    """Has generators of its own, and notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing = {"python": random.Random(3), "numpy": np.random.default_rng(4)}
        self.asked, self.counts = 0, [0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row, label = super().__getitem__(index)
        self.asked += 1
        self.counts[0] += self.asked
        noise = self.drawing["python"].random() + float(self.drawing["numpy"].random())
        return row + noise + self.counts[0] * 1e-4, label


class Reshuffling(Sampler[int]):
    """Shuffles one list again and again, so that an epoch's order follows from those before."""

    def __init__(self) -> None:
        self.order = list(range(ROWS))
        self.drawing = random.Random(6)

    def __iter__(self) -> Iterator[int]:
        self.drawing.shuffle(self.order)
        return iter(self.order)

    def __len__(self) -> int:
        return ROWS


class Sharing(Dataset[tuple[Tensor, Tensor]]):
    """Draws from a generator that a sampler draws from, too."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(5, generator=self.generator), torch.tensor(float(index))


def sharing_a_generator() -> Any:
    generator = seeded()
    sampler = RandomSampler(Sharing(generator), True, 4 * ROWS, generator)
    return DataLoader(sampler.data_source, SIZE, sampler=sampler)  # type: ignore[arg-type]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


WEIGHTS = torch.arange(1.0, ROWS + 1)

LOADERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: DataLoader(plain(), SIZE),
    "shuffled": lambda: DataLoader(plain(), SIZE, shuffle=True),
    "shuffled by a generator": lambda: DataLoader(plain(), SIZE, shuffle=True, generator=seeded()),
    "weighted": lambda: DataLoader(plain(), SIZE, sampler=WeightedRandomSampler(WEIGHTS, ROWS)),
    "weighted by a generator": lambda: DataLoader(
        plain(), SIZE, sampler=WeightedRandomSampler(WEIGHTS, ROWS, generator=seeded())
    ),
    "batch sampler": lambda: DataLoader(
        plain(), batch_sampler=BatchSampler(RandomSampler(plain()), SIZE, True)
    ),
    "subset": lambda: DataLoader(plain(), SIZE, sampler=SubsetRandomSampler(range(3, ROWS))),
    "augmented": lambda: DataLoader(Noisy(), SIZE, shuffle=True),
    "with states": lambda: DataLoader(Remembering(), SIZE, sampler=Reshuffling()),
    "with states, 2 workers": lambda: DataLoader(
        Remembering(), SIZE, sampler=Reshuffling(), num_workers=2
    ),
    "shuffled, 2 workers": lambda: DataLoader(plain(), SIZE, shuffle=True, num_workers=2),
    "weighted, 2 workers": lambda: DataLoader(
        plain(), SIZE, sampler=WeightedRandomSampler(WEIGHTS, ROWS), num_workers=2
    ),
    "batch sampler, 2 workers": lambda: DataLoader(
        plain(), batch_sampler=BatchSampler(RandomSampler(plain()), SIZE, True), num_workers=2
    ),
    "augmented, 2 workers": lambda: DataLoader(Noisy(), SIZE, shuffle=True, num_workers=2),
}


class Training:
    """Objects of a training, made anew as a new process would."""

    def __init__(self, make_loader: Callable[[], Any], seed: int = 0) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.net.append(nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 0.05, total_steps=EPOCHS * 8
        )
        self.loader = make_loader()

    def run(
        self,
        store: Store | None,
        stop: tuple[int, int] | None = None,
        evaluates: bool = False,
        **options: Any,
    ) -> Any:
        """Train; return all that has to be the same bit for bit."""
        ckpt = Checkpoint(
            model=self.net,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            dataloader=self.loader,
            store=store,
            **{"resume": True, **options},
        )
        for epoch in ckpt.epochs(EPOCHS):
            for number, (x, y) in enumerate(ckpt.batches()):
                if (epoch, number) == stop and ckpt.resumed is None:
                    ckpt._saver.writer.join()
                    raise Interrupted
                self.optimizer.zero_grad()
                loss = (self.net(x)[:, 0] - y).square().mean()
                loss.backward()
                self.optimizer.step()
                ckpt.save(loss=loss)
                self.scheduler.step()
            if evaluates:
                ckpt.save(drawn=float(torch.rand(1)))
        return ckpt, self.outcome(ckpt)

    def outcome(self, ckpt: Checkpoint) -> Any:
        state = self.optimizer.state_dict()["state"]
        return {
            "weights": {k: v.clone() for k, v in self.net.state_dict().items()},
            "optimizer": [list(each.values()) for each in state.values()],
            "scheduler": {k: v for k, v in self.scheduler.state_dict().items() if k != "_anneal"},
            "history": ckpt.history,
            "position": (ckpt.epoch, ckpt.step),
            "next": [torch.rand(2), random.random(), float(np.random.rand())],
        }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if not same(one[key], other[key])]


@pytest.mark.parametrize("how", LOADERS)
def test_interrupted_training_ends_with_the_same_bits(store: Store, how: str) -> None:
    _, whole = Training(LOADERS[how]).run(None, resume=False, name="whole", every="1 epoch")
    stops = ((0, 1), (1, 0), (1, 3))
    for stop in stops[-1:] if how.endswith("2 workers") else stops:  # workers take their time
        name = f"cut-{stop[0]}-{stop[1]}"
        with pytest.raises(Interrupted):
            Training(LOADERS[how]).run(store, stop, name=name, evaluates=False)
        ckpt, resumed = Training(LOADERS[how], seed=99).run(store, name=name)
        assert ckpt.resumed is not None
        assert ckpt.exact, ckpt.reason
        assert differing(whole, resumed) == []


@pytest.mark.parametrize(
    "every", ["3 steps", 3, {"steps": 3}, "1 epoch", timedelta(microseconds=1)]
)
def test_it_goes_on_from_the_last_that_was_due(store: Store, every: Any) -> None:
    make = LOADERS["shuffled"]
    _, whole = Training(make).run(None, evaluates=True, resume=False, name="whole")
    with pytest.raises(Interrupted):
        Training(make).run(store, (2, 4), evaluates=True, every=every)
    ckpt, resumed = Training(make, seed=99).run(store, evaluates=True, every=every)
    assert ckpt.resumed is not None
    assert differing(whole, resumed) == []


@pytest.mark.parametrize(
    ("every", "error"),
    [
        (0, ValueError), (-1, ValueError), ("often", ValueError), ("3 hours ago", ValueError),
        (True, TypeError), (object(), TypeError), ({"steps": 1, "epochs": 2}, ValueError),
        ({"days": 1}, ValueError), ("-1 steps", ValueError),
    ],
)  # fmt: skip
def test_an_unfit_every_is_refused(store: Store, every: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="every="):
        Checkpoint(model=nn.Linear(1, 1), store=store, every=every)


def test_what_is_not_due_is_noted_and_not_saved(store: Store) -> None:
    net = nn.Linear(2, 2)
    ckpt = Checkpoint(model=net, store=store, every="100 steps")
    for _ in range(10):
        ckpt.save(loss=1.0, accuracy=np.float32(0.5))
    assert ckpt.latest is None
    assert ckpt.history == {"loss": [1.0] * 10, "accuracy": [0.5] * 10}
    assert store.names() == []


def test_the_last_ones_and_the_best_are_kept_and_the_best_comes_back(store: Store) -> None:
    net = nn.Linear(2, 2)
    ckpt = Checkpoint(model=net, store=store, keep=2, best=("score", "max"))
    for number, score in enumerate([1.0, 5.0, 2.0, float("nan"), 3.0, 4.0]):
        with torch.no_grad():
            net.weight.fill_(number)
        ckpt.save(score=score)
    ckpt.wait()
    assert len(store.versions("checkpoint")) == 3
    assert (ckpt.best, ckpt.latest) == ("checkpoint@v2", "checkpoint@v6")
    assert ckpt.load_best() == "checkpoint@v2"
    assert torch.equal(net.weight, torch.full((2, 2), 1.0))
    found = store.get("checkpoint@v2")
    assert found.metadata.properties["metrics"] == {"score": 5.0}
    assert found.tags["step"] == "2"
    data = store.load("checkpoint@v2")
    assert torch.equal(data["model"]["weight"], net.weight)


def test_there_is_no_best_without_a_metric(store: Store) -> None:
    ckpt = Checkpoint(model=nn.Linear(1, 1), store=store)
    ckpt.save(loss=1.0)
    with pytest.raises(AssetNotFoundError, match="best="):
        ckpt.load_best()


def test_what_has_not_changed_is_not_written_again(store: Store) -> None:
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 2))
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[1].parameters(), 0.1)
    ckpt = Checkpoint(model=net, optimizer=optimizer, store=store, keep=None)
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.ones(1, 300)).sum().backward()
        optimizer.step()
        ckpt.save()
    ckpt.wait()
    large = [p for p in (store.path / "blobs").rglob("*") if p.is_file() if p.stat().st_size > 3e5]
    assert len(store.versions("checkpoint")) == 4
    assert len(large) == 1


def test_training_goes_on_while_it_is_written(store: Store, monkeypatch: Any) -> None:
    net = nn.Linear(2, 2)
    seen: list[Any] = []
    save = store.save

    def slowly(asset: Any, *args: Any) -> Any:
        assert started.wait(30)
        return save(asset, *args)

    import threading

    started = threading.Event()
    monkeypatch.setattr(store, "save", slowly)
    ckpt = Checkpoint(model=net, store=store)
    before = net.weight.detach().clone()
    ckpt.save()
    with torch.no_grad():
        net.weight.zero_()  # the loop goes on before anything is written
    seen.append(ckpt.latest)
    started.set()
    ckpt.wait()
    assert seen == [None]
    assert torch.equal(store.load("checkpoint")["model"]["weight"], before)


def test_an_error_in_the_background_is_raised_later_and_not_lost(
    store: Store, monkeypatch: Any
) -> None:
    ckpt = Checkpoint(model=nn.Linear(2, 2), store=store)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save", full)
    ckpt.save(loss=1.0)
    with pytest.raises(OSError, match="No space left"):
        ckpt.wait()
    monkeypatch.undo()
    ckpt.save(loss=2.0)
    ckpt.wait()
    assert ckpt.latest == "checkpoint@v1"
    assert ckpt.history == {"loss": [1.0, 2.0]}


def test_what_is_under_way_is_completed_when_python_ends(
    store: Store, run_script: Callable[..., str]
) -> None:
    run_script(
        "import torch\n"
        "from flowyml_pytorch import Checkpoint\n"
        "net = torch.nn.Linear(1500, 1500)\n"  # large enough for threads of the store's own
        "Checkpoint(model=net).save(loss=1.0)\n"
    )
    assert store.versions("checkpoint") == ["v1"]
    store.verify("checkpoint@v1")


def test_an_error_that_nobody_could_be_told_of_is_printed_at_the_end(tmp_path: Path) -> None:
    code = (
        "import shutil, torch\n"
        "from flowyml_pytorch import Checkpoint\n"
        "ckpt = Checkpoint(model=torch.nn.Linear(2, 2))\n"
        "ckpt.store.save = lambda *_: 1 / 0\n"
        "ckpt.save()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "checkpoint could not be saved: ZeroDivisionError" in done.stderr


def damage(store: Store, ref: str) -> None:
    stored = store.get(ref).stored
    assert stored is not None
    file = max(stored.files, key=lambda file: file.size)
    path = store.path / "blobs" / file.digest[:2] / file.digest[2:]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_version_is_passed_over(store: Store) -> None:
    net = nn.Linear(40, 40)
    ckpt = Checkpoint(model=net, store=store)
    for number in range(2):
        with torch.no_grad():
            net.weight.fill_(number)
        ckpt.save()
    ckpt.wait()
    damage(store, "checkpoint@v2")
    with pytest.warns(UserWarning, match="checkpoint@v2 is damaged"):
        again = Checkpoint(model=net, store=store, resume=True)
    assert again.resumed == "checkpoint@v1"
    assert torch.equal(net.weight, torch.zeros(40, 40))
    with pytest.raises(IntegrityError):
        Checkpoint(model=net, store=store, resume="checkpoint@v2")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: {"model": nn.Linear(3, 3)}, "weight"),
        (lambda: {"model": nn.Sequential(nn.Linear(2, 2))}, "0.weight"),
        (lambda: {"model": nn.Linear(2, 2)}, "optimizer"),
        (lambda: {"ema": nn.Linear(2, 2)}, "ema"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_changed(
    store: Store, make: Callable[[], dict[str, Any]], told: str
) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with_optimizer = {"optimizer": optimizer} if told == "optimizer" else {}
    saved = Checkpoint(model=net, store=store, **with_optimizer)
    saved.save()
    saved.wait()
    objects = make()
    before = [p.clone() for module in objects.values() for p in module.parameters()]
    with pytest.raises(MaterializationError, match=told):
        Checkpoint(**objects, store=store, resume=True)
    after = [p for module in objects.values() for p in module.parameters()]
    assert all(map(torch.equal, before, after))


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.rand(2)


class Lazy(Sampler[int]):
    """Draws from the global generator as it goes."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(ROWS):
            yield int(torch.randint(ROWS, ()))

    def __len__(self) -> int:
        return ROWS


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DataLoader(Endless(), 2), "stream"),
        (lambda: (torch.rand(2) for _ in range(9)), "can't be known"),
        (lambda: DataLoader(plain(), 2, num_workers=2, in_order=False), "in_order"),
        (lambda: DataLoader(plain(), 2, num_workers=1, persistent_workers=True), "persistent"),
        (lambda: DataLoader(plain(), 2, sampler=Lazy(), num_workers=2), "Lazy"),
        (lambda: DataLoader(plain(), 2, sampler=Lazy()), "Lazy"),
        (sharing_a_generator, "drawn from by others"),
    ],
)
def test_where_it_cannot_be_exact_it_says_so(
    store: Store, make: Callable[[], Any], told: str
) -> None:
    ckpt = Checkpoint(model=nn.Linear(2, 2), store=store)
    loader = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in ckpt.epochs(2):
            for number, _ in enumerate(ckpt.batches(loader)):
                ckpt.save(loss=number)
                if number == 3:
                    break
    assert not ckpt.exact
    assert told in str(ckpt.reason)
    assert any(told in str(each.message) for each in caught)
    assert store.get(str(ckpt.latest)).metadata.properties["exact"] is False


def test_in_a_step_a_retry_goes_on_by_itself(tmp_path: Path, store: Store) -> None:
    begun: list[str | None] = []

    @step(store=store, retries=2, backoff=0, seed=1)
    def train() -> float:
        net = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        ckpt = Checkpoint(model=net, optimizer=optimizer)
        begun.append(ckpt.resumed)
        for epoch in ckpt.epochs(4):
            if epoch == 2 and len(begun) == 1:
                ckpt.wait()
                raise Interrupted
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            ckpt.save(loss=epoch)
        return sum(ckpt.history["loss"])

    assert train() == 0 + 1 + 2 + 3
    assert begun == [None, "train.checkpoint@v2"]
    assert train() == 6  # another call begins anew
    assert begun[2] is None
    (first, _) = runs(store)
    assert all(ref.startswith("train.checkpoint@") for ref in first.steps[0].saved)


def test_a_call_of_a_step_is_resumed_when_it_is_asked_for(store: Store) -> None:
    fails = [True]

    @step(store=store)
    def train(epochs: int) -> list[float]:
        net = nn.Linear(1, 1)
        ckpt = Checkpoint(model=net)
        for epoch in ckpt.epochs(epochs):
            if epoch == 2 and fails:
                fails.pop()
                ckpt.wait()
                raise Interrupted
            ckpt.save(epoch=epoch, first=ckpt.resumed is None)
        return [ckpt.history["epoch"], ckpt.history["first"]]

    with pytest.raises(Interrupted):
        train(4)
    with pytest.warns(UserWarning, match="fails changed"):  # it is part of the function's code
        found = train(4, resume=True)
    assert found == [[0, 1, 2, 3], [True, True, False, False]]
    assert current().call is None


def test_every_kind_of_object_with_a_state_comes_back(store: Store) -> None:
    def objects() -> dict[str, Any]:
        net = nn.Linear(3, 3)
        tied = nn.ModuleList([net, nn.Linear(3, 3)])
        tied[1].weight = net.weight
        lbfgs = torch.optim.LBFGS(net.parameters(), history_size=3)
        adam = torch.optim.Adam(tied[1].parameters(), amsgrad=True)
        return {
            "model": {"a": tied, "b": torch.optim.swa_utils.AveragedModel(net)},
            "optimizer": [lbfgs, adam],
            "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(adam),
            "scaler": torch.amp.GradScaler("cpu"),
            "noise": torch.Generator().manual_seed(3),
        }

    made = objects()
    tied, averaged = made["model"].values()
    lbfgs, adam = made["optimizer"]

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = tied[0](torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    lbfgs.step(closure)
    tied[1](torch.ones(1, 3)).sum().backward()
    adam.step()
    averaged.update_parameters(tied[0])
    made["scheduler"].step(3.0)
    torch.rand(3, generator=made["noise"])
    ckpt = Checkpoint(**made, store=store)
    ckpt.save()
    ckpt.wait()
    again = objects()
    Checkpoint(**again, store=store, resume=True)

    def states(objects: dict[str, Any]) -> Any:
        return [
            [module.state_dict() for module in objects["model"].values()],
            [optimizer.state_dict() for optimizer in objects["optimizer"]],
            objects["scheduler"].state_dict(),
            objects["scaler"].state_dict(),
            objects["noise"].get_state(),
        ]

    assert same(states(made), states(again))
    assert again["model"]["a"][1].weight is again["model"]["a"][0].weight


def test_a_version_needs_no_trust_and_no_pickle(store: Store) -> None:
    training = Training(LOADERS["shuffled by a generator"])
    training.run(store, name="plain")
    asset = store.get("plain")
    assert asset.required_trust == ()
    assert asset.stored is not None
    assert asset.stored.restore == "exact"
    data = store.load("plain")
    assert set(data) >= {"model", "optimizer", "scheduler", "progress", "history", "random"}


def test_unfit_arguments_are_refused(store: Store) -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="what is trained"):
        Checkpoint(store=store)
    with pytest.raises(TypeError, match="state_dict"):
        Checkpoint(model=net, thing=3, store=store)
    with pytest.raises(ValueError, match="keep="):
        Checkpoint(model=net, keep=0, store=store)
    with pytest.raises(TypeError, match="keep="):
        Checkpoint(model=net, keep="all", store=store)
    with pytest.raises(ValueError, match="best="):
        Checkpoint(model=net, best=("loss", "lowest"), store=store)
    with pytest.raises(TypeError, match="number"):
        Checkpoint(model=net, store=store).save(loss=torch.ones(2))
    with pytest.raises(AssetNotFoundError):
        Checkpoint(model=net, store=store, resume="nothing@v3")
    with pytest.raises(ValueError, match="history"):
        Checkpoint(model=net, history=net, store=store)


def test_sequential_sampler_of_the_loader_is_left_as_it_is(store: Store) -> None:
    loader = DataLoader(plain(), SIZE)
    ckpt = Checkpoint(model=nn.Linear(1, 1), dataloader=loader, store=store)
    batches = [batch for _ in ckpt.epochs(1) for batch in ckpt.batches()]
    assert isinstance(loader.sampler, SequentialSampler)
    assert same(batches, list(loader))
    assert len(ckpt.batches()) == len(loader)
