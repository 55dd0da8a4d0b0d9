"""Every kind of object that is taken apart into parts, see `flowyml_pytorch.kinds`."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowyml_pytorch import hooks, loaders, quantized, training
from flowyml_pytorch.kinds import Kind

KINDS: tuple[Kind, ...] = (*hooks.KINDS, *loaders.KINDS, *quantized.KINDS, *training.KINDS)

BY_NAME = {kind.name: kind for kind in KINDS}

SAFE = tuple(dict.fromkeys(prefix for kind in KINDS for prefix in kind.safe))
"""Beginnings of the names of torch's own classes that are built from parts."""


def kind_of(value: Any) -> Kind | None:
    """Return the kind of an object; None for modules and other objects with attributes alone."""
    if isinstance(value, nn.Module):
        return None
    return next((kind for kind in KINDS if kind.handles(value)), None)
