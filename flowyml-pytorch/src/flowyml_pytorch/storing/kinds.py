"""Objects that are taken apart into parts and put together again, in place of a pickle.

An optimizer, a generator or a DataLoader is more than its attributes: caches, patched methods and
handles of the process belong to it, and its own ``__setstate__`` may run anything. A kind knows
which parts make it up, and how it is made of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs


class NotRestorableError(Exception):
    """Something has no form that could be restored; the text says where it is and why.

    Attributes:
        path: where it is, from the object that was looked at: ``"collate_fn"``.
        reason: why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the object itself'}: {reason}")
        self.path = path
        self.reason = reason


def told(error: Exception) -> str:
    """Return what an error says. Objects in it aren't asked for their text: it could be code."""
    words = [word for word in error.args if type(word) in (str, int)]
    return f"{type(error).__name__}: {', '.join(map(str, words))}".removesuffix(": ")


@attrs.frozen
class Kind:
    """How the objects of some classes are taken apart and put together.

    Attributes:
        name: stands in every structure, so it never changes.
        handles: tells whether an object is of this kind, from its type alone.
        parts: returns the parts of an object by name. They are encoded in turn, so a part may be
            a tensor, a module, a container, a class or function that has a name, or another
            object. Raises `NotRestorableError` for what can't be captured.
        build: makes an object of a class and its parts. The class was resolved by the policy;
            the parts may come from a stranger, so anything unfit has to raise TypeError,
            ValueError or KeyError, and no part may be called that isn't trusted.
        safe: dotted beginnings of the modules whose classes of this kind need no trust.
        calls: parts that `build` calls: whatever they name has to be trusted by the caller.
    """

    name: str
    handles: Callable[[Any], bool]
    parts: Callable[[Any], Mapping[str, Any]]
    build: Callable[[type, dict[str, Any]], Any]
    safe: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
