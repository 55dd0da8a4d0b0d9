"""Seeds reach all that torch draws from, and states come back, also from a record."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from flowyml.seeds import seeded
from flowyml_pytorch.plugin import flowyml_register_random_sources
from flowyml_pytorch.randomness import TorchRandomSource

SOURCE = TorchRandomSource()


def drawn() -> list[float]:
    """Numbers of which the last leave one of a pair for later."""
    return [*torch.rand(3).tolist(), *torch.randn(17).tolist()]


def packed(state: Any) -> bytes:
    data = SOURCE.pack(state)
    assert data is not None
    return data


def test_the_adapter_registers_torchs_generators() -> None:
    assert [type(source) for source in flowyml_register_random_sources()] == [TorchRandomSource]


def test_a_packed_state_goes_on_as_the_state_would_have() -> None:
    SOURCE.seed(5)
    drawn()
    data = packed(SOURCE.state())
    expected = drawn()
    SOURCE.seed(6)
    SOURCE.restore(SOURCE.unpack(data))
    assert drawn() == expected
    assert packed(SOURCE.unpack(data)) == data


def test_packed_states_are_equal_when_the_states_are() -> None:
    found = []
    for seed in (5, 6, 5):
        SOURCE.seed(seed)
        found.append(packed(SOURCE.state()))
        drawn()
        found.append(packed(SOURCE.state()))
    assert found[:2] == found[4:]
    assert len({*found}) == 4


def test_a_state_is_a_copy() -> None:
    SOURCE.seed(5)
    state = SOURCE.state()
    before = packed(state)
    drawn()
    assert packed(state) == before


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "only the head": lambda data: data[: data.index(b"\n") + 1],
    "another head": lambda data: b"x" + data[1:],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "twice the CPU": lambda data: data + data[data.index(b"\n") + 1 :],
    "another device": lambda data: data.replace(b"cpu", b"gpu", 1),
    "no device": lambda data: data.replace(b"cpu", b"\xff\xfe\xfd", 1),
    "zeros": lambda data: data[: data.index(b"cpu") + 3] + bytes(5056),
    "a short state": lambda data: part(data, "cpu", b"1234"),
    "a strange index": lambda data: data + part(b"", "cuda:-1", bytes(16)),
    "a long index": lambda data: data + part(b"", "cuda:" + "1" * 5000, bytes(16)),
    "an odd offset": lambda data: data + part(b"", "cuda:0", bytes(8) + b"\1" + bytes(7)),
    "a large state of a GPU": lambda data: data + part(b"", "cuda:0", bytes(17)),
}


def part(data: bytes, device: str, state: bytes) -> bytes:
    """The head of data, and a state as it is packed."""
    name = device.encode()
    sizes = len(name).to_bytes(2, "little") + len(state).to_bytes(4, "little")
    return data[: data.find(b"\n") + 1] + sizes + name + state


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_packed_state_is_refused(damage: str) -> None:
    before = packed(SOURCE.state())
    with pytest.raises(ValueError, match=r"state|damaged|too early"):
        SOURCE.unpack(DAMAGES[damage](before))
    assert packed(SOURCE.state()) == before


def test_there_is_nothing_to_seed_where_torch_is_not_imported() -> None:
    code = """
import sys
from flowyml_pytorch.randomness import TorchRandomSource
source = TorchRandomSource()
source.seed(1)
source.restore(source.state())
assert source.state() is None and source.pack(None) is None
assert source.make_deterministic() == ()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_neither_state_nor_restoring_initialises_a_device() -> None:
    code = """
import torch
from flowyml_pytorch.randomness import TorchRandomSource
source = TorchRandomSource()
source.seed(1)
source.restore(source.state())
assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ------------------------------------------------------------------------------------ devices


class Devices:
    """Stands in for torch.cuda with devices: a state is a seed and how much was drawn."""

    def __init__(self, count: int, *, in_use: bool) -> None:
        self.count = count
        self.in_use = in_use
        self.waiting = 0
        self.states = [(0, 0)] * count

    def init(self) -> None:
        if not self.in_use:
            self.states = [(self.waiting, 0)] * self.count
        self.in_use = True

    def draw(self, index: int = 0) -> tuple[int, int]:
        self.init()
        seed, offset = self.states[index]
        self.states[index] = seed, offset + 4
        return seed, offset

    def manual_seed_all(self, seed: int) -> None:
        self.waiting = seed
        self.states = [(seed, 0)] * self.count

    def get_rng_state(self, index: int) -> torch.Tensor:
        assert self.in_use, "that would have initialised it"
        return torch.tensor(self.states[index], dtype=torch.int64).view(torch.uint8)

    def set_rng_state(self, state: torch.Tensor, index: int) -> None:
        assert self.in_use, "a seed that waits would undo it"
        seed, offset = state.view(torch.int64).tolist()
        self.states[index] = seed, offset


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Devices], Devices]:
    def install(devices: Devices) -> Devices:
        for name in ("init", "manual_seed_all", "get_rng_state", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, getattr(devices, name))
        monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: devices.in_use)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices.count)
        return devices

    return install


Install = Callable[[Devices], Devices]


def test_every_device_in_use_is_put_back(install: Install) -> None:
    devices = install(Devices(2, in_use=True))
    SOURCE.seed(5)
    devices.draw(1)
    data = packed(SOURCE.state())
    SOURCE.seed(6)
    devices.draw(0)
    SOURCE.restore(SOURCE.unpack(data))
    assert devices.states == [(5, 0), (5, 4)]


def test_a_device_that_a_step_was_the_first_to_use_is_put_back(install: Install) -> None:
    devices = install(Devices(1, in_use=False))
    torch.manual_seed(5)
    torch.rand(3)
    with seeded(9):
        assert devices.draw() == (9, 0)
    assert devices.draw() == (5, 0)


def test_a_device_that_no_step_used_begins_with_the_outer_seed(install: Install) -> None:
    devices = install(Devices(1, in_use=False))
    torch.manual_seed(5)
    with seeded(9):
        pass
    assert not devices.in_use
    assert devices.draw() == (5, 0)


def test_a_packed_state_of_a_device_is_put_back_where_it_is_not_in_use_yet(
    install: Install,
) -> None:
    devices = install(Devices(1, in_use=True))
    SOURCE.seed(5)
    devices.draw()
    data = packed(SOURCE.state())
    devices = install(Devices(1, in_use=False))
    SOURCE.seed(6)
    SOURCE.restore(SOURCE.unpack(data))
    assert devices.draw() == (5, 4)


def test_a_device_that_is_not_here_is_named_and_the_others_are_put_back(install: Install) -> None:
    install(Devices(2, in_use=True))
    SOURCE.seed(5)
    data = packed(SOURCE.state())
    expected = drawn()
    devices = install(Devices(1, in_use=True))
    with pytest.raises(RuntimeError, match="random state of cuda:1 can't be put back"):
        SOURCE.restore(SOURCE.unpack(data))
    assert drawn() == expected
    assert devices.draw() == (5, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_put_back_from_a_packed_state() -> None:
    SOURCE.seed(5)
    torch.rand(3, device="cuda")
    data = packed(SOURCE.state())
    expected = torch.rand(3, device="cuda").tolist()
    SOURCE.seed(6)
    SOURCE.restore(SOURCE.unpack(data))
    assert torch.rand(3, device="cuda").tolist() == expected


# --------------------------------------------------------------------------------- determinism


def made_deterministic(before: str = "", **environment: str) -> str:
    """What a new process prints of how it is made deterministic, twice."""
    code = f"""
import os, torch
from flowyml_pytorch.randomness import TorchRandomSource
{before}
print(*TorchRandomSource().make_deterministic(), sep="\\n")
print("again:", *TorchRandomSource().make_deterministic())
assert torch.are_deterministic_algorithms_enabled()
assert not torch.is_deterministic_algorithms_warn_only_enabled()
assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
print(os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_is_made_deterministic_and_what_changed_is_told_once() -> None:
    assert made_deterministic().splitlines() == [
        "torch.use_deterministic_algorithms(True) (they were off)",
        "torch.backends.cudnn.deterministic = True (it was False)",
        "CUBLAS_WORKSPACE_CONFIG=:4096:8 (it wasn't set)",
        "again:",
        ":4096:8",
    ]


def test_what_is_set_already_is_left_and_not_told_of() -> None:
    before = """
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = True
"""
    assert made_deterministic(before, CUBLAS_WORKSPACE_CONFIG=":16:8").splitlines() == [
        "torch.use_deterministic_algorithms(True) (they were only to warn)",
        "torch.backends.cudnn.benchmark = False (it was True)",
        "again:",
        ":16:8",
    ]


def test_it_is_told_when_cublas_has_been_set_up_already() -> None:
    told = made_deterministic("torch.cuda.is_initialized = lambda: True")
    assert "CUDA is in use already, so this has no effect in this process" in told


# ------------------------------------------------------------------------------------- loaders


class Draws(Dataset[list[float]]):
    """Items that each draw from Python, NumPy and torch."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> list[float]:
        return [index, random.random(), float(np.random.rand()), float(torch.rand(()))]


def epochs(workers: int, generator: torch.Generator | None = None) -> list[Any]:
    """Two passes over a loader, batch by batch."""
    loader = DataLoader(
        Draws(),
        batch_size=3,
        shuffle=True,
        num_workers=workers,
        generator=generator,
        collate_fn=list,
    )
    return [[*loader], [*loader]]


@pytest.mark.parametrize("own", [False, True], ids=["default", "own generator"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_decides_all_that_a_loader_yields(workers: int, own: bool) -> None:
    def passes(seed: int) -> list[Any]:
        with seeded(seed):
            return epochs(workers, torch.Generator().manual_seed(seed) if own else None)

    first = passes(3)
    drawn()
    assert passes(3) == first
    assert passes(4) != first


def test_workers_and_epochs_draw_numbers_of_their_own() -> None:
    with seeded(3):
        passes = epochs(2)
    items = [item for batches in passes for batch in batches for item in batch]
    assert len(items) == 12
    for kind in ("python", "numpy", "torch"):
        place = 1 + ("python", "numpy", "torch").index(kind)
        assert len({item[place] for item in items}) == 12, kind


def test_a_loader_with_workers_leaves_the_outer_state_as_a_step_found_it() -> None:
    torch.manual_seed(1)
    expected = drawn()
    torch.manual_seed(1)
    with seeded(3):
        epochs(2)
    assert drawn() == expected
