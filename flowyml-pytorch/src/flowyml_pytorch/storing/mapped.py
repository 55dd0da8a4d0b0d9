"""Stored tensors mapped into memory: checked, by themselves, and as writable as any other.

No pickle is read for a plain tensor. Its file is looked through (see `storing.archive`)
and the stretch with its elements becomes a storage; what is changed stays in memory.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.errors import FlowymlError, MaterializationError
from flowyml.interfaces import Saved
from flowyml_pytorch.storing import archive
from flowyml_pytorch.storing.index import INDEX, Row, read_index
from flowyml_pytorch.storing.layout import dtype_of, is_plain_type, span, spread, viewed, within


class Pool:
    """The stored tensors of one version, by number."""

    def __init__(self, saved: Saved) -> None:
        """Read the index.

        Raises:
            MaterializationError: when it is unfit.
        """
        self._saved = saved
        try:
            self._rows = read_index(
                saved.result.details, lambda name: saved.files[name].read_bytes()
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise MaterializationError(f"{saved.ref}: {INDEX} is unfit: {error}") from error
        self._files: dict[str, archive.TensorFile] = {}
        self._mapped: dict[str, torch.UntypedStorage] = {}
        self._used: set[tuple[str, int | None]] = set()

    def row(self, number: int) -> Row:
        """Return where a stored tensor is."""
        return self._rows[number]

    def file(self, number: int) -> archive.TensorFile:
        """Return what the file says in which a stored tensor is, once it is checked.

        Raises:
            UntrustedDataError: when it holds more than a tensor.
            MaterializationError: when it can't be read.
        """
        name = self._rows[number].file
        if name not in self._files:
            what = f"{self._saved.ref}, {name}"
            self._files[name] = archive.check(self._saved.files[name], what)
        return self._files[name]

    def tensor(self, number: int) -> Tensor:
        """Return a stored tensor on the CPU, in memory that nothing else uses.

        Raises:
            UntrustedDataError: when its file holds more than a tensor.
            MaterializationError: when it can't be read.
        """
        row = self._rows[number]
        path = self._saved.files[row.file]
        what = f"{self._saved.ref}, {row.file}"
        try:
            file = self.file(number)
            if row.dtype is None:
                return unpickled(path)
            if not file.native:
                raise ValueError(
                    f"it was written on a machine whose byte order isn't {sys.byteorder}"
                )
            if file.opaque or file.offset:
                raise ValueError(f"it holds another tensor than {INDEX} says")
            return self._plain(row, file, path)
        except FlowymlError:
            raise
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise MaterializationError(f"{what} can't be read: {error}") from error

    def _plain(self, row: Row, file: archive.TensorFile, path: Path) -> Tensor:
        dtype = dtype_of(row.dtype)
        if not is_plain_type(dtype) or (row.offset or 0) % dtype.itemsize:
            raise ValueError(f"{INDEX} says {row.dtype} at {row.offset}")
        described = (f"torch.{row.dtype}", row.shape, row.stride)
        if row.offset is None and (file.dtype, file.shape, file.stride) != described:
            raise ValueError(f"it holds another tensor than {INDEX} says")
        start = row.offset or 0
        if start + span(row.shape, row.stride) * dtype.itemsize > file.data_size:
            raise ValueError(f"it is smaller than {INDEX} says")
        storage = self._storage(row, file, path)
        return within(storage, start, row.shape, row.stride, dtype)

    def _storage(self, row: Row, file: archive.TensorFile, path: Path) -> torch.UntypedStorage:
        """Map a file; once more when a tensor is handed out twice, so that each has its own."""
        if (row.file, row.offset) in self._used or row.file not in self._mapped:
            storage = elements_of(path, file)
            if row.file in self._mapped:
                return storage
            self._mapped[row.file] = storage
        self._used.add((row.file, row.offset))
        return self._mapped[row.file]


def elements_of(path: Path, file: archive.TensorFile) -> torch.UntypedStorage:
    """Map the elements of a file; what is changed of them stays in memory."""
    end = file.data_offset + file.data_size
    whole = torch.UntypedStorage.from_file(str(path), False, end)
    elements: torch.UntypedStorage = whole[file.data_offset : end]
    return elements


class Tensors:
    """A structure's tensors, by number: parameters are such, and views see what they saw."""

    def __init__(self, entries: Any, pool: Pool, device: Any = None) -> None:
        """Prepare; nothing is mapped yet.

        Args:
            entries: what `storing.layout.lay_out` found, as read from the structure.
            pool: the stored tensors.
            device: where to put them; None is where they were, or the CPU if that isn't here.
        """
        self._entries = entries
        self._pool = pool
        self._device = device
        self._bases: dict[tuple[int, str], Tensor] = {}
        self._built: dict[int, Tensor] = {}

    def __getitem__(self, number: int) -> Tensor:
        tensor = self._built.get(number)
        if tensor is None:
            tensor = self._built[number] = self._tensor(self._entries[number])
        return tensor

    def _tensor(self, entry: Any) -> Tensor:
        is_parameter = entry.get("parameter") is True
        requires_grad = entry.get("requires_grad") is True
        if "uninitialized" in entry:
            return _uninitialized(entry, is_parameter, requires_grad, self._device)
        tensor = _meta(*entry["meta"]) if "meta" in entry else self._seen(entry)
        if is_parameter:
            return nn.Parameter(tensor, requires_grad=requires_grad)
        return tensor.requires_grad_() if requires_grad else tensor

    def _seen(self, entry: Any) -> Tensor:
        """Return a stored tensor on its device, or a view of it."""
        device = placed(self._device if self._device is not None else entry.get("device", "cpu"))
        key = (entry["stored"], str(device))
        base = self._bases.get(key)
        if base is None:
            base = self._bases[key] = self._pool.tensor(entry["stored"]).to(device)
        if "strides" in entry:
            return spread(base, entry["strides"])
        return viewed(base, entry["view"]) if "view" in entry else base.detach()


def placed(device: Any) -> torch.device:
    """Return a device, or the CPU when it isn't here."""
    try:
        torch.empty(0, device=device)
    except Exception:
        return torch.device("cpu")
    return torch.device(device)


def check_device(device: Any, ref: str) -> None:
    """Make sure that tensors can be put on a device.

    Raises:
        MaterializationError: when they can't.
    """
    try:
        torch.empty(0, device=device)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MaterializationError(
            f"{ref} can't be loaded onto device={device!r}, which can't be used here: {reason}"
        ) from error


def _meta(dtype: Any, shape: Any, stride: Any) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype_of(dtype), device="meta")


def _uninitialized(entry: Any, is_parameter: bool, requires_grad: bool, device: Any) -> Tensor:
    made: Any = nn.UninitializedParameter if is_parameter else nn.UninitializedBuffer
    tensor: Tensor = made(
        requires_grad=requires_grad,
        device=placed(device if device is not None else entry.get("device", "cpu")),
        dtype=dtype_of(entry["uninitialized"]),
    )
    return tensor


def unpickled(path: Path) -> Tensor:
    """Read an unusual tensor with torch's own reader of weights.

    Raises:
        TypeError: when the file holds something else; torch raises much more.
    """
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.simplefilter("ignore")  # torch warns of what it uses itself
        found: Any = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    if not isinstance(found, Tensor):
        raise TypeError("it holds no tensor")
    return found
