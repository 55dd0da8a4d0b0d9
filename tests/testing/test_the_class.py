"""The test class: pytest finds the checks of each subclass, and failures can be expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_subject import Faulty, Toy

from flowyml import testing
from flowyml.testing import AdapterConformance, ConformanceError, Subject, conformance

TOYS = str(Path(__file__).parent / "toy")


def test_every_check_is_a_test_of_the_class_and_a_public_function_that_says_what_it_promises() -> (
    None
):
    names = [conformance.name_of(check) for check in testing.CHECKS]
    assert {f"test_{name}" for name in names} == {
        n for n in dir(AdapterConformance) if n.startswith("test_")
    }
    for check in testing.CHECKS:
        assert getattr(testing, check.__name__) is check
        assert check.__doc__
        assert (
            getattr(AdapterConformance, f"test_{conformance.name_of(check)}").__doc__
            == check.__doc__
        )
    assert {f"check_{name}" for name in names} <= set(testing.__all__)


def test_an_expected_failure_is_one_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Expecting(Faulty, AdapterConformance):
        __test__ = False
        expected_failures = {"seeds_reproduce": "the toy has no generator"}  # noqa: RUF012

    monkeypatch.setenv("TOY_PLUGIN", "faulty:seeds_nothing")
    with pytest.raises(pytest.xfail.Exception, match="the toy has no generator"):
        Expecting().test_seeds_reproduce()  # type: ignore[attr-defined]


def test_an_expected_failure_that_passes_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Expecting(Toy, AdapterConformance):
        __test__ = False
        expected_failures = {"seeds_reproduce": "the toy has no generator"}  # noqa: RUF012

    with pytest.raises(ConformanceError, match="and passes. Remove it from `expected_failures`"):
        Expecting().test_seeds_reproduce()  # type: ignore[attr-defined]


def test_an_expected_failure_names_a_check_and_has_a_reason() -> None:
    with pytest.raises(ValueError, match="'seeds', which is no check. There are: .*seeds_reproduc"):
        type("Typo", (AdapterConformance,), {"expected_failures": {"seeds": "because"}})
    with pytest.raises(ValueError, match="gives no reason for 'seeds_reproduce'"):
        type("Silent", (AdapterConformance,), {"expected_failures": {"seeds_reproduce": " "}})


def test_a_reason_is_a_text_and_expected_failures_are_a_mapping() -> None:
    with pytest.raises(ValueError, match="gives no reason for 'seeds_reproduce'"):
        type("Silent", (AdapterConformance,), {"expected_failures": {"seeds_reproduce": True}})
    with pytest.raises(TypeError, match=r"has to be a dict, .*; it is \['seeds_reproduce'\]"):
        type("Listed", (AdapterConformance,), {"expected_failures": ["seeds_reproduce"]})


def test_a_mistake_in_the_subject_is_no_expected_failure() -> None:
    class Expecting(Toy, AdapterConformance):
        __test__ = False
        expected_failures = {"seeds_reproduce": "the toy has no generator"}  # noqa: RUF012

        def draw(self) -> list[float]:
            raise LookupError("no such generator")

    with pytest.raises(LookupError, match="no such generator"):
        Expecting().test_seeds_reproduce()  # type: ignore[attr-defined]


def test_a_class_that_pytest_would_pass_over_is_an_error() -> None:
    def make_model(self: Subject) -> object:
        return object()

    parts = {"framework": "toy", "make_model": make_model}
    with pytest.raises(TypeError, match=r"doesn't define change_model\(\), predict\(\), so that"):
        type("Half", (AdapterConformance,), parts)
    with pytest.raises(TypeError, match=r"TestNothing doesn't define framework, make_model"):
        type("TestNothing", (AdapterConformance,), {})
    base = type("Base", (AdapterConformance,), {**parts, "__test__": False})
    with pytest.raises(TypeError, match=r"set __test__ = False"):
        type("Derived", (base,), {})


STRANGERS_TEST = """
from flowyml.testing import *
import toyframework

class TestTheirs(AdapterConformance):
    framework = "toy"
    plugin = "toy_adapter:plugin"
    expected_failures = {"seeds_reproduce": "not today"}

    def make_model(self):
        return toyframework.Polynomial([0.1, 0.2])

    def change_model(self, model):
        return toyframework.Polynomial([0.1, 0.25])

    def predict(self, model):
        return model(2.0)
"""


@pytest.mark.parametrize("mode", ["importlib", "prepend"])
def test_pytest_collects_the_subclass_alone_wherever_its_module_lies(
    mode: str, tmp_path: Path
) -> None:
    folder = tmp_path / "their tests" / "unit"
    folder.mkdir(parents=True)
    (folder / "test_theirs.py").write_text(STRANGERS_TEST)
    chosen = "seeds or comes_back or digest or whoever"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rx", "-p", "no:cacheprovider", str(folder),
         f"--rootdir={tmp_path}", f"--import-mode={mode}", "-o", "python_classes=*", "-k", chosen],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": TOYS},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "is expected to fail (not today), and passes" in done.stdout
    assert "conformance.py" not in done.stdout  # none of the kit's own lines


def test_the_kit_needs_neither_pytest_nor_a_framework() -> None:
    code = (
        "import sys, flowyml.testing; "
        "print(sorted({'pytest', '_pytest', 'numpy', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n"
