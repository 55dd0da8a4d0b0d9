"""The good adapter of the toy framework, as a subject of the kit; and the same with any other."""

from __future__ import annotations

import math
import os

import toyframework

from flowyml.testing import Subject


class Toy(Subject):
    framework = "toy"
    plugin = "toy_adapter:plugin"
    properties = ("architecture", "model_class", "parameters", "title")

    def make_model(self) -> toyframework.Polynomial:
        return toyframework.Polynomial([0.1, 0.2, 0.3], title="rising")

    def change_model(self, model: toyframework.Polynomial) -> toyframework.Polynomial:
        model.coefficients[1] = math.nextafter(model.coefficients[1], 1)
        return model

    def predict(self, model: toyframework.Polynomial) -> list[float]:
        return [model(x) for x in (0.0, 0.5, math.nan)]

    def variants(self) -> list[toyframework.Polynomial]:
        return [
            toyframework.Polynomial([0.1, 0.2, 0.3], title="falling"),
            toyframework.Polynomial([0.1, 0.2, 0.3, 0.0], title="rising"),
        ]

    def make_model_that_needs_trust(self) -> toyframework.Polynomial:
        import their_functions

        return toyframework.Polynomial([0.1, 0.2], their_functions.squared)

    def other_objects(self) -> list[object]:
        return [toyframework.Curve(), toyframework.drawn]

    def draw(self) -> list[float]:
        return toyframework.drawn(3)


class Faulty(Toy):
    """The toy with another plugin, which new processes find in the environment too."""

    @property
    def plugin(self) -> str:  # type: ignore[override]
        return os.environ["TOY_PLUGIN"]
