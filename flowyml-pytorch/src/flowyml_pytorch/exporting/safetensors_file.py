"""A module's state dict as one ``.safetensors`` file, which many other tools read.

The format holds named, dense tensors and nothing else: no code, and no memory that two of them
share. So tensors that are the same are written once, and the other names are noted where Hugging
Face's libraries note them. The ``safetensors`` package does the work; it is an extra.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.errors import MaterializationError, MaterializationWarning, warn
from flowyml.interfaces import Change, LoadOptions, Saved, SaveResult
from flowyml_pytorch.describing.census import class_name, unwrap
from flowyml_pytorch.storing.differences import described, differences
from flowyml_pytorch.storing.layout import KINDS, span, storage_of
from flowyml_pytorch.storing.mapped import check_device, placed
from flowyml_pytorch.storing.modules import load_into
from flowyml_pytorch.storing.sharded import unsharded

FILE = "model.safetensors"

_LENGTH = struct.Struct("<Q")
_MOST_NAMES = 5


def save(module: nn.Module, folder: Path) -> SaveResult:
    """Write ``model.safetensors``; equal content gives equal bytes.

    A wrapper, such as what ``torch.compile`` returns, is saved as the model inside. Entries of the
    state dict that aren't tensors are left out, with a warning.

    Args:
        module: what to save.
        folder: where to write the file.

    Raises:
        MaterializationError: when the safetensors package isn't there, or naming the tensors that
            the format has no place for: sparse ones, quantized ones, those without values.
    """
    library = _library("save a module as safetensors", "numpy")
    module, _ = unwrap(module)
    name = class_name(module)
    state = _state_of(module)
    tensors = {key: unsharded(item) for key, item in state.items() if isinstance(item, Tensor)}
    _check_storable(tensors, name, library)
    aliases = _aliases(tensors)
    kept = {key: _packed(item) for key, item in tensors.items() if key not in aliases}
    path = folder / FILE
    try:
        library.save_file(kept, str(path), metadata={**aliases, "format": "pt"})
    except importlib.import_module("safetensors").SafetensorError as error:
        # The tensors were checked, so it is the disk, of which the library tells in its own way.
        raise OSError(f"{path} can't be written: {error}") from error
    _put_in_order(path)
    if _read(path, name, library).keys() != kept.keys():  # better now than when it is needed
        raise MaterializationError(f"{FILE} of {name} could not be read back")
    left_out = [key for key in state if key not in tensors]
    apart = [key for key in _overlapping(tensors) if key not in aliases]
    _warn(name, left_out, apart)
    details = {
        "keys": [*tensors],
        "aliases": aliases,
        "left_out": left_out,
        "device": _device_of(tensors),
        "versions": _versions_of(state),
        "torch": str(torch.__version__),
    }
    details = {key: item for key, item in details.items() if item}
    return SaveResult("weights", "it was saved as a state dict", details=details)


def _library(purpose: str, *others: str) -> ModuleType:
    """Import safetensors, and what else it needs for that."""
    try:
        library, *_ = map(importlib.import_module, ("safetensors.torch", *others))
    except ImportError as error:
        raise MaterializationError(
            f"can't {purpose}: {error}. Install flowyml-pytorch[safetensors]."
        ) from error
    return library


def _state_of(module: nn.Module) -> Mapping[str, Any]:
    state: Any
    try:
        state = module.state_dict(keep_vars=True)  # as it is, though it may have no shape yet
    except TypeError:  # a user's own state_dict() may take no arguments
        state = module.state_dict()
    if not isinstance(state, Mapping) or not all(type(key) is str for key in state):
        raise MaterializationError(
            f"{class_name(module)} can't be saved as safetensors: its state_dict() is no dict by "
            f"name."
        )
    return state


def _check_storable(tensors: Mapping[str, Tensor], name: str, library: ModuleType) -> None:
    """Make sure that the format has a place for every tensor."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    known = {dtype: _takes(dtype, library) for dtype in dtypes}
    problems = [
        f"{key} {problem}"
        for key, tensor in tensors.items()
        if (problem := _problem(tensor, known=known[tensor.dtype]))
    ]
    if problems:
        raise MaterializationError(
            f"{name} can't be saved as safetensors, which holds dense tensors of the usual data "
            f"types only: {'; '.join(problems)}. Save it in the format 'state_dict'."
        )


def _problem(tensor: Tensor, *, known: bool) -> str | None:
    if type(tensor) not in KINDS:
        return f"is a {type(tensor).__name__}"
    if tensor.is_meta:
        return "is on the meta device, without values"
    if tensor.is_quantized or tensor.is_nested:
        return "is quantized" if tensor.is_quantized else "is nested"
    if tensor.layout is not torch.strided:
        return f"is of the layout {tensor.layout}"
    return None if known else f"is of {tensor.dtype}"


def _takes(dtype: torch.dtype, library: ModuleType) -> bool:
    """Tell whether the safetensors that is installed knows a data type, both ways."""
    try:
        found = library.load(library.save({"x": torch.empty(0, dtype=dtype)}))
    except Exception:  # a KeyError, or what its Rust part raises
        return False
    return bool(found["x"].dtype == dtype)


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of the very elements that an earlier name has, with that name."""
    first: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    for key, tensor in tensors.items():
        where = storage_of(tensor), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()
        name = first.setdefault((where, tensor.shape, tensor.stride(), tensor.dtype), key)
        if name != key:
            aliases[key] = name
    return aliases


def _overlapping(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of tensors that reach into memory of another one."""
    reached: dict[int, int] = {}
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].storage_offset()):
        start = int(tensor.storage_offset()) * tensor.element_size()
        if start < reached.get(storage_of(tensor), 0) and tensor.numel():
            yield key
        end = start + span(tensor.shape, tensor.stride()) * tensor.element_size()
        reached[storage_of(tensor)] = max(end, reached.get(storage_of(tensor), 0))


def _packed(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU, its elements row by row in memory of its own."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.clone() if plain.nbytes < plain.untyped_storage().nbytes() else plain


def _put_in_order(path: Path) -> None:
    """Sort the metadata of a file, which the library writes in another order each time."""
    with path.open("r+b") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
        metadata = {"__metadata__": dict(sorted(header["__metadata__"].items()))}
        text = json.dumps(
            {**metadata, **header, **metadata}, separators=(",", ":"), ensure_ascii=False
        )
        file.seek(_LENGTH.size)
        written = file.write(text.encode().ljust(length))
    if written != length:
        raise MaterializationError(f"{path.name}: safetensors wrote a header of an unknown form")


def _warn(name: str, left_out: list[str], apart: list[str]) -> None:
    """Tell, once, what won't come back as it was."""
    told = ""
    if left_out:
        told += f" Left out are {_listed(left_out)}: safetensors keeps tensors only."
    if apart:
        told += f" Memory that {_listed(apart)} shared with another tensor isn't shared any more."
    if told:
        warn(f"{name} is saved as safetensors.{told}", MaterializationWarning)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (" and more" if len(names) > _MOST_NAMES else "")


def _device_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the device where all tensors were, unless it was the CPU."""
    devices = {str(tensor.device) for tensor in tensors.values()}
    return devices.pop() if len(devices) == 1 and devices != {"cpu"} else None


def _versions_of(state: Any) -> dict[str, int]:
    """Return the versions that modules gave their states, but for the usual 1."""
    versions = {
        path: entry.get("version", 1)
        for path, entry in (getattr(state, "_metadata", None) or {}).items()
    }
    return {path: version for path, version in versions.items() if version != 1}


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back the state dict, mapped from the file; with ``into=``, fill a module strictly.

    Changing the tensors doesn't change the file. Names that stood for the same tensor do so again.

    Raises:
        MaterializationError: when the safetensors package isn't there, the file is damaged, or
            it doesn't fit into what ``into=`` gives.
    """
    library = _library(f"load {saved.ref}")
    if options.device is not None:
        check_device(options.device, saved.ref)
    details = saved.result.details
    found = _read(saved.files[FILE], saved.ref, library)
    try:
        names = {
            key: details.get("aliases", {}).get(key, key) for key in details.get("keys", found)
        }
        state = OrderedDict((key, found[name]) for key, name in names.items())
        versions = {str(path): {"version": v} for path, v in details.get("versions", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise MaterializationError(
            f"{saved.ref}: {FILE} isn't what was saved: it lacks {error}."
        ) from error
    if versions:
        vars(state)["_metadata"] = OrderedDict(versions)  # the modules' own, of their states
    if options.into is not None:
        return load_into(options.into, state, saved, options)
    device = options.device if options.device is not None else placed(details.get("device", "cpu"))
    moved = {name: found[name].to(device) for name in set(names.values())}
    state.update((key, moved[name]) for key, name in names.items())
    return state


def _read(path: Path, ref: str, library: ModuleType) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = library.load_file(str(path))
    except Exception as error:  # what its Rust part raises, and KeyErrors for newer data types
        raise MaterializationError(
            f"{ref}: {path.name} can't be read as safetensors: {error}. Restore the file from a "
            f"copy, or save the asset again."
        ) from error
    return found


def compare(before: Saved, after: Saved) -> list[Change]:
    """Return how two state dicts differ, tensor by tensor; the files are mapped.

    Raises:
        MaterializationError: as `load`.
    """
    library = _library(f"compare {before.ref} with {after.ref}")
    if before.files[FILE] == after.files[FILE]:
        return []
    there, here = (_read(saved.files[FILE], saved.ref, library) for saved in (before, after))
    changes: list[Change] = []
    for key in {**there, **here}:
        if key in there and key in here:
            changes += differences(key, there[key], here[key])
        elif key in there:
            changes.append(Change(key, before=described(there[key])))
        else:
            changes.append(Change(key, after=described(here[key])))
    return changes
