"""Saving and loading of what is no module: tensors, containers of them, optimizers, loaders.

They are taken apart and written like a module, so that a container keeps what its items share:
an optimizer saved beside its model comes back with the model's own parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml.properties import type_name
from flowyml_pytorch.storing import files, structure
from flowyml_pytorch.storing.kinds import NotRestorableError
from flowyml_pytorch.storing.matching import check_same_keys, shapes_of
from flowyml_pytorch.storing.rebuild import read_structure
from flowyml_pytorch.storing.sharded import alone, check_whole, distributed, seen


def save(value: Any, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a value; of an optimizer or scheduler that can't come back, its state alone.

    Raises:
        MaterializationError: naming the part of it that can't be captured.
    """
    with seen(_modules_in(value), options.group) as parts:

        def plan(obstacle: str | None = None) -> files.Plan:
            return _plan(value, parts.whole, obstacle)

        return files.write(files.agreed(plan, options.group), folder, options, parts.shards)


def digests(value: Any) -> list[str]:
    """Return the digests that make up what `save` would write.

    Raises:
        MaterializationError: naming the part of it that can't be captured, or is sharded.
    """
    check_whole(_modules_in(value))
    return files.digests(_plan(value, alone))


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Yield the modules in a container."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_modules_in, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_modules_in, value))


def _plan(value: Any, whole: Callable[[Tensor], Tensor], obstacle: str | None = None) -> files.Plan:
    """Decide what to write; what stands in the way of more elsewhere does so here as well."""
    parts = {}
    try:
        if isinstance(value, _STATEFUL):
            parts["state"] = _state_of(value)
    except NotRestorableError:  # the object may come back all the same
        pass
    if obstacle is None:
        try:
            return files.Plan(structure.encode(whole, root=value, **parts))
        except (NotRestorableError, RecursionError) as error:
            if not parts:
                raise _not_saved(value, error) from error
            obstacle = str(error)
    try:
        found = structure.encode(whole, **parts)
    except (NotRestorableError, RecursionError) as error:
        raise _not_saved(value, error) from error
    warning = (
        f"{type(value).__name__} is saved with its state only, because of {obstacle}. Loading it "
        f"will need into= one that you build."
    )
    return files.Plan(found, obstacle, warning=warning)


def _not_saved(value: Any, error: Exception) -> MaterializationError:
    return MaterializationError(f"A {type_name(value)} can't be saved because of {error}.")


_STATEFUL = (
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torch.amp.GradScaler,
    torch.Generator,
)
"""What has a state of its own that another object of its class can take."""


def _state_of(value: Any) -> Any:
    from flowyml_pytorch.training import optimizers

    return optimizers.state_of(value)


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give the value back; ``into=`` fills a tensor, a dict of tensors, or what has a state."""
    if options.into is not None:
        return _load_into(saved, options)
    if saved.result.restore != "exact":
        raise MaterializationError(
            f"{saved.ref} was saved with its state only, because of {saved.result.reason}. Build "
            f"the object yourself and pass it as into=."
        )
    return files.read(saved, options, "root")[0]


def _load_into(saved: Saved, options: LoadOptions) -> Any:
    into = options.into
    if isinstance(into, _STATEFUL):
        if "state" not in read_structure(saved):
            raise MaterializationError(
                f"{saved.ref} was saved without a state for into=; load it without."
            )
        from flowyml_pytorch.training import optimizers

        (state,) = files.read(saved, LoadOptions(trust=options.trust), "state")
        optimizers.load_into(into, state, saved.ref)
        return into
    found = files.read(saved, options, "root")[0]
    if isinstance(into, Tensor) and isinstance(found, Tensor):
        _copy({"the tensor": found}, {"the tensor": into}, saved.ref)
    elif _is_state(into) and _is_state(found):
        _copy(found, into, saved.ref)
    else:
        raise MaterializationError(
            f"{saved.ref} holds a {type(found).__name__}; into= is a {type(into).__name__}."
        )
    return into


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, Tensor) for item in value.values())


def _copy(found: Mapping[str, Tensor], into: Mapping[str, Tensor], ref: str) -> None:
    check_same_keys(shapes_of(found), shapes_of(into), ref)
    with torch.no_grad():
        for key, tensor in found.items():
            into[key].copy_(distributed(tensor, into[key]))
