"""The code that a function may call, and the values that it reads, from one to the next.

Functions and classes of the project are followed wherever a variable holds them; those of a
library are only noted, with what its decorators hold. Each becomes a part with a name and a
digest. A part's digest says by name what its variables hold, so that a change has one place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from flowyml.code import bytecode, modules, tokens, wrappers
from flowyml.code.bytecode import Facts
from flowyml.code.differences import WORDS
from flowyml.code.modules import Origin
from flowyml.code.outside import Outside
from flowyml.code.values import NoLineError, Values

_MISSING = object()


_NOT_CODE = frozenset({"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__"})
_DERIVED = (
    *("__dataclass_", "__attrs_", "__abstractmethods__", "_abc_impl", "__match_args__"),
    *("__firstlineno__", "__static_attributes__", "__orig_bases__", "__parameters__"),
    *("_member_map_", "_value2member_map_", "_member_names_", "_unhashable_", "_hashable_"),
)
"""How the names of class variables start that follow from the rest of the class."""


class Walk:
    """One walk through the code, and what was found on it.

    Args:
        digest_of: returns the digest of an object that only its adapter can read, or raises.
        project: top-level packages that count as the project though they are installed.

    Attributes:
        parts: digests by name, with the kind of variable before that of a value.
        libraries: versions by name.
        unknown: what has no digest, in words.
    """

    def __init__(self, digest_of: Callable[[Any], str], project: Iterable[str] = ()) -> None:
        self.parts: dict[str, str] = {}
        self.libraries: dict[str, str] = {}
        self.unknown: dict[str, None] = {}
        self._values = Values(self.name_code, digest_of)
        self._outside = Outside(self)
        self._project = frozenset(project)
        self._lines: dict[int, tuple[str, Any]] = {}
        self._held: dict[tuple[str, int], tuple[str, Any]] = {}
        self._taken: dict[str, int] = {}
        self._left: deque[Callable[[], None]] = deque()

    def start(self, obj: Any, name: str) -> str:
        """Walk from an object; return the line that stands for it."""
        line = self.hold(obj, "global", name)
        while self._left:
            self._left.popleft()()
        return line

    def hold(self, value: Any, kind: str, label: str) -> str:
        """Return a line that says what a variable holds; a value becomes a part."""
        line = tokens.plain(value)
        try:
            if line is None:
                line = self.name_code(value)
                if line is not None:
                    return line
                found = wrappers.held(value, type(value))
                line = self._values.line(value)
                if found is not None and found[0] not in wrappers.WITH_VALUES:
                    return line
        except (Exception, SystemExit) as error:
            return self._lacks(value, f"the {WORDS[kind]} {label!r}", error)
        key = (label, id(value))
        if key not in self._held:
            name = self._unique(label)
            self.parts[name] = f"{kind}:{tokens.digest(line)}"
            self._held[key] = f"{kind} {name}", value
        return self._held[key][0]

    def _lacks(self, value: Any, what: str, error: BaseException) -> str:
        name, reason = _type_name(type(value)), ""
        if isinstance(error, NoLineError) and error.kind is not type(value):
            reason = f": it holds a {_type_name(error.kind)}"
        elif isinstance(error, RecursionError):
            reason = ": it is nested too deeply"
        self.unknown[f"{what}, a {name}, has no digest{reason}"] = None
        return f"unknown {name}"

    def _unique(self, name: str) -> str:
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def name_code(self, value: Any) -> str | None:
        """Return the line of a function, class or module, and note to look at it; else None."""
        kind = type(value)
        if kind is FunctionType:
            return self._function(value)
        if issubclass(kind, type):
            return self._class(value)
        if issubclass(kind, ModuleType):
            return self._outside.module(value)
        found = wrappers.builtin_of(value, kind)
        if found is None:
            return None
        module, name, bound = found
        line = f"builtin {modules.name_of(module)}.{name}"
        if bound is not None:
            return tokens.many(line, [self._values.line(bound)])
        if type(module) is str:
            self._note_builtin(module, name)
        return line

    def _note_builtin(self, module: str, name: str) -> None:
        origin = self.origin_of(module)
        if origin is Origin.LIBRARY:
            self.note_library(module)
            self.parts.setdefault(f"{module}.{name}", tokens.digest(f"builtin {module}.{name}"))
        elif origin is Origin.PROJECT:
            self.unknown[f"the function '{module}.{name}' is compiled, and has no digest"] = None

    def _function(self, function: FunctionType) -> str:
        if id(function) in self._lines:
            return self._lines[id(function)][0]
        module = str(function.__globals__.get("__name__", function.__module__))
        origin = self.origin_of(module, function.__globals__)
        name = _function_name(function, module, origin)
        holds = function.__closure__ or "__wrapped__" in vars(function)
        if origin is not Origin.STANDARD or holds:
            name = self._unique(name)
            follow = self._follow if origin is Origin.PROJECT else self._note_function
            self._left.append(partial(follow, function, name))
        if origin is Origin.LIBRARY:
            self.note_library(module)
        line = f"function {name}"
        self._lines[id(function)] = line, function
        return line

    def _follow(self, function: FunctionType, name: str) -> None:
        code, home = function.__code__, function.__globals__
        facts = bytecode.read(code)
        lines = [facts.digest, *self._defaults(function, name)]
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            lines.append(f"{variable} {self._cell(cell, name, variable, facts)}")
        wrapped = vars(function).get("__wrapped__", _MISSING)
        if wrapped is not _MISSING:
            lines.append(f"wraps {self.hold(wrapped, 'attribute', f'{name}.__wrapped__')}")
        lines += self._outside.lines(facts, home)
        self.parts[name] = tokens.digest("\n".join(lines))

    def _defaults(self, function: FunctionType, name: str) -> Iterator[str]:
        code = function.__code__
        values = function.__defaults__ or ()
        names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
        by_name = sorted((function.__kwdefaults__ or {}).items())
        for argument, value in [*zip(names, values, strict=False), *by_name]:
            try:
                yield f"{argument}={self._values.line(value)}"
            except (Exception, SystemExit) as error:
                yield self._lacks(value, f"the default of {argument!r} in {name}", error)

    def _cell(self, cell: Any, name: str, variable: str, facts: Facts) -> str:
        label = f"{name}.<closure>.{variable}"
        try:
            value = cell.cell_contents
        except ValueError:
            return "empty"
        if variable in facts.changed and not tokens.is_code(value):
            return tokens.CHANGED
        if issubclass(type(value), ModuleType):
            return self._outside.members(value, facts.attributes)
        return self.hold(value, "closure", label)

    def _note_function(self, function: FunctionType, name: str) -> None:
        """Note a library's function, and follow what it holds if it is a decorator's."""
        module = str(function.__globals__.get("__name__"))
        lines = []
        if self.origin_of(module, function.__globals__) is Origin.LIBRARY:
            lines.append(bytecode.read(function.__code__).digest)
        for variable, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                lines.append(f"{variable} {self._sought(cell.cell_contents)}")
            except ValueError:
                lines.append(f"{variable} empty")
        if "__wrapped__" in vars(function):
            lines.append(f"wraps {self._sought(vars(function)['__wrapped__'])}")
        self.parts[name] = tokens.digest("\n".join(lines))

    def _sought(self, value: Any, constants: bool = True) -> str:
        """Return a line of the code and constants in a value; the rest is the library's matter."""
        kind = type(value)
        try:
            line = tokens.plain(value)
            if line is not None:
                return line if constants else "something"
            line = self.name_code(value)
            if line is not None:
                return line
            held = wrappers.held(value, kind)
            if held is None and kind is tuple:
                held = "tuple", value
            if held is not None:
                return tokens.many(held[0], (self._sought(item, constants) for item in held[1]))
            if kind is dict or kind is list:  # it may be a cache, whose constants come and go
                items = value.items() if kind is dict else value
                lines = {self._sought(item, constants=False) for item in [*items]}
                return tokens.many("holds", sorted(lines))
            if self.origin_of(kind.__module__) is Origin.PROJECT:
                return self._values.line(value)
        except (Exception, SystemExit):
            return "something"
        return "something"

    def _class(self, kind: type) -> str:
        if id(kind) in self._lines:
            return self._lines[id(kind)][0]
        module = type.__getattribute__(kind, "__module__")
        name = f"{modules.name_of(module)}.{type.__getattribute__(kind, '__qualname__')}"
        origin = modules.origin_of_class(kind)
        if origin is Origin.LIBRARY:
            origin = self.origin_of(module)
        if origin is Origin.PROJECT:
            name = self._unique(name)
            self._left.append(partial(self._follow_class, kind, name))
        elif origin is Origin.LIBRARY:
            self.note_library(module)
        line = f"class {name}"
        self._lines[id(kind)] = line, kind
        return line

    def _follow_class(self, kind: type, name: str) -> None:
        lines = [self._class(type(kind))]
        lines += map(self._class, type.__getattribute__(kind, "__bases__"))
        for member, value in [*type.__dict__["__dict__"].__get__(kind).items()]:
            if member not in _NOT_CODE and not member.startswith(_DERIVED):
                lines.append(f"{member} {self._member(value, f'{name}.{member}')}")
        self.parts[name] = tokens.digest("\n".join(lines))

    def _member(self, value: Any, label: str) -> str:
        if not label.rpartition(".")[2].startswith("__") or callable(value):
            return self.hold(value, "attribute", label)
        try:
            return self._values.line(value)
        except (Exception, SystemExit):  # what a library keeps in a class, such as a schema
            return "something"

    def note(self, name: str, lines: Iterable[str]) -> None:
        """Note a part by lines of what it consists of."""
        self.parts[self._unique(name)] = tokens.digest("\n".join(lines))

    def later(self, look: Callable[[], None]) -> None:
        """Look at something before the walk ends."""
        self._left.append(look)

    def origin_of(self, module: str, namespace: dict[str, Any] | None = None) -> Origin:
        """Return where a module is from, as this walk sees it."""
        origin = modules.origin_of(module, namespace)
        if origin is Origin.LIBRARY and module.partition(".")[0] in self._project:
            return Origin.PROJECT
        return origin

    def note_library(self, module: str) -> None:
        """Note the version of the library that a module belongs to."""
        library, version = modules.version_of(module)
        self.libraries[library] = version


def _function_name(function: FunctionType, module: str, origin: Origin) -> str:
    """Return the name of a function's part; a decorator's function is named after both.

    Of a library's function it is that of its code: attrs, for one, renames a function for every
    class that it makes.
    """
    said = f"{modules.name_of(function.__module__)}.{function.__qualname__}"
    own = f"{modules.name_of(module)}.{function.__code__.co_qualname}"
    if "__wrapped__" in vars(function):
        return f"{own}({said})"
    return said if origin is Origin.PROJECT else own


def _type_name(kind: type) -> str:
    module = modules.name_of(type.__getattribute__(kind, "__module__"))
    name = str(type.__getattribute__(kind, "__qualname__"))
    return name if module == "builtins" else f"{module}.{name}"
