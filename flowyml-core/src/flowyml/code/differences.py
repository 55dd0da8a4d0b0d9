"""How two descriptions of code differ, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from flowyml.records import Code

BYTECODE = "<bytecode>"
"""The part that says for which interpreter the code was compiled; other digests hang on it."""

WORDS = {"global": "global", "closure": "closure variable", "attribute": "attribute"}
"""Kinds of variables, which stand before the digests of their values."""


def differences(before: Code, after: Code) -> list[str]:
    """Return how two descriptions differ, the weightiest first; empty when they don't.

    Digests of code that was compiled by different Pythons say nothing about the text, so then
    the texts of the functions are compared, where both are known.
    """
    same_python = before.parts.get(BYTECODE) == after.parts.get(BYTECODE)
    said = [] if same_python else [_another_python(before, after)]
    said += _changed(before, after, same_python)
    own = {before.function, after.function}
    for name in _ordered(after.parts.keys() - before.parts.keys(), after, own):
        said.append(f"{_named(name, after)} is new")
    for name in _ordered(before.parts.keys() - after.parts.keys(), before, own):
        said.append(f"{_named(name, before)} is no longer used")
    return [*said, *_libraries(before, after)]


def _another_python(before: Code, after: Code) -> str:
    versions = f"{before.parts.get(BYTECODE)} → {after.parts.get(BYTECODE)}"
    if before.source is None or after.source is None:
        return f"{after.function} was compiled by another Python ({versions})"
    if before.source == after.source:
        return f"the same text of {after.function} was compiled by another Python ({versions})"
    return f"{after.function} changed, and was compiled by another Python ({versions})"


def _changed(before: Code, after: Code, same_python: bool) -> Iterator[str]:
    changed = {
        name
        for name in before.parts.keys() & after.parts.keys()
        if before.parts[name] != after.parts[name]
        and name != BYTECODE
        and (same_python or ":" in after.parts[name])
    }
    for name in _ordered(changed, after, {after.function}):
        yield f"{_named(name, after)} changed"


def _ordered(names: set[str], code: Code, own: set[str]) -> list[str]:
    """Sort parts: the function itself, other code, then values."""
    return sorted(
        names - {BYTECODE}, key=lambda name: (name not in own, ":" in code.parts[name], name)
    )


def _named(name: str, code: Code) -> str:
    kind, colon, _ = code.parts[name].partition(":")
    return f"the {WORDS.get(kind, kind)} {name}" if colon else name


def _libraries(before: Code, after: Code) -> Iterator[str]:
    for name in sorted({*before.libraries, *after.libraries}):
        old, new = before.libraries.get(name), after.libraries.get(name)
        if old is None:
            yield f"{name} {new} is new"
        elif new is None:
            yield f"{name} {old} is no longer used"
        elif old != new:
            yield f"{name} {old} → {new}"
