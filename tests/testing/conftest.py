"""What the kit's tests share: the modules of the toy framework, and a place of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flowyml import Store, adapters, registry

TOYS = str(Path(__file__).parent / "toy")
if TOYS not in sys.path:  # new processes have the same path
    sys.path.append(TOYS)


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
