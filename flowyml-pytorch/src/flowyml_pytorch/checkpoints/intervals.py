"""How often a checkpoint is due: every so many steps, epochs or seconds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs

from flowyml.interfaces import Group
from flowyml.properties import type_name

Unit = Literal["steps", "epochs", "seconds"]

_UNITS: Mapping[str, tuple[Unit, int]] = {
    "step": ("steps", 1),
    "epoch": ("epochs", 1),
    "second": ("seconds", 1),
    "minute": ("seconds", 60),
    "hour": ("seconds", 3600),
}
"""What people say, and how many of which unit it is."""

_FORMS = "100, '100 steps', '1 epoch', '30 seconds', '10 minutes', a timedelta or {'steps': 100}"


@attrs.frozen
class Every:
    """An interval: `count` of a unit. Zero steps: each call of ``save``."""

    count: float
    unit: Unit

    @classmethod
    def of(cls, value: Any) -> Every:
        """Return what ``every=`` says.

        Raises:
            TypeError: when it is of another type.
            ValueError: when it names no unit, or isn't positive.
        """
        if value is None:
            return cls(0, "steps")
        if isinstance(value, timedelta):
            return _checked(value.total_seconds(), "second", value)
        if isinstance(value, int) and not isinstance(value, bool):
            return _checked(value, "step", value)
        if isinstance(value, str):
            found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value)
            if found is None:
                raise ValueError(f"every= takes {_FORMS}; got {value!r}")
            return _checked(float(found[1]), found[2], value)
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise ValueError(f"every= takes one unit, as in {{'steps': 100}}; got {value!r}")
            ((unit, count),) = value.items()
            if isinstance(count, bool) or not isinstance(count, (int, float)):
                raise TypeError(f"every= takes a number of {unit}; got {count!r}")
            return _checked(count, str(unit), value)
        raise TypeError(f"every= takes {_FORMS}; got a {type_name(value)}")


def _checked(count: float, unit: str, value: Any) -> Every:
    name = unit if unit in _UNITS else unit.removesuffix("s")
    if name not in _UNITS:
        raise ValueError(f"every= counts steps, epochs, seconds, minutes or hours; got {value!r}")
    kind, factor = _UNITS[name]
    if not 0 < count < float("inf"):
        raise ValueError(f"every= takes what is more than nothing; got {value!r}")
    if kind != "seconds" and count != int(count):
        raise ValueError(f"every= takes a whole number of {kind}; got {value!r}")
    return Every(count * factor, kind)


class Clock:
    """Tells whether seconds have passed: for all processes of a group by the clock of rank 0.

    They ask each other at steps that they know beforehand, as seldom as the interval allows, so
    that most steps cost nothing.
    """

    def __init__(self, seconds: float, group: Group | None, channel: str) -> None:
        self._seconds = seconds
        self._group = group
        self._channel = channel
        self._since = self._asked = time.monotonic()
        self._calls = 0
        self._wait = 1
        self._waited = 1

    def restart(self) -> None:
        """Count from now on."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the seconds have passed; every process has to ask equally often."""
        if self._group is None:
            return time.monotonic() - self._since >= self._seconds
        self._calls += 1
        if self._calls < self._wait:
            return False
        now = time.monotonic()
        left = self._seconds - (now - self._since)
        a_call = max((now - self._asked) / self._waited, 1e-6)
        wait = max(1, int(min(left, self._seconds / 4) / a_call)) if left > 0 else 1
        told = self._group.exchange(json.dumps([left <= 0, wait]).encode(), self._channel)
        due, self._wait = json.loads(told[0])
        self._asked, self._calls, self._waited = now, 0, self._wait
        return bool(due)
