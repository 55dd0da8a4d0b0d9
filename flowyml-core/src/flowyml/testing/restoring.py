"""Restoring: what was saved comes back, in another process, and computes the same."""

from __future__ import annotations

from typing import Any

import attrs

from flowyml import Store, adapters
from flowyml.assets import Asset
from flowyml.errors import FlowymlError, MaterializationError
from flowyml.interfaces import Materializer
from flowyml.properties import type_name
from flowyml.registry import told
from flowyml.testing.checks import (
    blaming,
    check,
    digest_of,
    formats_of,
    loaded,
    materializer_of,
    saved,
    temporary_store,
)
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import ConformanceError, Subject


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


@check
def check_a_saved_model_comes_back(subject: Subject) -> None:
    """In a new process every format gives the model back: with equal predictions and digest."""
    model = subject.make_model()
    before = prediction(subject, model)
    with temporary_store() as store:
        kept = [Kept.of(saved(store, model, "model", format)) for format in formats_of(model)]
        if not kept:
            raise ConformanceError(
                f"can_save() of {materializer_of(model).key!r} says no to every format for the "
                f"model. The first format has to be possible for each one that is detected."
            )
        found = difference(before, prediction(subject, model), "predict()")
        if found:
            raise ConformanceError(
                f"Saving a model changes what it predicts: {found}. save() may only read it."
            )
        in_new_process(subject, _come_back, str(store.path), before, list(map(attrs.astuple, kept)))


@check
def check_load_heeds_what_it_accepts(subject: Subject) -> None:
    """into= and device= work where they are listed in `accepts`; what isn't is refused."""
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
            if "device" in materializer.accepts:
                _check_device(subject, materializer, store, kept, before)
            for form in materializer.conversions.get(format, ()):
                loaded(store, kept.ref, _CONVERSIONS, format=form, trust=kept.trust)


_FILL = (
    "load() has to overwrite everything that was saved, or take 'into' out of `accepts`. (What "
    "change_model() changes has to be a value, not a setting.)"
)
_CONVERSIONS = "Its load() has to give back each form that its `conversions` name."


def _come_back(subject: Subject, path: str, before: Any, kept: list[Any]) -> None:
    store = Store(path)
    for item in (Kept(*values) for values in kept):
        for verify in (True, False):
            model = _restored(subject, store, item, verify)
            found = difference(before, prediction(subject, model), "predict()")
            if found:
                raise ConformanceError(
                    f"What is loaded from the format {item.format!r} in a new process "
                    f"(verify={verify}) predicts something else: {found}. Save everything that "
                    f"predictions depend on, and put all of it back; or, if that can't be, "
                    f"return SaveResult(restore='weights', reason=...)."
                )
            _check_is_model(subject, model, item)


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
    changed = subject.change_model(subject.make_model())
    unfilled = digest_of(changed, kept.format)
    try:
        store.load(kept.ref, trust=kept.trust, into=changed)
    except FlowymlError:  # of another structure, which may be refused
        return
    filled = digest_of(changed, kept.format)
    if filled == unfilled or (kept.restore == "weights" and filled != kept.digest):
        raise ConformanceError(
            f"A changed model that was filled with into= from the format {kept.format!r} isn't "
            f"the one that was saved. {_FILL}"
        )


def _check_into_another_type(store: Store, kept: Kept) -> None:
    try:
        store.load(kept.ref, trust=kept.trust, into=object())
    except FlowymlError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, (FlowymlError, TypeError, ValueError)):
            return
        raise ConformanceError(
            f"Store.load(into=object()) fails with {told(cause)} for the format {kept.format!r}. "
            f"Check the type of what is given, and raise a MaterializationError that says what "
            f"is needed."
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
