"""Objects that are no models, ordinary ones and odd ones: somebody will ask about each of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__tracebackhide__ = True


class OwnError(RuntimeError):
    """What an odd object raises when it is asked for something."""


class AnswersEverything:
    """Has every attribute, as mock objects do."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self) -> Any:
        """Return itself."""
        return self


class AnswersNothing:
    """Raises for every attribute that it doesn't have."""

    def __getattr__(self, name: str) -> Any:
        raise OwnError(f"it was asked for {name!r}")


class Lies:
    """Says that it is of another class."""

    @property  # type: ignore[misc]  # that is what is odd
    def __class__(self) -> type:
        return int


class WontSay:
    """Doesn't say of which class it is, as proxies do that have nothing behind them yet."""

    @property  # type: ignore[misc]  # that is what is odd
    def __class__(self) -> type:
        raise OwnError("it was asked for its class")


class Uncomparable:
    """Can't be compared, hashed, counted, tested or shown."""

    __hash__ = None  # type: ignore[assignment]  # that is what is odd

    def __eq__(self, other: object) -> bool:
        raise OwnError("it was compared")

    def __bool__(self) -> bool:
        raise OwnError("it was tested")

    def __len__(self) -> int:
        raise OwnError("it was counted")

    def __repr__(self) -> str:
        raise OwnError("it was shown")


class Meta(type):
    """A metaclass whose classes raise when they are asked about."""

    def __getattr__(cls, name: str) -> Any:
        raise OwnError(f"it was asked for {name!r}")

    def __instancecheck__(cls, instance: object) -> bool:
        raise OwnError("it was asked about an instance")


class OfMeta(metaclass=Meta):
    """A class of such a metaclass."""


def oddities() -> Iterator[tuple[str, object]]:
    """Yield the objects, each with a description of it."""
    plain: tuple[object, ...] = (
        None, True, 0, 1.5, float("nan"), 1j, "", "text", b"bytes", bytearray(1), memoryview(b""),
        [], [1], (), (1,), {}, {"key": 1}, set(), frozenset(), range(2), slice(1), ...,
        NotImplemented, Path(), ValueError("of no use"),
    )  # fmt: skip
    yield from ((repr(obj), obj) for obj in plain)
    yield "object()", object()
    yield "a function", oddities
    yield "a lambda", lambda: None
    yield "a builtin function", len
    yield "a method", "text".upper
    yield "a class", Path
    yield "the class type", type
    yield "a module", sys
    yield "a generator", (item for item in "text")
    yield "an object that answers every attribute", AnswersEverything()
    yield "an object whose __getattr__ raises", AnswersNothing()
    yield "an object whose __class__ lies", Lies()
    yield "an object whose __class__ raises", WontSay()
    yield "an object that can't be compared or shown", Uncomparable()
    yield "an object of a class whose metaclass raises", OfMeta()
    yield "a class whose metaclass raises", OfMeta
