"""Saving and loading of modules: structure and state dict, and how both return.

The structure is JSON, the tensors are plain ``torch.save`` files. A module whose structure can't
be restored safely is saved all the same, with its state dict, and the record says what prevents
the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.errors import (
    MaterializationError,
    MaterializationWarning,
    UnsupportedObjectError,
    warn,
)
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml.properties import type_name
from flowyml_pytorch.quantizing import packed
from flowyml_pytorch.storing import files, structure
from flowyml_pytorch.storing.kinds import NotRestorableError
from flowyml_pytorch.storing.layout import KINDS, UNINITIALIZED
from flowyml_pytorch.storing.matching import check_same_keys, shapes_of
from flowyml_pytorch.storing.sharded import (
    alone,
    check_whole,
    distributed,
    is_sharded,
    model_in,
    seen,
)

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.qscheme)


def save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a module; in the format ``state_dict``, its state dict alone.

    A wrapper, such as what ``torch.compile`` returns, is saved as the model inside.
    """
    with seen([module], options.group) as parts:

        def plan(obstacle: str | None = None) -> files.Plan:
            return _plan(model_in(module), parts.whole, options.format, obstacle)

        return files.write(files.agreed(plan, options.group), folder, options, parts.shards)


def digests(module: nn.Module, format: str) -> list[str]:
    """Return the digests that make up what `save` would write.

    Raises:
        MaterializationError: when it is sharded.
    """
    check_whole([module])
    return files.digests(_plan(model_in(module), alone, format))


def _plan(
    module: nn.Module,
    whole: Callable[[Tensor], Tensor],
    format: str,
    obstacle: str | None = None,
) -> files.Plan:
    """Decide what to write; what stands in the way of more elsewhere does so here as well."""
    live = _state_of(module)
    state = OrderedDict((key, item) for key, item in live.items() if _is_plain(item))
    left_out = [key for key in live if key not in state]
    metadata = getattr(live, "_metadata", None)
    parts = {"state": state, "metadata": metadata if _is_plain(metadata) else None}
    noted = {"left_out": left_out} if left_out else {}
    if format == "state_dict":
        told = _warning(module, "as a state dict", left_out) if left_out else None
        return files.Plan(structure.encode(whole, **parts), _AS_STATE_DICT, noted, told)
    if obstacle is None:
        try:
            return files.Plan(structure.encode(whole, root=module, **parts), details=noted)
        except (NotRestorableError, RecursionError) as error:
            obstacle = str(error)
    told = _warning(module, f"with its weights only, because of {obstacle}", left_out)
    return files.Plan(structure.encode(whole, **parts), obstacle, noted, told)


_AS_STATE_DICT = "it was saved as a state dict"


def _warning(module: nn.Module, how: str, left_out: list[str]) -> str:
    """Tell how a module was saved that won't come back by itself."""
    lacking = ""
    if left_out:
        named = ", ".join(left_out[:5]) + (" and more" if len(left_out) > 5 else "")
        lacking = f" Left out are {named}: a state dict keeps plain tensors and containers only."
    return (
        f"{type(module).__name__} is saved {how}.{lacking} Loading it will need into= a module "
        f"that you build."
    )


def _state_of(module: nn.Module) -> Any:
    """Return a module's state dict with its live tensors, where its class gives them."""
    try:
        return module.state_dict(keep_vars=True)
    except TypeError:  # a user's own state_dict() may take no arguments
        return module.state_dict()


def _is_plain(item: Any, met: set[int] | None = None) -> bool:
    """Tell whether a state dict's entry is data: tensors, numbers, text and containers."""
    met = set() if met is None else met
    if isinstance(item, Tensor):
        plain = type(item) in (*KINDS, *UNINITIALIZED) and not item.is_nested
        return plain or is_sharded(item)
    if type(item) in (dict, OrderedDict, list, tuple):
        if id(item) in met:
            return True
        met.add(id(item))
        parts = [*item, *item.values()] if isinstance(item, dict) else item
        return all(_is_plain(part, met) for part in parts)
    if type(item) is int:
        return item.bit_length() <= 63
    return type(item) in _PLAIN or packed.is_packed(item)


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back the live module; ``into=`` fills one; as ``state_dict``, its state dict."""
    if options.into is not None:
        return load_into(options.into, state_dict(saved, LoadOptions()), saved, options)
    if (options.format or saved.format) == "state_dict":
        return state_dict(saved, options)
    if saved.result.restore != "exact":
        raise MaterializationError(
            f"{saved.ref} was saved with its weights only: {saved.result.reason}. Build "
            f"the module yourself and pass it as into=, or load the weights as a dict with "
            f"format='state_dict'."
        )
    (module,) = files.read(saved, options, "root")
    if not isinstance(module, nn.Module):
        raise MaterializationError(f"{saved.ref}: structure.json holds no module at its root")
    return module


def state_dict(saved: Saved, options: LoadOptions) -> OrderedDict[str, Any]:
    """Give back the state dict of a module that was saved in whatever format."""
    state, metadata = files.read(saved, options, "state", "metadata")
    keys_fit = isinstance(state, OrderedDict) and all(type(key) is str for key in state)
    if not keys_fit or not all(map(_is_plain, (metadata, *state.values()))):
        raise MaterializationError(f"{saved.ref}: structure.json holds no state dict")
    found: OrderedDict[str, Any] = OrderedDict(
        (key, item.detach() if type(item) in KINDS else item) for key, item in state.items()
    )
    if metadata is not None:
        vars(found)["_metadata"] = metadata  # the modules' own versions of their states
    return found


def load_into(
    module: Any, state: Mapping[str, Any], saved: Saved, options: LoadOptions
) -> nn.Module:
    """Fill a module that the caller built, strictly; nothing is changed when it doesn't fit."""
    if not isinstance(module, nn.Module):
        got = (
            f"the class {module.__name__}" if isinstance(module, type) else f"a {type_name(module)}"
        )
        raise UnsupportedObjectError(f"into= takes a torch.nn.Module for {saved.ref}; got {got}.")
    inner = model_in(module)
    there = inner.state_dict()
    left_out = saved.result.details.get("left_out")
    check_same_keys(shapes_of(state), shapes_of(there), saved.ref)
    if not left_out:
        check_same_keys(_others_of(state), _others_of(there), saved.ref)
    _check_fit(state, there, saved.ref)
    if left_out:
        warn(
            f"{saved.ref} was saved without {', '.join(map(str, left_out))}, which holds more than "
            f"tensors; these entries stay as they are in the module that into= gives.",
            MaterializationWarning,
        )
    copies = {key: item.clone() for key, item in _at_risk(inner, there)}
    try:
        placed = place_on_meta(inner, state)
        rest: OrderedDict[str, Any] = OrderedDict(
            (key, distributed(item, there[key]) if key in there else item)
            for key, item in state.items()
            if key not in placed
        )
        vars(rest)["_metadata"] = getattr(state, "_metadata", None)
        inner.load_state_dict(rest, strict=not (left_out or placed))
    except Exception as error:  # a user's own set_extra_state() or hooks may raise anything
        with torch.no_grad():
            for key, item in copies.items():
                there[key].copy_(item)
        raise MaterializationError(f"{saved.ref} can't be loaded into into=: {error}") from error
    return module if options.device is None else module.to(options.device)


def _others_of(state: Mapping[str, Any]) -> dict[str, None]:
    """Return the entries that are no tensors; they have no shape."""
    return {key: None for key, item in state.items() if not isinstance(item, Tensor)}


def _check_fit(state: Mapping[str, Any], there: Mapping[str, Any], ref: str) -> None:
    """Refuse targets that tensors can't be copied into, before anything is.

    Raises:
        MaterializationError: naming them.
    """
    unfit = [
        key
        for key, item in state.items()
        if isinstance(item, Tensor)
        and not isinstance(there.get(key), UNINITIALIZED)
        and (item.layout != there[key].layout or _is_expanded(there[key]))
    ]
    if unfit:
        raise MaterializationError(
            f"{ref} doesn't fit into what into= holds, and nothing was changed: "
            f"{', '.join(unfit)} can't be written to, being expanded or of another layout."
        )


def _is_expanded(tensor: Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    return any(s > 1 and step == 0 for s, step in zip(tensor.shape, tensor.stride(), strict=True))


def _at_risk(module: nn.Module, there: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module that has loading code of its own, which may fail halfway."""
    own = ("_load_from_state_dict", "load_state_dict", "set_extra_state")
    if any(
        not str(getattr(type(part), name).__module__).startswith("torch.")
        for part in module.modules()
        for name in own
    ):
        for key, item in there.items():
            if isinstance(item, Tensor) and not (item.is_meta or isinstance(item, UNINITIALIZED)):
                yield key, item


def place_on_meta(module: nn.Module, state: Mapping[str, Any]) -> set[str]:
    """Put loaded tensors where a module has none with memory; return the keys of these.

    They get the data type of what they replace, and stay tied. Nothing is copied.
    """
    placed: set[str] = set()
    made: dict[int, Tensor] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for table in (owner._parameters, owner._buffers):
            for name, target in [*table.items()]:
                key = f"{path}.{name}" if path else name
                found = state.get(key)
                if target is None or not target.is_meta or not isinstance(found, Tensor):
                    continue
                placed.add(key)
                if id(target) not in made:
                    tensor = found.detach().to(target.dtype)
                    if isinstance(target, nn.Parameter):
                        tensor = nn.Parameter(tensor, requires_grad=target.requires_grad)
                    made[id(target)] = tensor
                table[name] = made[id(target)]
    return placed
