"""What an author may get wrong in a subject is told; what surrounds the tests doesn't matter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_adapter
import toyframework
from toy_subject import Toy

import flowyml
from flowyml import adapters, testing
from flowyml.testing import ConformanceError, Subject

REGISTERED = testing.check_the_adapter_is_registered
DETECTED = testing.check_the_right_objects_are_detected
COMPLETE = testing.check_the_description_is_complete
UNTOUCHED = testing.check_describing_changes_nothing
BACK = testing.check_a_saved_model_comes_back
SAME = testing.check_an_unchanged_model_keeps_its_digest
HEEDED = testing.check_load_heeds_what_it_accepts
OTHER = testing.check_a_changed_model_has_another_digest
SEEDED = testing.check_seeds_reproduce
TRUSTED = testing.check_trust_is_respected


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


class NeverPredictsTheSame(Toy):
    def predict(self, model: toyframework.Polynomial) -> list[float]:
        return [float(next(_calls))]


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


class ReturnsNothing(Toy):
    def change_model(self, model: toyframework.Polynomial) -> None:  # type: ignore[override]
        Toy.change_model(self, model)


class HasNoVariants(Toy):
    def variants(self) -> None:  # type: ignore[override]
        pass


class VariesNothing(Toy):
    def variants(self) -> list[toyframework.Polynomial]:
        return [self.make_model()]


class CannotVary(Toy):
    def variants(self) -> list[Any]:
        return [None]


class WithArraysOfObjects(Toy):
    def predict(self, model: toyframework.Polynomial) -> Any:
        class Array:
            def tolist(self) -> list[Any]:
                return [toyframework.Curve()]

        return Array()


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
        (BACK, NeverPredictsTheSame, "else the second time", "leave the model as it is"),
        (SAME, NeverTheSame, "make_model() of NeverTheSame doesn't", "Seed what it draws"),
        (OTHER, Unchanged, "the digest of the unchanged one", "Save all that makes up a model"),
        (BACK, WithArraysOfObjects, "predict() returned a toyframework.Curve", "an array with"),
        (OTHER, ReturnsNothing, "change_model() of ReturnsNothing returned None", "Return the mod"),
        (HEEDED, ReturnsNothing, "change_model() of ReturnsNothing returned None", "Return the mo"),
        (BACK, HasNoVariants, "variants() of HasNoVariants failed with TypeError", "yield models"),
        (COMPLETE, CannotVary, "returned None among the models", "Return models only"),
        (OTHER, VariesNothing, "variants()[0] is saved in the format 'whole' with", "apart has to"),
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
    class Copy(toy_adapter.ToyExtractor):
        framework = "copy"

    class CopyPlugin:
        @flowyml.hookimpl
        def flowyml_register_extractors(self) -> list[Any]:
            return [Copy()]

    adapters.register(CopyPlugin(), "copy")
    with pytest.raises(
        ConformanceError,
        match="Another installed adapter claims your model .*'toy' .* and .*'copy'",
    ):
        DETECTED(Toy())


def test_a_model_that_another_adapter_claims_less_well_is_this_ones() -> None:
    class AnythingsExtractor(toy_adapter.ToyExtractor):
        framework = "anything"
        modules = ()

    class AnythingsMaterializer(toy_adapter.ToyMaterializer):
        key = "anything.model"
        modules = ()

    anything = toy_adapter.Plugin(AnythingsExtractor, AnythingsMaterializer, sources=())
    adapters.register(anything, "anything")
    DETECTED(Toy())


def test_a_message_has_one_full_stop_after_another_error() -> None:
    class Copy(toy_adapter.ToyMaterializer):
        key = "copy.model"

    class CopysExtractor(toy_adapter.ToyExtractor):
        framework = "copy"

    adapters.register(toy_adapter.Plugin(CopysExtractor, Copy, sources=()), "copy")
    with pytest.raises(ConformanceError, match=r"DISABLE_ADAPTERS\. Its detect\(\) decides\."):
        BACK(Toy())


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
