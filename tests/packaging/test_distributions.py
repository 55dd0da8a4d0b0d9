"""What the three wheels hold and declare, seen from an environment made of nothing else.

The nox session `packaging` builds them, and copies these tests next to that environment.
"""

import os
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

DISTRIBUTIONS = ["flowyml", "flowyml-core", "flowyml-pytorch"]
WHEELS = Path(os.environ["FLOWYML_WHEELS"])


def names_in_wheel(distribution: str) -> set[str]:
    with zipfile.ZipFile(wheel_of(distribution)) as wheel:
        return set(wheel.namelist())


def wheel_of(distribution: str) -> Path:
    (path,) = WHEELS.glob(f"{distribution.replace('-', '_')}-*.whl")
    return path


def test_the_three_distributions_have_one_version():
    assert len({metadata.version(name) for name in DISTRIBUTIONS}) == 1


def test_the_metapackage_asks_for_its_own_version_of_the_others():
    version = metadata.version("flowyml")
    assert f"flowyml-core=={version}" in metadata.requires("flowyml")
    assert [r for r in metadata.requires("flowyml") if r.startswith("flowyml-pytorch")] == [
        f"flowyml-pytorch=={version}; extra == 'pytorch'"
    ]


def test_the_adapter_takes_any_core_from_the_oldest_that_it_is_tested_with():
    required = metadata.requires("flowyml-pytorch")
    (core,) = (each for each in required if each.startswith("flowyml-core"))
    assert core.startswith("flowyml-core>=")


def test_the_import_packages_belong_to_the_core_and_the_adapter():
    owners = metadata.packages_distributions()
    assert set(owners["flowyml"]) == {"flowyml-core"}
    assert set(owners["flowyml_pytorch"]) == {"flowyml-pytorch"}


def test_what_is_tested_is_what_was_installed():
    import flowyml

    assert Path(flowyml.__file__).is_relative_to(sys.prefix)


def test_the_metapackage_has_no_code():
    folders = {name.split("/")[0] for name in names_in_wheel("flowyml")}
    assert folders == {f"flowyml-{metadata.version('flowyml')}.dist-info"}


@pytest.mark.parametrize("distribution", ["flowyml-core", "flowyml-pytorch"])
def test_a_wheel_holds_one_import_package_with_its_types(distribution):
    package, version = distribution.replace("-", "_"), metadata.version(distribution)
    dist_info = f"{package}-{version}.dist-info"
    package = {"flowyml_core": "flowyml"}.get(package, package)
    names = names_in_wheel(distribution)
    assert {name.split("/")[0] for name in names} == {package, dist_info}
    assert f"{package}/py.typed" in names


def test_every_wheel_holds_the_same_license():
    licenses = set()
    for distribution in DISTRIBUTIONS:
        with zipfile.ZipFile(wheel_of(distribution)) as wheel:
            (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/licenses/LICENSE"))
            licenses.add(wheel.read(name))
    (text,) = licenses
    assert b"Apache License" in text


def test_the_adapter_is_announced():
    (entry_point,) = metadata.entry_points(group="flowyml.adapters")
    assert (entry_point.name, entry_point.value) == ("pytorch", "flowyml_pytorch.plugin")
