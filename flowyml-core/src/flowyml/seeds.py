"""Seeds: one number that reaches every source of randomness the adapters know."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flowyml import adapters
from flowyml.errors import AdapterWarning, told, warn
from flowyml.interfaces import RandomSource

_LIMIT = 2**32
"""NumPy's global generator takes no larger seed."""


def seed_everything(seed: int) -> int:
    """Seed Python, NumPy and every framework that an adapter brings; return the seed.

    Libraries that are not imported yet are not reached: import them first.

    Args:
        seed: a whole number, 0 ≤ seed < 2**32.

    Raises:
        TypeError: when it isn't a whole number.
        ValueError: when it is out of range.
    """
    seed = check_seed(seed)
    for source in adapters.random_sources():
        _told(source, source.seed, seed)
    return seed


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


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed everything for the time of a with block, then put the outer state back."""
    if seed is None:
        yield
        return
    states = [(source, _told(source, source.state)) for source in adapters.random_sources()]
    try:
        for source, _ in states:
            _told(source, source.seed, seed)
        yield
    finally:
        _restore(states)


def _restore(states: list[tuple[RandomSource, Any]]) -> None:
    warning: Warning | None = None
    for source, state in states:
        try:
            if state is not _FAILED:
                _told(source, source.restore, state)
        except Warning as error:  # warnings are errors for this user: after the other sources
            warning = warning or error
    if warning is not None:
        raise warning


_FAILED = object()


def _told(source: RandomSource, call: Callable[..., Any], *arguments: Any) -> Any:
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
