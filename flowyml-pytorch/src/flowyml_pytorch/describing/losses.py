"""Loss functions, as modules and as functions: their names and settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowyml_pytorch.describing.census import unwrap
from flowyml_pytorch.describing.classes import author_class
from flowyml_pytorch.describing.readable import public, tensor, with_class

_OF_EVERY_MODULE = ("training", "call_super_init", "dump_patches")
_MAX_PARTS = 20


def loss(obj: Any) -> dict[str, Any]:
    """Return what a loss is, under ``"class"``, and its settings; tensors by their digests."""
    return module(obj) if isinstance(obj, nn.Module) else with_class(obj)


def module(obj: nn.Module, depth: int = 0) -> dict[str, Any]:
    """Return a module's class and settings, and those of the parts that hold no weights."""
    root, wrapper = unwrap(obj)
    found: dict[str, Any] = {"class": class_of(obj)}
    if wrapper is not None:
        found["wrapper"] = wrapper
    found.update(public(root, _OF_EVERY_MODULE))
    own = [*root.named_parameters(recurse=False), *_buffers(root)]
    for name, item in own[:_MAX_PARTS]:
        found[name] = None if item is None else tensor(item)
    for name, part in list(root.named_children())[:_MAX_PARTS]:
        is_small = depth < 3 and next(part.parameters(), None) is None
        found[name] = module(part, depth + 1) if is_small else {"class": class_of(part)}
    return found


def class_of(obj: nn.Module) -> str:
    """Return the dotted name of a module's class, whatever wraps it."""
    cls = author_class(type(unwrap(obj)[0]))
    return f"{cls.__module__}.{cls.__qualname__}"


def _buffers(root: nn.Module) -> list[tuple[str, Any]]:
    """Return the buffers, those among them that are None: no weight is a setting too."""
    return list(getattr(root, "_buffers", {}).items())
