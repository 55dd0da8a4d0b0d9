"""Fixtures: a store, a new process, and ways to save and load without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowyml import Store
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml.trust import Trust
from flowyml_sklearn.plugin import EstimatorMaterializer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in a new process and return what it printed; it has to succeed."""

    def run(code: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


class Files:
    """Saves estimators as files and loads files, as the store lets the materializer do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def save(self, estimator: Any) -> tuple[dict[str, bytes], SaveResult]:
        folder = self._new()
        result = EstimatorMaterializer().save(estimator, folder, SaveOptions("skops"))
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, result

    def load(
        self, files: Mapping[str, bytes], trust: Any = (), result: SaveResult | None = None
    ) -> Any:
        folder = self._new()
        paths = {name: folder / name for name in files}
        for name, content in files.items():
            paths[name].parent.mkdir(exist_ok=True)
            paths[name].write_bytes(content)
        saved = Saved("model@v1", "skops", paths, result or SaveResult())
        return EstimatorMaterializer().load(saved, LoadOptions(trust=Trust.of(trust)))

    def _new(self) -> Path:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)
