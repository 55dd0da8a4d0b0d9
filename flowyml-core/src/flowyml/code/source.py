"""The text of functions, for people: only where it is the text of the code that runs.

A file may have been edited since it was imported. So a text counts only if compiling it gives
the code in memory.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from flowyml.code import bytecode

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

_known: dict[int, tuple[str | None, str | None, weakref.ref[CodeType]]] = {}


def text_and_file(code: CodeType, namespace: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return the text of a function's code, decorators included, and its file; or None.

    The first time decides: later the file may be another.
    """
    found = _known.get(id(code))
    if found is None:
        key = id(code)
        file = code.co_filename if Path(code.co_filename).is_file() else None
        try:
            text = _text(code, namespace)
        except Exception:  # tokenizers and compilers have many ways to fail, and it is only text
            text = None
        found = text, file, weakref.ref(code, lambda _: _known.pop(key, None))
        _known[key] = found
    return found[:2]


def _text(code: CodeType, namespace: dict[str, Any]) -> str | None:
    for lines in _versions(code.co_filename, namespace):
        if not 0 < code.co_firstlineno <= len(lines):
            continue
        text = "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
        if _gives(text, code) or _gives("".join(lines), code):
            return textwrap.dedent(text)
    return None


def _versions(file: str, namespace: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the lines of a file as they were read before, then as they are now."""
    before = linecache.getlines(file, namespace)
    yield before
    linecache.checkcache(file)
    now = linecache.getlines(file, namespace)
    if now is not before:
        yield now


def _gives(text: str, code: CodeType) -> bool:
    """Tell whether compiling a text gives a code object, wherever in it."""
    flags = code.co_flags & _FUTURE | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        compiled = compile(text, code.co_filename, "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    digest = bytecode.read(code).digest
    return any(
        found.co_name == code.co_name and bytecode.read(found).digest == digest
        for found in bytecode.nested(compiled)
    )
