"""Detection: the adapter knows its framework's models, and nothing else, when it sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from flowyml import adapters
from flowyml.errors import MaterializationError
from flowyml.interfaces import Extractor, Materializer, Recognizer
from flowyml.properties import type_name
from flowyml.testing.checks import check, contents, in_words, materializer_of
from flowyml.testing.oddities import OwnError, oddities
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import Bare, ConformanceError, Subject, bare

__tracebackhide__ = True

_EARLY = (
    "Return False as long as sys.modules.get() doesn't have the framework: no such object can "
    "exist before it is imported."
)
_TYPE_FIRST = "Compare its type with the framework's types before asking anything else of it."


@check
def check_detection_needs_no_framework(subject: Subject) -> None:
    """Where the framework isn't imported, detect() says False of everything and imports nothing."""
    in_new_process(bare(subject), _detect_nothing, with_subject=False)


@check
def check_the_right_objects_are_detected(subject: Subject) -> None:
    """The model is recognised, by one part of this adapter; its class and other objects are not.

    Where another installed adapter recognises it too, this one has to come first.
    """
    model = subject.make_model()
    found = contents(subject)
    registry = adapters._registry
    for what, everybodys in (
        ("extractor", [*registry.extractors()]),
        ("materializer", [*registry.materializers()]),
    ):
        _check_claims(subject, model, what, everybodys)
    ours: list[Recognizer] = [*found.extractors, *found.materializers]
    for item in ours:
        _refuse(item, "the model's class", type(model), "Being a type, it is no model.")
        for what, obj in (*oddities(), _namesake(type(model))):
            _refuse(item, what, obj, _TYPE_FIRST)
    for obj in subject.other_objects():
        what = f"a {type_name(obj)}, which other_objects() calls no model"
        # Another materializer may be for just that.
        for item in (*found.extractors, materializer_of(model)):
            _refuse(item, what, obj, _TYPE_FIRST)


def _namesake(cls: type) -> tuple[str, object]:
    """Return an object of another class that has the same name, with a description of it."""
    own: type = type(cls.__name__, (), {"__module__": "somebodys_code"})
    return f"an object of somebody's own class {cls.__name__!r}", own()


def _detect_nothing(subject: Bare) -> None:
    found = contents(subject)
    for item in (*found.extractors, *found.materializers):
        for what, obj in oddities():
            _refuse(item, f"{what}, the framework not being imported", obj, _EARLY)
            imported = sorted({*subject.modules} & {*sys.modules})
            if imported:
                raise ConformanceError(
                    f"{_of(item)} imports {', '.join(imported)} when it is asked about {what}. "
                    f"{_EARLY}"
                )


def _refuse(item: Recognizer, what: str, obj: object, advice: str) -> None:
    try:
        said = item.detect(obj)
    except OwnError:  # the object's doing: the core counts it as no
        if advice is _EARLY:
            raise ConformanceError(f"{_of(item)} asks {what} something. {_EARLY}") from None
        return
    except (Exception, SystemExit) as error:
        raise ConformanceError(
            f"{_of(item)} raises {in_words(error)} when it is asked about {what}. {advice}"
        ) from error
    if said is not False:
        raise ConformanceError(
            f"{_of(item)} says {_shown(said)} of {what}, where False is right. {advice}"
        )


def _check_is_asked(item: Recognizer) -> None:
    if item.modules and {*item.modules}.isdisjoint(sys.modules):
        raise ConformanceError(
            f"{_of(item)} is never called for the model: its modules = {item.modules!r}, and none "
            f"of these is imported though there is a model. Name the framework's modules."
        )


def _check_claims(subject: Subject, model: Any, what: str, items: Iterable[Any]) -> None:
    ours, theirs = [], []
    for item in items:
        if adapters.provider(item).name != subject.framework:
            theirs += [item] if adapters.detects(item, model) else []
        elif _says_yes(item, model):
            _check_is_asked(item)
            ours.append(item)
    of_whom = " and ".join(f"{_of(item)} of {adapters.provider(item)}" for item in (*ours, *theirs))
    if not ours:
        raise ConformanceError(
            f"No {what} recognises the model, a {type_name(model)}. The detect() of one of the "
            f"adapter's has to return True for it."
        )
    if len(ours) > 1:
        raise ConformanceError(
            f"The model, a {type_name(model)}, has to be recognised by exactly one {what} of the "
            f"adapter; it is by {of_whom}. Narrow detect() down to one of them."
        )
    if theirs and not _comes_first(ours[0], model):
        raise ConformanceError(
            f"Another installed adapter claims your model too, a {type_name(model)}: it is "
            f"recognised by {of_whom}. The one comes first whose `modules` define the class, or "
            f"its nearest base: name yours. If both do, run the kit where the other adapter isn't "
            f"installed; users choose one with FLOWYML_DISABLE_ADAPTERS."
        )


def _says_yes(item: Recognizer, model: Any) -> bool:
    try:
        said = item.detect(model)
    except (Exception, SystemExit) as error:
        raise ConformanceError(
            f"{_of(item)} raises {in_words(error)} when it is asked about the model. It has to "
            f"say True or False of any object."
        ) from error
    if type(said) is not bool:
        raise ConformanceError(
            f"{_of(item)} says {_shown(said)} of the model, a {type_name(model)}. It has to "
            f"return True or False itself: put bool(...) around it."
        )
    return said


def _comes_first(item: Recognizer, model: Any) -> bool:
    if isinstance(item, Extractor):
        return adapters.extractor_or_none(model) is item
    try:
        return adapters.materializer_of(model) is item
    except MaterializationError:  # it can't be told whose it is
        return False


def _of(item: Recognizer) -> str:
    name = item.framework if isinstance(item, Extractor) else None
    if isinstance(item, Materializer):
        name = item.key
    return f"detect() of {name!r}"


def _shown(said: object) -> str:
    return repr(said) if type(said) is bool else f"a {type_name(said)} instead of a bool"
