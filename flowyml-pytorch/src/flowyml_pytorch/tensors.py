"""Tensors in files: plain ``torch.save`` on the way out, memory-mapped and weights-only back in."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.interfaces import LoadOptions, Saved

KINDS = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
"""Types of tensors that come back as they were; others would need code of their own."""


def write(value: Any, path: Path) -> None:
    """Write a tensor or a dict with tensors; equal content gives equal bytes.

    Raises:
        MaterializationError: when what was written can't be read back safely.
    """
    torch.save(_owned(value), path)
    try:
        torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # better now than when it is needed
        reason = (str(error).splitlines() or [""])[0]
        raise MaterializationError(f"{path.name} could not be read back: {reason}") from error


def _owned(value: Any) -> Any:
    """Free tensors of what they were computed from, and of storage that isn't theirs."""
    if isinstance(value, Tensor):
        return _own(value, alone=True)
    shared = Counter(storage_of(item) for item in value.values() if isinstance(item, Tensor))
    owned = type(value)(
        (key, _own(item, alone=shared[storage_of(item)] == 1) if isinstance(item, Tensor) else item)
        for key, item in value.items()
    )
    if hasattr(value, "_metadata"):
        owned._metadata = value._metadata
    return owned


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; the tensor's own where it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return id(tensor)


def _own(tensor: Tensor, *, alone: bool) -> Tensor:
    """Copy a slice of a larger storage: torch.save would write all of that."""
    tensor = tensor if tensor.is_leaf else tensor.detach()
    try:
        larger = tensor.untyped_storage().nbytes() > tensor.nbytes
    except (NotImplementedError, RuntimeError):
        return tensor
    if not (alone and larger):
        return tensor
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def read(path: Path, ref: str, device: Any = None) -> Any:
    """Map a file's tensors into memory; changing them doesn't change the file.

    Args:
        path: what `write` wrote.
        ref: whose file it is, for messages.
        device: where to put the tensors; None is where they were, or the CPU if that isn't here.

    Raises:
        UntrustedDataError: when the file holds more than tensors and plain containers.
        MaterializationError: when it can't be read.
    """
    if device is not None:
        _check_device(device, ref)
    try:
        return torch.load(path, weights_only=True, mmap=True, map_location=_placed(device))
    except pickle.UnpicklingError as error:
        raise UntrustedDataError(
            f"{ref}: {path} holds more than tensors and plain containers, and nothing of it was "
            f"run: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError) as error:
        raise MaterializationError(f"{ref}: {path} can't be read: {error}") from error


def _check_device(device: Any, ref: str) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MaterializationError(
            f"{ref} can't be loaded onto device={device!r}, which can't be used here: {reason}"
        ) from error


def _placed(device: Any) -> Any:
    if device is not None:
        return device

    def where_it_was(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        if location == "cpu":
            return storage
        try:
            return torch.serialization.default_restore_location(storage, location)  # type: ignore[no-any-return]  # torch types it as Any
        except RuntimeError:  # that device isn't here
            return storage

    return where_it_was


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back the tensor or dict of tensors; with ``into=``, copied into it, strictly."""
    found = read(saved.files["tensors.pt"], saved.ref, options.device)
    if options.into is None:
        return found
    if isinstance(options.into, Tensor) and isinstance(found, Tensor):
        _copy({"the tensor": found}, {"the tensor": options.into}, saved.ref)
    elif isinstance(options.into, dict) and isinstance(found, dict):
        _copy(found, options.into, saved.ref)
    else:
        raise MaterializationError(
            f"{saved.ref} holds a {type(found).__name__}; into= is a {type(options.into).__name__}."
        )
    return options.into


def _copy(found: Mapping[str, Tensor], into: Mapping[str, Tensor], ref: str) -> None:
    check_same_keys(
        {key: tuple(t.shape) for key, t in found.items()},
        {key: tuple(t.shape) for key, t in into.items()},
        ref,
    )
    with torch.no_grad():
        for key, tensor in found.items():
            into[key].copy_(tensor)


def check_same_keys(
    saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], ref: str
) -> None:
    """Make sure that what was saved fits into what is there.

    Raises:
        MaterializationError: listing all missing, unexpected and misshapen keys.
    """
    problems = {
        "missing in the saved state": [key for key in wanted if key not in saved],
        "not in what into= holds": [key for key in saved if key not in wanted],
        "of another shape": [
            f"{key} (saved {list(shape)}, into= has {list(wanted[key])})"
            for key, shape in saved.items()
            if key in wanted and wanted[key] != shape
        ],
    }
    told = [f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys]
    if told:
        raise MaterializationError(
            f"{ref} doesn't fit into what into= holds, and nothing was changed. {'; '.join(told)}."
        )
