"""torch's default generators: seeding them, their states as bytes, and deterministic algorithms.

torch is looked up in ``sys.modules`` only: as long as nobody has imported it, there is nothing to
seed. No device is initialised here: what a device would draw once it is, torch tells in advance.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flowyml.interfaces import RandomSource

_MAGIC = b"torch generators 1\n"
_PART = struct.Struct("<HI")
"""Before each state: the lengths of its device's name and of the state itself."""

_PHILOX = 16
"""Bytes of a state on CUDA and XPU: seed and offset, of which the latter counts in fours."""

_ACCELERATORS = ("cuda", "xpu")

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACE = ":4096:8"


class TorchRandomSource(RandomSource):
    """torch's default generators: the CPU's, and those of every CUDA, XPU and MPS device."""

    name = "torch"

    def seed(self, seed: int) -> None:
        """Seed them all, if torch is imported; those of devices not in use yet begin with it."""
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(seed)

    def state(self) -> Any:
        """Return the states by device, those of devices once in use; None without torch."""
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        states = {"cpu": torch.get_rng_state()}
        for kind in _in_use(torch):
            module = getattr(torch, kind)
            for index in range(module.device_count()):
                states[f"{kind}:{index}"] = module.get_rng_state(index)
        if _has_mps(torch):
            states["mps"] = torch.mps.get_rng_state()
        return states

    def restore(self, state: Any) -> None:
        """Put the generators back.

        Raises:
            RuntimeError: when there are states of devices that aren't here; the others are back.
        """
        if state is None:
            return
        torch = sys.modules["torch"]
        torch.set_rng_state(state["cpu"])
        for kind in _built(torch):
            if f"{kind}:0" not in state:
                # It wasn't in use. It may be now, or may have been given another seed to begin
                # with; torch seeds all devices with one seed, which the CPU's generator knows.
                getattr(torch, kind).manual_seed_all(torch.initial_seed())
        missing = [device for device in state if not _restored(torch, device, state[device])]
        if missing:
            raise RuntimeError(
                f"the random state of {', '.join(missing)} can't be put back, as there is no such "
                f"device here; what is drawn on another device differs"
            )

    def pack(self, state: Any) -> bytes | None:
        """Return the states as bytes, each after its device's name; None without torch."""
        if state is None:
            return None
        return _MAGIC + b"".join(_packed(device, state[device]) for device in state)

    def unpack(self, data: bytes) -> Any:
        """Return the states that `pack` was given; imports torch.

        Raises:
            ValueError: when it is something else.
        """
        import torch

        states: dict[str, Any] = {}
        for device, content in _parts(data):
            if device in states or not _is_fit(device, content):
                raise ValueError(f"it has no fit random state of {device!r}")
            states[device] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if next(iter(states), None) != "cpu":
            raise ValueError("it has no random state of the CPU")
        try:
            torch.Generator("cpu").set_state(states["cpu"])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"it has no fit random state of the CPU: {error}") from error
        return states

    def make_deterministic(self) -> Sequence[str]:
        """Let torch use deterministic algorithms only, and raise where it knows none.

        Nothing is done without torch. What is set stays for the rest of the process.
        """
        torch = sys.modules.get("torch")
        return () if torch is None else tuple(_made_deterministic(torch))


def _built(torch: Any) -> list[str]:
    """Return the accelerators that this build of torch knows."""
    return [kind for kind in _ACCELERATORS if getattr(torch, kind)._is_compiled()]


def _in_use(torch: Any) -> list[str]:
    return [kind for kind in _ACCELERATORS if getattr(torch, kind).is_initialized()]


def _has_mps(torch: Any) -> bool:
    return bool(torch.backends.mps.is_available() and not torch.mps._is_in_bad_fork())


def _restored(torch: Any, device: str, state: Any) -> bool:
    """Put one device's generator back, at once or as soon as it is in use; False without it."""
    kind, _, index = device.partition(":")
    if kind == "mps" and _has_mps(torch):
        torch.mps.set_rng_state(state)
    elif kind in _built(torch) and int(index) < getattr(torch, kind).device_count():
        module = getattr(torch, kind)
        module.init()  # what torch would do then undoes what waits for it: seeds come last
        module.set_rng_state(state, int(index))
    else:
        return kind == "cpu"
    return True


def _packed(device: str, state: Any) -> bytes:
    import ctypes

    name = device.encode("ascii")
    content = ctypes.string_at(state.data_ptr(), state.numel())
    return _PART.pack(len(name), len(content)) + name + content


def _parts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the states that `pack` joined, with their devices."""
    if not data.startswith(_MAGIC):
        raise ValueError("it isn't a packed state of torch's generators")
    position = len(_MAGIC)
    while position < len(data):
        start = position + _PART.size
        try:
            name, length = _PART.unpack_from(data, position)
            device = data[start : start + name].decode("ascii")
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError("it is damaged") from error
        position = start + name + length
        if position > len(data):
            raise ValueError("it ends too early")
        yield device, data[start + name : position]


def _is_fit(device: str, content: bytes) -> bool:
    kind, _, index = device.partition(":")
    if kind in _ACCELERATORS:
        is_index = index.isdecimal() and len(index) < 4 and index == str(int(index))
        return is_index and len(content) == _PHILOX and content[8] % 4 == 0
    return device in ("cpu", "mps") and bool(content)


def _made_deterministic(torch: Any) -> Iterator[str]:
    before = _algorithms(torch)
    torch.use_deterministic_algorithms(True)
    if before != "on":
        yield f"torch.use_deterministic_algorithms(True) (they were {before})"
    cudnn = torch.backends.cudnn
    for flag, value in (("deterministic", True), ("benchmark", False)):
        if getattr(cudnn, flag) is not value:
            setattr(cudnn, flag, value)
            yield f"torch.backends.cudnn.{flag} = {value} (it was {not value})"
    if not os.environ.get(_CUBLAS):
        os.environ[_CUBLAS] = _WORKSPACE
        yield f"{_CUBLAS}={_WORKSPACE} (it wasn't set{_late(torch)})"


def _late(torch: Any) -> str:
    if not torch.cuda.is_initialized():
        return ""
    return "; CUDA is in use already, so this has no effect in this process: set it before"


def _algorithms(torch: Any) -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "only to warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"
