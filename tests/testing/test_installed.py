"""Adapters that are found by their entry points, as those of a third party are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_subject import Toy

from flowyml import adapters, registry, testing
from flowyml.testing import ConformanceError

REGISTERED = testing.check_the_adapter_is_registered
COLD = testing.check_importing_is_free_of_the_framework
UNIMPORTED = testing.check_detection_needs_no_framework
DETECTED = testing.check_the_right_objects_are_detected
BACK = testing.check_a_saved_model_comes_back


class Installed(Toy):
    plugin = None


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with an entry point where it is discovered, here and in new processes."""

    def put(code: str, name: str = "toy") -> None:
        (tmp_path / "installed_adapter.py").write_text(code)
        info = tmp_path / "toy_adapter-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-adapter\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[flowyml.adapters]\n{name} = installed_adapter\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(adapters, "_registry", registry.Registry(adapters._scan()))

    monkeypatch.delitem(sys.modules, "installed_adapter", raising=False)
    return put


PLUGIN = """
import flowyml, toy_adapter
api_version = 1

@flowyml.hookimpl
def flowyml_register_extractors():
    return [toy_adapter.ToyExtractor()]

@flowyml.hookimpl
def flowyml_register_materializers():
    return [toy_adapter.ToyMaterializer()]
"""


def test_an_installed_adapter_needs_no_plugin(install: Callable[..., None]) -> None:
    install(PLUGIN)
    for check in (REGISTERED, COLD, UNIMPORTED, DETECTED, BACK):
        check(Installed())


def test_an_installed_adapter_that_prints_is_told(install: Callable[..., None]) -> None:
    install("print('Welcome!')\n" + PLUGIN)
    with pytest.raises(
        ConformanceError, match="'toy' \\(toy-adapter 1.2\\) loads with a warning.*pri"
    ):
        REGISTERED(Installed())
    with pytest.raises(ConformanceError, match=r"prints .*Welcome!.* Take the print away"):
        COLD(Installed())


def test_an_installed_adapter_that_is_broken_is_told_with_its_cause(
    install: Callable[..., None],
) -> None:
    install("import nothing_like_it")
    with pytest.raises(ConformanceError, match="No module named 'nothing_like_it'. Mend the plug"):
        REGISTERED(Installed())


def test_an_adapter_that_is_switched_off_is_told(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWYML_DISABLE_ADAPTERS", "toy")
    install(PLUGIN)
    with pytest.raises(ConformanceError, match="switched off by FLOWYML_DISABLE_ADAPTERS. Unset"):
        REGISTERED(Installed())


def test_an_entry_point_has_the_name_of_the_framework(install: Callable[..., None]) -> None:
    class Polynomials(Installed):
        framework = "polynomials"

    install(PLUGIN, name="polynomials")
    with pytest.raises(ConformanceError, match="no extractor of the framework 'polynomials'"):
        REGISTERED(Polynomials())
