"""What a code object computes, as a digest, and which names it takes from outside.

The code in memory is what runs; the file may have been edited since. Its digest leaves out
whatever doesn't matter to a result: line numbers, file names, docstrings. Constants and names
enter by what they are rather than by their index, which a docstring shifts.
"""

from __future__ import annotations

import opcode
import sys
import weakref
from collections.abc import Iterator
from types import CodeType
from typing import Any

import attrs

from flowyml.code import tokens

_NAMES = opcode.opmap
_EXTENDED_ARG = opcode.EXTENDED_ARG
_CONSTANTS = frozenset(opcode.hasconst)
_NAMED = frozenset(opcode.hasname)
_GLOBAL = frozenset(
    _NAMES[name]
    for name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in _NAMES
)
_ATTRIBUTE = frozenset(
    _NAMES[name]
    for name in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR")
    if name in _NAMES
)
_SUPER_ATTRIBUTE = _NAMES.get("LOAD_SUPER_ATTR")
_STORE_NAME = _NAMES["STORE_NAME"]
_REBINDS = frozenset((_NAMES["STORE_GLOBAL"], _NAMES["DELETE_GLOBAL"]))
_REBINDS_CELL = frozenset((_NAMES["STORE_DEREF"], _NAMES["DELETE_DEREF"]))
_LOADS_CELL = _NAMES["LOAD_DEREF"]
_STORES_IN = frozenset(
    _NAMES[name] for name in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "DELETE_ATTR")
)

_CHANGING = frozenset(
    ("add", "append", "appendleft", "clear", "extend", "extendleft", "insert", "put", "update")
)
"""Methods that change a container and return nothing."""
_IMPORT_NAME = _NAMES["IMPORT_NAME"]

_FLAG_BITS = {_NAMES["LOAD_GLOBAL"]: 1}
"""How many of the low bits of the argument are no index of a name."""
if sys.version_info >= (3, 12):
    _FLAG_BITS |= {_NAMES["LOAD_ATTR"]: 1, _NAMES["LOAD_SUPER_ATTR"]: 2}

_ABOUT_THE_TEXT = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})
"""What the body of a class notes about its own text."""

_HAS_DOCSTRING = 0x4000000
"""A flag of Python 3.14."""


@attrs.frozen
class Import:
    """An import statement in the body of a function.

    Attributes:
        module: the module's name, relative where `level` isn't 0.
        level: the dots before it.
        names: what is imported from it; empty for the module itself.
    """

    module: str
    level: int
    names: tuple[str, ...]


@attrs.frozen
class Facts:
    """What is known of a code object and of those nested in it.

    Attributes:
        digest: over all that matters to what it computes.
        chains: the globals that it reads, each with the attributes that are read of it at once,
            as in ``("helpers", "scale")``.
        attributes: the names of all attributes that it reads.
        imports: its import statements.
        written: the variables from outside that it changes, by assignment to them or in them, or
            by a method of containers.
        read: those that it reads for anything else.
    """

    digest: str
    chains: tuple[tuple[str, ...], ...]
    attributes: frozenset[str]
    imports: tuple[Import, ...]
    written: frozenset[str]
    read: frozenset[str]

    @property
    def changed(self) -> frozenset[str]:
        """The variables that it only writes to: what they hold is no part of what it computes."""
        return self.written - self.read


_known: dict[int, tuple[Facts, weakref.ref[CodeType]]] = {}


def read(code: CodeType) -> Facts:
    """Return what is known of a code object; reads each once."""
    found = _known.get(id(code))  # by identity: comparing code objects compares their bytes
    if found is None:
        key = id(code)
        found = _read(code), weakref.ref(code, lambda _: _known.pop(key, None))
        _known[key] = found
    return found[0]


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all those in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def _read(code: CodeType) -> Facts:
    inner = [read(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    reader = _Reader(code)
    written, used = _written_and_read(code)
    lines = [*_signature(code), *reader.lines()]
    return Facts(
        tokens.digest("\n".join(lines)),
        tuple(
            dict.fromkeys(
                [*map(tuple, reader.chains), *(chain for facts in inner for chain in facts.chains)]
            )
        ),
        frozenset(reader.attributes).union(*(facts.attributes for facts in inner)),
        tuple(dict.fromkeys([*reader.imports, *(one for facts in inner for one in facts.imports)])),
        written.union(*(facts.written for facts in inner)),
        used.union(*(facts.read for facts in inner)),
    )


def _written_and_read(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the variables from outside that code changes, and those that it reads otherwise.

    An assignment to part of a variable, as in ``counts[key] += 1``, begins where its name does.
    """
    cells = _cell_names(code)
    loads: set[tuple[str, Any]] = set()
    writes: set[tuple[str, Any]] = set()
    loaded: tuple[str, Any] | None = None
    at: dict[Any, str] = {}
    for place, operation, argument in _places(code):
        if operation in _REBINDS:
            writes.add((code.co_names[argument], place))
        elif operation in _REBINDS_CELL and cells.get(argument) in code.co_freevars:
            writes.add((cells[argument], place))
        elif operation in _STORES_IN and place in at:
            writes.add((at[place], place))
        elif (
            loaded is not None
            and operation in _ATTRIBUTE
            and code.co_names[argument >> _FLAG_BITS.get(operation, 0)] in _CHANGING
        ):
            writes.add(loaded)
        loaded = None
        if operation in _GLOBAL:
            loaded = code.co_names[argument >> _FLAG_BITS.get(operation, 0)], place
        elif operation == _LOADS_CELL and cells.get(argument) in code.co_freevars:
            loaded = cells[argument], place
        if loaded is not None:
            loads.add(loaded)
            if place is not None:
                at[place] = loaded[0]
    return frozenset(name for name, _ in writes), frozenset(name for name, _ in loads - writes)


def _cell_names(code: CodeType) -> dict[int, str]:
    """Return the variables that are cells by the argument of the instructions that use them."""
    inner = [name for name in code.co_cellvars if name not in code.co_varnames]
    return dict(enumerate((*code.co_varnames, *inner, *code.co_freevars)))


def _places(code: CodeType) -> Iterator[tuple[tuple[int, int] | None, int, int]]:
    """Yield where in the text the expression of each instruction begins, and the instruction."""
    high = 0
    for (line, _, column, _), operation, low in zip(
        code.co_positions(), code.co_code[::2], code.co_code[1::2], strict=False
    ):
        argument = high | low
        high = argument << 8 if operation == _EXTENDED_ARG else 0
        if operation not in (_EXTENDED_ARG, 0):
            yield (None if line is None or column is None else (line, column)), operation, argument


def _signature(code: CodeType) -> Iterator[str]:
    yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
    yield f"{code.co_flags & ~_HAS_DOCSTRING}"
    yield from (repr(code.co_varnames), repr(code.co_cellvars), repr(code.co_freevars))
    yield code.co_exceptiontable.hex()


class _Reader:
    """Reads the instructions of one code object."""

    def __init__(self, code: CodeType) -> None:
        self._code = code
        self.chains: list[list[str]] = []
        self.attributes: set[str] = set()
        self.imports: list[Import] = []

    def lines(self) -> list[str]:
        """Return a line for each instruction."""
        lines: list[str] = []
        chain: list[str] | None = None
        loaded: list[Any] = [0, None]  # the last two constants: what an import statement needs
        is_constant = False
        for operation, argument in _instructions(self._code.co_code):
            was_constant, is_constant = is_constant, operation in _CONSTANTS
            if is_constant:
                constant = self._code.co_consts[argument]
                loaded = [loaded[1], constant]
                lines.append(f"{operation} = {_line(constant)}")
                chain = None
                continue
            if operation not in _NAMED:
                lines.append(f"{operation} {argument}")
                chain = None
                continue
            bits = _FLAG_BITS.get(operation, 0)
            name = self._code.co_names[argument >> bits]
            if operation == _STORE_NAME and name in _ABOUT_THE_TEXT and was_constant:
                lines.pop()
                continue
            lines.append(f"{operation} {argument & ((1 << bits) - 1)} {name}")
            chain = self._note(operation, name, chain, loaded)
        return lines

    def _note(
        self, operation: int, name: str, chain: list[str] | None, loaded: list[Any]
    ) -> list[str] | None:
        if operation in _GLOBAL:
            self.chains.append([name])
            return self.chains[-1]
        if operation in _ATTRIBUTE:
            self.attributes.add(name)
            if chain is not None:
                chain.append(name)
            return chain
        if operation == _SUPER_ATTRIBUTE:
            self.attributes.add(name)
        elif operation == _IMPORT_NAME:
            level, names = loaded
            self.imports.append(Import(name, int(level), tuple(names or ())))
        return None


def _instructions(code: bytes) -> Iterator[tuple[int, int]]:
    """Yield operations and arguments, without the empty places that the interpreter fills."""
    high = 0
    for operation, low in zip(code[::2], code[1::2], strict=True):
        argument = high | low
        high = argument << 8 if operation == _EXTENDED_ARG else 0
        if operation not in (_EXTENDED_ARG, 0):
            yield operation, argument


def _line(constant: Any) -> str:
    """Return the line of a constant, as the compiler makes them."""
    if isinstance(constant, CodeType):
        return f"code {read(constant).digest}"
    if isinstance(constant, tuple):
        return tokens.many("tuple", map(_line, constant))
    if isinstance(constant, frozenset):
        return tokens.many("frozenset", sorted(map(_line, constant)))
    return tokens.plain(constant) or f"constant {type(constant).__name__} {constant!r}"
