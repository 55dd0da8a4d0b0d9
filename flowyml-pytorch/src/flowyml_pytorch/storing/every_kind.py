"""Every kind of object that is taken apart into parts, see `storing.kinds`."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowyml_pytorch.quantizing import packed
from flowyml_pytorch.storing import hooks
from flowyml_pytorch.storing.kinds import Kind
from flowyml_pytorch.training import loaders, optimizers

KINDS: tuple[Kind, ...] = (*hooks.KINDS, *loaders.KINDS, *packed.KINDS, *optimizers.KINDS)

BY_NAME = {kind.name: kind for kind in KINDS}

SAFE = tuple(dict.fromkeys(prefix for kind in KINDS for prefix in kind.safe))
"""Beginnings of the names of torch's own classes that are built from parts."""


def kind_of(value: Any) -> Kind | None:
    """Return the kind of an object; None for modules and other objects with attributes alone."""
    if isinstance(value, nn.Module):
        return None
    return next((kind for kind in KINDS if kind.handles(value)), None)
