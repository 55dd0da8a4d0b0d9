"""The arguments of a recorded call, made again from the form that `arguments` gave them.

Nothing is imported, and no class's code is run but that of enums and named tuples: a record may
come from a stranger.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

from flowyml.errors import FlowymlError

_SCALARS = (type(None), bool, int, float, str)


class NotRepeatableError(FlowymlError):
    """An argument of a recorded call can't be had again."""


def rebuild(
    form: Mapping[str, Any],
    load: Callable[[str], Any],
    given: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments of a recorded call.

    Nothing is imported: classes and functions are looked up among the modules that are there.

    Args:
        form: `arguments.Call.form`.
        load: returns an input by its flat name.
        given: values that take the place of recorded ones, by flat name: what was masked, say.

    Raises:
        NotRepeatableError: naming the argument that can't be had.
        ValueError: when the form isn't one.
    """
    made = Rebuilder(load, given)
    try:
        return (
            [made.value(item) for item in form["args"]],
            {str(key): made.value(item) for key, item in form["kwargs"].items()},
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the recorded call is damaged: {error!r}") from error


class Rebuilder:
    """Makes values of their forms: a scalar, or a list that begins with a word."""

    def __init__(self, load: Callable[[str], Any], given: Mapping[str, Any]) -> None:
        self._load = load
        self._given = given
        self._makers = self.forms()

    def value(self, form: Any) -> Any:
        """Return what a form stands for."""
        if type(form) in _SCALARS:
            return form
        word, *rest = form
        if word not in self._makers:
            raise ValueError(f"the recorded call has an unknown form {word!r}")
        return self._makers[word](*rest)

    def forms(self) -> Mapping[str, Callable[..., Any]]:
        """Return, for each word, what makes a value of what comes after it."""
        return {
            "value": lambda value: value,
            "list": lambda items: [self.value(item) for item in items],
            "tuple": lambda items: tuple(self.value(item) for item in items),
            "set": lambda items: {self.value(item) for item in items},
            "frozenset": lambda items: frozenset(self.value(item) for item in items),
            "dict": lambda pairs: {key: self.value(item) for key, item in pairs},
            "datetime": datetime.fromisoformat,
            "date": date.fromisoformat,
            "time": time.fromisoformat,
            "path": _path,
            "name": self.named,
            "enum": lambda module, name, member: self.named(module, name)[member],
            "namedtuple": lambda module, name, items: self.named(module, name)._make(
                [self.value(item) for item in items]
            ),
            "object": self._object,
            "input": self._input,
            "masked": self._masked,
            "lost": _lost,
        }

    def named(self, module: str, name: str) -> Any:
        """Return what a dotted name means; imports nothing."""
        return found(module, name)

    def _object(self, module: str, name: str, fields: list[tuple[str, Any]]) -> Any:
        cls = self.named(module, name)
        if not isinstance(cls, type):
            raise NotRepeatableError(f"{module}.{name} is no class any more.")
        made: Any = object.__new__(cls)
        for key, form in fields:
            object.__setattr__(made, key, self.value(form))
        return made

    def _input(self, name: str) -> Any:
        return self._given[name] if name in self._given else self._load(name)

    def _masked(self, name: str) -> Any:
        if name not in self._given:
            raise NotRepeatableError(
                f"The value of {name!r} was masked when it was recorded. Pass it: "
                f"arguments={{{name!r}: ...}}."
            )
        return self._given[name]


def _path(text: str) -> Any:
    from pathlib import Path

    return Path(text)


def _lost(kind: str, reason: str) -> Any:
    raise NotRepeatableError(f"An argument, a {kind}, was not recorded: {reason}.")


def found(module: str, name: str) -> Any:
    """Return what a dotted name means, in a module that is imported.

    Raises:
        NotRepeatableError: when it means nothing.
    """
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
        if value is None:
            raise NotRepeatableError(
                f"{module}.{name} isn't there any more. Import the module that defines it."
            )
    return value


def inputs_in(form: Any) -> Iterator[str]:
    """Yield the names of the inputs that a form refers to."""
    if isinstance(form, list):
        if len(form) == 2 and form[0] == "input" and isinstance(form[1], str):
            yield form[1]
            return
        if form and form[0] == "value":
            return
        for item in form:
            yield from inputs_in(item)
    elif isinstance(form, dict):
        for item in form.values():
            yield from inputs_in(item)
