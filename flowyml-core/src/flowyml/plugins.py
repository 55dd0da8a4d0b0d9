"""What a plugin brings: its hooks are called, and what they return is checked before it counts.

Everything here may fail because of a stranger's code, so every message says what that code has to
look like.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from keyword import iskeyword
from typing import Any

import pluggy

from flowyml import hookspecs
from flowyml._version import __version__
from flowyml.contents import Contents
from flowyml.errors import AdapterError
from flowyml.interfaces import (
    API_VERSION,
    OLDEST_API_VERSION,
    Extractor,
    Launcher,
    Materializer,
    RandomSource,
)
from flowyml.properties import type_name

_HOOK = "flowyml_register_"
_MANY = 10_000
_KEY = r"[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z0-9_]+)+"  # compiled when it is first used


def collect(plugin: object) -> Contents:
    """Call a plugin's hooks and check what they return.

    The hooks are called on a manager of its own, so that a failure leaves nothing behind.

    Raises:
        AdapterError: that says what is wrong with the plugin; or whatever its hooks raise.
    """
    _check_api_version(plugin)
    trial = manager()
    trial.register(plugin)
    trial.check_pending()  # refuses hooks that no spec knows, such as misspelled ones
    unmarked = _unmarked_hooks(plugin, trial)
    if unmarked:
        raise AdapterError(f"{', '.join(unmarked)} lacks the @flowyml.hookimpl mark")
    contents = Contents(
        extractors=_objects(trial, "extractors", Extractor),
        materializers=_objects(trial, "materializers", Materializer),
        random_sources=_objects(trial, "random_sources", RandomSource),
        launchers=_objects(trial, "launchers", Launcher),
    )
    for extractor in contents.extractors:
        _check_extractor(extractor)
    for materializer in contents.materializers:
        _check_materializer(materializer)
    for item in (*contents.random_sources, *contents.launchers):
        _check_text(item, "name")
    _refuse_doubles(contents)
    return contents


def manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows the hooks."""
    made = pluggy.PluginManager(hookspecs.PROJECT)
    made.add_hookspecs(hookspecs)
    return made


def api_version(plugin: object) -> int:
    """Return the version of the interfaces that a plugin is written for; 1 when it says none.

    Raises:
        AdapterError: when that is no version.
    """
    version = getattr(plugin, "api_version", 1)
    if type(version) is not int or version < 1:
        raise AdapterError(f"its api_version is {version!r}; needed is a whole number from 1")
    return version


def _check_api_version(plugin: object) -> None:
    version = api_version(plugin)
    if version > API_VERSION:
        raise AdapterError(
            f"it is written for version {version} of flowyml's interfaces, and flowyml-core "
            f"{__version__} has version {API_VERSION}; upgrade flowyml-core"
        )
    if version < OLDEST_API_VERSION:
        raise AdapterError(
            f"it is written for version {version} of flowyml's interfaces, and flowyml-core "
            f"{__version__} takes versions from {OLDEST_API_VERSION}; upgrade the adapter"
        )


def _unmarked_hooks(plugin: object, manager: pluggy.PluginManager) -> list[str]:
    marked = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    return [name for name in dir(plugin) if name.startswith(_HOOK) and name not in marked]


def _objects(manager: pluggy.PluginManager, what: str, interface: type[Any]) -> tuple[Any, ...]:
    """Call one hook and flatten what it returns, checking that all of it is of the interface."""
    hook = _HOOK + what
    wanted = f"flowyml.interfaces.{interface.__name__}"
    objects: list[Any] = []
    caller = getattr(manager.hook, hook)
    results = caller()
    if len(results) < len(caller.get_hookimpls()):  # pluggy leaves None out
        raise AdapterError(f"{hook} returned None; needed is a list of instances of {wanted}")
    for result in results:
        if isinstance(result, (str, interface)) or not isinstance(result, Iterable):
            raise AdapterError(
                f"{hook} returned a {type_name(result)}; needed is a list of instances of {wanted}"
            )
        for item in result:
            objects.append(item)
            if len(objects) > _MANY:  # an endless one in C would never let another thread go on
                raise AdapterError(f"{hook} returned more than {_MANY} objects")
    for item in objects:
        if isinstance(item, type):
            raise AdapterError(
                f"{hook} returned the class {item.__qualname__} itself; "
                f"return an instance of it: {item.__name__}()"
            )
        if not isinstance(item, interface):
            raise AdapterError(
                f"{hook} returned a {type_name(item)}; needed is an instance of {wanted}"
            )
    return tuple(objects)


def _check_extractor(item: Extractor) -> None:
    if not _check_text(item, "framework").isidentifier():
        raise AdapterError(
            f"{type_name(item)} has the framework {item.framework!r}, which can't stand in "
            f"Model.from_<framework>; give it an identifier"
        )
    _check_text(item, "accepts")
    for attribute in ("modules", "options", "optional"):
        _check_texts(item, attribute)
    unfit = sorted(option for option in item.options if not _can_be_option(option))
    if unfit:
        raise AdapterError(
            f"{type_name(item)} has the option {unfit[0]!r}, which can't be an argument of "
            f"Model.from_{item.framework}: it is no identifier, or Model.create has it already"
        )


def _can_be_option(option: str) -> bool:
    from flowyml.models import Model

    taken = {"model", "framework", *inspect.signature(Model.create).parameters}
    return option.isidentifier() and not iskeyword(option) and option not in taken


def _check_materializer(item: Materializer) -> None:
    if not re.fullmatch(_KEY, _check_text(item, "key")):
        raise AdapterError(
            f"{type_name(item)} has the key {item.key!r}; needed is '<adapter>.<what>', such as "
            f"'pytorch.module'"
        )
    for attribute in ("modules", "formats", "types", "conversions", "accepts"):
        _check_texts(item, attribute)
    formats: object = item.formats
    if not isinstance(formats, Sequence) or not all(formats):
        raise AdapterError(
            f"{type_name(item)}.formats is {_shown(formats)}; needed are several strings in "
            f"order, the default first, as in ('one',)"
        )
    if not formats:
        raise AdapterError(f"{type_name(item)} has no formats; name at least one")
    conversions: object = item.conversions
    if not isinstance(conversions, Mapping) or not all(
        isinstance(others, tuple) for others in conversions.values()
    ):
        raise AdapterError(
            f"{type_name(item)}.conversions is {_shown(conversions)}; needed are tuples of "
            f"strings by format, as in {{'one': ('other',)}}"
        )


def _check_text(item: object, attribute: str) -> str:
    value = getattr(item, attribute, None)
    if not isinstance(value, str) or not value:
        raise AdapterError(
            f"{type_name(item)}.{attribute} is {_shown(value)}; needed is a string that isn't empty"
        )
    return value


def _check_texts(item: object, attribute: str) -> None:
    """Check for a collection of strings; one string in its place is a forgotten comma."""
    value = getattr(item, attribute, None)
    if (
        isinstance(value, str)
        or not isinstance(value, Collection)
        or not all(isinstance(text, str) for text in value)
    ):
        raise AdapterError(
            f"{type_name(item)}.{attribute} is {_shown(value)}; needed are several strings, as in "
            f"('one',)"
        )


def _shown(value: object) -> str:
    if isinstance(value, property) or callable(value):
        return f"a {type_name(value)}"
    return repr(value)


def _refuse_doubles(contents: Contents) -> None:
    listed = [
        *(f"the framework {item.framework!r}" for item in contents.extractors),
        *(f"the key {item.key!r}" for item in contents.materializers),
        *(f"the name {item.name!r}" for item in contents.random_sources),
        *(f"the launcher {item.name!r}" for item in contents.launchers),
    ]
    for text, count in Counter(listed).items():
        if count > 1:
            raise AdapterError(f"{count} objects of the adapter have {text}")
