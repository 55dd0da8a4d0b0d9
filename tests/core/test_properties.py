import enum
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from flowyml.properties import NotJsonableError, describe, to_jsonable


class Color(enum.IntEnum):
    RED = 1


@dataclass
class Point:
    x: int
    y: np.float32


@attrs.define
class Config:
    depth: int
    at: Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (Color.RED, "RED"),
        (Path("a/b"), "a/b"),
        (date(2026, 1, 2), "2026-01-02"),
        (Point(1, np.float32(0.5)), {"x": 1, "y": 0.5}),
        (Config(2, Path("x")), {"depth": 2, "at": "x"}),
        ({"a": (1, 2), 3: frozenset({4})}, {"a": [1, 2], "3": [4]}),
    ],
)
def test_values_become_json(value: object, expected: object) -> None:
    assert to_jsonable(value) == expected
    assert type(to_jsonable(value)) is type(expected)


@pytest.mark.parametrize("value", [object(), b"x", int, len, np.zeros(3), [object()]])
def test_what_has_no_json_form_is_said_so_and_can_be_described(value: object) -> None:
    with pytest.raises(NotJsonableError):
        to_jsonable(value)
    assert "<" in str(describe(value))


def test_hostile_values_are_described() -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise SystemError

    cycle: list[Any] = []
    cycle += [cycle, cycle]
    assert describe(Hostile()).startswith("<")
    assert describe(cycle) == ["<list>", "<list>"]
