"""The framework: a polynomial of chance coefficients."""

from __future__ import annotations

import random


class Polynomial:
    """Numbers by power."""

    generator = random.Random(0)

    def __init__(self, coefficients: list[float]) -> None:
        self.coefficients = coefficients

    @classmethod
    def drawn(cls, degree: int) -> Polynomial:
        """Draw coefficients from the framework's own generator."""
        return cls([cls.generator.uniform(-1, 1) for _ in range(degree + 1)])

    def __call__(self, x: float) -> float:
        """Evaluate it at x."""
        return sum(c * x**power for power, c in enumerate(self.coefficients))
