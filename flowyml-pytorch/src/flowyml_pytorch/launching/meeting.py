"""The processes of a group find each other in the key-value store, before torch uses it.

Each start of the group has a part of the store to itself, which rank 0 names. Every other process
says a word that nobody has said before, and is told the name in answer: whatever is left in the
store from an earlier start answers no one.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable

import attrs

from flowyml.errors import LaunchError, told
from flowyml_pytorch.launching import wording
from flowyml_pytorch.launching.keys import Keys, within
from flowyml_pytorch.launching.place import Place
from flowyml_pytorch.launching.presence import Presence

_LONGEST = 0.05
"""Seconds between two looks, after a while."""

_FAREWELL = 0.5
"""Seconds for which the store stays, so that the others can read in it what was wrong."""


def meet(place: Place, base: Keys, deadline: float, timeout: float) -> Keys:
    """Wait for all processes of the group; return the part of the store that is theirs.

    Args:
        place: which process this is.
        base: the store.
        deadline: the monotonic time until which they have to come.
        timeout: how many seconds they had in all.

    Raises:
        LaunchError: when one doesn't come, a rank is there twice, or sizes differ.
    """
    try:
        return _Meeting(place, base, deadline, timeout).held()
    except RuntimeError as error:
        raise LaunchError(
            f"Rank {place.rank} lost the connection to rank 0 at {place.address}:{place.port}, "
            f"which ended before the processes had met: {told(error)}"
        ) from error


@attrs.define
class _Meeting:
    place: Place
    base: Keys
    deadline: float
    timeout: float
    answered: Counter[int] = attrs.field(factory=Counter, init=False)

    def held(self) -> Keys:
        calls = within(self.base, "flowyml/calls")
        name = uuid.uuid4().hex if self.place.rank == 0 else self._called(calls)
        store = within(self.base, f"flowyml/{name}")
        presence = Presence(within(store, "meeting"), self.place.rank, self.place.world_size)
        presence.arrive()
        try:
            self._await_all(presence, calls, name)
            self._refuse_doubles(presence)
            self._refuse_other_sizes(presence)
        except LaunchError as error:
            presence.fail(str(error))
            if self.place.rank == 0 and not self.place.hosted:
                calls.set("failure", str(error))  # nobody finds it later: the store ends now
                time.sleep(_FAREWELL)
            raise
        return store

    def _called(self, calls: Keys) -> str:
        """Return the name that rank 0 tells this process."""
        word = uuid.uuid4().hex
        number = calls.add(f"calls/{self.place.rank}", 1)
        calls.set(f"call/{self.place.rank}/{number}", word)
        pause = 0.0005
        while not calls.check([f"answer/{word}"]):
            if time.monotonic() > self.deadline:
                raise LaunchError(
                    f"Rank 0 didn't come to {self._where()}, or another process with RANK "
                    f"{self.place.rank} was there before. WORLD_SIZE is {self.place.world_size}."
                )
            if not self.place.hosted and calls.check(["failure"]):
                raise LaunchError(calls.get("failure").decode())
            pause = _paused(pause)
        return calls.get(f"answer/{word}").decode()

    def _answer(self, calls: Keys, name: str, ranks: Iterable[int]) -> None:
        """Tell the name to all that have called, also to two processes of one rank."""
        for rank in ranks:
            number = self.answered[rank] + 1
            while calls.check([f"call/{rank}/{number}"]):
                word = calls.get(f"call/{rank}/{number}").decode()
                calls.set(f"answer/{word}", name)
                self.answered[rank] = number
                number += 1

    def _await_all(self, presence: Presence, calls: Keys, name: str) -> None:
        missing = [*presence.others()]
        pause = 0.0005
        while missing:
            if self.place.rank == 0:
                self._answer(calls, name, presence.others())
            missing = [rank for rank in missing if not presence.is_here(rank)]
            self._refuse_doubles(presence)
            failure = presence.failure()
            if failure is not None:
                raise LaunchError(failure)
            if missing and time.monotonic() > self.deadline:
                raise LaunchError(
                    f"{wording.ranks(missing).capitalize()} didn't come to {self._where()}. "
                    f"WORLD_SIZE is {self.place.world_size}: either fewer processes were started, "
                    f"or these couldn't get so far."
                )
            if missing:
                pause = _paused(pause)

    def _where(self) -> str:
        return (
            f"{self.place.address}:{self.place.port} within {self.timeout:g} s, where rank "
            f"{self.place.rank} waited"
        )

    def _refuse_doubles(self, presence: Presence) -> None:
        if presence.doubles() > 1:
            raise LaunchError(
                f"{presence.doubles()} processes have RANK {self.place.rank}; one is "
                f"{presence.name(self.place.rank)}. Each needs its own."
            )

    def _refuse_other_sizes(self, presence: Presence) -> None:
        for rank in presence.others():
            if presence.size(rank) != self.place.world_size:
                raise LaunchError(
                    f"The processes were told different numbers of them: WORLD_SIZE is "
                    f"{self.place.world_size} for rank {self.place.rank}, and "
                    f"{presence.size(rank)} for {presence.name(rank)}."
                )


def _paused(pause: float) -> float:
    """Wait; return how long to wait the next time."""
    time.sleep(pause)
    return min(pause * 1.5, _LONGEST)
