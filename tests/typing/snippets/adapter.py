"""An adapter as its author writes it, complete and right."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, assert_type

from flowyml import adapters, hookimpl
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
from flowyml.testing import AdapterConformance

api_version = 1


class Net:
    """A model of the toy framework."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class NetExtractor(Extractor):
    framework = "toy"
    modules = ("toy",)
    accepts = "a toy.Net"
    options = frozenset({"example_inputs"})

    def detect(self, obj: object) -> bool:
        return "toy" in sys.modules and isinstance(obj, Net)

    def extract(self, obj: Net, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"parameters": len(obj.weights)}

    def outline(self, obj: Net) -> Layer:
        return Layer("", "Net", parameters=len(obj.weights))


class NetMaterializer(Materializer):
    key = "toy.net"
    formats = ("json",)
    accepts: ClassVar[frozenset[str]] = frozenset({"into"})

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Net)

    def save(self, obj: Net, folder: Path, options: SaveOptions) -> SaveResult:
        assert_type(options.format, str)
        assert_type(options.described_with, Mapping[str, Any])
        path = folder / "net.json"
        path.write_text(json.dumps(obj.weights))
        options.done(path)
        earlier = options.earlier()
        if earlier is not None:
            assert_type(earlier.keep("net.json"), bool)
        return SaveResult(details={"count": len(obj.weights)})

    def load(self, saved: Saved, options: LoadOptions) -> Net:
        assert_type(saved.files["net.json"], Path)
        assert_type(options.trust.allows("toy.Net"), bool)
        return Net(json.loads(saved.files["net.json"].read_text()))


class Generator(RandomSource):
    name = "toy"

    def seed(self, seed: int) -> None:
        del seed

    def state(self) -> int:
        return 0

    def restore(self, state: int) -> None:
        del state


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    return [NetExtractor()]


@hookimpl
def flowyml_register_materializers() -> tuple[NetMaterializer]:
    return (NetMaterializer(),)


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    return [Generator()]


class Plugin:
    """What is registered by hand may be an object as well."""

    @hookimpl
    def flowyml_register_extractors(self) -> list[Extractor]:
        return [NetExtractor()]


class TestToy(AdapterConformance):
    framework = "toy"

    def make_model(self) -> Net:
        return Net([1.0])

    def change_model(self, model: Net) -> Net:
        model.weights[0] += 1
        return model

    def predict(self, model: Net) -> list[float]:
        return model.weights


def use() -> None:
    assert_type(flowyml_register_extractors(), list[Extractor])
    assert_type(flowyml_register_materializers(), tuple[NetMaterializer])
    assert_type(Plugin().flowyml_register_extractors(), list[Extractor])
    info = adapters.register(Plugin(), name="toy")
    assert_type(info, adapters.AdapterInfo)
    assert_type(info.error, BaseException | None)
    assert_type([each.distribution for each in adapters.list()], list[str | None])
    assert_type(adapters.extractor_of(Net([])), Extractor)
