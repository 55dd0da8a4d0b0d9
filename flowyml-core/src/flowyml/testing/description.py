"""Description: what the extractor says of a model is complete, plain, repeatable and harmless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowyml import Model, adapters, encoding, names, properties
from flowyml.interfaces import Extractor, Layer
from flowyml.properties import type_name
from flowyml.testing.checks import blaming, check, contents, digest_of
from flowyml.testing.predictions import difference, is_same, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import ConformanceError, Subject

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
    model = subject.make_model()
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
        _check_plain(name, value)
        _check_type(name, value)
    _check_counts(extractor, model, found)
    _check_shown(subject, extractor, model)


@check
def check_the_description_is_deterministic(subject: Subject) -> None:
    """The same model is described in the same words each time, in every process."""
    model = subject.make_model()
    first, second = _told(subject, model), _told(subject, model)
    other = in_new_process(subject, _told_of_new)
    for again, when in ((second, "a second time"), (other, "in another process")):
        found = difference(first, again, "description")
        if found:
            raise ConformanceError(
                f"The same model is described in other words {when}: {found}. Take out addresses, "
                f"times and random names, and sort what comes from a set."
            )


@check
def check_describing_changes_nothing(subject: Subject) -> None:
    """A description leaves the model, and the state of every random generator, as they were."""
    untouched, model = subject.make_model(), subject.make_model()
    before = prediction(subject, model)
    states = _random_states()
    _told(subject, model)
    for name, state in _random_states().items():
        if not is_same(states.get(name), state):
            raise ConformanceError(
                f"Describing a model draws random numbers of {name!r}, so a program with a "
                f"description in it gives other results. Save that state and put it back."
            )
    found = difference(before, prediction(subject, model), "predict()")
    if found:
        raise ConformanceError(
            f"Describing a model changes what it predicts: {found}. extract(), outline() and "
            f"default_name() may only read; put back what had to change for a moment."
        )
    if digest_of(untouched) != digest_of(model):
        raise ConformanceError(
            "Describing a model changes what is saved of it: a model that was described has "
            "another digest than one that wasn't. extract(), outline() and default_name() may "
            "only read. (make_model() has to return the same model each time.)"
        )


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


def _check_plain(name: str, value: Any) -> None:
    """Check that a property is stored as it is."""
    try:
        if encoding.dumps(properties.describe(value)) == encoding.dumps(value):
            return
        cause = (
            "has parts that are stored as something else, such as tuples or keys that are no str"
        )
    except encoding.EncodingError as error:
        cause = str(error)
    raise ConformanceError(
        f"The property {name!r} can't be stored without loss: {cause}. Return None, bool, int, "
        f"float and str, and lists and dicts of these: int(...), str(...), list(...)."
    )


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


def _told(subject: Subject, model: Any) -> dict[str, Any]:
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
    return _told(subject, subject.make_model())


def _random_states() -> dict[str, Any]:
    return {source.name: source.state() for source in adapters.random_sources()}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"a {type_name(value)}"
