"""What code finds outside of itself by name: in its module, in other modules, by its imports."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from flowyml.code import bytecode, modules, tokens
from flowyml.code.bytecode import Facts, Import
from flowyml.code.modules import Origin

if TYPE_CHECKING:
    from flowyml.code.walk import Walk

_MISSING = object()

_ABOUT_THE_MODULE = frozenset(
    {"__name__", "__file__", "__package__", "__spec__", "__loader__", "__doc__", "__cached__"}
)
"""Globals that say where a module is and what it is called: a program has another name and, on
another machine, another place."""


class Outside:
    """Follows names for a walk."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._seen: set[str] = set()

    def lines(self, facts: Facts, home: dict[str, Any]) -> Iterator[str]:
        """Yield lines of what code takes from its module's variables, and of what it imports."""
        module = modules.name_of(home.get("__name__"))
        for chain in facts.chains:
            if chain[0] in facts.changed and not tokens.is_code(home.get(chain[0])):
                yield f"{chain[0]} {tokens.CHANGED}"
            else:
                yield f"{'.'.join(chain)} {self._chain(chain, home, module)}"
        for statement in facts.imports:
            yield f"import {self._import(statement, home, facts.attributes)}"

    def _chain(self, chain: tuple[str, ...], home: dict[str, Any], module: str) -> str:
        """Return the line of a name, or of what it leads to: ``helpers.scale``."""
        first, *rest = chain
        if first in _ABOUT_THE_MODULE:
            return "its module"
        value = home.get(first, _MISSING)
        if value is _MISSING:
            return "builtin" if first in vars(builtins) else "missing"
        return self._lead(value, rest, f"{module}.{first}")

    def _lead(self, value: Any, rest: list[str], label: str) -> str:
        """Follow attributes through modules."""
        while rest and _is_module(value):
            name = _name(value)
            label = f"{modules.name_of(name)}.{rest[0]}"
            origin = self._walk.origin_of(name, modules.namespace_of(value))
            if origin is Origin.STANDARD:
                return f"standard {label}"
            lazy = "__getattr__" in modules.namespace_of(value)
            value = _member(value, rest.pop(0))
            if origin is Origin.LIBRARY:
                self._walk.note_library(name)
                if lazy:  # what such a module has imported by now hangs on what has run before
                    return f"library {'.'.join([label, *rest])}"
                if not issubclass(type(value), (ModuleType, FunctionType, type)):
                    return f"library {label}"
            if value is _MISSING:
                return f"missing {label}"
        line = self._walk.hold(value, "global", label)
        if rest and type(value) is FunctionType and rest[0] in vars(value):
            attribute = vars(value)[rest[0]]
            line += f" {self._walk.hold(attribute, 'attribute', f'{label}.{rest[0]}')}"
        return line

    def module(self, module: Any) -> str:
        """Return the line of a module that may be used in any way, so that all of it counts."""
        name = _name(module)
        origin = self._walk.origin_of(name, modules.namespace_of(module))
        if origin is Origin.LIBRARY:
            self._walk.note_library(name)
        if origin is Origin.PROJECT and name not in self._seen:
            self._seen.add(name)
            self._walk.later(functools.partial(self._follow, module, name))
        return f"module {modules.name_of(name)}"

    def _follow(self, module: Any, name: str) -> None:
        members = modules.namespace_of(module)
        names = [member for member in members if not member.startswith("__")]
        self._walk.note(modules.name_of(name), [self.members(module, names, deep=False)])

    def members(
        self, module: Any, names: Iterable[str], deep: bool = True, above: tuple[str, ...] = ()
    ) -> str:
        """Return a line of those members of a project's module that have one of the names.

        Args:
            module: which; of a library's module only the version is noted.
            names: whatever the code might ask it for.
            deep: whether to look for the names in modules among the members too.
            above: the modules that led here.
        """
        name, namespace = _name(module), modules.namespace_of(module)
        label = modules.name_of(name)
        origin = self._walk.origin_of(name, namespace)
        if origin is Origin.LIBRARY:
            self._walk.note_library(name)
        if origin is not Origin.PROJECT or name in above:
            return f"module {label}"
        lines = []
        for member in sorted({*names} & namespace.keys()):
            value = namespace[member]
            if not _is_module(value):
                line = self._walk.hold(value, "global", f"{label}.{member}")
            elif deep:
                line = self.members(value, names, above=(*above, name))
            else:
                line = f"module {_name(value)}"
            lines.append(f"{member} {line}")
        return tokens.many(f"module {label}", lines)

    def _import(self, statement: Import, home: dict[str, Any], attributes: frozenset[str]) -> str:
        """Return a line of what an import in a function's body leads to."""
        package = str(home.get("__package__") or "")
        try:
            name = importlib.util.resolve_name("." * statement.level + statement.module, package)
        except ImportError:
            return f"missing {statement.module}"
        prefixes = [name[: dot.start()] for dot in re.finditer(r"\.|$", name)]
        read = () if statement.names else attributes
        lines = [self._imported(prefix, read) for prefix in prefixes]
        for member in statement.names:
            lines.append(f"{member} {self._imported_from(name, member, attributes)}")
        return tokens.many(f"import {name}", lines)

    def _imported(self, name: str, attributes: Iterable[str]) -> str:
        module = sys.modules.get(name)
        return self._not_imported(name) if module is None else self.members(module, attributes)

    def _imported_from(self, name: str, member: str, attributes: frozenset[str]) -> str:
        if self._origin_of(name) is not Origin.PROJECT:
            return f"{name}.{member}"  # whether or not it is imported already
        module = sys.modules.get(name)
        value = _MISSING if module is None else _member(module, member)
        if value is _MISSING:
            return self._not_imported(f"{name}.{member}")
        if _is_module(value):
            return self.members(value, attributes)
        return self._lead(module, [member], name)

    def _origin_of(self, name: str) -> Origin:
        file = None if name in sys.modules else modules.file_of(name)
        return self._walk.origin_of(name, None if file is None else {"__file__": file})

    def _not_imported(self, name: str) -> str:
        """Return the line of a module that hasn't been imported yet, by its file."""
        file = modules.file_of(name)
        origin = self._origin_of(name)
        if origin is Origin.PROJECT and file is None:
            return f"missing {name}"
        if origin is Origin.LIBRARY:
            self._walk.note_library(name)
        elif origin is Origin.PROJECT and file is not None and name not in self._seen:
            self._seen.add(name)
            self._walk.later(functools.partial(self._follow_file, name, Path(file)))
        return f"module {name}"

    def _follow_file(self, name: str, file: Path) -> None:
        try:
            facts = _facts_of(file)
        except (OSError, SyntaxError, ValueError):
            self._walk.unknown[f"the module {name!r} is not imported yet, and can't be read"] = None
            return
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        home = {"__name__": name, "__package__": package}
        imports = [self._import(statement, home, facts.attributes) for statement in facts.imports]
        self._walk.note(name, [facts.digest, *imports])


def _is_module(value: object) -> bool:
    return issubclass(type(value), ModuleType)


def _name(module: Any) -> str:
    return str(modules.namespace_of(module).get("__name__"))


def _member(module: Any, name: str) -> Any:
    namespace = modules.namespace_of(module)
    if name in namespace:
        return namespace[name]
    return sys.modules.get(f"{namespace.get('__name__')}.{name}", _MISSING)


_read: dict[Path, tuple[int, int, Facts]] = {}


def _facts_of(file: Path) -> Facts:
    """Return what is known of the code in a file; reads it again when it has changed."""
    status = file.stat()
    known = _read.get(file)
    if known is None or known[:2] != (status.st_mtime_ns, status.st_size):
        code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        known = _read[file] = status.st_mtime_ns, status.st_size, bytecode.read(code)
    return known[2]
