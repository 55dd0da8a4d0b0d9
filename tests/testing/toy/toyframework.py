"""A framework as small as can be: polynomials, and a generator of random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

generator = random.Random()


class Polynomial:
    """Sums up ``coefficients[i] * x**i``, and hands the sum to a function.

    The title is a setting: no prediction depends on it.
    """

    def __init__(
        self,
        coefficients: list[float],
        then: Callable[[float], float] | None = None,
        title: str = "untitled",
    ) -> None:
        self.coefficients = coefficients
        self.then = then
        self.title = title

    def __call__(self, x: float) -> float:
        total = sum(c * x**power for power, c in enumerate(self.coefficients))
        return total if self.then is None else self.then(total)


class Curve:
    """Has coefficients as well, and is no model."""

    def __init__(self) -> None:
        self.coefficients = [1.0]


def drawn(count: int) -> list[float]:
    """Draw from the generator."""
    return [generator.random() for _ in range(count)]
