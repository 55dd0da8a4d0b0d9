"""Whether the adapter does what flowyml promises of every adapter; a failing check says what to do.

New processes import this module and call these methods too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from flowyml.testing import AdapterConformance

from flowyml_yourframework import toy

ROWS = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]]


class TestConformance(AdapterConformance):
    """REPLACE: the model, and in each method what the framework has instead of the toy's."""

    framework = "yourframework"

    def make_model(self) -> toy.Linear:
        """Train a model: the same one in every process."""
        toy.generator.seed(0)
        return toy.untrained(2).fit(ROWS, [1.0, 2.0, 3.0, 5.0])

    def change_model(self, model: toy.Linear) -> toy.Linear:
        """Change one weight by as little as can be."""
        model.weights[0] = math.nextafter(model.weights[0], math.inf)
        return model

    def predict(self, model: toy.Linear) -> list[float]:
        """Predict for rows that are always the same."""
        return model.predict(ROWS)

    def variants(self) -> list[toy.Linear]:
        """Return models that differ from that of `make_model` in another thing each."""
        model = self.make_model()
        return [toy.Linear(model.weights, model.bias, rate=0.2), toy.Linear([*model.weights, 0.0])]

    def other_objects(self) -> list[object]:
        """Return what comes close to a model and isn't one."""

        class Derived(toy.Linear):
            pass

        return [toy.Linear, Derived([1.0]), toy.generator, toy]

    def draw(self) -> list[float]:
        """Draw from the framework's generator."""
        return toy.untrained(4).weights

    def hostile_files(self, files: Mapping[str, bytes]) -> Iterator[Mapping[str, bytes]]:
        """Return files that have to be refused, beside those that the kit thinks of itself."""
        yield {**files, "model.json": b'{"schema": 1, "features": 2, "rate": NaN}'}
        yield {**files, "model.json": b'{"schema": 1, "features": 1e9, "rate": 0.1}'}
        yield {**files, "weights.bin": files["weights.bin"][:-1]}
