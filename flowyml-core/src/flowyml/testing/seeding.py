"""Seeding: the same seed gives the same random numbers, and the user's own stay what they were."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flowyml import adapters, seed_everything
from flowyml.interfaces import RandomSource
from flowyml.properties import type_name
from flowyml.seeds import seeded
from flowyml.testing.checks import blaming, check, contents, digest_of, in_words
from flowyml.testing.predictions import difference, is_same, plain
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import Bare, ConformanceError, Subject, bare

__tracebackhide__ = True

_SOURCE = (
    "Seed, read and restore the same generators, those that the framework draws from; state() has "
    "to return a copy of their state."
)


@check
def check_seeds_reproduce(subject: Subject) -> None:
    """One seed gives equal random numbers, another other ones, and the outer state comes back.

    A random source leaves those of other libraries alone, and does nothing where the framework
    isn't imported. States that it packs are equal bytes when they are equal, and come back.
    """
    subject.make_model()  # which imports what there is to seed
    sources = contents(subject).random_sources
    with seeded(0):  # which puts everything back in the end
        for source in sources:
            _check_source(source)
        if subject.draw() is not None:
            _check_draws(lambda: plain(subject.draw(), "draw()"))
        elif not sources:
            _check_models(subject)
    if sources:
        in_new_process(bare(subject), _seed_nothing, with_subject=False)


def _seed_nothing(subject: Bare) -> None:
    """Use the sources where there is nothing to seed."""
    for source in contents(subject).random_sources:
        what = f"The random source {source.name!r}, the framework not being imported,"
        with blaming(what, f"state() returns None then, and restore(None) does nothing. {_LOOK}"):
            state = source.state()
            source.seed(1)
            source.restore(state)
            if source.pack(state) is not None:
                raise ConformanceError(f"{what} packs None as a state. Return None for it.")
        imported = sorted({*subject.modules} & {*sys.modules})
        if imported:
            raise ConformanceError(f"{what} imports {', '.join(imported)}. {_LOOK}")


_LOOK = "Ask sys.modules.get() for it, and do nothing when it isn't there."


def _check_source(source: RandomSource) -> None:
    name = f"The random source {source.name!r}"
    others = [other for other in adapters.random_sources() if other.name != source.name]
    before = [other.state() for other in others]
    with blaming(name, "seed() takes 0 ≤ seed < 2**32; restore() takes what state() returned."):
        states = []
        for seed in (1, 2**32 - 1, 1, 2):
            source.seed(seed)
            states.append(source.state())
        first, other, again, _ = states
        source.restore(first)
        restored = source.state()
    for each, state in zip(others, before, strict=True):
        if not is_same(state, each.state()):
            raise ConformanceError(
                f"{name} changes the random state of {each.name!r}, which has a source of its "
                f"own. {_SOURCE}"
            )
    if is_same(first, other):
        raise ConformanceError(f"{name} has the same state after two seeds. {_SOURCE}")
    if not is_same(first, again):
        raise ConformanceError(f"{name} has two states after one seed. {_SOURCE}")
    if not is_same(first, restored):
        raise ConformanceError(
            f"{name} has another state after restore(state) than state() had returned. {_SOURCE}"
        )
    _check_packed(source, first, other, again)


def _check_packed(source: RandomSource, first: Any, other: Any, again: Any) -> None:
    """Check the bytes of states, of which the last is the first once more."""
    name = f"The random source {source.name!r}"
    with blaming(name, f"pack() takes what state() returned; it may return None. {_PACKED}"):
        packed = [source.pack(state) for state in (first, other, again)]
    if packed[0] is None:
        return
    if not all(isinstance(data, bytes) for data in packed):
        raise ConformanceError(f"{name} packs a state as a {type_name(packed[0])}. {_PACKED}")
    if packed[0] != packed[2] or packed[0] == packed[1]:
        what = "equal states as other" if packed[0] != packed[2] else "two states as the same"
        raise ConformanceError(f"{name} packs {what} bytes. {_PACKED}")
    with blaming(name, f"unpack() takes what pack() returned. {_PACKED}"):
        source.seed(3)
        source.restore(source.unpack(packed[0]))
        restored = source.pack(source.state())
    if restored != packed[0]:
        raise ConformanceError(
            f"{name} has another state after restore(unpack(data)) than was packed. {_PACKED}"
        )
    for data in (b"", packed[0][:-1], b"not a state"):
        try:
            source.unpack(data)
        except ValueError:
            continue
        except Exception as error:
            found = f"fails with {in_words(error)}"
        else:
            found = "is taken for a state"
        raise ConformanceError(
            f"{name} unpacks {len(data)} bytes that are no packed state: it {found}. Check them, "
            f"and raise a ValueError. {_PACKED}"
        )


_PACKED = (
    "Write down all of the state in one way, without pickle; or leave pack() and unpack() out."
)


def _check_draws(draw: Callable[[], Any]) -> None:
    with seeded(1):
        first = draw()
    with seeded(1):
        found = difference(first, draw(), "draw()")
    if found:
        raise ConformanceError(
            f"The same seed gives other numbers of the framework's generator: {found}. Return a "
            f"random source for it from flowyml_register_random_sources(). {_SOURCE}"
        )
    with seeded(2):
        if difference(first, draw()) is None:
            raise ConformanceError(
                f"Another seed gives the same numbers of the framework's generator. {_SOURCE}"
            )
    seed_everything(3)
    draw()  # so that a seed alone doesn't tell the state
    outer = draw()
    seed_everything(3)
    draw()
    with seeded(1):
        draw()
    found = difference(outer, draw(), "draw()")
    if found:
        raise ConformanceError(
            f"After a seeded step the user's own random numbers are other ones: {found}. "
            f"restore() of the random source has to put back what state() had returned. {_SOURCE}"
        )


def _check_models(subject: Subject) -> None:
    digests = set()
    for _ in range(2):
        with seeded(1):
            digests.add(digest_of(subject.make_model()))
    if len(digests) > 1:
        raise ConformanceError(
            "Two models that make_model() makes under one seed have two digests. Bring a random "
            "source for what the framework draws from, in flowyml_register_random_sources()."
        )
