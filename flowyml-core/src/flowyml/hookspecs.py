"""The hooks an adapter implements to register what it brings.

pluggy carries registration only: a hook returns objects, and the core dispatches to them by key.
An adapter implements the hooks it needs, each marked with `hookimpl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from flowyml.interfaces import Extractor, Launcher, Materializer, RandomSource

PROJECT = "flowyml"

_Implementation = TypeVar(
    "_Implementation",
    bound="Callable[..., Iterable[Extractor | Materializer | RandomSource | Launcher]]",
)


class Marker(Protocol):
    """Marks a function that implements a hook, and returns it."""

    def __call__(self, function: _Implementation, /) -> _Implementation:
        """Mark the function."""


hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl: Marker = pluggy.HookimplMarker(PROJECT)


@hookspec
def flowyml_register_extractors() -> Iterable[Extractor]:  # type: ignore[empty-body]
    """Return the extractors, one for each framework that the adapter describes."""


@hookspec
def flowyml_register_materializers() -> Iterable[Materializer]:  # type: ignore[empty-body]
    """Return the materializers, which turn objects into files and back."""


@hookspec
def flowyml_register_random_sources() -> Iterable[RandomSource]:  # type: ignore[empty-body]
    """Return the sources of randomness that a seed has to reach."""


@hookspec
def flowyml_register_launchers() -> Iterable[Launcher]:  # type: ignore[empty-body]
    """Return the launchers, which run a step in several processes at once."""
