"""What is tested: an adapter, with a model to test it on, as its author describes them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import attrs

from flowyml import adapters
from flowyml.errors import AdapterError

__tracebackhide__ = True


class ConformanceError(AssertionError):
    """An adapter doesn't do what a check is about; the text says what its author should do."""


class Named(Protocol):
    """What identifies an adapter under test, whether or not its framework may be imported."""

    @property
    def framework(self) -> str:
        """The framework's name, as in ``Model.from_<framework>``."""

    @property
    def plugin(self) -> str | None:
        """The plugin that is registered by hand, if any."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The framework's top-level modules."""


@attrs.frozen
class Bare:
    """The part of a subject that is known where the framework isn't imported."""

    framework: str
    plugin: str | None = None
    modules: tuple[str, ...] = ()


class Subject(ABC):
    """An adapter under test, and a trained model of its framework.

    Define the class at the top of a module: new processes import it and call it without
    arguments. Its methods are called many times, in any order.

    Attributes:
        framework: the framework's name, as in ``Model.from_<framework>``.
        plugin: the plugin, ``"package.module"`` or ``"package.module:object"``, when no installed
            distribution names it in an entry point; it is registered by hand in every process.
        modules: the framework's top-level modules; by default those that the extractor names.
        properties: what every description has to hold.
        expected_failures: names of checks that fail, with the reason; one that passes after all
            is a failure.
    """

    framework: ClassVar[str]
    plugin: ClassVar[str | None] = None
    modules: ClassVar[tuple[str, ...]] = ()
    properties: ClassVar[tuple[str, ...]] = ("architecture", "model_class")
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def make_model(self) -> Any:
        """Return a trained model: the same one each time, in every process.

        Set the seeds, and the number of threads where sums depend on it.
        """

    @abstractmethod
    def change_model(self, model: Any) -> Any:
        """Return a model that differs as little as can be, such as in one weight.

        It may be the one that was given, changed.
        """

    @abstractmethod
    def predict(self, model: Any) -> Any:
        """Return what the model computes from inputs that are always the same.

        Numbers, or anything with ``tolist()``, also in lists and dictionaries. The model stays
        as it is.
        """

    def variants(self) -> Iterable[Any]:
        """Return models that each differ from `make_model`'s in one other thing.

        Such as a setting, the type of its numbers, a name: whatever a user would miss if it
        didn't come back.
        """
        return ()

    def make_model_that_needs_trust(self) -> Any:
        """Return a model that loads only with ``trust=``, or None when there is no such model."""
        return None

    def other_objects(self) -> Iterable[object]:
        """Return objects of the framework that come close to a model and aren't one."""
        return ()

    def draw(self) -> Any:
        """Return numbers of the framework's default random generator, or None without one."""
        return None

    def hostile_files(self, files: Mapping[str, bytes]) -> Iterable[Mapping[str, bytes]]:
        """Return sets of files that would do harm if they were loaded carelessly.

        Args:
            files: what the adapter wrote for `make_model`: bytes by path.
        """
        return ()


def load_adapter(subject: Named) -> None:
    """Make sure that the adapter is there: an entry point names it, or it is registered by hand.

    Raises:
        ConformanceError: when it can't be registered, or another one has its name.
    """
    known = next((info for info in adapters.list() if info.name == subject.framework), None)
    if subject.plugin is None or (known is not None and known.plugin == subject.plugin):
        return
    plugin = plugin_of(subject.plugin)
    if known is not None:
        if adapters._registry.has(plugin):
            return
        raise ConformanceError(
            f"`plugin` is {subject.plugin!r}, and {known} is there already, which would be tested "
            f"in its place. Take `plugin` away, or uninstall that one; two plugins under one name "
            f"are tested in two runs."
        )
    try:
        adapters.register(plugin, name=subject.framework)
    except AdapterError as error:
        raise ConformanceError(
            f"The plugin {subject.plugin!r} can't be registered. {error}"
        ) from error


def plugin_of(name: str) -> object:
    """Import a plugin: ``"package.module"`` or ``"package.module:object"``.

    Raises:
        ConformanceError: when it can't be imported.
    """
    module, _, path = name.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ConformanceError(
            f"The plugin {name!r} can't be imported: {type(error).__name__}: {error}. `plugin` has "
            f"to name an importable module, or an object in one as 'package.module:object'."
        ) from error
    return found


def bare(subject: Named) -> Bare:
    """Return what is known of a subject without its framework, for another process."""
    return Bare(subject.framework, subject.plugin, modules_of(subject))


def modules_of(subject: Named) -> tuple[str, ...]:
    """Return the framework's top-level modules: the subject's, or else the extractor's."""
    if subject.modules:
        return tuple(subject.modules)
    try:
        load_adapter(subject)
        return tuple(adapters.extractor(subject.framework).modules)
    except (AdapterError, ConformanceError):
        return ()
