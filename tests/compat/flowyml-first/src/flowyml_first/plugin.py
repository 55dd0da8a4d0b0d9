"""Uses everything that version 1 of the interfaces has, the way its documentation says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flowyml
from flowyml.errors import MaterializationError
from flowyml.interfaces import (
    Extractor,
    Layer,
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)

if TYPE_CHECKING:
    from flowyml_first import Polynomial

api_version = 1


def _is_polynomial(obj: object) -> bool:
    # The framework is the package of the plugin itself, so it is always imported.
    return type(obj) is sys.modules["flowyml_first"].Polynomial


class PolynomialExtractor(Extractor):
    framework = "first"
    accepts = "a flowyml_first.Polynomial"
    options = frozenset({"at"})
    optional = frozenset({"value"})

    def detect(self, obj: object) -> bool:
        return _is_polynomial(obj)

    def extract(self, obj: Polynomial, options: Mapping[str, Any]) -> Mapping[str, Any]:
        count = len(obj.coefficients)
        found = {
            "architecture": "Polynomial",
            "model_class": "Polynomial",
            "parameters": count,
            "trainable_parameters": count,
            "frozen_parameters": 0,
            "dtype": "float",
        }
        at = options.get("at")
        return found if at is None else {**found, "value": obj(at)}

    def outline(self, obj: Polynomial) -> Layer | None:
        terms = (Layer(f"x{power}", "Term", 1, 1) for power in range(len(obj.coefficients)))
        return Layer("", "Polynomial", len(obj.coefficients), len(obj.coefficients), (), (*terms,))

    def default_name(self, obj: Polynomial) -> str:
        return f"degree-{len(obj.coefficients) - 1}"


class PolynomialMaterializer(Materializer):
    key = "first.polynomial"
    formats = ("json", "list")
    types = ("flowyml_first.Polynomial",)
    conversions = MappingProxyType({"json": ("list",)})
    accepts = frozenset({"into"})

    def detect(self, obj: object) -> bool:
        return _is_polynomial(obj)

    def can_save(self, obj: Polynomial, format: str, described_with: Mapping[str, Any]) -> bool:
        return format == "json" or bool(obj.coefficients)

    def save(self, obj: Polynomial, folder: Path, options: SaveOptions) -> SaveResult:
        text = json.dumps(obj.coefficients).encode()
        options.expect(len(text))
        earlier = options.earlier()
        if earlier is None or not (
            "coefficients.json" in earlier.files()
            and earlier.details().get("count") == len(obj.coefficients)
            and earlier.read("coefficients.json") == text
            and earlier.keep("coefficients.json")
        ):
            (folder / "coefficients.json").write_bytes(text)
            options.done(folder / "coefficients.json")
        if options.format == "list":
            reason = "it was saved as a list"
            return SaveResult("weights", reason, (), {"count": len(obj.coefficients)})
        details = {"count": len(obj.coefficients)}
        return SaveResult(details=details, content=("coefficients.json",))

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        try:
            coefficients = json.loads(saved.files["coefficients.json"].read_bytes())
            fits = isinstance(coefficients, list) and {*map(type, coefficients)} <= {float}
            fits = fits and len(coefficients) == saved.result.details["count"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise MaterializationError(f"{saved.ref}: coefficients.json is unfit") from error
        if not fits:
            raise MaterializationError(f"{saved.ref}: coefficients.json doesn't fit")
        if options.into is not None:
            if not _is_polynomial(options.into):
                raise MaterializationError(f"{saved.ref} needs into=Polynomial(...)")
            options.into.coefficients = coefficients
            return options.into
        if saved.format == "list" or options.format == "list":
            return coefficients
        return sys.modules["flowyml_first"].Polynomial(coefficients)

    def blame(self, saved: Saved, path: str) -> str | None:
        return f"all {saved.result.details['count']} coefficients"


class Generator(RandomSource):
    name = "first"

    def seed(self, seed: int) -> None:
        sys.modules["flowyml_first"].Polynomial.generator.seed(seed)

    def state(self) -> Any:
        return sys.modules["flowyml_first"].Polynomial.generator.getstate()

    def restore(self, state: Any) -> None:
        sys.modules["flowyml_first"].Polynomial.generator.setstate(state)


@flowyml.hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    return [PolynomialExtractor()]


@flowyml.hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    return [PolynomialMaterializer()]


@flowyml.hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    return [Generator()]
