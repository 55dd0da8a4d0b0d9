"""Training history: one number per epoch and metric, as people track it in their loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowyml.properties import type_name


class TrainingHistory(dict[str, list[int | float]]):
    """A dict of equally long lists; ``epochs`` is always among them.

    The lists are copies: going on with the loop doesn't change a history that was handed over.
    """

    @classmethod
    def of(cls, history: Mapping[str, Any]) -> TrainingHistory:
        """Copy a mapping of metric name to sequence of numbers.

        NumPy numbers and one-element tensors become Python numbers. A missing ``epochs`` is
        filled in, counted from 1.

        Raises:
            TypeError: when it isn't a mapping of strings to sequences of numbers.
            ValueError: when the sequences differ in length; both name the key.
        """
        if not isinstance(history, Mapping):
            raise TypeError(
                "training_history has to be a dict such as {'epochs': [1, 2], 'loss': [0.5, 0.3]}; "
                f"got a {type_name(history)}"
            )
        copied = {_checked_key(key): _numbers(key, series) for key, series in history.items()}
        lengths = {key: len(series) for key, series in copied.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
            raise ValueError(f"training_history needs sequences of one length: {told}")
        if copied and "epochs" not in copied:
            length = next(iter(lengths.values()))
            copied = {"epochs": list(range(1, length + 1)), **copied}
        return cls(copied)

    @property
    def final(self) -> dict[str, int | float]:
        """The last value of every series; empty when nothing was recorded."""
        return {key: series[-1] for key, series in self.items() if series}

    def best(self, metric: str, *, mode: str = "min") -> dict[str, int | float]:
        """Return all values of the epoch in which a metric was best.

        Args:
            metric: a key of the history, such as ``"val_loss"``.
            mode: ``"min"`` when less is better, ``"max"`` when more is. NaN never is the best.

        Raises:
            KeyError: when the history has no such metric.
            ValueError: when no epoch has a value for it, or for another mode.
        """
        if mode not in ("min", "max"):
            raise ValueError(f"mode is 'min' or 'max', not {mode!r}")
        if metric not in self:
            raise KeyError(f"{metric!r} isn't in the training history; it has {sorted(self)}")
        series = self[metric]
        epochs = [index for index, value in enumerate(series) if value == value]
        if not epochs:
            raise ValueError(f"the training history has no value of {metric!r} yet")
        pick = min if mode == "min" else max
        index = pick(epochs, key=series.__getitem__)
        return {key: values[index] for key, values in self.items()}


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"training_history needs strings as keys; got {key!r}")
    return str(key)


def _numbers(key: str, series: Any) -> list[int | float]:
    if isinstance(series, (str, bytes, Mapping)):
        raise TypeError(f"training_history[{key!r}] has to be a sequence of numbers")
    try:
        items = list(series)
    except TypeError as error:
        raise TypeError(
            f"training_history[{key!r}] has to be a sequence with one number per epoch; "
            f"got a {type_name(series)}"
        ) from error
    return [_number(key, index, item) for index, item in enumerate(items)]


def _number(key: str, index: int, item: Any) -> int | float:
    value = item
    if not isinstance(value, (int, float)) and hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError, TypeError):  # more than one element, or no data
            value = item
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"training_history[{key!r}][{index}] has to be a number; got a {type_name(item)}"
        )
    return float(value) if isinstance(value, float) else int(value)
