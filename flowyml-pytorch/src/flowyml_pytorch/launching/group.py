"""The processes of torch's default process group, whoever has set it up."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from flowyml.errors import LaunchError
from flowyml.interfaces import Group
from flowyml_pytorch.launching import wording
from flowyml_pytorch.launching.keys import Keys, within
from flowyml_pytorch.launching.presence import Presence

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PIECE = 4 << 20
"""Bytes that a value in the store may have: its server takes no more than twice as many."""

PATIENCE = 5.0
"""Seconds for whoever started the processes to end them all, after one has failed."""


class TorchGroup(Group):
    """A group that talks by the key-value store of its process group.

    Attributes:
        timeout: seconds that a process waits for others.
        presence: what the processes say of themselves.
    """

    def __init__(self, store: Keys, local_rank: int, timeout: float, restarts: int) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.local_rank = local_rank
        self.device = _device()
        self.restarts = restarts
        self.timeout = timeout
        self._store = within(store.clone(), "flowyml")
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self.presence = Presence(within(self._store, "presence"), self.rank, self.world_size)
        self.id = self._store.compare_set("id", "", uuid.uuid4().hex).decode()

    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        """Give everybody's data to everybody, by way of the store, which forgets it afterwards."""
        with self._lock:
            number = self._calls[channel]
            self._calls[channel] += 1
        store = within(self._store, f"exchange/{len(channel)}/{channel}/{number}")
        pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
        for index, piece in enumerate(pieces):
            store.set(f"{self.rank}/{index}", piece)
        store.set(str(self.rank), str(len(pieces)))
        store.add("arrived", 1)
        self._await_all(store, channel)
        counts = [int(store.get(str(rank))) for rank in range(self.world_size)]
        every = [
            b"".join(store.get(f"{rank}/{index}") for index in range(count))
            for rank, count in enumerate(counts)
        ]
        if store.add("read", 1) == self.world_size:
            _forget(store, counts)
        return every

    def _await_all(self, store: Keys, channel: str) -> None:
        start, pause, looked = time.monotonic(), 0.0002, 0.0
        while store.add("arrived", 0) < self.world_size:
            waited = time.monotonic() - start
            if waited > self.timeout:
                raise LaunchError(self._told_missing(self._missing(store), channel))
            if waited > looked + 1:
                looked = waited
                self._look_for_gone(self._missing(store), channel)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01 * max(1, self.world_size / 8))

    def _missing(self, store: Keys) -> list[int]:
        return [rank for rank in range(self.world_size) if not store.check([str(rank)])]

    def _look_for_gone(self, missing: Collection[int], channel: str) -> None:
        for rank in missing:
            how = self.presence.ended(rank)
            if how is not None:
                if how != wording.RETURNED:
                    time.sleep(PATIENCE)
                raise LaunchError(
                    f"Rank {self.rank} waits{wording.on(channel)} in vain: "
                    f"{wording.gone(rank, how)}"
                )

    def _told_missing(self, missing: Sequence[int], channel: str) -> str:
        text = (
            f"{wording.ranks(missing).capitalize()} didn't come within {self.timeout:g} s"
            f"{wording.on(channel)}, where rank {self.rank} waited."
        )
        if not self.presence.is_here(self.rank):
            return text  # nobody would answer
        where = self.presence.ask(missing)
        return " ".join([text, *(wording.at(rank, it) for rank, it in where.items())])


def _forget(store: Keys, counts: Sequence[int]) -> None:
    for rank, count in enumerate(counts):
        for index in range(count):
            store.delete_key(f"{rank}/{index}")
        store.delete_key(str(rank))
    store.delete_key("arrived")
    store.delete_key("read")


def _device() -> str:
    """Return where this process computes: the accelerator, if the group communicates on it."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))
    if backends.get(accelerator.type, "gloo") == "gloo":
        return "cpu"
    return f"{accelerator.type}:{torch.accelerator.current_device_index()}"


_known: weakref.WeakKeyDictionary[ProcessGroup, tuple[int, TorchGroup]] = (
    weakref.WeakKeyDictionary()
)
"""The group of each process group, with the process that has it."""

_lock = threading.Lock()


def current() -> TorchGroup | None:
    """Return the group of the default process group of this process; None without one."""
    if not dist.is_initialized() or torch.utils.data.get_worker_info() is not None:
        return None
    world = distributed_c10d._get_default_group()
    with _lock:
        if world not in _known:
            store = cast(Keys, distributed_c10d._get_default_store())
            timeout = store.timeout.total_seconds()
            note(TorchGroup(store, _local_rank(), timeout, _restarts()))
        process, group = _known[world]
    return group if process == os.getpid() else None


def note(group: TorchGroup) -> None:
    """Remember the group of the default process group."""
    _known[distributed_c10d._get_default_group()] = (os.getpid(), group)


def _local_rank() -> int:
    told = os.environ.get("LOCAL_RANK", "")
    return int(told) if told.isdecimal() else dist.get_rank()


def _restarts() -> int:
    told = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(told) if told.isdecimal() else 0
