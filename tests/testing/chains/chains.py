"""A framework as small as can be: chains of functions, one applied after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Chain:
    """Applies functions to a number."""

    def __init__(self, steps: Iterable[Callable[[float], float]] = ()) -> None:
        self.steps = [*steps]

    def __call__(self, number: float) -> float:
        for step in self.steps:
            number = step(number)
        return number
