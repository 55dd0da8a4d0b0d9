"""Fixtures of the core's tests: a store, fresh adapters, a toy framework, new processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import flowyml
from flowyml import Store, adapters, registry
from flowyml.interfaces import (
    Extractor,
    LoadOptions,
    Materializer,
    Saved,
    SaveOptions,
    SaveResult,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def away_from_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWYML_STORE", raising=False)


@pytest.fixture(autouse=True)
def fresh_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers end with the test."""
    monkeypatch.setattr(adapters, "_registry", registry.Registry(adapters._scan()))


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in a new process and return what it printed; it has to succeed."""

    def run(code: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


class Toy:
    """A model of a toy framework."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class ToyExtractor(Extractor):
    framework = "toy"
    accepts = "a Toy"
    options = frozenset({"example_inputs"})

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Toy)

    def extract(self, obj: Toy, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"parameters": len(obj.weights), "architecture": "Toy", "options": dict(options)}


class ToyMaterializer(Materializer):
    key = "toy.model"
    formats = ("toy", "compact")
    types = ("Toy",)

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Toy)

    def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
        (folder / "parts").mkdir()
        (folder / "parts" / "weights.json").write_text(json.dumps(obj.weights))
        (folder / "format.txt").write_text(options.format)
        return SaveResult(details={"count": len(obj.weights)})

    def load(self, saved: Saved, options: LoadOptions) -> Toy:
        weights = json.loads(saved.files["parts/weights.json"].read_text())
        assert len(weights) == saved.result.details["count"]
        return Toy(weights)


class ToyAdapter:
    @flowyml.hookimpl
    def flowyml_register_extractors(self) -> list[Extractor]:
        return [ToyExtractor()]

    @flowyml.hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [ToyMaterializer()]


@pytest.fixture
def toy(fresh_adapters: None) -> type[Toy]:
    """The class of the toy framework's models, its adapter being registered."""
    adapters.register(ToyAdapter(), name="toy")
    return Toy
