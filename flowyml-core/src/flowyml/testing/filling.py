"""Filling: load heeds what it says that it accepts, and a refusal leaves what it is given alone."""

from __future__ import annotations

from typing import Any

from flowyml import Store
from flowyml.errors import FlowymlError, MaterializationError
from flowyml.interfaces import Materializer
from flowyml.testing.checks import (
    blaming,
    changed,
    check,
    digest_of,
    formats_of,
    in_words,
    loaded,
    materializer_of,
    saved,
    temporary_store,
    variant,
    variants,
)
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.restoring import Kept
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True


@check
def check_load_heeds_what_it_accepts(subject: Subject) -> None:
    """into= and device= work where they are listed in `accepts`; what isn't is refused.

    A model that load refuses to fill stays as it is.
    """
    model = subject.make_model()
    before = prediction(subject, model)
    materializer = materializer_of(model)
    with temporary_store() as store:
        for format in formats_of(model):
            kept = Kept.of(saved(store, model, "model", format))
            _check_refusals(subject, materializer, store, kept)
            if "into" in materializer.accepts:
                _check_into(subject, store, kept, before)
                _check_into_another_type(store, kept)
                _check_into_variants(subject, store, kept)
            if "device" in materializer.accepts:
                _check_device(subject, materializer, store, kept, before)
            for form in materializer.conversions.get(format, ()):
                loaded(store, kept.ref, _CONVERSIONS, format=form, trust=kept.trust)
        needs_trust = subject.make_model_that_needs_trust()
        if needs_trust is not None:
            _check_into_without_trust(subject, store, needs_trust)


_FILL = (
    "load() has to overwrite everything that was saved, or take 'into' out of `accepts`. (What "
    "change_model() changes has to be a value, not a setting.)"
)
_CONVERSIONS = "Its load() has to give back each form that its `conversions` name."


def _check_refusals(subject: Subject, materializer: Materializer, store: Store, kept: Kept) -> None:
    given = {"into": subject.make_model(), "device": "cpu", "class_map": {"a.B": type(None)}}
    for name in given.keys() - materializer.accepts:
        try:
            store.load(kept.ref, trust=kept.trust, **{name: given[name]})
        except MaterializationError as error:
            if name in str(error):
                continue
        raise ConformanceError(
            f"{materializer.key!r} doesn't accept {name}=, and yet loads with it. Leave the "
            f"refusal to the core: load() isn't called then."
        )


def _check_into(subject: Subject, store: Store, kept: Kept, before: Any) -> None:
    """Fill a model that is another one, where its structure allows that."""
    advice = "Mend load(), or take 'into' out of `accepts`."
    into = subject.make_model()
    back = loaded(store, kept.ref, advice, trust=kept.trust, into=into)
    if back is not into:
        raise ConformanceError(
            f"Store.load(into=model) returned another object for the format {kept.format!r}. "
            f"Fill the one that is given, and return it; or take 'into' out of `accepts`."
        )
    found = difference(before, prediction(subject, into), "predict()")
    if found:
        raise ConformanceError(
            f"A model that was filled with into= from the format {kept.format!r} predicts "
            f"something else than the one that was saved: {found}. {_FILL}"
        )
    other = changed(subject, subject.make_model())
    unfilled = digest_of(other, kept.format)
    if not _is_filled(store, kept, other, "change_model()", kept.trust):
        return
    filled = digest_of(other, kept.format)
    if filled == unfilled or (kept.restore == "weights" and filled != kept.digest):
        raise ConformanceError(
            f"A changed model that was filled with into= from the format {kept.format!r} isn't "
            f"the one that was saved. {_FILL}"
        )


def _is_filled(
    store: Store, kept: Kept, into: Any, of_whom: str, trust: tuple[str, ...] = ()
) -> bool:
    """Tell whether a model is filled, or refused and left as it is: it may be of another kind."""
    before = digest_of(into, kept.format)
    try:
        store.load(kept.ref, trust=trust, into=into)
    except FlowymlError as error:
        if digest_of(into, kept.format) == before:
            return False
        raise ConformanceError(
            f"Store.load(into=), for the format {kept.format!r} and the model of {of_whom}, "
            f"raises {in_words(error)}; but it has changed that model. Check everything, trust "
            f"too, before you put the first value into it."
        ) from error
    return True


def _check_into_variants(subject: Subject, store: Store, kept: Kept) -> None:
    for i, model in enumerate(variants(subject)):
        # One that is filled keeps its settings, which are the caller's.
        if kept.format in formats_of(model):
            _is_filled(store, kept, model, variant(i), kept.trust)


def _check_into_without_trust(subject: Subject, store: Store, model: Any) -> None:
    """Let models be filled with what is refused: one that fits, if there is one, and another."""
    others = [("change_model()", changed(subject, subject.make_model()))]
    try:
        fit = changed(subject, subject.make_model_that_needs_trust())
        others.append(("change_model(), of what make_model_that_needs_trust() returned,", fit))
    except ConformanceError:  # it is made for the other model
        pass
    for format in formats_of(model):
        kept = Kept.of(saved(store, model, "needs-trust", format))
        if not kept.trust or "into" not in materializer_of(model).accepts:
            continue
        for of_whom, into in others:
            _is_filled(store, kept, into, of_whom)


def _check_into_another_type(store: Store, kept: Kept) -> None:
    try:
        store.load(kept.ref, trust=kept.trust, into=object())
    except FlowymlError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, (FlowymlError, TypeError, ValueError)):
            return
        raise ConformanceError(
            f"Store.load(into=object()) fails with {in_words(cause)} for the format "
            f"{kept.format!r}. Check the type of what is given, and raise a MaterializationError "
            f"that says what is needed."
        ) from error
    raise ConformanceError(
        f"Store.load(into=object()) is let pass for the format {kept.format!r}. Check the type "
        f"of what is given, and raise a MaterializationError that says what is needed."
    )


def _check_device(
    subject: Subject, materializer: Materializer, store: Store, kept: Kept, before: Any
) -> None:
    """Load to where the model says it is: the one device that is sure to exist."""
    asset = store.get(kept.ref)
    device = asset.metadata.properties.get("device")
    if device is None:
        raise ConformanceError(
            f"{materializer.key!r} accepts device=, but no model says where it is. Add the "
            f"property 'device' in extract(), or take 'device' out of `accepts`."
        )
    if kept.restore != "exact":
        return
    advice = "Mend load(), or take 'device' out of `accepts`."
    model = loaded(store, kept.ref, advice, trust=kept.trust, device=device)
    with blaming("Predicting with a model that was loaded with device=", advice):
        found = difference(before, prediction(subject, model), "predict()")
    if found:
        raise ConformanceError(
            f"A model that was loaded with device={device!r} predicts something else: {found}. "
            f"{advice}"
        )
