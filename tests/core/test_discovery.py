"""Which entry points count, whatever else is installed and in whatever state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

from flowyml import adapters
from flowyml.errors import AdapterWarning

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution's metadata into a folder; the folder first named is last on the path."""

    def write(folder: str, name: str, entry_points: bytes, version: str = "1.0") -> Path:
        place = tmp_path / folder
        info = place / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_bytes(entry_points)
        if str(place) not in sys.path:
            monkeypatch.syspath_prepend(place)
        return info

    return write


def found() -> dict[str, str]:
    """The plugins that a scan finds now, by the adapters' names; without those installed here."""
    scanned = [(item.name, item.plugin) for item in adapters._scan() if item.name.startswith("toy")]
    assert len(dict(scanned)) == len(scanned), scanned
    return dict(scanned)


def adapter(module: str, name: str = "toy") -> bytes:
    return f"[console_scripts]\ncommand = x:y\n\n[flowyml.adapters]\n{name} = {module}\n".encode()


def test_an_entry_point_is_found_among_others(install: Install) -> None:
    install("site", "toy_one", adapter("one"))
    install("site", "unrelated", b"[console_scripts]\ntoy = unrelated:main\n")
    assert found() == {"toy": "one"}


def test_a_distribution_hides_those_of_its_name_that_come_later_on_the_path(
    install: Install,
) -> None:
    install("later", "toy_one", adapter("old"), "1.0")
    install("first", "Toy.One", adapter("new", "toy_renamed"), "2.0")
    assert found() == {"toy_renamed": "new"}


def test_a_distribution_without_an_adapter_any_more_hides_the_older_one_too(
    install: Install,
) -> None:
    install("later", "toy_one", adapter("old"), "1.0")
    install("first", "toy_one", b"", "2.0")
    assert found() == {}


def test_the_leftovers_of_a_failed_uninstall_are_nothing_and_hide_nothing(
    install: Install,
) -> None:
    install("later", "toy_one", adapter("whole"), "1.0")
    (install("first", "toy_one", adapter("left", "toy_left"), "0.9") / "METADATA").unlink()
    assert found() == {"toy": "whole"}


def test_the_name_in_the_metadata_counts_not_that_of_the_folder(install: Install) -> None:
    info = install("site", "toy_one", adapter("one"))
    info.rename(info.with_name("renamed-1.0.dist-info"))
    assert found() == {"toy": "one"}


def test_a_damaged_file_hides_its_own_adapters_only(install: Install) -> None:
    install("site", "toy_one", adapter("one"))
    damaged = install("site", "toy_two", b"[flowyml.adapters]\ntoy_two = \xff\n")
    with pytest.warns(AdapterWarning, match="can't be read") as caught:
        assert found() == {"toy": "one"}
    assert [str(damaged) in str(warning.message) for warning in caught] == [True]


def test_a_file_of_other_groups_may_be_unfit(install: Install) -> None:
    install("site", "toy_one", adapter("one"))
    install("site", "toy_two", b"no section\n[half\n")
    assert found() == {"toy": "one"}


def test_what_is_no_folder_on_the_path_does_no_harm(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("site", "toy_one", adapter("one"))
    monkeypatch.setattr(sys, "path", ["missing.zip", None, 5, Path("missing"), *sys.path])
    assert found() == {"toy": "one"}


class Finder(importlib_metadata.DistributionFinder):
    """Knows one distribution, which has no files."""

    def find_spec(self, *args: Any) -> None:
        """Find no module."""

    def find_distributions(self, context: Any = None) -> Iterator[importlib_metadata.Distribution]:
        if context.name in (None, "toy-memory"):
            yield InMemory()


class InMemory(importlib_metadata.Distribution):
    def read_text(self, filename: str) -> str | None:
        return "Metadata-Version: 2.1\nName: toy-memory\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError

    @property
    def entry_points(self) -> importlib_metadata.EntryPoints:
        entry_point = importlib_metadata.EntryPoint("toy_memory", "memory", adapters.GROUP)
        return importlib_metadata.EntryPoints([entry_point])


def test_other_finders_are_asked_for_their_entry_points(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    install("site", "toy_one", adapter("one"))
    assert found() == {"toy": "one", "toy_memory": "memory"}


def test_a_finder_that_fails_costs_a_warning(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Finder):
        def find_distributions(self, context: Any = None) -> Any:
            raise RuntimeError("the finder's own")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Broken()])
    install("site", "toy_one", adapter("one"))
    with pytest.warns(AdapterWarning, match="may be missing: RuntimeError: the finder's own"):
        assert found() == {"toy": "one"}


def test_a_folder_that_may_not_be_looked_into_does_no_harm(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("site", "toy_one", adapter("one"))
    monkeypatch.syspath_prepend("x" * 5000)  # too long a name raises where a closed folder does
    assert found() == {"toy": "one"}
