"""Seeds and random states: one number that reaches every source of randomness the adapters know.

What a source can't do costs a warning that names it, and neither a result nor another source.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from flowyml import adapters
from flowyml.digests import digest_of_bytes
from flowyml.errors import AdapterWarning, told, warn
from flowyml.interfaces import Group, RandomSource

_LIMIT = 2**32
"""NumPy's global generator takes no larger seed."""


def seed_everything(seed: int, *, deterministic: bool = False) -> int:
    """Seed Python, NumPy and every framework that an adapter brings; return the seed.

    Libraries that are not imported yet are not reached: import them first.

    Args:
        seed: a whole number, 0 ≤ seed < 2**32.
        deterministic: whether to make frameworks compute the same every time, too, which may be
            slower. What that changed is told on standard error.

    Raises:
        TypeError: when the seed isn't a whole number.
        ValueError: when it is out of range.
    """
    seed = check_seed(seed)
    sow(seed)
    if deterministic:
        for source in adapters.random_sources():
            _make_deterministic(source)
    return seed


def _make_deterministic(source: RandomSource) -> None:
    changed = _asked(source, source.make_deterministic)
    if changed is not _FAILED and changed:
        print(f"flowyml: {source.name} is deterministic now: {', '.join(changed)}", file=sys.stderr)


def check_seed(seed: Any) -> int:
    """Return a valid seed as an int; see `seed_everything`."""
    if isinstance(seed, bool):
        raise TypeError(f"a seed has to be a whole number; got {seed!r}")
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"a seed has to be a whole number; got {seed!r}") from None
    if not 0 <= number < _LIMIT:
        raise ValueError(f"a seed has to lie in 0 ≤ seed < 2**32; got {number}")
    return number


def derived(seed: int, purpose: str) -> int:
    """Return a seed that follows from another one: other numbers for another purpose."""
    return int(digest_of_bytes(f"{seed} {purpose}".encode())[:8], 16)


def of_rank(seed: int, group: Group | None) -> int:
    """Return the seed of one of several processes: that of rank 0 is the seed itself."""
    return derived(seed, f"rank {group.rank}") if group is not None and group.rank else seed


@attrs.frozen(eq=False)
class Randomness:
    """The states of all random generators at one moment, as far as they can be had."""

    _states: tuple[tuple[RandomSource, Any], ...]

    @classmethod
    def now(cls) -> Randomness:
        """Look at the generators."""
        sources = adapters.random_sources()
        return cls(tuple((source, _asked(source, source.state)) for source in sources))

    def restore(self) -> None:
        """Put the generators back into these states.

        Raises:
            Warning: after every source had its turn, where warnings are errors.
        """
        warning: Warning | None = None
        for source, state in self._states:
            try:
                if state is not _FAILED:
                    _asked(source, source.restore, state)
            except Warning as error:  # warnings are errors for this user: after the other sources
                warning = warning or error
        if warning is not None:
            raise warning

    def packed(self) -> dict[str, bytes]:
        """Return the states as bytes by library, of those whose source can pack them."""
        found = {}
        for source, state in self._states:
            packed = _FAILED if state is _FAILED else _asked(source, source.pack, state)
            if isinstance(packed, bytes):
                found[str(source.name)] = packed
        return found


def put(states: Mapping[str, bytes]) -> list[str]:
    """Put generators into packed states, by library; return the libraries that can't be."""
    sources = {str(source.name): source for source in adapters.random_sources()}
    failed = []
    for name, packed in states.items():
        source = sources.get(name)
        if source is None or _asked(source, _unpack_and_restore, source, packed) is _FAILED:
            failed.append(name)
    return failed


def _unpack_and_restore(source: RandomSource, packed: bytes) -> None:
    source.restore(source.unpack(packed))


@contextmanager
def kept() -> Iterator[Randomness]:
    """Put the random states back after a with block."""
    before = Randomness.now()
    try:
        yield before
    finally:
        before.restore()


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed everything for the time of a with block, then put the outer state back."""
    if seed is None:
        yield
        return
    with kept():
        sow(seed)
        yield


def sow(seed: int) -> None:
    """Seed every source."""
    for source in adapters.random_sources():
        _asked(source, source.seed, seed)


_FAILED = object()


def _asked(source: RandomSource, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call; a source that fails is told of, and takes no result and no other source with it."""
    try:
        return call(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        warn(
            f"The random source {source.name!r} failed: {told(error)}",
            AdapterWarning,
        )
        return _FAILED
