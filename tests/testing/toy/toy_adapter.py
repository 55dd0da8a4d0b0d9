"""An adapter of the toy framework that keeps every promise."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flowyml
from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError, UntrustedDataError
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


def is_polynomial(obj: object) -> bool:
    toyframework = sys.modules.get("toyframework")
    return toyframework is not None and type(obj) is toyframework.Polynomial


class ToyExtractor(Extractor):
    modules = ("toyframework",)
    framework = "toy"

    def detect(self, obj: object) -> bool:
        return is_polynomial(obj)

    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        count = len(obj.coefficients)
        return {
            "architecture": "Polynomial",
            "model_class": type(obj).__name__,
            "parameters": count,
            "trainable_parameters": count,
            "frozen_parameters": 0,
            "layer_types": ["Polynomial"],
            "tensor_shapes_sample": {"coefficients": [count]},
            "training_mode": False,
            "title": obj.title,
        }

    def outline(self, obj: Any) -> Layer:
        count = len(obj.coefficients)
        return Layer("", "Polynomial", count, count)

    def environment(self) -> Mapping[str, Any]:
        return {"generator": "Mersenne Twister"}


class ToyMaterializer(Materializer):
    modules = ("toyframework",)
    key = "toy.model"
    formats = ("whole", "numbers")
    types = ("toyframework.Polynomial",)
    accepts = frozenset({"into"})

    def detect(self, obj: object) -> bool:
        return is_polynomial(obj)

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        for path, text in self.texts(obj, options.format).items():
            (folder / path).write_text(text)
        if options.format == "numbers":
            return SaveResult("weights", "this format keeps numbers only")
        then = self.name(obj.then)
        return SaveResult(required_trust=() if then is None else (then,))

    def digests(self, obj: Any, format: str) -> Mapping[str, str]:
        texts = self.texts(obj, format)
        return {path: digest_of_bytes(text.encode()) for path, text in texts.items()}

    def settings(self, obj: Any) -> Mapping[str, Any]:
        return {"degree": len(obj.coefficients) - 1, "title": obj.title}

    def texts(self, obj: Any, format: str) -> dict[str, str]:
        texts = {"numbers.json": json.dumps(obj.coefficients)}
        if format == "whole":
            texts["title.json"] = json.dumps(obj.title)
            texts["then.json"] = json.dumps(self.name(obj.then))
        return texts

    def name(self, function: Any) -> str | None:
        return None if function is None else f"{function.__module__}.{function.__qualname__}"

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        import toyframework

        coefficients = self.read(saved, "numbers.json")
        if not isinstance(coefficients, list) or {*map(type, coefficients)} != {float}:
            raise MaterializationError(f"{saved.ref}: numbers.json isn't a list of numbers")
        if saved.format == "numbers" and options.into is None:
            return coefficients
        if options.into is not None and not is_polynomial(options.into):
            raise MaterializationError(f"{saved.ref} needs into=Polynomial(...)")
        if saved.format == "numbers":
            options.into.coefficients = coefficients
            return options.into
        then, title = self.function(saved, options), self.title(saved)
        obj = toyframework.Polynomial([]) if options.into is None else options.into
        obj.coefficients, obj.then, obj.title = coefficients, then, title
        return obj

    def title(self, saved: Saved) -> str:
        title = self.read(saved, "title.json")
        if type(title) is not str:
            raise MaterializationError(f"{saved.ref}: title.json isn't a text")
        return title

    def function(self, saved: Saved, options: LoadOptions) -> Any:
        name = self.read(saved, "then.json")
        if name is None:
            return None
        if type(name) is not str:
            raise MaterializationError(f"{saved.ref}: then.json isn't a name")
        if not options.trust.allows(name):
            raise UntrustedDataError(f"{saved.ref} needs trust=[{name!r}]", [name])
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute, None)
        if getattr(found, "__module__", None) != module:  # trust in "a.*" isn't in what a imports
            raise MaterializationError(f"{saved.ref}: {name} isn't defined there")
        return found

    def read(self, saved: Saved, path: str) -> Any:
        try:
            return json.loads(saved.files[path].read_bytes())
        except (KeyError, ValueError, RecursionError) as error:
            raise MaterializationError(f"{saved.ref}: {path} is unfit") from error


class ToySource(RandomSource):
    name = "toy"

    def seed(self, seed: int) -> None:
        toyframework = sys.modules.get("toyframework")
        if toyframework is not None:
            toyframework.generator.seed(seed)

    def state(self) -> Any:
        toyframework = sys.modules.get("toyframework")
        return None if toyframework is None else toyframework.generator.getstate()

    def restore(self, state: Any) -> None:
        if state is not None:
            sys.modules["toyframework"].generator.setstate(state)

    def pack(self, state: Any) -> bytes | None:
        return None if state is None else json.dumps(state).encode()

    def unpack(self, data: bytes) -> Any:
        version, words, gauss = json.loads(data)
        return version, tuple(words), gauss


class Plugin:
    """The plugin: the parts of the toy adapter, or others in their place."""

    api_version = 2

    def __init__(
        self,
        extractor: type[Extractor] = ToyExtractor,
        *materializers: type[Materializer],
        sources: tuple[type[RandomSource], ...] = (ToySource,),
    ) -> None:
        self.extractor = extractor
        self.materializers = materializers or (ToyMaterializer,)
        self.sources = sources

    @flowyml.hookimpl
    def flowyml_register_extractors(self) -> list[Extractor]:
        return [self.extractor()]

    @flowyml.hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [materializer() for materializer in self.materializers]

    @flowyml.hookimpl
    def flowyml_register_random_sources(self) -> list[RandomSource]:
        return [source() for source in self.sources]


plugin = Plugin()
