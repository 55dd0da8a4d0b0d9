"""The adapter that `new-adapter` writes, built and installed beside ours as a stranger would.

This environment needs hatchling, since nothing is fetched here to build the wheel.
"""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def run(*arguments: str, cwd: Path, status: int = 0) -> str:
    """Run a module of this Python, and return all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def listed(cwd: Path) -> dict[str, dict[str, object]]:
    found = json.loads(run("flowyml", "adapters", "--json", cwd=cwd))
    return {adapter["name"]: adapter for adapter in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write an adapter, build its wheel into dist/ and install that for the time of the tests."""
    around = tmp_path_factory.mktemp("stranger")
    told = run("flowyml", "new-adapter", "toy_box", cwd=around)
    assert told.startswith("Wrote flowyml-toy-box: ")
    folder = around / "flowyml-toy-box"
    offline = ("--disable-pip-version-check", "--no-index")
    build = ("wheel", *offline, "--no-deps", "--no-build-isolation", "--wheel-dir=dist", ".")
    run("pip", *build, cwd=folder)
    (wheel,) = folder.glob("dist/*.whl")
    try:
        run("pip", "install", *offline, str(wheel), cwd=folder)
        yield folder
    finally:
        run("pip", "uninstall", "--yes", "flowyml-toy-box", cwd=around)
    assert "toy_box" not in listed(around)


def test_its_wheel_holds_the_package_and_its_types(folder: Path) -> None:
    (wheel,) = folder.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {
        "flowyml_toy_box",
        "flowyml_toy_box-0.1.0.dist-info",
    }
    assert "flowyml_toy_box/py.typed" in names


def test_it_is_listed_beside_ours(folder: Path, tmp_path: Path) -> None:
    adapters = listed(tmp_path)
    assert {"core", "pytorch", "toy_box"} == set(adapters)
    found = adapters["toy_box"]
    assert (found["distribution"], found["version"]) == ("flowyml-toy-box", "0.1.0")
    assert found["state"] == "known"
    assert "toy_box" in run("flowyml", "adapters", "--load", cwd=tmp_path)


def test_its_tests_pass(folder: Path) -> None:
    printed = run("pytest", "-p", "no:cacheprovider", cwd=folder)
    totals = printed.splitlines()[-1]
    assert " passed" in totals
    assert "skipped" not in totals, printed


def test_the_example_of_its_readme_runs(folder: Path, tmp_path: Path) -> None:
    (example,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    (prediction,) = json.loads(run("example", cwd=tmp_path))
    assert 5 < prediction < 6


def test_a_second_one_of_that_name_is_refused(folder: Path, tmp_path: Path) -> None:
    printed = run("flowyml", "new-adapter", "toy_box", cwd=tmp_path, status=1)
    assert "an adapter for 'toy_box' already: 'toy_box' (flowyml-toy-box 0.1.0)" in printed
    assert not [*tmp_path.iterdir()]
