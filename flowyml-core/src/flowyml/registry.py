"""The registry of adapters: the one place that holds their states and changes them.

A plugin is loaded whole or not at all: it is imported, its hooks are called and what they return
is checked before anything of it counts. Whatever a plugin raises is kept with its record.
"""

from __future__ import annotations

import difflib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import attrs
import pluggy

from flowyml import hookspecs
from flowyml.errors import AdapterError, AdapterNotFoundError, AdapterWarning
from flowyml.interfaces import Extractor, Materializer, RandomSource
from flowyml.properties import type_name

State: TypeAlias = Literal["known", "loaded", "broken", "disabled"]


@attrs.frozen
class AdapterInfo:
    """What is known about one adapter.

    Attributes:
        name: the framework's name, as in ``Model.from_<name>``.
        distribution: the distribution that brings it; None when it was registered by hand.
        version: the distribution's version.
        plugin: the module that is loaded, or the object that was registered.
        state: ``known`` (not loaded yet), ``loaded``, ``broken`` or ``disabled``.
        error: why it is broken, with its traceback.
    """

    name: str
    distribution: str | None
    version: str | None
    plugin: str
    state: State
    error: BaseException | None = attrs.field(default=None, eq=False)

    def __str__(self) -> str:
        if self.distribution is None:
            return f"{self.name!r} ({self.plugin}, of no distribution)"
        return f"{self.name!r} ({self.distribution} {self.version})"


@attrs.frozen
class Contents:
    """What a plugin's hooks returned."""

    extractors: tuple[Extractor, ...] = ()
    materializers: tuple[Materializer, ...] = ()
    random_sources: tuple[RandomSource, ...] = ()

    def claims(self) -> set[str]:
        """What no second adapter may bring, in words."""
        return (
            {f"the framework {item.framework!r}" for item in self.extractors}
            | {f"the materializer {item.key!r}" for item in self.materializers}
            | {f"the random source {item.name!r}" for item in self.random_sources}
        )


def _by_hand() -> tuple[str | None, str | None]:
    return None, None


@attrs.define(eq=False)
class Adapter:
    """One adapter's record: what is known, how to load it, and what it brought.

    Attributes:
        origin: returns the distribution and its version; called when they are asked for, since
            reading a distribution's metadata takes longer than the whole scan.
    """

    name: str
    plugin: str
    load: Callable[[], object]
    origin: Callable[[], tuple[str | None, str | None]] = _by_hand
    state: State = "known"
    error: BaseException | None = None
    contents: Contents = attrs.field(factory=Contents)

    @property
    def info(self) -> AdapterInfo:
        """The record as a value for others."""
        try:
            distribution, version = self.origin()
        except Exception:  # the leftovers of a failed uninstall have no metadata to read
            distribution, version = None, None
        return AdapterInfo(self.name, distribution, version, self.plugin, self.state, self.error)


class Registry:
    """All adapters and their states."""

    def __init__(self, adapters: Iterable[Adapter]) -> None:
        self._adapters = list(adapters)
        self._plugins = _plugin_manager()
        self._lock = threading.RLock()

    def infos(self) -> list[AdapterInfo]:
        """Every adapter as it stands now."""
        return [adapter.info for adapter in self._adapters]

    def states(self) -> list[tuple[str, State]]:
        """Name and state of every adapter, without reading its distribution's metadata."""
        return [(adapter.name, adapter.state) for adapter in self._adapters]

    def register(self, plugin: object, name: str) -> AdapterInfo:
        """Add an adapter that no distribution brings, and load it at once.

        Raises:
            AdapterError: when it is unfit or claims what another adapter has.
        """
        adapter = Adapter(name, plugin_name(plugin), lambda: plugin)
        with self._lock:
            self._load(adapter)
            if adapter.error is not None:
                raise AdapterError(
                    f"The adapter {adapter.info} can't be registered: {told(adapter.error)}"
                ) from adapter.error
            self._adapters.append(adapter)
        return adapter.info

    def load(self, name: str | None = None) -> None:
        """Load the adapters of that name, or all, that are not loaded yet."""
        if all(adapter.state in ("loaded", "disabled") for adapter in self._adapters):
            return
        with self._lock:
            for adapter in list(self._adapters):
                if adapter.state == "known" and name in (None, adapter.name):
                    self._load(adapter)
                    if adapter.error is not None and not _is_strict():
                        warnings.warn(_left_out(adapter), AdapterWarning, stacklevel=2)
                if _is_strict() and adapter.error and name in (None, adapter.name):
                    raise AdapterError(_left_out(adapter)) from adapter.error

    def _load(self, adapter: Adapter) -> None:
        try:
            plugin = adapter.load()
            contents = _collect(plugin)
            self._refuse_double_claims(adapter, contents)
            self._plugins.register(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever third-party code raises at import
            adapter.state, adapter.error = "broken", error
        else:
            adapter.state, adapter.contents = "loaded", contents

    def _refuse_double_claims(self, adapter: Adapter, contents: Contents) -> None:
        for other in self._adapters:
            doubled = other.contents.claims() & contents.claims()
            if doubled:
                raise AdapterError(
                    f"the adapters {other.info} and {adapter.info} both claim "
                    f"{' and '.join(sorted(doubled))}; uninstall one of them, or leave it out "
                    f"with the environment variable FLOWYML_DISABLE_ADAPTERS"
                )

    def extractors(self) -> Iterator[Extractor]:
        """The extractors of all loaded adapters."""
        return (item for adapter in self._adapters for item in adapter.contents.extractors)

    def materializers(self) -> Iterator[Materializer]:
        """The materializers of all loaded adapters."""
        return (item for adapter in self._adapters for item in adapter.contents.materializers)

    def random_sources(self) -> Iterator[RandomSource]:
        """The random sources of all loaded adapters."""
        return (item for adapter in self._adapters for item in adapter.contents.random_sources)

    def provider(self, item: object) -> AdapterInfo:
        """Return the adapter that brought an extractor or materializer."""
        return next(
            adapter.info
            for adapter in self._adapters
            if item in (*adapter.contents.extractors, *adapter.contents.materializers)
        )

    def not_found(self, name: str, wanted: str) -> AdapterNotFoundError:
        """Build the error for something that no usable adapter brings.

        Args:
            name: the adapter's name.
            wanted: what was asked for, in words.
        """
        error = AdapterNotFoundError(self._why_not(name, wanted))
        error.__cause__ = next((i.error for i in self.infos() if i.name == name and i.error), None)
        return error

    def _why_not(self, name: str, wanted: str) -> str:
        infos = self.infos()
        named = [info for info in infos if info.name == name]
        broken = [info for info in named if info.error is not None]
        if broken:
            return (
                f"{wanted} can't be had: the adapter {broken[0]} is installed but broken: "
                f"{told(broken[0].error)}. Mend or upgrade it."
            )
        if any(info.state == "disabled" for info in named):
            return f"{wanted} can't be had: FLOWYML_DISABLE_ADAPTERS switches {named[0]} off."
        if named:
            return f"{wanted} can't be had: {named[0]} doesn't bring it. Upgrading it may help."
        installed = ", ".join(str(info) for info in infos)
        near = difflib.get_close_matches(name, [info.name for info in infos], 1)
        if near:
            return (
                f"{wanted} can't be had: no adapter {name!r} is installed. Did you mean "
                f"{near[0]!r}? Installed are: {installed}."
            )
        return (
            f"{wanted} can't be had: no adapter {name!r} is installed. Installed are: {installed}. "
            f"Try: pip install flowyml-{name.replace('_', '-')}"
        )


def plugin_name(plugin: object) -> str:
    """Return a name for a plugin: the module's, or the object's type's."""
    return str(getattr(plugin, "__name__", None) or type_name(plugin))


def told(error: BaseException | None) -> str:
    """Return an error in one line, with its type."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _plugin_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _collect(plugin: object) -> Contents:
    """Call a plugin's hooks, on a manager of its own so that a failure leaves nothing behind."""
    trial = _plugin_manager()
    trial.register(plugin)
    trial.check_pending()  # refuses hooks that no spec knows, such as misspelled ones
    unmarked = _unmarked_hooks(plugin, trial)
    if unmarked:
        raise AdapterError(f"{', '.join(unmarked)} lacks the @flowyml.hookimpl mark")
    return Contents(
        extractors=_objects(trial.hook.flowyml_register_extractors(), Extractor, "framework"),
        materializers=_objects(trial.hook.flowyml_register_materializers(), Materializer, "key"),
        random_sources=_objects(trial.hook.flowyml_register_random_sources(), RandomSource, "name"),
    )


def _unmarked_hooks(plugin: object, manager: pluggy.PluginManager) -> list[str]:
    marked = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    return [
        name for name in dir(plugin) if name.startswith("flowyml_register_") and name not in marked
    ]


def _objects(results: Iterable[Any], interface: type[Any], key: str) -> tuple[Any, ...]:
    """Flatten what the hooks returned, checking that all of it is of the interface."""
    objects = [item for result in results for item in result]
    for item in objects:
        if not isinstance(item, interface):
            raise AdapterError(
                f"a hook returned a {type_name(item)}; needed is an instance of "
                f"flowyml.interfaces.{interface.__name__}"
            )
        if not isinstance(getattr(item, key, None), str):
            raise AdapterError(f"{type_name(item)} has no {key!r}: a string has to be set there")
    keys = [getattr(item, key) for item in objects]
    for double in {name for name in keys if keys.count(name) > 1}:
        raise AdapterError(f"two objects of the adapter have the {key} {double!r}")
    return tuple(objects)


def _left_out(adapter: Adapter) -> str:
    return f"The adapter {adapter.info} is left out: {told(adapter.error)}"


def _is_strict() -> bool:
    return os.environ.get("FLOWYML_STRICT_ADAPTERS", "").lower() not in ("", "0", "false", "no")
