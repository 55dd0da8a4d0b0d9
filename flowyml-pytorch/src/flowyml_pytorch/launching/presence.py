"""What each process of a group says of itself in the key-value store: here, there, gone.

The store is used beside the process group, never through it: so it answers while a collective
waits. Every call is short; torch's own waiting calls would hold up the other threads of a process,
and write to stderr when they end in vain.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import attrs

from flowyml_pytorch.launching import stacks
from flowyml_pytorch.launching.keys import Keys

_TICK = 0.5
"""Seconds between two looks at whether anybody asks."""

_PATIENCE = 3.0
"""Seconds that an answer may take."""


@attrs.frozen
class Where:
    """Where a process was when it was asked.

    Attributes:
        waits: whether it waits for others itself.
        place: the line of the program that it is at.
    """

    waits: bool
    place: str


class Presence:
    """The processes of a group, as the store knows them."""

    def __init__(self, store: Keys, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store = store
        self._thread: threading.Thread | None = None
        self._left = threading.Event()
        self._waiting = False

    def arrive(self) -> None:
        """Say that this process is here."""
        said = {"host": socket.gethostname(), "process": os.getpid(), "size": self.world_size}
        self._store.set(f"here/{self.rank}", json.dumps(said))
        self._store.add(f"count/{self.rank}", 1)

    def doubles(self) -> int:
        """Return how many processes say that they are this rank."""
        return self._store.add(f"count/{self.rank}", 0)

    def is_here(self, rank: int) -> bool:
        """Tell whether a process has arrived."""
        return self._store.check([f"here/{rank}"])

    def size(self, rank: int) -> int:
        """Return how many processes there are, as a process that has arrived was told."""
        return int(json.loads(self._store.get(f"here/{rank}"))["size"])

    def name(self, rank: int) -> str:
        """Return a rank with its process, if it has said which that is."""
        if not self.is_here(rank):
            return f"rank {rank}"
        said = json.loads(self._store.get(f"here/{rank}"))
        host = "" if said["host"] == socket.gethostname() else f" on {said['host']}"
        return f"rank {rank} (process {said['process']}{host})"

    def end(self, how: str) -> None:
        """Say that how this process has ended: `wording.RETURNED`, or how it failed."""
        self._store.set(f"end/{self.rank}", how)

    def ended(self, rank: int) -> str | None:
        """Return what a process said at its end; None before."""
        key = f"end/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def fail(self, reason: str) -> None:
        """Say why the processes can't work together; the first reason stays."""
        self._store.compare_set("failure", "", reason)

    def failure(self) -> str | None:
        """Return why the processes can't work together, if one has said so."""
        return self._store.get("failure").decode() if self._store.check(["failure"]) else None

    def others(self) -> Iterator[int]:
        """The ranks of the others."""
        return (rank for rank in range(self.world_size) if rank != self.rank)

    def ask(self, ranks: Iterable[int]) -> dict[int, Where | None]:
        """Return where processes are; None for those that don't answer."""
        number = self._store.add("asked", 1)
        deadline = time.monotonic() + _PATIENCE
        found: dict[int, Where | None] = dict.fromkeys(ranks)
        while None in found.values() and time.monotonic() < deadline:
            time.sleep(0.05)
            for rank in [rank for rank, where in found.items() if where is None]:
                found[rank] = self._answer(rank, number)
        return found

    def _answer(self, rank: int, number: int) -> Where | None:
        key = f"at/{rank}"
        if not self._store.check([key]):
            return None
        said = json.loads(self._store.get(key))
        return Where(said["waits"], said["place"]) if said["number"] >= number else None

    def watch(self, parent: int | None) -> None:
        """Answer for the calling thread until `leave`; end with the parent, if one is given."""
        arguments = (threading.get_ident(), parent)
        name = "flowyml presence"
        self._thread = threading.Thread(target=self._watch, args=arguments, name=name, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Answer no more."""
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, of: int, parent: int | None) -> None:
        answered = 0
        while not self._left.wait(_TICK):
            if parent is not None and os.getppid() != parent:
                _end()
            try:
                number = self._store.add("asked", 0)
                if number > answered:
                    self._tell(number, of)
                    answered = number
            except RuntimeError:
                continue  # the store is gone; so may be the parent, which is seen next time

    def say_waiting(self) -> None:
        """Answer from now on that this process waits for others."""
        self._waiting = True

    def _tell(self, number: int, of: int) -> None:
        frame = sys._current_frames().get(of)
        if frame is None:
            return
        waits = self._waiting or stacks.waits(frame)
        said = {"number": number, "waits": waits, "place": stacks.place(frame)}
        self._store.set(f"at/{self.rank}", json.dumps(said))


def _end() -> None:
    """End this process and those that it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
