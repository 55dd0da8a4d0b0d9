"""Saving and loading of modules: structure and state dict, and how both return.

The structure is JSON, the tensors are plain ``torch.save`` files. A module whose structure can't
be restored safely is saved all the same, with its state dict, and the record says what prevents
the rest.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowyml.errors import MaterializationError, MaterializationWarning, UnsupportedObjectError
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml.properties import type_name
from flowyml_pytorch.describing.census import unwrap
from flowyml_pytorch.quantizing import packed
from flowyml_pytorch.storing import files, structure
from flowyml_pytorch.storing.kinds import NotRestorableError
from flowyml_pytorch.storing.layout import KINDS, UNINITIALIZED
from flowyml_pytorch.storing.matching import check_same_keys, shapes_of
from flowyml_pytorch.storing.sharded import is_sharded

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.qscheme)


def save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a module; in the format ``state_dict``, its state dict alone.

    A wrapper, such as what ``torch.compile`` returns, is saved as the model inside.
    """
    module, _ = unwrap(module)
    live = _state_of(module)
    state = OrderedDict((key, item) for key, item in live.items() if _is_plain(item))
    left_out = [key for key in live if key not in state]
    metadata = getattr(live, "_metadata", None)
    state_parts = {"state": state, "metadata": metadata if _is_plain(metadata) else None}
    noted = {"left_out": left_out} if left_out else {}
    reason = "it was saved as a state dict"
    if options.format == "module":
        try:
            found = structure.encode(root=module, **state_parts)
        except (NotRestorableError, RecursionError) as error:
            reason = str(error)
            _warn(module, f"with its weights only, because of {reason}", left_out)
        else:
            return _noted(files.write(found, folder, options), noted)
    elif left_out:
        _warn(module, "as a state dict", left_out)
    result = files.write(structure.encode(**state_parts), folder, options)
    return attrs.evolve(_noted(result, noted), restore="weights", reason=reason)


def _noted(result: SaveResult, noted: Mapping[str, Any]) -> SaveResult:
    return attrs.evolve(result, details={**result.details, **noted})


def _warn(module: nn.Module, how: str, left_out: list[str]) -> None:
    """Tell, once, how a module was saved that won't come back by itself."""
    lacking = ""
    if left_out:
        named = ", ".join(left_out[:5]) + (" and more" if len(left_out) > 5 else "")
        lacking = f" Left out are {named}: a state dict keeps plain tensors and containers only."
    warnings.warn(
        f"{type(module).__name__} is saved {how}.{lacking} Loading it will need into= a module "
        f"that you build.",
        MaterializationWarning,
        stacklevel=3,
    )


def _state_of(module: nn.Module) -> Any:
    """Return a module's state dict with its live tensors, where its class gives them."""
    try:
        return module.state_dict(keep_vars=True)
    except TypeError:  # a user's own state_dict() may take no arguments
        return module.state_dict()


def _is_plain(item: Any) -> bool:
    """Tell whether a state dict's entry is data: tensors, numbers, text and containers."""
    if isinstance(item, Tensor):
        return type(item) in (*KINDS, *UNINITIALIZED) or is_sharded(item)
    if type(item) in (dict, OrderedDict):
        return all(_is_plain(part) for pair in item.items() for part in pair)
    if type(item) in (list, tuple):
        return all(map(_is_plain, item))
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
    if not isinstance(state, OrderedDict) or not all(type(key) is str for key in state):
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
    inner, _ = unwrap(module)
    there = inner.state_dict()
    check_same_keys(shapes_of(state), shapes_of(there), saved.ref)
    left_out = saved.result.details.get("left_out")
    if left_out:
        warnings.warn(
            f"{saved.ref} was saved without {', '.join(map(str, left_out))}, which holds more than "
            f"tensors; these entries stay as they are in the module that into= gives.",
            MaterializationWarning,
            stacklevel=2,
        )
    assign = any(isinstance(t, Tensor) and t.is_meta for t in there.values())
    ties = _ties(inner) if assign else []
    try:
        inner.load_state_dict(
            state,
            strict=not left_out,  # tensors were compared strictly above
            assign=assign,
        )
    except Exception as error:  # a user's own set_extra_state() or hooks may raise anything
        raise MaterializationError(f"{saved.ref} can't be loaded into into=: {error}") from error
    for (owner, name), *others in ties:
        for other, name_there in others:
            other._parameters[name_there] = owner._parameters[name]
    return module if options.device is None else module.to(options.device)


def _ties(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return where parameters are that stand in several places: assigning would part them."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((owner, name))
    return [found for found in places.values() if len(found) > 1]
