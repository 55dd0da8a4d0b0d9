"""A toy in the place of your framework: linear regression on lists of floats.

REPLACE: delete this file once nothing imports it any more. The adapter uses only what a framework
would have: a class of models, and a random generator for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

generator = random.Random()
"""What `untrained` draws from."""


class Linear:
    """A linear model: ``bias + weights[0] * row[0] + weights[1] * row[1] + ...``."""

    def __init__(self, weights: Sequence[float], bias: float = 0.0, *, rate: float = 0.1) -> None:
        self.weights = list(weights)
        self.bias = bias
        self.rate = rate

    def fit(self, rows: Sequence[Sequence[float]], targets: Sequence[float]) -> Linear:
        """Take a hundred steps down the gradient of the mean squared error."""
        for _ in range(100):
            predictions = self.predict(rows)
            errors = [
                prediction - target for prediction, target in zip(predictions, targets, strict=True)
            ]
            step = 2 * self.rate / len(rows)
            for column in range(len(self.weights)):
                slope = sum(error * row[column] for error, row in zip(errors, rows, strict=True))
                self.weights[column] -= step * slope
            self.bias -= step * sum(errors)
        return self

    def predict(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Return one number for each row."""
        return [
            self.bias + sum(w * x for w, x in zip(self.weights, row, strict=True)) for row in rows
        ]


def untrained(features: int) -> Linear:
    """Return a model whose weights are drawn at random."""
    return Linear([generator.gauss(0.0, 1.0) for _ in range(features)])
