"""The registry of adapters: the one place that holds their states and changes them.

A plugin is loaded whole or not at all: it is imported, its hooks are called and what they return
is checked before anything of it counts. Whatever a plugin raises is kept with its record.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from flowyml.contents import Contents
from flowyml.errors import AdapterError, AdapterNotFoundError, AdapterWarning, told, warn
from flowyml.properties import type_name

if TYPE_CHECKING:
    from flowyml.interfaces import Extractor, Launcher, Materializer, RandomSource
    from flowyml.isolation import Attempt

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
        notes: what its author should know, though it works.
        frameworks: what `Model` can be made from; before it is loaded, what its name promises.
        formats: what its materializers write; None before it is loaded.
        types: dotted names of what its materializers handle; None before it is loaded.
    """

    name: str
    distribution: str | None
    version: str | None
    plugin: str
    state: State
    error: BaseException | None = attrs.field(default=None, eq=False)
    notes: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    formats: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.distribution is None:
            return f"{self.name!r} ({self.plugin}, of no distribution)"
        return f"{self.name!r} ({self.distribution} {self.version})"


def _by_hand() -> tuple[str | None, str | None]:
    return None, None


@attrs.define(eq=False)
class Adapter:
    """One adapter's record: what is known, how to load it, and what it brought.

    Attributes:
        origin: returns the distribution and its version; called when they are asked for, since
            reading a distribution's metadata takes longer than the whole scan.
        frameworks: what it is expected to describe, before it is loaded.
        attempt: the loading, once it has begun.
        is_ours: whether it can be trusted to load quickly and quietly.
    """

    name: str
    plugin: str
    load: Callable[[], object]
    origin: Callable[[], tuple[str | None, str | None]] = _by_hand
    frameworks: tuple[str, ...] = ()
    state: State = "known"
    error: BaseException | None = None
    contents: Contents = attrs.field(factory=Contents)
    attempt: Attempt | None = None
    is_ours: bool = False

    @property
    def info(self) -> AdapterInfo:
        """The record as a value for others."""
        try:
            distribution, version = self.origin()
        except Exception:  # the leftovers of a failed uninstall have no metadata to read
            distribution, version = None, None
        is_loaded = self.state == "loaded"
        materializers = self.contents.materializers
        return AdapterInfo(
            self.name,
            distribution,
            version,
            self.plugin,
            self.state,
            self.error,
            self.attempt.notes if self.attempt else (),
            tuple(i.framework for i in self.contents.extractors) if is_loaded else self.frameworks,
            tuple(_unique(i.formats for i in materializers)) if is_loaded else None,
            tuple(_unique(i.types for i in materializers)) if is_loaded else None,
        )


def _unique(several: Iterable[Iterable[str]]) -> dict[str, None]:
    return {text: None for texts in several for text in texts}


class Registry:
    """All adapters and their states."""

    def __init__(self, adapters: Iterable[Adapter]) -> None:
        self._adapters = list(adapters)
        self._lock = threading.RLock()

    def infos(self) -> list[AdapterInfo]:
        """Every adapter as it stands now."""
        return [adapter.info for adapter in self._adapters]

    def frameworks(self) -> Iterator[str]:
        """The frameworks of adapters that are loaded, and those expected of the others."""
        for adapter in self._adapters:
            if adapter.state == "known":
                yield from filter(str.isidentifier, adapter.frameworks)
            yield from (item.framework for item in adapter.contents.extractors)

    def register(self, plugin: object, name: str) -> AdapterInfo:
        """Add an adapter that no distribution brings, and load it at once.

        Raises:
            AdapterError: when it is unfit or claims what another adapter has.
        """
        if self._is_inside():
            raise AdapterError(
                f"{name!r} can't be registered by an adapter that is being loaded: let a hook of "
                f"that adapter return what it brings"
            )
        adapter = Adapter(name, plugin_name(plugin), lambda: plugin, is_ours=True)
        with self._lock:
            self._load(adapter)
            if adapter.error is not None:
                raise AdapterError(
                    f"The adapter {adapter.info} can't be registered: {told(adapter.error)}"
                ) from adapter.error
            self._adapters.append(adapter)
        self._warn(adapter)
        return adapter.info

    def has(self, plugin: object) -> bool:
        """Tell whether a plugin is loaded and in use."""
        return any(
            adapter.state == "loaded" and adapter.attempt and adapter.attempt.plugin is plugin
            for adapter in self._adapters
        )

    def load(self, name: str | None = None) -> None:
        """Load the adapters of that name, or all, that are not loaded yet."""
        if all(adapter.state in ("loaded", "disabled") for adapter in self._adapters):
            return
        if self._is_inside():
            return  # a plugin that uses flowyml while it is loaded has to do with what is there
        with self._lock:
            for adapter in list(self._adapters):
                if adapter.state == "known" and name in (None, adapter.name):
                    self._load(adapter)
                    self._warn(adapter)
                if _is_strict() and adapter.error and name in (None, adapter.name):
                    raise AdapterError(_left_out(adapter)) from adapter.error

    def _is_inside(self) -> bool:
        """Tell whether it is a plugin being loaded that calls."""
        return any(each.attempt and each.attempt.is_inside() for each in self._adapters)

    def after_fork(self) -> None:
        """Begin again in a child, which has none of its parent's threads."""
        self._lock = threading.RLock()
        for adapter in self._adapters:
            if adapter.state == "known":
                adapter.attempt = None

    def _load(self, adapter: Adapter) -> None:
        from flowyml.isolation import Attempt  # whoever loads no adapter doesn't wait for these

        adapter.attempt = attempt = adapter.attempt or Attempt(adapter.load)
        try:
            attempt.finish(trusted=adapter.is_ours)
        except KeyboardInterrupt:
            adapter.attempt = attempt if attempt.goes_on() else None
            raise
        error = attempt.error
        if error is None:
            try:
                self._refuse_double_claims(adapter, attempt.contents)
            except AdapterError as refused:
                error = refused
        if error is None:
            adapter.state, adapter.contents = "loaded", attempt.contents
        else:
            adapter.state, adapter.error = "broken", error

    def _warn(self, adapter: Adapter) -> None:
        if adapter.error is not None:
            text = _left_out(adapter)
        elif adapter.attempt and adapter.attempt.notes:
            text = f"The adapter {adapter.info} works, but {'; and '.join(adapter.attempt.notes)}."
        else:
            return
        if adapter.error is None or not _is_strict():
            warn(text, AdapterWarning)

    def _refuse_double_claims(self, adapter: Adapter, contents: Contents) -> None:
        for other in self._adapters:
            if other is adapter:
                continue
            doubled = other.contents.claims() & contents.claims()
            # Who has the name has what goes by it, whichever of the two is loaded first.
            if other.state != "disabled" and other.name in contents.names() - {adapter.name}:
                doubled.add(f"what goes by the name {other.name!r}")
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

    def launchers(self) -> Iterator[Launcher]:
        """The launchers of all loaded adapters."""
        return (item for adapter in self._adapters for item in adapter.contents.launchers)

    def provider(self, item: object) -> AdapterInfo:
        """Return the adapter that brought an extractor or materializer."""
        return next(
            adapter.info
            for adapter in self._adapters
            if any(item is each for each in adapter.contents.items())
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
        from difflib import get_close_matches

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
        near = get_close_matches(name, [info.name for info in infos], 1)
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


def _left_out(adapter: Adapter) -> str:
    return f"The adapter {adapter.info} is left out: {told(adapter.error)}"


def _is_strict() -> bool:
    return os.environ.get("FLOWYML_STRICT_ADAPTERS", "").lower() not in ("", "0", "false", "no")
