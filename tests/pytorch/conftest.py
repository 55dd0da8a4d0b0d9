"""Fixtures of the PyTorch adapter's tests: a store, quiet torch, new processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from flowyml import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def away_from_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWYML_STORE", str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a new process and return what it printed; it has to succeed."""

    def run(code: str, *arguments: str, name: str = "script.py") -> str:
        (tmp_path / name).write_text(code)
        done = subprocess.run(
            [sys.executable, name, *arguments],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
