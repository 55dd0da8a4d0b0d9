"""Models: the main kind of asset, described by the adapter of its framework.

This module knows no framework. A method ``Model.from_<framework>`` exists for every adapter that
is installed, third parties' included.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

import attrs

from flowyml import adapters, extraction, names, properties
from flowyml.assets import Asset, ParentLike, sources
from flowyml.errors import (
    AdapterNotFoundError,
    FlowymlWarning,
    UnsupportedObjectError,
    warn,
)
from flowyml.history import TrainingHistory
from flowyml.properties import check_tags, type_name

if TYPE_CHECKING:
    from flowyml.interfaces import Extractor
    from flowyml.store import Store
    from flowyml.summary import Summary


_Value = TypeVar("_Value")

_SHAPE = ("parameters", "num_layers", "layer_types")
"""While these stay the same, so does what an option had brought to light of a loaded model."""


class Described(Generic[_Value]):
    """An attribute that reads the property of its name; None when that isn't described."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, model: None, owner: type) -> Self: ...

    @overload
    def __get__(self, model: Model, owner: type) -> _Value | None: ...

    def __get__(self, model: Model | None, owner: type) -> Self | _Value | None:
        return self if model is None else model.metadata.properties.get(self._name)


class ModelType(type):
    """Gives `Model` a method ``from_<framework>`` for every adapter, third parties' included."""

    def __getattr__(cls, name: str) -> Callable[..., Model]:
        prefix, _, framework = name.partition("from_")
        if prefix or not framework.isidentifier():
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        return _constructor(cls, adapters.extractor(framework))

    def __dir__(cls) -> list[str]:
        constructors = [f"from_{framework}" for framework in adapters.frameworks()]
        return sorted({*super().__dir__(), *constructors})


@attrs.define(eq=False, kw_only=True, slots=False, repr=False)
class Model(Asset, metaclass=ModelType):
    """A trained model of any framework, described exactly.

    Make one with ``Model.from_<framework>(model, ...)`` or `Model.create`.

    Attributes:
        framework: the framework's name, such as ``"pytorch"``.
        training_history: equally long series of numbers by metric, or None.
    """

    kind: ClassVar[str] = "model"

    framework: str | None = None
    training_history: TrainingHistory | None = None
    _options: dict[str, Any] = attrs.field(factory=dict)
    _extracted: bool = True

    @classmethod
    def create(
        cls,
        data: Any,
        name: str | None = None,
        *,
        framework: str | None = None,
        version: str | None = None,
        training_history: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, Any] | None = None,
        parent: ParentLike | Iterable[ParentLike] | None = None,
        trained_on: ParentLike | Iterable[ParentLike] | None = None,
        auto_extract: bool = True,
        **more_properties: Any,
    ) -> Model:
        """Describe a model.

        Args:
            data: the model itself.
            name: its name in a store; by default the name of its class.
            framework: which adapter describes it; found out when not given.
            version: the version to save it as; by default the next one.
            training_history: series of numbers by metric, all of one length; copied.
            tags: free text by key.
            properties: what else to note; JSON-able, or described by type.
            parent: what it was made from: assets or refs.
            trained_on: the data it was trained on: assets or refs.
            auto_extract: False leaves the extraction out; `framework` may then be any name.
            **more_properties: more of `properties`; an option of the framework's extractor, such
                as PyTorch's ``example_inputs``, goes to the extractor.

        Raises:
            UnknownFrameworkError: when no adapter recognises the model.
            AmbiguousFrameworkError: when several do.
            AdapterNotFoundError: when `framework` has no usable adapter.
            UnsupportedObjectError: when it isn't a model of `framework`, or an option isn't what
                its extractor takes (a TypeError).
            ValueError: for an unfit name, version or history, or a property that is extracted.
        """
        extractor: Extractor | None = None
        if auto_extract:
            extractor = adapters.extractor(framework) if framework else adapters.extractor_of(data)
            framework = extractor.framework
            _check_is_model(extractor, data)
        if name is None:
            name = names.from_text(
                extraction.default_name(extractor, data) if extractor else "model"
            )
        added = {**(properties or {}), **more_properties}
        _refuse_typos(cls, more_properties, extractor.options if extractor else frozenset())
        options = (
            {key: added.pop(key) for key in extractor.options if key in added} if extractor else {}
        )
        model = cls(
            options=options,
            extracted=auto_extract,
            name=names.check_name(name),
            version=None if version is None else names.check_version(version),
            data=data,
            framework=framework,
            training_history=None
            if training_history is None
            else TrainingHistory.of(training_history),
            tags=check_tags(tags or {}),
            made_from=(*sources(parent, "parent"), *sources(trained_on, "trained_on")),
        )
        extracted: dict[str, Any] = {}
        if extractor:
            extracted = extraction.extracted(extractor, data, options, refusing=True)
        model.metadata.properties.update(_joined(framework, extracted, added))
        return model

    @classmethod
    def load(
        cls,
        ref: str,
        *,
        store: Store | str | os.PathLike[str] | None = None,
        trust: Iterable[Any] = (),
        into: Any = None,
        device: Any = None,
        verify: bool = True,
        class_map: Mapping[str, type] | None = None,
    ) -> Model:
        """Load a model with its data, the live object of its framework.

        Args:
            ref: ``"name"`` for the newest version, or ``"name@v3"``.
            store: where from; by default `Store.default`.
            trust: classes and dotted names (``"mypkg.*"``) that loading may import and use.
            into: an object that you built, to be filled with the weights.
            device: where to put the weights; by default where they were, if that exists here.
            verify: False leaves out comparing every byte with its digest.
            class_map: classes by the dotted names of those whose place they take.

        Raises:
            AssetNotFoundError: when the store has no such model.
            IntegrityError: when what is on disk isn't what was saved.
            UntrustedDataError: when loading needs what isn't trusted.
            MaterializationError: when the object can't be rebuilt.
        """
        from flowyml.store import Store

        store = Store.of(store)
        model = store.get(ref)
        if not isinstance(model, cls):
            raise UnsupportedObjectError(
                f"{model.ref} is a {model._in_short()}, not a model. Load it with "
                f"Store.load({model.ref!r})."
            )
        model.data = store.load(
            f"{model.ref}",
            trust=trust,
            into=into,
            device=device,
            verify=verify,
            class_map=class_map,
        )
        if into is not None:
            model.before_save()  # the object is the caller's, and may differ in dtype or mode
        return model

    parameters = Described[int]("Number of parameters: elements of all parameter tensors.")
    trainable_parameters = Described[int]("Number of parameters that training changes.")
    frozen_parameters = Described[int]("Number of parameters that training leaves alone.")
    architecture = Described[str]("Name of the architecture, such as the model's class name.")
    model_class = Described[str]("Name of the model's class.")
    num_layers = Described[int]("Number of layers.")
    layer_types = Described[list[str]]("Types of layers, in order of first appearance.")
    num_tensors = Described[int]("Number of tensors that the saved state consists of.")
    tensor_shapes_sample = Described[dict[str, list[int]]]("Shapes of the first tensors, by name.")
    training_mode = Described[bool]("True when the model is in training mode.")
    device = Described[str]("Where the parameters are, in the framework's words.")
    dtype = Described[str]("Data type of the parameters, in the framework's words.")

    def summary(self, depth: int | None = 3) -> str:
        """Return the description as a table: the tree of layers, and totals.

        Output shapes and FLOPs are there when the model was described with example inputs.

        Args:
            depth: how deep to go into the tree; None goes all the way.
        """
        from flowyml.summary import as_text

        return as_text(self._summary(depth))

    def _repr_html_(self) -> str:
        from flowyml.summary import as_html

        return as_html(self._summary(3))

    def _summary(self, depth: int | None) -> Summary:
        from flowyml.summary import plainly, summarize

        if depth is not None and depth < 0:
            raise ValueError(f"depth can't be {depth}: 0 shows the model alone, None everything")
        layers = None
        if self.data is not None and self.framework is not None:
            with suppress(AdapterNotFoundError):
                layers = extraction.outline(adapters.extractor(self.framework), self.data)
        title = f"Model {self.ref or 'without a name'}"
        properties = self.metadata.properties
        try:
            return summarize(title, properties, layers, self.training_history, depth)
        except Exception as error:  # what was extracted or read may be of any form
            warn(
                f"{title} is shown without its layers, as its description is unfit: "
                f"{type(error).__name__}: {error}",
                FlowymlWarning,
            )
            return plainly(title, properties)

    def before_save(self) -> None:
        """Describe again, so that what is saved is described as it is."""
        extractor = adapters.extractor_or_none(self.data)
        if self._extracted and extractor is not None and extractor.framework == self.framework:
            found = extraction.extracted(extractor, self.data, self._options)
            before = self.metadata.properties
            if not self._options and all(found.get(key) == before.get(key) for key in _SHAPE):
                found = {key: v for key, v in found.items() if key not in extractor.optional}
            before.update({"framework": self.framework, **found})

    def described_with(self) -> dict[str, Any]:
        """Return the extractor's options that the user gave, such as example inputs."""
        return dict(self._options)

    def refresh(self, **options: Any) -> Self:
        """Describe again, after the model has changed; what the user added stays.

        Args:
            **options: the extractor's, such as PyTorch's ``example_inputs``; by default those
                that were given before.

        Raises:
            UnsupportedObjectError: when there is no live model, it is of another framework, or an
                option isn't what the extractor takes.
        """
        if self.data is None:
            raise UnsupportedObjectError(
                f"{self.ref} was read without its data; Model.load has it."
            )
        extractor = adapters.extractor(self.framework or "")
        _check_is_model(extractor, self.data)
        unknown = sorted(set(options).difference(extractor.options))
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: not an option of {self.framework!r}")
        given = {**self._options, **options}
        extracted = extraction.extracted(extractor, self.data, given, refusing=True)
        self._options = given
        self.metadata.properties.update(extracted)
        return self

    def _in_short(self) -> str:
        count = "" if self.parameters is None else f", {self.parameters:,} parameters"
        return f"{self.framework} {self.architecture or ''}".rstrip() + count


_constructors: dict[tuple[type[Model], int], Callable[..., Model]] = {}
"""By identity, as an extractor need not be hashable; each holds its extractor, which so stays."""


def _constructor(cls: Any, extractor: Extractor) -> Callable[..., Model]:
    key = cls, id(extractor)
    if key not in _constructors:
        _constructors[key] = _make_constructor(cls, extractor)
    return _constructors[key]


def _make_constructor(cls: type[Model], extractor: Extractor) -> Callable[..., Model]:
    """Build ``Model.from_<framework>``, with a signature that help() and completion can show."""

    def from_framework(model: Any, name: str | None = None, **arguments: Any) -> Model:
        if "framework" in arguments:
            raise TypeError(f"{from_framework.__name__}() takes no framework=; use Model.create")
        return cls.create(model, name, framework=extractor.framework, **arguments)

    create = inspect.signature(cls.create)
    optional = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Any)
        for option in sorted(extractor.options)
    ]
    given = [p for key, p in create.parameters.items() if key not in ("data", "framework")]
    *keywords, rest = given
    model = create.parameters["data"].replace(name="model")
    from_framework.__name__ = f"from_{extractor.framework}"
    from_framework.__qualname__ = f"{cls.__qualname__}.{from_framework.__name__}"
    from_framework.__doc__ = f"Describe {extractor.accepts}; see `Model.create` for the arguments."
    from_framework.__signature__ = create.replace(  # type: ignore[attr-defined]  # functions take one
        parameters=[model, *keywords, *optional, rest]
    )
    return from_framework


def _check_is_model(extractor: Extractor, data: object) -> None:
    if adapters.detects(extractor, data):
        return
    hint = f" Pass an instance: {data.__name__}(...)." if isinstance(data, type) else ""
    got = f"the class {data.__qualname__}" if isinstance(data, type) else f"a {type_name(data)}"
    if data is None:
        got = "None"
    raise UnsupportedObjectError(
        f"Model.from_{extractor.framework} needs {extractor.accepts}; got {got}.{hint}"
    )


def _refuse_typos(cls: type[Model], given: Iterable[str], options: Iterable[str]) -> None:
    """Refuse a keyword argument that is all but an argument's name: it isn't meant as a property.

    Raises:
        TypeError: that says which argument is meant. `properties=` takes any name.
    """
    unknown = set(given).difference(options)
    if not unknown:
        return
    from difflib import get_close_matches

    known = [*inspect.signature(cls.create).parameters, *options]
    for name in unknown:
        near = get_close_matches(name, known, 1, cutoff=0.9)
        if near:
            raise TypeError(
                f"{name}= is no argument; did you mean {near[0]}=? To note a property of that "
                f"name, use properties={{{name!r}: ...}}."
            )


def is_model(obj: object) -> bool:
    """Tell whether something is a `Model`, or what an adapter makes one of."""
    return isinstance(obj, Model) or adapters.extractor_or_none(obj) is not None


def described(data: Any) -> Asset:
    """Return an asset for an object: a described `Model` where an adapter recognises one."""
    extractor = adapters.extractor_or_none(data)
    if extractor is None:
        return Asset(data=data)
    return Model(data=data, framework=extractor.framework)


def _joined(
    framework: str | None, extracted: Mapping[str, Any], added: Mapping[str, Any]
) -> dict[str, Any]:
    doubled = sorted({"framework", *extracted} & set(added))
    if doubled:
        raise ValueError(
            f"{', '.join(map(repr, doubled))} can't be set as a property: the value is extracted "
            f"from the model. Choose another name, or pass auto_extract=False."
        )
    described = {key: properties.describe_briefly(value) for key, value in added.items()}
    return {"framework": framework, **extracted, **described}
