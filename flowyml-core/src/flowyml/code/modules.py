"""Where a module is from: the project, an installed library, or Python itself.

A project is what isn't installed: its files are somewhere else than in Python's own folders, or
it has none, as in a notebook. A library in "editable" mode is one too. flowyml never is.
"""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_PROGRAM = ("__main__", "__mp_main__")
"""What the module that was started is called, and in a process that it spawned."""


class Origin(enum.Enum):
    """Where code is from."""

    PROJECT = "project"
    LIBRARY = "library"
    STANDARD = "standard library"


def namespace_of(module: object) -> dict[str, Any]:
    """Return a module's variables, without letting a lazy one import anything."""
    if not issubclass(type(module), ModuleType):
        return {}
    namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return namespace


def origin_of(name: str, namespace: Mapping[str, Any] | None = None) -> Origin:
    """Return where a module is from.

    Args:
        name: its name.
        namespace: its variables; by default those of the imported module of that name.
    """
    top = name.partition(".")[0]
    if top == "flowyml" or (top.startswith("flowyml_") and _is_adapter(top)):
        return Origin.LIBRARY
    if namespace is None:
        namespace = namespace_of(sys.modules.get(name))
    file = _file(namespace)
    if file is None and namespace is not (found := namespace_of(sys.modules.get(name))):
        file = _file(found)  # of a generated function, whose globals are its own
    if file is not None:
        return origin_of_file(file)
    return Origin.STANDARD if top in _standard_names() else Origin.PROJECT


def origin_of_class(kind: type) -> Origin:
    """Return where a class is from; what says it is from nowhere is from a library written in C."""
    module = type.__getattribute__(kind, "__module__")
    if type(module) is not str:
        return Origin.STANDARD
    namespace = namespace_of(sys.modules.get(module))
    origin = origin_of(module, namespace)
    if origin is Origin.PROJECT and _file(namespace) is None and module not in _PROGRAM:
        members = type.__dict__["__dict__"].__get__(kind).values()
        if not any(type(member) is FunctionType for member in members):
            return Origin.STANDARD
    return origin


def _file(namespace: Mapping[str, Any]) -> str | None:
    file = namespace.get("__file__")
    if type(file) is str:
        return file
    try:
        return str(next(iter(namespace["__path__"])))  # a package without __init__.py
    except (KeyError, TypeError, StopIteration):
        return None


@functools.cache
def _is_adapter(top: str) -> bool:
    from flowyml import adapters

    return top.removeprefix("flowyml_") in {info.name for info in adapters.list()}


@functools.cache
def _standard_names() -> frozenset[str]:
    return sys.stdlib_module_names.union(sys.builtin_module_names)


@functools.cache
def origin_of_file(file: str) -> Origin:
    """Return where a file is from."""
    path = Path(os.path.realpath(file))
    libraries, standard = _folders()
    if {"site-packages", "dist-packages"} & set(path.parts) or libraries & set(path.parents):
        return Origin.LIBRARY
    return Origin.STANDARD if standard & set(path.parents) else Origin.PROJECT


@functools.cache
def _folders() -> tuple[frozenset[Path], frozenset[Path]]:
    """Return the folders of installed libraries, and those of the standard library."""
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    standard.append(str(Path(os.__file__).parent))
    return _real(installed), _real(standard)


def _real(folders: list[str]) -> frozenset[Path]:
    return frozenset(Path(os.path.realpath(folder)) for folder in folders)


def name_of(name: object) -> str:
    """Return the name under which a module's parts are known.

    It is the module's own, but for the program: that is ``__main__`` to itself, and has its
    file's name to whoever imports it.
    """
    if type(name) is not str:
        return "?"
    if name not in _PROGRAM:
        return name
    namespace = namespace_of(sys.modules.get(name))
    started_as = getattr(namespace.get("__spec__"), "name", None)
    if type(started_as) is str and started_as not in _PROGRAM:
        return started_as
    file = namespace.get("__file__")
    return Path(file).stem if type(file) is str else "__main__"


def version_of(name: str) -> tuple[str, str]:
    """Return the library that a module belongs to, with its version."""
    prefix = ""
    for part in name.split("."):
        prefix = f"{prefix}.{part}" if prefix else part
        version = namespace_of(sys.modules.get(prefix)).get("__version__")
        if issubclass(type(version), str):
            return prefix, str.__str__(version)
    top = name.partition(".")[0]
    return top, _installed_version(top)


@functools.cache
def _installed_version(top: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(top)
    except (metadata.PackageNotFoundError, ValueError):
        distributions = metadata.packages_distributions().get(top)
        return metadata.version(distributions[0]) if distributions else "unknown"


def file_of(name: str) -> str | None:
    """Find the source file of a module without importing anything; None if there is none."""
    path: Any = None
    file: str | None = None
    prefix = ""
    for part in name.split("."):
        prefix = f"{prefix}.{part}" if prefix else part
        imported = namespace_of(sys.modules.get(prefix))
        if imported:
            file, path = _file(imported), imported.get("__path__")
            continue
        spec = _spec_of(prefix, path)
        if spec is None:
            return None
        file = spec.origin if spec.has_location else None
        path = spec.submodule_search_locations
        if path is None and prefix != name:
            return None
    return file


def _spec_of(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec: importlib.machinery.ModuleSpec | None = find_spec(name, path) if find_spec else None
        if spec is not None:
            return spec
    return None
