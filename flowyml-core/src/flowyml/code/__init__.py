"""What a function's code is: a digest that changes when what it computes may change.

The code in memory counts, not the file, which may have been edited since. It is followed from
the function to every function and class of the project that a variable leads to: globals,
attributes of modules, closures, defaults, imports in a body, tables of handlers, decorators.
Values of variables count by content. Not seen is what gets its name at run time: ``getattr`` with
a computed name, ``importlib.import_module``, ``eval``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import MAGIC_NUMBER
from types import FunctionType
from typing import Any

import attrs

from flowyml.code import modules, source, tokens, wrappers
from flowyml.code.differences import BYTECODE, differences
from flowyml.code.held import code_in
from flowyml.code.walk import Walk
from flowyml.errors import told
from flowyml.records import Code

__all__ = [
    "code_in",
    "describe",
    "describe_call",
    "differences",
    "source_of",
]

_PYTHON = f"{sys.implementation.cache_tag}/{int.from_bytes(MAGIC_NUMBER[:2], 'little')}"


def _refuse(value: Any) -> str:
    raise TypeError("it has no digest")


def describe(
    function: Callable[..., Any],
    digest_of: Callable[[Any], str] = _refuse,
    *,
    project: Iterable[str] = (),
) -> Code:
    """Describe the code of a function, a class or any other callable. Never raises.

    The digest is over code and values alone. Versions of libraries, which are in `libraries`,
    don't enter it, apart from the code of those of their functions that the project names. Of
    a variable that code only writes to, such as a counter, the name counts and not the value.

    Args:
        function: which.
        digest_of: returns the content digest of an object such as an array or a tensor; raises
            for one that has none.
        project: top-level packages to follow though they are installed, such as the one that the
            function is from.
    """
    try:
        return _described(function, digest_of, project)
    except (Exception, SystemExit) as error:
        name = _name_of(function)
        reason = f"the code of {name} can't be told: {told(error)}"
        return Code(name, tokens.digest(f"unknown {name}"), unknown=(reason,))


def describe_call(
    function: Callable[..., Any],
    given: Iterable[Callable[..., Any]],
    digest_of: Callable[[Any], str] = _refuse,
) -> Code:
    """Describe the code of a function together with that of what it is given. Never raises.

    A model's content is its weights and structure; what it computes stands in its class.

    Args:
        function: which.
        given: classes and functions, such as `code_in` finds in arguments.
        digest_of: as in `describe`.
    """
    found = describe(function, digest_of)
    others = [describe(item, digest_of) for item in given]
    if not others:
        return found
    digests = [found.digest, *(other.digest for other in others)]
    return attrs.evolve(
        found,
        digest=tokens.many("call", digests).partition(" ")[2],
        parts=dict(sorted(_joined(code.parts for code in (*others, found)).items())),
        libraries=_joined(code.libraries for code in (*others, found)),
        unknown=tuple(dict.fromkeys(text for c in (found, *others) for text in c.unknown)),
        given=tuple(other.function for other in others),
    )


def _joined(dicts: Iterable[dict[str, str]]) -> dict[str, str]:
    return {key: value for one in dicts for key, value in one.items()}


def source_of(function: Callable[..., Any]) -> str | None:
    """Return the text of a function, decorators included, or None when it can't be had.

    It is kept, so call it early: once the file has been edited, the text of the code that runs is
    lost.
    """
    plain = _plain(function)
    if plain is None:
        return None
    return source.text_and_file(plain.__code__, plain.__globals__)[0]


def _described(
    function: Callable[..., Any], digest_of: Callable[[Any], str], project: Iterable[str]
) -> Code:
    name, plain = _name_of(function), _plain(function)
    walk = Walk(digest_of, project)
    line = walk.start(function, name)
    if plain is not None and (owner := _owner(plain)) is not None:
        line = f"{line} of {walk.start(owner, name)}"
    walk.parts[BYTECODE] = _PYTHON
    text, file = None, None
    if plain is not None:
        text, file = source.text_and_file(plain.__code__, plain.__globals__)
    lines = sorted(f"{part} {digest}" for part, digest in walk.parts.items())
    return Code(
        function=name,
        digest=tokens.many("code", [line, *lines]).partition(" ")[2],
        source=text,
        file=file,
        parts=dict(sorted(walk.parts.items())),
        libraries=dict(sorted(walk.libraries.items())),
        unknown=tuple(walk.unknown),
    )


def _plain(function: Any) -> FunctionType | None:
    """Return the Python function behind a callable and its wrappers, if there is one."""
    for _ in range(100):  # wrappers may hold one another
        kind = type(function)
        try:
            if kind is FunctionType:
                if "__wrapped__" not in vars(function):
                    return function  # type: ignore[no-any-return]  # narrowed by exact type
                function = vars(function)["__wrapped__"]
            elif (held := wrappers.held(function, kind)) is not None:
                function = held[1][0]
            else:
                return None
        except Exception:  # a subclass's own attributes may raise anything
            return None
    return None


def _owner(function: FunctionType) -> type | None:
    """Return the class in whose body a function was defined, if a global leads to it."""
    first, *rest = function.__qualname__.split(".")[:-1] or [""]
    owner = function.__globals__.get(first)
    for name in rest:
        owner = vars(owner).get(name) if issubclass(type(owner), type) else None
    return owner if issubclass(type(owner), type) else None


def _name_of(function: Any) -> str:
    named = _plain(function)
    if named is not None:
        return f"{modules.name_of(named.__module__)}.{named.__qualname__}"
    kind = function if issubclass(type(function), type) else type(function)
    module, name = (type.__getattribute__(kind, key) for key in ("__module__", "__qualname__"))
    return f"{modules.name_of(module)}.{name}"
