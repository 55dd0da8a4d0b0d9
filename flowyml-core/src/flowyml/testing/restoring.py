"""Restoring: what was saved comes back, in another process, and computes the same."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from typing import Any

import attrs

from flowyml import Store, adapters
from flowyml.assets import Asset
from flowyml.properties import type_name
from flowyml.testing.checks import (
    check,
    digest_of,
    formats_of,
    loaded,
    materializer_of,
    naming,
    saved,
    temporary_store,
    variant,
    variants,
)
from flowyml.testing.description import told_of
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True


@attrs.frozen
class Kept:
    """What was saved in one format, for the process that loads it.

    Attributes:
        ref: its ref.
        format: its format.
        restore: ``"exact"`` or ``"weights"``.
        trust: what loading it needs.
        digest: its digest.
    """

    ref: str
    format: str
    restore: str
    trust: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, asset: Asset) -> Kept:
        """Take it from a saved asset."""
        stored = asset.stored
        assert stored is not None
        return cls(
            f"{asset.ref}", stored.format, stored.restore, stored.required_trust, stored.digest
        )


@attrs.frozen
class _Case:
    """A model, what is known of it, and what was saved of it."""

    what: str
    predicted: Any
    described: dict[str, Any]
    kept: tuple[Kept, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> _Case:
        """Give it back from what `attrs.asdict` made of it."""
        kept = tuple(Kept(**values) for values in plain["kept"])
        return cls(**{**plain, "kept": kept})


@check
def check_a_saved_model_comes_back(subject: Subject) -> None:
    """In a new process every format gives the model back: described, predicting and saved alike.

    So it does with each of the `variants`. Saving changes nothing about a model, and a user's
    subclass of its class doesn't come back as the class.
    """
    model = subject.make_model()
    with temporary_store() as store:
        case = _case(subject, store, "make_model()", model)
        if not case.kept:
            raise ConformanceError(
                f"can_save() of {materializer_of(model).key!r} says no to every format for the "
                f"model. The first format has to be possible for each one that is detected."
            )
        cases = [case]
        for i, other in enumerate(variants(subject)):
            cases.append(_case(subject, store, variant(i), other))
        in_new_process(subject, _come_back, str(store.path), list(map(attrs.asdict, cases)))
        _check_subclass(store, model)


def _case(subject: Subject, store: Store, what: str, model: Any) -> _Case:
    """Save in every format, which has to leave the model as it is."""
    predicted, described = _predicted(subject, what, model), told_of(subject, model)
    found = difference(predicted, _predicted(subject, what, model), "predict()")
    if found:
        raise ConformanceError(
            f"predict() gives something else the second time for the model of {what}: {found}. It "
            f"has to leave the model as it is, and not to draw: switch training off in it, and "
            f"put back what that changed."
        )
    kept = [Kept.of(saved(store, model, "model", format)) for format in formats_of(model)]
    found = difference(predicted, _predicted(subject, what, model), "predict()")
    if found:
        raise ConformanceError(
            f"Saving a model changes what it predicts: {found}. save() may only read it."
        )
    found = difference(described, told_of(subject, model), "description")
    if found:
        raise ConformanceError(
            f"Saving a model changes how it is described: {found}. save() may only read it."
        )
    if what != "make_model()":  # weights would need another model to fill
        kept = [item for item in kept if item.restore == "exact"]
    return _Case(what, predicted, described, tuple(kept))


def _predicted(subject: Subject, what: str, model: Any) -> Any:
    """Return what a model predicts; None for a variant that predict() isn't made for."""
    try:
        return prediction(subject, model)
    except ConformanceError:
        if what == "make_model()":
            raise
        return None


def _come_back(subject: Subject, path: str, cases: list[dict[str, Any]]) -> None:
    store = Store(path)
    for case in map(_Case.of, cases):
        with naming(case.what):
            for kept in case.kept:
                _check_comes_back(subject, store, case, kept)


def _check_comes_back(subject: Subject, store: Store, case: _Case, kept: Kept) -> None:
    for verify in (True, False) if case.what == "make_model()" else (True,):
        model = _restored(subject, store, kept, verify)
        found = difference(case.predicted, _predicted(subject, case.what, model), "predict()")
        if found:
            raise ConformanceError(
                f"What is loaded from the format {kept.format!r} in a new process "
                f"(verify={verify}) predicts something else: {found}. Save everything that "
                f"predictions depend on, and put all of it back; or, if that can't be, "
                f"return SaveResult(restore='weights', reason=...)."
            )
        _check_is_model(subject, model, kept)
        found = difference(case.described, told_of(subject, model), "description")
        if found:
            raise ConformanceError(
                f"What is loaded from the format {kept.format!r} is described otherwise than what "
                f"was saved: {found}. Save everything that the description tells, settings too, "
                f"and put it back."
            )


def _restored(subject: Subject, store: Store, kept: Kept, verify: bool) -> Any:
    """Load; a model of which only the weights were kept is filled with them."""
    advice = f"Mend what save() writes in the format {kept.format!r}, or load()."
    if kept.restore == "exact":
        return loaded(store, kept.ref, advice, trust=kept.trust, verify=verify)
    into = subject.make_model()
    advice = "With restore='weights', load() has to fill the model that into= gives."
    loaded(store, kept.ref, advice, trust=kept.trust, verify=verify, into=into)
    return into


def _check_is_model(subject: Subject, model: Any, kept: Kept) -> None:
    extractor = adapters.extractor_or_none(model)
    if extractor is None or extractor.framework != subject.framework:
        raise ConformanceError(
            f"What is loaded from the format {kept.format!r} is a {type_name(model)}, which the "
            f"extractor doesn't recognise as a model. Give back the model itself, or return "
            f"SaveResult(restore='weights', reason=...) when that can't be."
        )
    if digest_of(model, kept.format) != kept.digest:
        raise ConformanceError(
            f"A model that was loaded from the format {kept.format!r} and is saved again has "
            f"another digest, though it is the same. Restore everything that save() writes, and "
            f"write in an order of its own what has none."
        )


def _check_subclass(store: Store, model: Any) -> None:
    """Save what somebody has derived from the model's class, if it can be."""
    derived = _derived(model)
    if derived is None:
        return
    try:
        formats = formats_of(derived)
    except ConformanceError:  # it is none of the adapter's
        return
    for format in formats:
        try:
            kept = Kept.of(saved(store, Asset(data=derived), "derived", format))
            found = store.load(kept.ref)
        except Exception:  # noqa: S112  (what is refused, or needs trust, keeps the promise)
            continue
        if kept.restore == "exact" and type(found) is type(model):
            raise ConformanceError(
                f"What somebody has derived from {type_name(model)} is saved in the format "
                f"{format!r}, and comes back as a {type_name(model)} itself, without what was "
                f"added. Let detect() of the materializer compare the type itself: "
                f"type(obj) is Model; or bring the subclass back, and name it in required_trust."
            )


def _derived(model: Any) -> Any:
    """Return a copy of a model, of a subclass; None where that can't be."""
    cls = type(model)
    try:
        derived = copy.copy(model)
        inside = {"__module__": "somebodys_code"}
        derived.__class__ = types.new_class("Derived", (cls,), {}, lambda body: body.update(inside))
    except Exception:
        return None
    return derived
