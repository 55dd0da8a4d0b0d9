"""One line of text for any value that code may find in a variable, by content.

Nothing of the project's classes is run for it: no property, no ``__eq__``, ``__hash__`` or
``__repr__``. What keeps something where Python can't see it, such as an open file or a generator,
has no line, and so no digest.
"""

from __future__ import annotations

import copyreg
import enum
import types
from collections.abc import Callable, Iterator
from typing import Any

from flowyml.code import modules, tokens, variables, wrappers
from flowyml.code.held import code_in
from flowyml.code.modules import Origin

_HARMLESS = frozenset(
    {"logging", "_thread", "threading", "_contextvars", "warnings", "loguru._logger", "structlog"}
)
"""Modules whose objects don't change what is computed: loggers, locks, context variables."""

_WITHOUT_STATE = frozenset({"itertools", "_random", "_io", "io"})
"""Modules of the standard library whose objects can't be asked for theirs, or change it by that."""

_MOST_OBJECTS = 10_000


class NoLineError(Exception):
    """A value has no line, because of an object in it or itself: one of the type `kind`."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind)
        self.kind = kind


class Values:
    """Writes values down as lines.

    Args:
        name_code: returns the line of a function, class or module, and None for anything else.
        digest_of: returns the digest of an object that only its adapter can read, or raises.
    """

    def __init__(
        self, name_code: Callable[[Any], str | None], digest_of: Callable[[Any], str]
    ) -> None:
        self._name_code = name_code
        self._digest_of = digest_of
        self._above: dict[int, int] = {}
        self._known: dict[int, tuple[str, Any]] = {}
        self._objects = 0

    def line(self, value: Any) -> str:
        """Return the line of a value.

        Raises:
            NoLineError: when it has none.
        """
        written = tokens.plain(value) or self._name_code(value)
        if written is not None:
            return written
        key = id(value)
        if key in self._above:
            return f"above {len(self._above) - self._above[key]}"
        if key in self._known:
            return self._known[key][0]
        self._above[key] = len(self._above)
        try:
            written = self._inside(value, type(value))
        finally:
            del self._above[key]
        self._known[key] = written, value  # kept alive, or its id could be another's
        return written

    def _inside(self, value: Any, kind: type) -> str:
        written = self._container(value, kind)
        if written is not None:
            return written
        held = wrappers.held(value, kind)
        if held is not None:
            return tokens.many(held[0], map(self.line, held[1]))
        if kind.__module__ in ("typing", "types") and hasattr(value, "__args__"):
            origin = getattr(value, "__origin__", None)
            return tokens.many("type", map(self.line, (origin, *value.__args__)))
        if kind.__module__ == "typing":
            return f"typing {value!r}"
        if kind.__module__ in _HARMLESS or any(
            base.__module__ == "logging" for base in kind.__mro__
        ):
            return f"harmless {kind.__qualname__}"
        return self._object(value, kind)

    def _container(self, value: Any, kind: type) -> str | None:
        if kind is list or kind is tuple:
            if tokens.plain_items(value):
                return tokens.many(kind.__name__, [repr(value)])
            return tokens.many(f"{kind.__name__}s", map(self.line, value))
        if kind is dict or kind is types.MappingProxyType:
            pairs = [*value.items()] if kind is dict else _items_of_proxy(value)
            if tokens.plain_items(part for pair in pairs for part in pair):
                return tokens.many("dict", [repr(pairs)])
            return tokens.many("dicts", (self.line(part) for pair in pairs for part in pair))
        if kind is set or kind is frozenset:
            return tokens.many(kind.__name__, sorted(map(self.line, value)))
        if kind is bytearray:
            return f"bytearray {bytes(value)!r}"
        return None

    def _object(self, value: Any, kind: type) -> str:
        named = self.line(kind)
        self._objects += 1
        if self._objects > _MOST_OBJECTS:
            raise NoLineError(kind)
        held = variables.of(value)
        if issubclass(kind, enum.Enum):
            state = (held.get("_name_"), held.get("_value_"))
            return tokens.many(f"member of {named}", map(self.line, state))
        origin = modules.origin_of_class(kind)
        base = variables.base_of(kind)
        if origin is Origin.STANDARD:
            return tokens.many(f"object of {named}", self._reduced(value, kind))
        if origin is Origin.LIBRARY and "__wrapped__" in held:
            return f"wrapper of {named} {self.line(held['__wrapped__'])}"
        try:
            digest = self._digest_of(value)
        except (Exception, SystemExit):  # an adapter's code, and the object's own
            digest = None
        if digest is not None:
            code = [self._name_code(item) or "" for item in code_in([value])]
            return tokens.many(f"content of {named}", [digest, *code])
        if base is not None:
            return tokens.many(f"object of {named}", self._state(value, base, held))
        if origin is Origin.PROJECT or _is_reduced_by_python(kind):
            raise NoLineError(kind)
        return tokens.many(f"object of {named}", self._reduced(value, kind))

    def _reduced(self, value: Any, kind: type) -> Iterator[str]:
        """Yield what an object of a library is copied from, as by `copy` and `pickle`."""
        if kind.__module__ in _WITHOUT_STATE:
            raise NoLineError(kind)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            raise NoLineError(kind) from error
        if isinstance(reduced, str):
            yield reduced
            return
        yield from map(self.line, reduced[:3])
        for more in reduced[3:5]:
            yield self.line(None if more is None else list(more))

    def _state(self, value: Any, base: type, held: dict[str, Any]) -> Iterator[str]:
        """Yield what an object of a class that is written in Python consists of."""
        if base is not object:
            yield self.line(variables.content_of(value, base))
        for name, item in sorted(held.items()):
            yield f"{name} {self.line(item)}"


def _items_of_proxy(proxy: Any) -> list[tuple[Any, Any]]:
    below = proxy | {}  # a mappingproxy hides what it shows, but gives a copy
    return [*dict.items(below)] if issubclass(type(below), dict) else [*below.items()]


def _is_reduced_by_python(kind: type) -> bool:
    """Tell whether what pickle is given may be anything, such as the address of a storage."""
    return types.FunctionType in (type(kind.__reduce_ex__), type(kind.__reduce__))
