"""Turns models into files and back.

The files are made of JSON and plain numbers, so that nothing in them can be run. The same model
gives the same bytes, and a file may come from a stranger: everything is checked before it is used.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult

from flowyml_yourframework.recognition import MODEL, MODULES, is_model

if TYPE_CHECKING:
    from flowyml_yourframework import toy

# REPLACE: your files. The first says how the model is built, the second holds what it has learned.
SETTINGS = "model.json"
WEIGHTS = "weights.bin"

SCHEMA = 1
"""One more when what is written changes in a way that an older adapter can't read."""


class ModelMaterializer(Materializer):
    """Saves a linear model, whole."""

    modules = MODULES
    key = "yourframework.model"  # stands in all that users store: it never changes
    formats = ("linear",)  # REPLACE: a name for what is written below
    types = (MODEL,)
    # REPLACE: {"device"} if load() heeds options.device, {"into"} if it heeds options.into.
    accepts = frozenset()

    def detect(self, obj: object) -> bool:
        """Tell whether it is a model."""
        return is_model(obj)

    def save(self, obj: toy.Linear, folder: Path, options: SaveOptions) -> SaveResult:
        """Write the settings as JSON, and weights and bias as floats of 64 bits."""
        # REPLACE: write into this folder only, and nothing that differs from one time to the next.
        settings = {"schema": SCHEMA, "features": len(obj.weights), "rate": float(obj.rate)}
        text = json.dumps(settings, indent=1, sort_keys=True, allow_nan=False)
        (folder / SETTINGS).write_text(text, encoding="utf-8", newline="\n")
        numbers = (*obj.weights, obj.bias)
        (folder / WEIGHTS).write_bytes(struct.pack(f"<{len(numbers)}d", *numbers))
        return SaveResult()

    def load(self, saved: Saved, options: LoadOptions) -> toy.Linear:
        """Build the model anew."""
        # Only here, as loading the adapter must not import the framework.
        from flowyml_yourframework import toy

        # REPLACE: read and check the files, then build the model by the framework's own means.
        features, rate = _settings_of(saved)
        *weights, bias = _numbers_of(saved, features + 1)
        return toy.Linear(weights, bias, rate=rate)


def _settings_of(saved: Saved) -> tuple[int, float]:
    try:
        settings = json.loads(_read(saved, SETTINGS))
    except (ValueError, RecursionError) as error:
        raise _unfit(saved, SETTINGS, f"it isn't JSON: {error}") from error
    if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
        raise _unfit(saved, SETTINGS, f"it isn't of schema {SCHEMA}; upgrading may help")
    features, rate = settings.get("features"), settings.get("rate")
    if type(features) is not int or features < 0:
        raise _unfit(saved, SETTINGS, "its features aren't a number of columns")
    if type(rate) is not float or not math.isfinite(rate):
        raise _unfit(saved, SETTINGS, "its rate isn't a finite float")
    return features, rate


def _numbers_of(saved: Saved, count: int) -> tuple[float, ...]:
    data = _read(saved, WEIGHTS)
    if len(data) != 8 * count:
        raise _unfit(saved, WEIGHTS, f"its {len(data)} bytes don't fit the features")
    return struct.unpack(f"<{count}d", data)


def _read(saved: Saved, path: str) -> bytes:
    if path not in saved.files:
        raise _unfit(saved, path, "it is missing")
    return saved.files[path].read_bytes()


def _unfit(saved: Saved, path: str, why: str) -> MaterializationError:
    return MaterializationError(f"{saved.ref} can't be loaded: {path} is unfit: {why}.")
