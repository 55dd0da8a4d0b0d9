"""Whether what was saved fits into what a caller built: everything that doesn't, in one error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flowyml.errors import MaterializationError
from flowyml_pytorch.storing.layout import UNINITIALIZED

Shapes = Mapping[str, tuple[int, ...] | None]
"""Shapes by name; None for a tensor that has none yet."""


def shapes_of(state: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the tensors in a state dict."""
    return {
        key: None if isinstance(item, UNINITIALIZED) else tuple(item.shape)
        for key, item in state.items()
        if isinstance(item, Tensor)
    }


def check_same_keys(saved: Shapes, wanted: Shapes, ref: str) -> None:
    """Make sure that what was saved fits into what is there.

    Raises:
        MaterializationError: listing all missing, unexpected and misshapen keys.
    """
    problems = {
        "missing in the saved state": [key for key in wanted if key not in saved],
        "not in what into= holds": [key for key in saved if key not in wanted],
        "of another shape": [
            f"{key} (saved {_told(shape)}, into= has {_told(wanted[key])})"
            for key, shape in saved.items()
            if key in wanted and wanted[key] not in (shape, None)
        ],
    }
    told = [f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys]
    if told:
        raise MaterializationError(
            f"{ref} doesn't fit into what into= holds, and nothing was changed. {'; '.join(told)}."
        )


def _told(shape: tuple[int, ...] | None) -> str:
    return "no shape yet" if shape is None else str([*shape])
