"""Seeding: the same seed gives the same random numbers, and the user's own stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowyml import seed_everything
from flowyml.interfaces import RandomSource
from flowyml.seeds import seeded
from flowyml.testing.checks import blaming, check, contents, digest_of
from flowyml.testing.predictions import difference, is_same, plain
from flowyml.testing.subject import ConformanceError, Subject

_SOURCE = (
    "Seed, read and restore the same generators, those that the framework draws from; state() has "
    "to return a copy of their state."
)


@check
def check_seeds_reproduce(subject: Subject) -> None:
    """One seed gives equal random numbers, another other ones, and the outer state comes back."""
    subject.make_model()  # which imports what there is to seed
    sources = contents(subject).random_sources
    with seeded(0):  # which puts everything back in the end
        for source in sources:
            _check_source(source)
        if subject.draw() is not None:
            _check_draws(lambda: plain(subject.draw(), "draw()"))
        elif not sources:
            _check_models(subject)


def _check_source(source: RandomSource) -> None:
    name = f"The random source {source.name!r}"
    with blaming(name, "seed() takes 0 ≤ seed < 2**32; restore() takes what state() returned."):
        states = []
        for seed in (1, 2**32 - 1, 1, 0):
            source.seed(seed)
            states.append(source.state())
        first, other, again, _ = states
        source.restore(first)
        restored = source.state()
    if is_same(first, other):
        raise ConformanceError(f"{name} has the same state after two seeds. {_SOURCE}")
    if not is_same(first, again):
        raise ConformanceError(f"{name} has two states after one seed. {_SOURCE}")
    if not is_same(first, restored):
        raise ConformanceError(
            f"{name} has another state after restore(state) than state() had returned. {_SOURCE}"
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
    outer = draw()
    seed_everything(3)
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
