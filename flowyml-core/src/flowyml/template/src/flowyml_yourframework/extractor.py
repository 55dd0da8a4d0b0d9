"""Describes models: what `Model.from_yourframework` knows of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowyml.interfaces import Extractor, Layer

from flowyml_yourframework.recognition import MODEL, MODULES, is_model

if TYPE_CHECKING:
    from flowyml_yourframework import toy


class ModelExtractor(Extractor):
    """Describes a linear model."""

    modules = MODULES
    framework = "yourframework"  # the name of the entry point
    accepts = f"a {MODEL}"

    def detect(self, obj: object) -> bool:
        """Tell whether it is a model."""
        return is_model(obj)

    def extract(self, obj: toy.Linear, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties of a model."""
        # REPLACE: give of these what the framework knows. `Model` has an attribute for each.
        count = len(obj.weights) + 1
        standard = {
            "architecture": "Linear",
            "model_class": type(obj).__name__,
            "parameters": count,
            "trainable_parameters": count,
            "frozen_parameters": 0,
            "num_layers": 1,
            "layer_types": ["Linear"],
            "num_tensors": 2,
            "tensor_shapes_sample": {"weights": [len(obj.weights)], "bias": []},
            "device": "cpu",
            "dtype": "float64",
        }
        # REPLACE: add what else tells models apart. No data: shapes and settings.
        return {**standard, "features": len(obj.weights), "rate": obj.rate}

    def outline(self, obj: toy.Linear) -> Layer:
        """Return the tree of layers that `Model.summary` shows."""
        # REPLACE: one Layer for each part, the parts of a part being its children; or delete this.
        count = len(obj.weights) + 1
        return Layer("", "Linear", parameters=count, trainable=count)
