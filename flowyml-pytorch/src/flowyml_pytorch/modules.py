"""Saving and loading of modules: the state dict, the structure beside it, and how both return.

The weights are a plain ``torch.save`` file that ``load_state_dict`` takes, whatever becomes of
flowyml. The structure is JSON. A module whose structure can't be restored safely is saved all the
same, with its weights, and the record says what prevents the rest.
"""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowyml import encoding
from flowyml.errors import MaterializationError, MaterializationWarning, UnsupportedObjectError
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml.properties import type_name
from flowyml_pytorch import structure, tensors
from flowyml_pytorch.census import unwrap
from flowyml_pytorch.policy import main_module_name
from flowyml_pytorch.rebuild import rebuild

_PLAIN = (bool, int, float, str, type(None))


def save(module: nn.Module, folder: Path, *, with_structure: bool) -> SaveResult:
    """Write ``weights.pt`` and, when wanted, ``structure.json`` and ``extra.pt``.

    A wrapper, such as what ``torch.compile`` returns, is saved as the model inside.
    """
    module, _ = unwrap(module)
    live = _state_of(module)
    kept = {key: item for key, item in live.items() if _is_plain(item)}
    left_out = [key for key in live if key not in kept]
    state = OrderedDict(
        (key, item.detach() if isinstance(item, Tensor) else item) for key, item in kept.items()
    )
    metadata = getattr(live, "_metadata", None)
    if metadata is not None and _is_plain(metadata):
        vars(state)["_metadata"] = metadata  # the modules' own versions of their states
    details: dict[str, Any] = {"torch": str(torch.__version__), "main": main_module_name()}
    if left_out:
        details["left_out"] = left_out
    tensors.write(state, folder / "weights.pt")
    if not with_structure:
        if left_out:
            _warn(module, "as a state dict", left_out)
        return SaveResult("weights", "it was saved as a state dict", details=details)
    try:
        found = structure.encode(module, kept)
    except (structure.NotRestorableError, RecursionError) as error:
        _warn(module, f"with its weights only, because of {error}", left_out)
        return SaveResult("weights", str(error), details=details)
    (folder / "structure.json").write_bytes(encoding.render(found.data))
    if found.extra:
        tensors.write(found.extra, folder / "extra.pt")
    return SaveResult(required_trust=found.required_trust, details=details)


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
    """Tell whether a state dict's entry is data that a weights-only load gives back."""
    if isinstance(item, Tensor):
        return type(item) in tensors.KINDS
    if type(item) in (dict, OrderedDict):
        return all(_is_plain(part) for pair in item.items() for part in pair)
    if type(item) in (list, tuple):
        return all(map(_is_plain, item))
    return type(item) in _PLAIN and not (type(item) is int and item.bit_length() > 63)


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back the live module; ``into=`` fills one; a saved state dict comes back as such."""
    if options.into is not None:
        return _load_into(saved, options)
    if saved.format == "state_dict":
        return tensors.read(saved.files["weights.pt"], saved.ref, options.device)
    if saved.result.restore != "exact":
        raise MaterializationError(
            f"{saved.ref} was saved with its weights only, because of {saved.result.reason}. Build "
            f"the module yourself and pass it as into=."
        )
    try:
        data = json.loads(saved.files["structure.json"].read_bytes())
    except (ValueError, RecursionError) as error:
        raise MaterializationError(f"{saved.ref}: structure.json isn't JSON: {error}") from error
    files = {
        name: tensors.read(path, saved.ref, options.device)
        for name, path in saved.files.items()
        if name.endswith(".pt")
    }
    main = saved.result.details.get("main")
    return rebuild(data, files, options.trust, saved.ref, main if isinstance(main, str) else None)


def _load_into(saved: Saved, options: LoadOptions) -> nn.Module:
    module = options.into
    if not isinstance(module, nn.Module):
        got = (
            f"the class {module.__name__}" if isinstance(module, type) else f"a {type_name(module)}"
        )
        raise UnsupportedObjectError(f"into= takes a torch.nn.Module for {saved.ref}; got {got}.")
    state = tensors.read(saved.files["weights.pt"], saved.ref)
    inner, _ = unwrap(module)
    there = inner.state_dict()
    tensors.check_same_keys(_shapes(state), _shapes(there), saved.ref)
    left_out = saved.result.details.get("left_out")
    if left_out:
        warnings.warn(
            f"{saved.ref} was saved without {', '.join(map(str, left_out))}, which holds more than "
            f"tensors; these entries stay as they are in the module that into= gives.",
            MaterializationWarning,
            stacklevel=2,
        )
    try:
        inner.load_state_dict(
            state,
            strict=not left_out,  # tensors were compared strictly above
            assign=any(isinstance(t, Tensor) and t.is_meta for t in there.values()),
        )
    except Exception as error:  # a user's own set_extra_state() or hooks may raise anything
        raise MaterializationError(f"{saved.ref} can't be loaded into into=: {error}") from error
    return module if options.device is None else module.to(options.device)


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(item.shape) for key, item in state.items() if isinstance(item, Tensor)}
