"""How far training has come: position, and everything that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from flowyml.properties import type_name

Number = int | float
Mode = Literal["min", "max"]


@attrs.define
class Progress:
    """A position in the training.

    Attributes:
        epoch: how many epochs are done.
        begun: whether the one after them has begun.
        loops: how many loops over batches are done in it.
        batch: how many batches the loop that is under way has yielded; 0 where none is.
        step: how many batches were yielded in all; where `loops_by` says none, calls of ``save``.
        finished: whether training was stopped before its last epoch.
        loops_by: which loops of the checkpoint there were so far.
    """

    epoch: int = 0
    begun: bool = False
    loops: int = 0
    batch: int = 0
    step: int = 0
    finished: bool = False
    loops_by: Literal["none", "batches", "epochs"] = "none"

    @property
    def is_inside(self) -> bool:
        """Whether the position is within an epoch."""
        return self.begun or self.loops > 0 or self.batch > 0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Progress:
        """Return what `attrs.asdict` was given.

        Raises:
            KeyError: when something is missing.
            TypeError: when something isn't what it has to be.
        """
        made = cls(**{field.name: data[field.name] for field in attrs.fields(cls)})
        numbers = made.epoch, made.loops, made.batch, made.step
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("a number in the progress is none")
        return made


class History:
    """Every value that ``save`` was given, by name."""

    def __init__(self, values: Mapping[str, Sequence[Any]] | None = None) -> None:
        self._values: dict[str, list[Any]] = {key: list(v) for key, v in (values or {}).items()}
        self._plain: dict[str, int] = {key: len(v) for key, v in self._values.items()}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Note values; those on a device are fetched when they are needed.

        Raises:
            TypeError: for what is no number; nothing is noted then.
        """
        checked = {name: _checked(name, value) for name, value in metrics.items()}
        for name, value in checked.items():
            self._values.setdefault(name, []).append(value)

    def lists(self) -> dict[str, list[Number]]:
        """Return the values."""
        for name, values in self._values.items():
            for number in range(self._plain.get(name, 0), len(values)):
                values[number] = number_of(values[number])
            self._plain[name] = len(values)
        return {name: list(values) for name, values in self._values.items()}

    def length(self) -> int:
        """Return how many values there are."""
        return sum(map(len, self._values.values()))

    def stored(self) -> dict[str, Any]:
        """Return the values in a form that takes little room: a tensor where one type fits."""
        return {name: _row(values) for name, values in self.lists().items()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> History:
        """Return what `stored` returned."""
        return cls({k: v.tolist() if isinstance(v, Tensor) else v for k, v in stored.items()})


def _row(values: list[Number]) -> Any:
    if all(type(value) is float for value in values):
        return torch.tensor(values, dtype=torch.float64, device="cpu")
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
        return torch.tensor(values, dtype=torch.int64, device="cpu")
    return values


def _checked(name: str, value: Any) -> Any:
    if type(value) in (int, float):
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise TypeError(f"save({name}=...) takes a number; got a tensor of {value.numel()}")
        # A running sum may go on to change; and asking a device would wait for all it has to do.
        return value.detach().clone() if value.device.type != "cpu" else number_of(value)
    if isinstance(value, Real) or getattr(value, "shape", None) == ():
        return number_of(value)
    raise TypeError(f"save({name}=...) takes a number; got a {type_name(value)}")


def number_of(value: Any) -> Number:
    """Return a value of any library as a number of Python's."""
    if type(value) in (int, float):
        number: Number = value
        return number
    plain = value.item() if hasattr(value, "item") else value
    return int(plain) if isinstance(plain, int) else float(plain)


@attrs.frozen
class Best:
    """Which metric tells what is better, and whether less or more of it."""

    metric: str
    mode: Mode = "min"

    @classmethod
    def of(cls, value: Any) -> Best | None:
        """Return what ``best=`` says.

        Raises:
            TypeError: when it is neither a name nor a name with ``"min"`` or ``"max"``.
            ValueError: for another word than these.
        """
        if value is None:
            return None
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], str):
            raise TypeError(f'best= takes "loss" or ("accuracy", "max"); got {value!r}')
        if value[1] not in ("min", "max"):
            raise ValueError(f'best= takes "min" or "max" with the metric; got {value[1]!r}')
        return cls(*value)

    def is_better(self, value: Number, than: Number | None) -> bool:
        """Tell whether a value is better than another; NaN never is."""
        if math.isnan(value):
            return False
        return than is None or (value < than if self.mode == "min" else value > than)
