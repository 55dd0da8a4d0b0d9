"""The conformance kit: a good adapter passes, and each check catches those that break its promise.

The toy framework and its adapters lie in the folder ``toy``.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOYS = str(Path(__file__).parent / "toy")
if TOYS not in sys.path:
    sys.path.append(TOYS)

import questions  # noqa: E402
import toyframework  # noqa: E402

import flowyml  # noqa: E402
from flowyml import adapters, registry, testing  # noqa: E402
from flowyml.testing import (  # noqa: E402
    AdapterConformance,
    ConformanceError,
    ProcessError,
    Subject,
    conformance,
    processes,
)


class Toy(Subject):
    framework = "toy"
    plugin = "toy_adapter:plugin"
    properties = ("architecture", "model_class", "parameters")

    def make_model(self) -> toyframework.Polynomial:
        return toyframework.Polynomial([0.1, 0.2, 0.3])

    def change_model(self, model: toyframework.Polynomial) -> toyframework.Polynomial:
        model.coefficients[1] = math.nextafter(model.coefficients[1], 1)
        return model

    def predict(self, model: toyframework.Polynomial) -> list[float]:
        return [model(x) for x in (0.0, 0.5, math.nan)]

    def make_model_that_needs_trust(self) -> toyframework.Polynomial:
        import their_functions

        return toyframework.Polynomial([0.1, 0.2], their_functions.squared)

    def other_objects(self) -> list[object]:
        return [toyframework.Curve(), toyframework.drawn]

    def draw(self) -> list[float]:
        return toyframework.drawn(3)


class TestToy(Toy, AdapterConformance):
    """The whole kit, on an adapter that keeps every promise."""


class Faulty(Toy):
    """The toy with another plugin, which new processes find in the environment too."""

    @property
    def plugin(self) -> str:  # type: ignore[override]
        return os.environ["TOY_PLUGIN"]


REGISTERED = testing.check_the_adapter_is_registered
COLD = testing.check_importing_is_free_of_the_framework
UNIMPORTED = testing.check_detection_needs_no_framework
DETECTED = testing.check_the_right_objects_are_detected
COMPLETE = testing.check_the_description_is_complete
SAME_WORDS = testing.check_the_description_is_deterministic
UNTOUCHED = testing.check_describing_changes_nothing
BACK = testing.check_a_saved_model_comes_back
HEEDED = testing.check_load_heeds_what_it_accepts
SAME = testing.check_an_unchanged_model_keeps_its_digest
OTHER = testing.check_a_changed_model_has_another_digest
SEEDED = testing.check_seeds_reproduce
TRUSTED = testing.check_trust_is_respected

CAUGHT = [
    (REGISTERED, "nowhere_to_be_found", "can't be imported", "`plugin` has to name"),
    (REGISTERED, "faulty:returns_a_class", "returned the class", "return an instance of it"),
    (REGISTERED, "faulty:without_materializers", "brings no materializer", "Return one from"),
    (REGISTERED, "faulty:without_version", "doesn't say which version", "Put api_version = 1"),
    (REGISTERED, "faulty:foreign_key", "'toys.model'", "a key that starts with 'toy.'"),
    (REGISTERED, "faulty:odd_format", "format 'whole/numbers'", "Use letters, digits"),
    (REGISTERED, "faulty:no_types", "has to name the `types`", "such as ('package.Model',)"),
    (REGISTERED, "faulty:odd_conversion", "conversions of 'halves'", "its formats: 'whole'"),
    (REGISTERED, "faulty:accepts_dtype", "accepts 'dtype'", "there are 'class_map', 'device'"),
    (COLD, "eager_adapter:plugin", "imports toyframework", "Import the framework inside"),
    (COLD, "printing_adapter:plugin", "prints 'Welcome!'", "Take the print away"),
    (UNIMPORTED, "faulty:imports_to_detect", "imports toyframework when", "sys.modules.get()"),
    (UNIMPORTED, "faulty:asks_for_attributes", "answers every attribute", "Return False as long"),
    (DETECTED, "faulty:asks_for_attributes", "says True of an object that", "Compare its type"),
    (DETECTED, "faulty:detects_objects", "instead of a bool of the model", "put bool(...)"),
    (DETECTED, "faulty:detects_classes", "True of the model's class", "a type, it is no model"),
    (DETECTED, "faulty:detects_curves", "a toyframework.Curve, which other_", "Compare its type"),
    (DETECTED, "faulty:detects_nothing", "No extractor recognises", "has to return True for it"),
    (DETECTED, "faulty:raises_to_detect", "raises LookupError: no idea", "True or False of any"),
    (DETECTED, "faulty:names_other_modules", "never called for the model", "Name the framework's"),
    (DETECTED, "faulty:names_modules_of_old", "of 'toy.model' is never", "Name the framework's"),
    (DETECTED, "faulty:two_of_a_kind", "'toy.model' of", "Narrow detect() down to one"),
    (COMPLETE, "faulty:describes_tuples", "'settings' can't be stored", "lists and dicts of these"),
    (COMPLETE, "faulty:describes_objects", "object has no JSON form", "Return None, bool, int,"),
    (COMPLETE, "faulty:describes_text", "'parameters' has to be of the type int", "Convert it"),
    (COMPLETE, "faulty:describes_too_much", "3 are trainable and 1 frozen", "count each once"),
    (COMPLETE, "faulty:outlines_a_half", "The outline counts 1 where", "includes the layers in"),
    (COMPLETE, "faulty:outlines_too_few", "3 of them trainable, and one with 4", "in it"),
    (COMPLETE, "faulty:fails_to_describe", "failed with KeyError: 'coeff", "describe every model"),
    (COMPLETE, "faulty:nameless", "default_name() returned ''", "such as the name of the model"),
    (SAME_WORDS, "faulty:describes_times", "a second time", "Take out addresses, times"),
    (SAME_WORDS, "faulty:describes_addresses", "in another process", "Take out addresses"),
    (UNTOUCHED, "faulty:changes_the_model", "changes what it predicts", "may only read"),
    (UNTOUCHED, "faulty:notes_in_the_model", "changes what is saved", "may only read"),
    (UNTOUCHED, "faulty:draws_random_numbers", "random numbers of 'python'", "put it back"),
    (BACK, "faulty:negates", "0.275 became 0.125", "Save everything that predictions depend on"),
    (BACK, "faulty:gives_another_type", "doesn't recognise as a model", "Give back the model"),
    (BACK, "faulty:counts", "Saving a model changes what it predicts", "may only read it"),
    (BACK, "faulty:has_no_format", "says no to every format", "has to be possible"),
    (BACK, "faulty:unorders", "has another digest, though it is the same", "in an order of its"),
    (
        HEEDED,
        "faulty:gives_another_object",
        "returned another object",
        "Fill the one that is given",
    ),
    (HEEDED, "faulty:does_not_fill", "isn't the one that was saved", "has to overwrite"),
    (HEEDED, "faulty:negates", "with into= from the format 'whole' pred", "overwrite everything"),
    (HEEDED, "faulty:converts_nothing", "LookupError: numbers", "each form that its `conversions`"),
    (HEEDED, "faulty:checks_no_type", "fails with AttributeError", "Check the type of what is"),
    (HEEDED, "faulty:accepts_device", "no model says where it is", "take 'device' out of"),
    (SAME, "faulty:dates", "saved again, has another digest", "No time, random name"),
    (SAME, "faulty:unorders", "in another process, has another", "order of a set may get into"),
    (OTHER, "faulty:rounds", "the digest of the unchanged one", "Save all that makes up a model"),
    (SEEDED, "faulty:without_source", "same seed gives other numbers", "Return a random source"),
    (SEEDED, "faulty:seeds_by_chance", "two states after one seed", "draws from; state() has"),
    (SEEDED, "faulty:seeds_nothing", "the same state after two seeds", "draws from; state() has"),
    (SEEDED, "faulty:restores_nothing", "after restore(state)", "state() has to return a copy"),
    (SEEDED, "faulty:gives_its_live_state", "'toy' failed with", "takes what state() returned"),
    (TRUSTED, "faulty:imports_untrusted", "imports their_functions", "before it imports"),
    (TRUSTED, "faulty:trusts_all", "is loaded with trust=()", "raise UntrustedDataError"),
    (TRUSTED, "faulty:trusts_names_alike", "squared_',)", "raise UntrustedDataError"),
    (TRUSTED, "faulty:raises_another_error", "fails with MaterializationError", "is due"),
    (TRUSTED, "faulty:requires_nothing", "without their_functions.squared", "all that is needed"),
    (TRUSTED, "faulty:trades_functions", "predicts something else when", "Save everything"),
    (TRUSTED, "faulty:keeps_its_needs_quiet", "without a word of what it needs", "has to return"),
]


@pytest.mark.parametrize(
    ("check", "plugin", "problem", "advice"),
    [pytest.param(*row, id=f"{row[1].rpartition(':')[2]}-{row[2][:20]}") for row in CAUGHT],
)
def test_a_broken_promise_is_caught_and_its_author_told_what_to_do(
    check: Callable[[Subject], None],
    plugin: str,
    problem: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOY_PLUGIN", plugin)
    with pytest.raises(ConformanceError) as caught:
        check(Faulty())
    assert problem in str(caught.value)
    assert advice in str(caught.value)


# ------------------------------------------------------------------ subjects that don't fit


class NotInstalled(Toy):
    plugin = None


class Undescribed(Toy):
    properties = ("architecture", "depth")


class WithoutNumbers(Toy):
    def predict(self, model: toyframework.Polynomial) -> list[float]:
        return []


class WithObjects(Toy):
    def predict(self, model: toyframework.Polynomial) -> Any:
        return {"curve": toyframework.Curve()}


_calls = itertools.count(1)


class NeverTheSame(Toy):
    def make_model(self) -> toyframework.Polynomial:
        return toyframework.Polynomial([0.1, 0.2, float(next(_calls))])


class Unchanged(Toy):
    def change_model(self, model: toyframework.Polynomial) -> toyframework.Polynomial:
        return model


class NeedsTrustUnsaid(Toy):
    make_model_that_needs_trust = Subject.make_model_that_needs_trust

    def make_model(self) -> toyframework.Polynomial:
        return Toy.make_model_that_needs_trust(self)


class RefusesAll(Toy):
    plugin = "faulty:refuses_all"
    make_model_that_needs_trust = Subject.make_model_that_needs_trust


class DrawsOneNumber(Toy):
    def draw(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("check", "subject", "problem", "advice"),
    [
        (REGISTERED, NotInstalled, "No adapter 'toy' is installed", 'entry-points."flowyml.adap'),
        (COMPLETE, Undescribed, "doesn't say 'depth'", "take it out of `properties`"),
        (BACK, WithoutNumbers, "predict() returned no numbers", "Return what the model computes"),
        (BACK, WithObjects, "returned a toyframework.Curve", "an array with tolist()"),
        (SAME, NeverTheSame, "make_model() of NeverTheSame doesn't", "Seed what it draws"),
        (OTHER, Unchanged, "the digest of the unchanged one", "Save all that makes up a model"),
        (SEEDED, DrawsOneNumber, "Another seed gives the same numbers", "those that the framework"),
        (TRUSTED, RefusesAll, "a new process refuses to load it", "SaveResult(required_trust=...)"),
        (TRUSTED, NeedsTrustUnsaid, "needs trust in their_functions.squared", "make_model_that"),
    ],
)
def test_a_subject_that_does_not_fit_its_adapter_is_told(
    check: Callable[[Subject], None], subject: type[Subject], problem: str, advice: str
) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(subject())
    assert problem in str(caught.value)
    assert advice in str(caught.value)


class WithoutDrawing(Toy):
    draw = Subject.draw


class WithoutSource(NeverTheSame):
    plugin = "faulty:without_source"
    draw = Subject.draw


class Drawn(WithoutSource):
    def make_model(self) -> toyframework.Polynomial:
        import random

        return toyframework.Polynomial([random.random()])


def test_a_random_source_is_enough_where_nothing_draws() -> None:
    SEEDED(WithoutDrawing())


def test_where_nothing_else_is_known_of_its_generator_one_seed_makes_one_model() -> None:
    SEEDED(Drawn())
    with pytest.raises(ConformanceError, match="under one seed have two digests. Bring a random"):
        SEEDED(WithoutSource())


def test_a_check_leaves_the_random_numbers_of_the_user_alone() -> None:
    toyframework.generator.seed(1)
    expected = toyframework.drawn(2)
    toyframework.generator.seed(1)
    SEEDED(Toy())
    UNTOUCHED(Toy())
    assert toyframework.drawn(2) == expected


def test_the_adapter_that_is_tested_is_the_one_that_was_meant() -> None:
    REGISTERED(Toy())
    REGISTERED(WithoutDrawing())
    with pytest.raises(ConformanceError, match="is there already, which would be tested in its"):
        REGISTERED(WithoutSource())


def test_a_model_that_two_adapters_claim_is_told() -> None:
    import toy_adapter

    class Copy(toy_adapter.ToyExtractor):
        framework = "copy"

    class CopyPlugin:
        @flowyml.hookimpl
        def flowyml_register_extractors(self) -> list[Any]:
            return [Copy()]

    adapters.register(CopyPlugin(), "copy")
    with pytest.raises(
        ConformanceError, match="exactly one .*of the adapter 'copy' .* and .*'toy'"
    ):
        DETECTED(Toy())


def test_variables_of_the_shell_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLOWYML_STORE", str(tmp_path / "mine"))
    monkeypatch.setenv("FLOWYML_DISABLE_ADAPTERS", "toy,core")
    monkeypatch.setenv("FLOWYML_STRICT_ADAPTERS", "1")
    BACK(Toy())
    SAME(Toy())
    assert not (tmp_path / "mine").exists()
    assert os.environ["FLOWYML_DISABLE_ADAPTERS"] == "toy,core"


def test_a_store_of_the_user_stays_as_it_is(tmp_path: Path) -> None:
    BACK(Toy())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- installed adapters


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


# ------------------------------------------------------------------------- the test class


def test_every_check_is_a_test_of_the_class_and_a_public_function_that_says_what_it_promises() -> (
    None
):
    names = [conformance.name_of(check) for check in testing.CHECKS]
    assert {f"test_{name}" for name in names} == {n for n in dir(TestToy) if n.startswith("test_")}
    for check in testing.CHECKS:
        assert getattr(testing, check.__name__) is check
        assert check.__doc__
        assert getattr(TestToy, f"test_{conformance.name_of(check)}").__doc__ == check.__doc__
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
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "is expected to fail (not today), and passes" in done.stdout


def test_the_kit_needs_neither_pytest_nor_a_framework() -> None:
    code = (
        "import sys, flowyml.testing; "
        "print(sorted({'pytest', '_pytest', 'numpy', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------- processes


def test_values_come_back_from_a_new_process_as_they_are() -> None:
    values = [{"a": (1, math.inf), 2: None, "text": "ß"}, [True, -0.0]]
    assert repr(processes.in_new_process(Toy(), questions.same, *values)) == repr(values)


def test_a_new_process_has_another_hash_seed_and_nothing_of_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWYML_STORE", "elsewhere")
    first, second = (processes.in_new_process(Toy(), questions.facts) for _ in range(2))
    assert first["hash"] != second["hash"]
    assert first["flowyml"] == []
    given = processes.in_new_process(Toy(), questions.facts, environment={"FLOWYML_STORE": "here"})
    assert given["flowyml"] == ["FLOWYML_STORE"]


def test_a_process_without_the_subject_knows_the_framework_by_name_only() -> None:
    bare = processes.in_new_process(Toy(), questions.facts, with_subject=False)
    assert not bare["toyframework"]
    assert bare["modules"] == ("toyframework",)
    assert processes.in_new_process(Toy(), questions.facts)["toyframework"]


def test_a_class_of_a_test_module_is_found_by_its_file() -> None:
    class_of_this_module = (__name__, "Toy")
    assert processes.in_new_process(Toy(), questions.kind) == class_of_this_module


def test_a_class_that_no_other_process_can_find_is_refused() -> None:
    class Inside(Toy):
        pass

    with pytest.raises(ConformanceError, match="Define it at the top of a module"):
        processes.in_new_process(Inside(), questions.kind)


def test_what_a_process_prints_is_not_its_answer() -> None:
    with processes.start(Toy(), questions.prints) as process:
        assert process.result() == "the answer"
        assert sorted(process.printed().split("\n")) == ["", "from Python", "from below"]


def test_a_failing_process_is_told_with_its_status_and_what_it_printed() -> None:
    with pytest.raises(ProcessError, match=r"(?s)fails failed .* status 1 and .*LookupError: lost"):
        processes.in_new_process(Toy(), questions.fails)
    with pytest.raises(ProcessError, match="exited with status 3"):
        processes.in_new_process(Toy(), questions.exits)


def test_a_failing_check_in_another_process_fails_here_with_the_same_words() -> None:
    with pytest.raises(ConformanceError, match=r"^Do it otherwise\.$"):
        processes.in_new_process(Toy(), questions.refuses)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with processes.start(Toy(), questions.waits, str(tmp_path / "begun")) as process:
        while not (tmp_path / "begun").exists():
            assert process.popen.poll() is None
        with pytest.raises(ProcessError, match=r"(?s)longer than 0.1 s .*waiting"):
            process.result(timeout=0.1)
        assert process.popen.returncode == -9


def test_leaving_the_block_of_a_process_ends_it(tmp_path: Path) -> None:
    with processes.start(Toy(), questions.waits, str(tmp_path / "begun")) as process:
        pass
    assert process.popen.returncode == -9
