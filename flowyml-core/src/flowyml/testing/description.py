"""Description: what the extractor says of a model is complete, plain, repeatable and harmless."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from flowyml import Model, encoding, names, properties
from flowyml.interfaces import Extractor, Layer
from flowyml.properties import type_name
from flowyml.testing.checks import (
    blaming,
    check,
    contents,
    digest_of,
    materializer_of,
    models,
    naming,
)
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process, in_two_processes
from flowyml.testing.scene import QUIET
from flowyml.testing.subject import ConformanceError, Subject
from flowyml.testing.surroundings import no_changes, quiet, unmoved

__tracebackhide__ = True

_DECLARED: Mapping[str, str] = {
    "parameters": "int",
    "trainable_parameters": "int",
    "frozen_parameters": "int",
    "num_layers": "int",
    "num_tensors": "int",
    "architecture": "str",
    "model_class": "str",
    "device": "str",
    "dtype": "str",
    "layer_types": "list[str]",
    "tensor_shapes_sample": "dict[str, list[int]]",
    "training_mode": "bool",
}
"""Types of the properties that `Model` has attributes for."""


@check
def check_the_description_is_complete(subject: Subject) -> None:
    """The properties are all there, plain and consistent, and the model can be shown."""
    for what, model in models(subject):
        with naming(what):
            _check_complete(subject, model)


def _check_complete(subject: Subject, model: Any) -> None:
    extractor = _extractor(subject)
    found = _extracted(extractor, model)
    known = {"framework": extractor.framework, **found}
    missing = [name for name in subject.properties if known.get(name) is None]
    if missing:
        raise ConformanceError(
            f"extract() of {extractor.framework!r} doesn't say {', '.join(map(repr, missing))}. "
            f"Add what is missing, or take it out of `properties` in {type(subject).__name__}."
        )
    for name, value in found.items():
        _check_plain(value, f"The property {name!r}")
        _check_type(name, value)
    _check_counts(extractor, model, found)
    _check_shown(subject, extractor, model)
    _check_record(extractor, model)


@check
def check_the_description_is_deterministic(subject: Subject) -> None:
    """The same model is described in the same words each time, in every process."""
    made = models(subject)
    first = {what: told_of(subject, model) for what, model in made}
    again = [({what: told_of(subject, model) for what, model in made}, "a second time")]
    again += [(said, "in another process") for said in in_two_processes(subject, _told_of_new)]
    for said, when in again:
        for what, before in first.items():
            found = difference(before, said.get(what), "description")
            if found:
                raise ConformanceError(
                    f"The same model, of {what}, is described in other words {when}: {found}. Take "
                    f"out addresses, times and random names, and sort what comes from a set."
                )


@check
def check_describing_changes_nothing(subject: Subject) -> None:
    """A description leaves the model, and the state of every random generator, as they were.

    It prints nothing, and changes no file.
    """
    in_new_process(subject, _describe, environment=QUIET)


def _describe(subject: Subject) -> None:
    told_of(subject, subject.make_model())  # so that nothing is imported or set up late
    made, same = (models(subject, all_of_them=False) for _ in range(2))
    for (what, model), (_, untouched) in zip(made, same, strict=True):
        with naming(what):
            _check_untouched(subject, model, untouched)


def _check_untouched(subject: Subject, model: Any, untouched: Any) -> None:
    what = "Describing a model"
    before = prediction(subject, model)
    with unmoved(what), quiet(what), no_changes(f"{what} changes a file", _ONLY_READ):
        told_of(subject, model)
    found = difference(before, prediction(subject, model), "predict()")
    if found:
        raise ConformanceError(
            f"Describing a model changes what it predicts: {found}. {_ONLY_READ} Put back what "
            f"had to change for a moment."
        )
    if digest_of(untouched) != digest_of(model):
        raise ConformanceError(
            f"Describing a model changes what is saved of it: a model that was described has "
            f"another digest than one that wasn't. {_ONLY_READ} (make_model() has to return the "
            f"same model each time.)"
        )


_ONLY_READ = "extract(), outline() and default_name() may only read."


def _extractor(subject: Subject) -> Extractor:
    for extractor in contents(subject).extractors:
        if extractor.framework == subject.framework:
            return extractor
    raise ConformanceError(f"The adapter brings no extractor of {subject.framework!r}.")


def _extracted(extractor: Extractor, model: Any) -> dict[str, Any]:
    what = f"extract() of {extractor.framework!r}"
    with blaming(what, "It has to describe every model that detect() says True of."):
        found = extractor.extract(model, {})
    if not isinstance(found, Mapping):
        raise ConformanceError(
            f"{what} returned a {type_name(found)}. Return a dict: property by name."
        )
    return dict(found)


def _check_plain(value: Any, what: str) -> None:
    """Check that something is stored as it is."""
    try:
        if encoding.dumps(properties.describe(value)) == encoding.dumps(value):
            return
        cause = (
            "has parts that are stored as something else, such as tuples or keys that are no str"
        )
    except encoding.EncodingError as error:
        cause = str(error)
    raise ConformanceError(
        f"{what} can't be stored without loss: {cause}. Return None, bool, int, "
        f"float and str, and lists and dicts of these: int(...), str(...), list(...)."
    )


def _check_record(extractor: Extractor, model: Any) -> None:
    """Check what the record of a run says of the model and of the framework."""
    materializer = materializer_of(model)
    asked: dict[str, Callable[[], object]] = {
        f"settings() of {materializer.key!r}": lambda: materializer.settings(model),
        f"environment() of {extractor.framework!r}": extractor.environment,
    }
    for what, ask in asked.items():
        with blaming(what, "It may return an empty dict."):
            found = ask()
        if not isinstance(found, Mapping):
            raise ConformanceError(f"{what} returned a {type_name(found)}. Return a dict.")
        for name, value in found.items():
            _check_plain(value, f"{name!r} in {what}")


def _check_type(name: str, value: Any) -> None:
    declared = _DECLARED.get(name)
    if declared is None or value is None or _is_of(declared, value):
        return
    raise ConformanceError(
        f"The property {name!r} has to be of the type {declared}, as Model.{name} says; it is "
        f"{_shown(value)}. Convert it, or give it a name of its own."
    )


def _is_of(declared: str, value: Any) -> bool:
    if declared == "list[str]":
        return type(value) is list and all(type(item) is str for item in value)
    if declared == "dict[str, list[int]]":
        return type(value) is dict and all(
            type(shape) is list and all(type(size) is int for size in shape)
            for shape in value.values()
        )
    return type(value).__name__ == declared


def _check_counts(extractor: Extractor, model: Any, found: Mapping[str, Any]) -> None:
    total, trainable, frozen = (
        found.get(name) for name in ("parameters", "trainable_parameters", "frozen_parameters")
    )
    if None not in (total, trainable, frozen) and total != trainable + frozen:  # type: ignore[operator]  # none is None
        raise ConformanceError(
            f"The model has {total} parameters, of which {trainable} are trainable and {frozen} "
            f"frozen. Every parameter is one or the other: count each once."
        )
    with blaming(f"outline() of {extractor.framework!r}", "It may return None."):
        outline = extractor.outline(model)
    if outline is None:
        return
    for name, counted, said in (
        ("parameters", outline.parameters, total),
        ("trainable_parameters", outline.trainable, trainable),
    ):
        if said is not None and counted != said:
            raise ConformanceError(
                f"The outline counts {counted} where extract() says {name!r} is {said}. A layer's "
                f"count includes the layers in it, each parameter once."
            )
    _check_layer(outline, outline.name)


def _check_layer(layer: Layer, path: str) -> None:
    most = max((child.parameters for child in layer.children), default=0)
    if not 0 <= layer.trainable <= layer.parameters or layer.parameters < most:
        raise ConformanceError(
            f"The outline's layer {path or layer.type!r} has {layer.parameters} parameters, "
            f"{layer.trainable} of them trainable, and one with {most} in it. A layer's count "
            f"includes the layers in it."
        )
    for child in layer.children:
        _check_layer(child, f"{path}.{child.name}".lstrip("."))


def _check_shown(subject: Subject, extractor: Extractor, model: Any) -> None:
    name = extractor.default_name(model)
    if type(name) is not str or names.from_text(name) == "unnamed":
        raise ConformanceError(
            f"default_name() returned {_shown(name)}. Return a text with letters or digits in it, "
            f"such as the name of the model's class."
        )
    constructor = f"Model.from_{subject.framework}"
    with blaming(f"{constructor}(model).summary()", "Look at outline() and extract()."):
        described: Model = getattr(Model, constructor.removeprefix("Model."))(model)
        described.summary()
        described._repr_html_()
    if described.framework != subject.framework:
        raise ConformanceError(
            f"{constructor}(model).framework is {described.framework!r}; it has to be "
            f"{subject.framework!r}."
        )


def told_of(subject: Subject, model: Any) -> dict[str, Any]:
    """Return all that is said of a model, in plain values."""
    extractor = _extractor(subject)
    with blaming(f"outline() of {extractor.framework!r}", "It may return None."):
        outline = extractor.outline(model)
    return {
        "properties": properties.describe(_extracted(extractor, model)),
        "outline": properties.describe(outline and attrs.asdict(outline)),
        "default_name": extractor.default_name(model),
    }


def _told_of_new(subject: Subject) -> dict[str, Any]:
    return {what: told_of(subject, model) for what, model in models(subject)}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"a {type_name(value)}"
