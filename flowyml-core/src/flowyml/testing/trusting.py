"""Trust: loading runs no code but the framework's and what the caller lists."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

import attrs

from flowyml import Store
from flowyml.errors import FlowymlError, UntrustedDataError
from flowyml.testing import forging
from flowyml.testing.checks import check, formats_of, loaded, saved, temporary_store
from flowyml.testing.damage import spread
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.restoring import Kept
from flowyml.testing.subject import Bare, ConformanceError, Subject, bare

__tracebackhide__ = True

_REFUSE = (
    "load() has to raise UntrustedDataError(message, required) before it imports or calls "
    "anything that options.trust doesn't allow."
)


@check
def check_trust_is_respected(subject: Subject) -> None:
    """What needs trust is refused without it, by name and unimported, and loads with it.

    All of its names have to be trusted, and the files tell them: not the manifest, which a
    stranger may have written.
    """
    model = subject.make_model_that_needs_trust()
    if model is None:
        _check_nothing_is_needed(subject)
        return
    before = prediction(subject, model)
    with temporary_store() as store:
        for format in formats_of(model):
            kept = Kept.of(saved(store, model, "model", format))
            if kept.restore == "exact" or kept.trust:
                _check_needed(subject, store, kept, before)


def _check_nothing_is_needed(subject: Subject) -> None:
    model = subject.make_model()
    with temporary_store() as store:
        kept = [Kept.of(saved(store, model, "model", format)) for format in formats_of(model)]
        for item in kept:
            if item.trust:
                raise ConformanceError(
                    f"In the format {item.format!r}, the model needs trust in "
                    f"{', '.join(item.trust)}. Let make_model() return one that needs none, and "
                    f"make_model_that_needs_trust() this one; or take the framework's own classes "
                    f"for safe."
                )
        refs = [item.ref for item in kept if item.restore == "exact"]
        in_new_process(bare(subject), _load_untrusted, str(store.path), refs, with_subject=False)


def _check_needed(subject: Subject, store: Store, kept: Kept, before: Any) -> None:
    if not kept.trust:
        raise ConformanceError(
            f"The model of make_model_that_needs_trust() is saved in the format {kept.format!r} "
            f"without a word of what it needs. save() has to return "
            f"SaveResult(required_trust=...): the dotted names that load() imports."
        )
    arguments = (str(store.path), kept.ref, kept.trust)
    required = in_new_process(bare(subject), _refuse, *arguments, with_subject=False)
    in_new_process(subject, _load_trusted, str(store.path), kept.ref, required, before)


def _load_untrusted(subject: Bare, path: str, refs: list[str]) -> None:
    for ref in refs:
        try:
            Store(path).load(ref)
        except UntrustedDataError as error:
            raise ConformanceError(
                f"{ref} was saved without required_trust, and yet a new process refuses to load "
                f"it: {error} save() has to return SaveResult(required_trust=...)."
            ) from error


def _refuse(subject: Bare, path: str, ref: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    """Load with too little trust, and return what the refusals say is needed."""
    for module in subject.modules:
        importlib.import_module(module)
    before = {*sys.modules}
    required = _required(path, ref, ())
    _check_all_is_said(ref, required, declared)
    for trust in (("nothing.like_it",), tuple(f"{name}_" for name in required)):
        _required(path, ref, trust)
    theirs = {module.partition(".")[0] for module in subject.modules}
    strange = [name for name in required if name.partition(".")[0] not in theirs]
    imported = sorted(_modules_of(strange) & ({*sys.modules} - before))
    if imported:
        raise ConformanceError(
            f"Loading {ref} without trust imports {', '.join(imported)}, which runs its code. "
            f"{_REFUSE}"
        )
    _check_manifest_is_not_believed(path, ref, declared)
    if len(required) > 1:
        for name in spread(required, _LEFT_OUT):  # the others may be imported then
            _required(path, ref, tuple(each for each in required if each != name))
    return required


_LEFT_OUT = 8
"""How many names are left out of those that are trusted, one at a time."""


def _check_all_is_said(ref: str, required: tuple[str, ...], declared: tuple[str, ...]) -> None:
    unsaid = {*declared}.difference(required)
    if unsaid:
        raise ConformanceError(
            f"The UntrustedDataError for {ref} has required = {required!r}, without "
            f"{', '.join(sorted(unsaid))}, which save() has in required_trust. Give the error all "
            f"that is needed: users copy it into trust=."
        )


def _check_manifest_is_not_believed(path: str, ref: str, declared: tuple[str, ...]) -> None:
    """Load without trust what says in its manifest that it needs none."""
    store = Store(path)
    honest = forging.read(store, store.get(ref))
    assert honest.asset.stored is not None
    stored = attrs.evolve(honest.asset.stored, required_trust=())
    silent = attrs.evolve(honest, asset=attrs.evolve(honest.asset, stored=stored))
    with forging.forged(store, silent, honest.files, honest.details) as forged:
        try:
            _check_all_is_said(ref, _required(path, forged, ()), declared)
        except ConformanceError as error:
            raise ConformanceError(
                f"{ref} needs trust. Where its manifest says that it needs none: {error} Whoever "
                f"wrote the files may have written saved.result.required_trust too, so ask for "
                f"what the files name."
            ) from error


def _required(path: str, ref: str, trust: tuple[str, ...]) -> tuple[str, ...]:
    """Load with too little trust, and return what the refusal says is needed."""
    try:
        Store(path).load(ref, trust=trust)
    except UntrustedDataError as error:
        return error.required
    except FlowymlError as error:
        raise ConformanceError(
            f"Loading {ref} with trust={trust!r} fails with {type(error).__name__}, where an "
            f"UntrustedDataError is due: {error} {_REFUSE}"
        ) from error
    raise ConformanceError(f"{ref} is loaded with trust={trust!r}. {_REFUSE}")


def _load_trusted(
    subject: Subject, path: str, ref: str, required: tuple[str, ...], before: Any
) -> None:
    wider = tuple(f"{name.rpartition('.')[0]}.*" for name in required)
    for trust in (required, wider):
        advice = "With all that UntrustedDataError.required has, load() has to give the model back."
        model = loaded(Store(path), ref, advice, trust=trust)
        found = difference(before, prediction(subject, model), "predict()")
        if found:
            raise ConformanceError(
                f"The model that needs trust predicts something else when it was loaded: {found}. "
                f"Save everything that predictions depend on, and put all of it back."
            )


def _modules_of(names: Iterable[str]) -> set[str]:
    """Return the names of modules that importing what has these dotted names would import."""
    parts = [name.split(".") for name in names]
    return {".".join(each[:i]) for each in parts for i in range(1, len(each) + 1)}
