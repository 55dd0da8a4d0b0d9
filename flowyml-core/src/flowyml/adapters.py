"""Adapters: discovered at import, loaded when first needed, isolated from one another.

Importing flowyml scans the entry points of the group ``flowyml.adapters``, which runs no code of
theirs. An adapter is loaded when its framework is asked for, or when an object has to be
recognised. One that fails is reported once, as an `AdapterWarning`, and never gets in another's
way.

Two environment variables switch them: ``FLOWYML_DISABLE_ADAPTERS=a,b`` leaves the named ones
out, and ``FLOWYML_STRICT_ADAPTERS=1`` raises where a failing adapter would only be reported.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import importlib_metadata

from flowyml._version import __version__
from flowyml.errors import (
    AdapterWarning,
    AmbiguousFrameworkError,
    MaterializationError,
    UnknownFrameworkError,
    told,
    warn,
)
from flowyml.interfaces import Extractor, Launcher, Materializer, RandomSource
from flowyml.properties import type_name
from flowyml.registry import Adapter, AdapterInfo, Registry, State, plugin_name

__all__ = ["GROUP", "AdapterInfo", "list", "load", "register"]

GROUP = "flowyml.adapters"
"""The entry-point group in which an adapter's distribution names its plugin module."""

_Detecting = TypeVar("_Detecting", Extractor, Materializer)


def list() -> builtins.list[AdapterInfo]:
    """Return every adapter with its distribution and state; loads none."""
    return _registry.infos()


def load(name: str | None = None) -> builtins.list[AdapterInfo]:
    """Load the adapters of that name, or all, that are not loaded yet; return them all.

    Raises:
        AdapterError: when one is broken, if ``FLOWYML_STRICT_ADAPTERS`` is set.
    """
    _registry.load(name)
    return _registry.infos()


def register(plugin: object, name: str | None = None) -> AdapterInfo:
    """Register an adapter that no distribution brings: a module or an object with hooks.

    Args:
        plugin: what implements hooks of `flowyml.hookspecs`.
        name: the adapter's name; by default the last part of the module's or class's name.

    Raises:
        AdapterError: when it is unfit or claims what another adapter has. Nothing is registered.
    """
    return _registry.register(plugin, name or plugin_name(plugin).rpartition(".")[2])


def extractor(framework: str) -> Extractor:
    """Return a framework's extractor, loading its adapter.

    Raises:
        AdapterNotFoundError: when there is none, or its adapter is broken; that error is chained.
    """
    for attempt in (framework, None):  # an adapter may bring more than what it is named after
        _registry.load(attempt)
        for item in _registry.extractors():
            if item.framework == framework:
                return item
    raise _registry.not_found(framework, f"Model.from_{framework}")


def materializer(key: str) -> Materializer:
    """Return the materializer of a key such as ``pytorch.module``, loading its adapter.

    Raises:
        AdapterNotFoundError: when there is none, or its adapter is broken; that error is chained.
    """
    name = key.partition(".")[0]
    for attempt in (name, None):  # an adapter that was registered by hand may have any name
        _registry.load(attempt)
        for item in _registry.materializers():
            if item.key == key:
                return item
    raise _registry.not_found(name, f"The materializer {key!r}")


def frameworks() -> builtins.list[str]:
    """Return the frameworks that `Model` can be made from, loading no adapter."""
    return sorted({*_registry.frameworks()})


def extractor_of(obj: object) -> Extractor:
    """Return the extractor that recognises an object.

    Raises:
        UnknownFrameworkError: when none does.
        AmbiguousFrameworkError: when several do.
    """
    _registry.load()
    found = _nearest(_detecting(_registry.extractors(), obj), obj)
    if len(found) == 1:
        return found[0]
    if found:
        claims = " and ".join(f"{i.framework!r} of {_registry.provider(i)}" for i in found)
        raise AmbiguousFrameworkError(
            f"A {type_name(obj)} is claimed by {claims}. Say which one: framework=..."
        )
    accepted = "; ".join(f"{i.accepts} ({i.framework})" for i in _registry.extractors())
    raise UnknownFrameworkError(
        f"No adapter recognises a {type_name(obj)} as a model. The installed ones describe: "
        f"{accepted or 'nothing'}."
    )


def extractor_or_none(obj: object) -> Extractor | None:
    """Return the extractor that recognises an object, or None when not exactly one does."""
    _registry.load()
    found = _nearest(_detecting(_registry.extractors(), obj), obj)
    return found[0] if len(found) == 1 else None


def materializer_of(obj: object, framework: str | None = None) -> Materializer | None:
    """Return the materializer that handles an object, or None.

    Args:
        obj: the object.
        framework: whose materializer it is when several claim the object.

    Raises:
        MaterializationError: when several claim it.
    """
    _registry.load()
    found = _detecting(_registry.materializers(), obj)
    if len(found) > 1:
        own = [item for item in found if item.key.partition(".")[0] == framework]
        found = own or _nearest(found, obj)
    if len(found) > 1:
        claims = " and ".join(f"{i.key!r} of {_registry.provider(i)}" for i in found)
        raise MaterializationError(
            f"A {type_name(obj)} is claimed by the materializers {claims}. "
            f"Leave one out with FLOWYML_DISABLE_ADAPTERS."
        )
    return found[0] if found else None


def materialized_types() -> builtins.list[str]:
    """Return the dotted names of the types that materializers handle, for messages."""
    _registry.load()
    return [name for item in _registry.materializers() for name in item.types]


def formats() -> builtins.list[str]:
    """Return every format that some materializer writes, sorted."""
    _registry.load()
    return sorted({name for item in _registry.materializers() for name in item.formats})


def random_sources() -> builtins.list[RandomSource]:
    """Return every source of randomness that a seed has to reach."""
    _registry.load()
    return [*_registry.random_sources()]


def launchers() -> builtins.list[Launcher]:
    """Return every launcher that an adapter brings."""
    _registry.load()
    return [*_registry.launchers()]


def launcher(name: str) -> Launcher:
    """Return the launcher of a name, such as ``elastic``.

    Raises:
        AdapterNotFoundError: when no usable adapter brings it.
    """
    found = next((item for item in launchers() if item.name == name), None)
    if found is None:
        raise _registry.not_found(name, f"The launcher {name!r}")
    return found


def provider(item: Extractor | Materializer | Launcher) -> AdapterInfo:
    """Return the adapter that brought an extractor or materializer."""
    return _registry.provider(item)


def _detecting(items: Iterable[_Detecting], obj: object) -> builtins.list[_Detecting]:
    imported = sys.modules
    return [
        item
        for item in items
        if (not item.modules or not imported.keys().isdisjoint(item.modules)) and detects(item, obj)
    ]


def _nearest(claims: builtins.list[_Detecting], obj: object) -> builtins.list[_Detecting]:
    """Return those claims whose framework defines the object's class, or its nearest base.

    A classifier of XGBoost is an estimator of scikit-learn too: it is for the adapter of the former
    if there is one, and for the other if not. Where another claim's framework defines a base beside
    the nearest one, as when a user's class derives from two frameworks, nothing is decided.
    """
    bases = type(obj).__mro__
    for cls in bases if len(claims) > 1 else ():
        near = [item for item in claims if _defines(item, cls)]
        if near:
            beside = set(bases).difference(cls.__mro__)
            others = [item for item in claims if not any(item is each for each in near)]
            return claims if any(_defines(i, base) for i in others for base in beside) else near
    return claims


def _defines(item: Extractor | Materializer, cls: type) -> bool:
    return any(f"{cls.__module__}.".startswith(f"{module}.") for module in item.modules)


def detects(item: Extractor | Materializer, obj: object) -> bool:
    """Ask whether an extractor or materializer handles an object; one that fails says no."""
    try:
        return bool(item.detect(obj))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust code is one
        warn(
            f"{type_name(item)} of the adapter {provider(item)} failed to say whether it handles "
            f"a {type_name(obj)}, which counts as no: {told(error)}",
            AdapterWarning,
        )
        return False


def _scan() -> Iterator[Adapter]:
    """Find the built-in adapter and the installed ones, sorted by name; runs no code of theirs."""
    yield Adapter(
        "core",
        "flowyml.builtin",
        lambda: importlib.import_module("flowyml.builtin"),
        lambda: ("flowyml-core", __version__),
        is_ours=True,
    )
    entry_points = sorted(_entry_points(), key=lambda e: (e.name, e.value))
    disabled = set(os.environ.get("FLOWYML_DISABLE_ADAPTERS", "").replace(" ", "").split(","))
    for entry_point in entry_points:
        state: State = "disabled" if entry_point.name in disabled else "known"
        origin = functools.cache(functools.partial(_origin, entry_point))
        yield Adapter(
            entry_point.name,
            entry_point.value,
            entry_point.load,
            origin,
            (entry_point.name,),
            state,
        )


def _entry_points() -> builtins.list[importlib_metadata.EntryPoint]:
    """Find what ``importlib_metadata.entry_points`` would, in a quarter of its time.

    That one parses every file; here only those are that mention the group. Each distribution is
    asked by itself, as any of them may be damaged.
    """
    # What isn't there holds nothing, but importlib_metadata imports zipfile to make sure.
    entries: builtins.list[object] = [*sys.path]  # anybody may put anything there
    path = [entry for entry in entries if isinstance(entry, str) and _exists(entry)]
    found: dict[str, Iterable[importlib_metadata.EntryPoint]] = {}
    for distribution in _distributions(path=path):
        try:
            if _mentions_group(distribution) and (name := _name_of(distribution)):
                same = _distributions(path=path, name=name)
                first = next(filter(_name_of, same), distribution)  # it hides the others
                found[name] = first.entry_points.select(group=GROUP)
        except Exception as error:
            where = getattr(distribution, "_path", distribution)
            warn(
                f"The entry points of {where} can't be read, so an adapter there is not found: "
                f"{told(error)}",
                AdapterWarning,
            )
    return [entry_point for each in found.values() for entry_point in each]


def _exists(entry: str) -> bool:
    return os.path.exists(entry or os.curdir)  # noqa: PTH110  (Path raises where it may not look)


def _distributions(**query: Any) -> Iterator[Any]:
    """Ask all finders for distributions; when one fails, it and the later ones tell nothing."""
    try:
        yield from importlib_metadata.distributions(**query)
    except Exception as error:
        warn(
            f"Not all that is installed can be listed, so adapters may be missing: {told(error)}",
            AdapterWarning,
        )


def _mentions_group(distribution: Any) -> bool:
    if type(distribution) is not importlib_metadata.PathDistribution:
        return True  # another finder's, which may have entry points without having the file
    return GROUP in (distribution.read_text("entry_points.txt") or "")


def _name_of(distribution: Any) -> str | None:
    """Return a distribution's name, normalized; None for the leftovers of a failed uninstall.

    Its own `name` parses all of its metadata, for which the email package is imported.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    found = re.search(r"^name:\s*(\S+)", text, re.IGNORECASE | re.MULTILINE)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else None


def _origin(entry_point: importlib_metadata.EntryPoint) -> tuple[str | None, str | None]:
    distribution = entry_point.dist
    if distribution is None:
        return None, None
    try:
        return distribution.name, distribution.version
    except Exception:  # damaged metadata, of which the name may be left
        return distribution.name, None


_registry = Registry(_scan())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _registry.after_fork())  # noqa: PLW0108  (tests)
