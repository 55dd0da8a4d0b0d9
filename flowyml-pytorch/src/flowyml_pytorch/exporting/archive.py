"""A ``.pt2`` file, written and read without pickle.

The file is the archive that ``torch.export.load`` reads, reduced to what takes no code: JSON and
the raw bytes of tensors. It is not given to ``torch.export.load``, which would unpickle or run
whatever a crafted archive holds; its entries are checked here, and its tensors are mapped.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch._export.serde.serialize import (
    _SERIALIZE_TO_TORCH_DTYPE,
    _dataclass_to_dict,
    serialize_tensor_meta,
)

from flowyml import encoding
from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml_pytorch.storing.layout import KINDS, is_strided, span, storage_of

_ENTRY = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json"
    r"|weight_\d{1,6})|data/constants/(model_constants_config\.json|tensor_\d{1,6})"
    r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
)
_PREFIX = {"weights": "weight_", "constants": "tensor_"}
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ALIGNMENT = 64
_ENCRYPTED = 1


def write(
    path: Path,
    program: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
) -> None:
    """Write an archive; equal content gives equal bytes.

    Args:
        path: of the file, whose name ends in ``.pt2``.
        program: the description of the program, as JSON data.
        weights: parameters and persistent buffers by name.
        constants: other tensors that the program uses, by name.

    Raises:
        MaterializationError: naming a tensor that is more than its bytes.
    """
    from torch.export.pt2_archive import PT2ArchiveWriter  # imports a compiler; loading needs none

    with PT2ArchiveWriter(str(path)) as archive:
        for folder, tensors in (("weights", weights), ("constants", constants)):
            stored = _compact({name: _plain(name, tensor) for name, tensor in tensors.items()})
            records: dict[Any, str] = {}
            for tensor in stored.values():
                place = storage_of(tensor), tensor.dtype
                if place not in records:
                    records[place] = f"{_PREFIX[folder]}{len(records)}"
                    storage = tensor.untyped_storage().cpu()
                    record = f"data/{folder}/{records[place]}"
                    archive.archive_file.write_record(record, storage, storage.nbytes())
            config = {
                name: _payload(records[storage_of(tensor), tensor.dtype], tensor, tensors[name])
                for name, tensor in stored.items()
            }
            archive.write_bytes(
                f"data/{folder}/model_{folder}_config.json", _json({"config": config})
            )
        archive.write_bytes("models/model.json", _json(program))
        archive.write_bytes("data/sample_inputs/model.pt", b"")  # torch would unpickle them


def _json(data: Any) -> bytes:
    return json.dumps(data, allow_nan=False).encode("ascii")


def _plain(name: str, tensor: Any) -> Tensor:
    """Return a tensor as the bytes that it stands for; expanded ones are written out."""
    if type(tensor) not in KINDS or tensor.layout is not torch.strided or tensor.is_meta:
        layout = f" of {tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else ""
        raise MaterializationError(
            f"{name!r} can't be stored in an exported program: it is a {type(tensor).__name__}"
            f"{layout}, and dense tensors with values are what goes there."
        )
    plain: Tensor = tensor.detach().resolve_conj().resolve_neg()
    if not is_strided(plain):
        raise MaterializationError(
            f"{name!r} can't be stored in an exported program: it is quantized or nested."
        )
    return plain.contiguous() if plain.nbytes > plain.untyped_storage().nbytes() else plain


def _compact(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that are mere parts of a larger storage, so that the rest isn't written."""
    groups: dict[int, dict[Any, Tensor]] = {}
    for tensor in tensors.values():
        groups.setdefault(storage_of(tensor), {})[_geometry(tensor)] = tensor
    copies = {
        (storage, geometry): tensor.clone()
        for storage, group in groups.items()
        if _leaves_gaps(list(group.values()))
        for geometry, tensor in group.items()
    }
    return {
        name: copies.get((storage_of(tensor), _geometry(tensor)), tensor)
        for name, tensor in tensors.items()
    }


def _leaves_gaps(group: list[Tensor]) -> bool:
    """Tell whether tensors lie apart in one storage, and don't fill it."""
    places = []
    for tensor in group:
        start = int(tensor.storage_offset()) * tensor.element_size()
        places.append((start, start + span(tensor.shape, tensor.stride()) * tensor.element_size()))
    apart = all(end <= start for (_, end), (start, _) in pairwise(sorted(places)))
    return apart and sum(t.nbytes for t in group) < group[0].untyped_storage().nbytes()


def _geometry(tensor: Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _payload(record: str, stored: Tensor, tensor: Tensor) -> dict[str, Any]:
    meta = _dataclass_to_dict(serialize_tensor_meta(stored))
    return {
        "path_name": record,
        "is_param": isinstance(tensor, nn.Parameter),
        "use_pickle": False,
        "tensor_meta": {**meta, "requires_grad": tensor.requires_grad},
    }


@attrs.frozen
class Archive:
    """What is in an archive, none of it checked but the archive itself.

    Attributes:
        ref: whose archive it is, for messages.
        path: of the file.
        program: the description of the program.
        weights: how parameters and buffers are made of records, by name.
        constants: the same of other tensors.
        records: where each entry's bytes begin and end in the file.
    """

    ref: str
    path: Path
    program: Any
    weights: Any
    constants: Any
    records: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, path: Path, ref: str) -> Archive:
        """Read what `write` wrote; the tensors' bytes aren't read.

        Raises:
            UntrustedDataError: when the archive has entries that torch might unpickle or run.
            MaterializationError: when it is damaged, or isn't one that torch wrote.
        """
        try:
            records = _records(path, ref)
            with path.open("rb") as file:

                def content(entry: str) -> bytes:
                    start, stop = records[entry]
                    file.seek(start)
                    return file.read(stop - start)

                texts = {name: content(name) for name in ("archive_format", "byteorder")}
                if texts != {"archive_format": b"pt2", "byteorder": sys.byteorder.encode()}:
                    raise ValueError(f"it is of another format or byte order: {texts}")
                return cls(
                    ref,
                    path,
                    encoding.parse(content("models/model.json")),
                    encoding.parse(content("data/weights/model_weights_config.json")),
                    encoding.parse(content("data/constants/model_constants_config.json")),
                    records,
                )
        except UntrustedDataError:
            raise
        except Exception as error:  # zipfile raises a dozen kinds for damaged archives
            raise MaterializationError(
                f"{ref}: {path.name} isn't an exported program as flowyml writes it: {error}. "
                f"Restore the file from a copy, or save the asset again."
            ) from error

    def tensors(
        self, folder: str, config: Any, placed: Callable[[str], torch.device]
    ) -> dict[str, Tensor]:
        """Map tensors into memory; changing them doesn't change the file.

        Args:
            folder: ``"weights"`` or ``"constants"``.
            config: what this archive says of them; checked.
            placed: gives the device to use for one that was used.

        Raises:
            MaterializationError: when a record isn't what its description says.
        """
        made: dict[str, Tensor] = {}
        same: dict[str, Tensor] = {}
        bases: dict[tuple[str, torch.device], torch.UntypedStorage] = {}
        for name, payload in config["config"].items():
            key = json.dumps(payload, sort_keys=True)
            try:
                if key not in same:
                    same[key] = self._tensor(folder, payload, placed, bases)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [""])[0]
                raise MaterializationError(
                    f"{self.ref}: the tensor {name!r} of {self.path.name} is damaged: {reason}"
                ) from error
            made[name] = same[key]
        return made

    def _tensor(
        self,
        folder: str,
        payload: Any,
        placed: Callable[[str], torch.device],
        bases: dict[tuple[str, torch.device], torch.UntypedStorage],
    ) -> Tensor:
        meta = payload["tensor_meta"]
        shape, stride = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        offset, dtype = meta["storage_offset"]["as_int"], _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]]
        device = placed(device_name(meta["device"]))
        base = payload["path_name"], device
        if base not in bases:
            bases[base] = self._mapped(f"data/{folder}/{payload['path_name']}", device)
        storage = bases[base]
        tensor = torch.empty(0, dtype=dtype, device=device)
        if storage.nbytes() % dtype.itemsize:
            raise ValueError(f"its bytes are no multiple of a {dtype}")
        tensor.set_(storage, 0, (storage.nbytes() // dtype.itemsize,), (1,))
        tensor = tensor.as_strided(shape, stride, offset)
        if tensor.nbytes > storage.nbytes():
            raise ValueError("its shape is larger than its bytes")
        if payload["is_param"]:
            return nn.Parameter(tensor, requires_grad=meta["requires_grad"])
        return tensor.requires_grad_(meta["requires_grad"])

    def _mapped(self, entry: str, device: torch.device) -> torch.UntypedStorage:
        start, stop = self.records[entry]
        if start == stop:
            return torch.UntypedStorage(0, device=device)
        storage: torch.UntypedStorage
        storage = torch.UntypedStorage.from_file(str(self.path), False, stop)[start:stop]
        return torch.empty(0, dtype=torch.uint8).set_(storage).to(device).untyped_storage()


def device_name(device: Any) -> str:
    """Return a device of the description as torch names it."""
    index = device.get("index")
    return str(device["type"]) + ("" if index is None else f":{index}")


def _records(path: Path, ref: str) -> dict[str, tuple[int, int]]:
    """Return where the entries are in the file; entry follows upon entry, none compressed."""
    with zipfile.ZipFile(path) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    entries.sort(key=lambda entry: entry.header_offset)
    folder = entries[0].filename.partition("/")[0] + "/" if entries else ""
    foreign = [e.filename for e in entries if not _is_expected(e, folder)]
    if foreign:
        raise UntrustedDataError(
            f"{ref}: {path.name} holds what flowyml writes into no exported program, and what "
            f"torch.export.load might unpickle or run: {', '.join(foreign)[:200]}. Nothing of it "
            f"was run."
        )
    records: dict[str, tuple[int, int]] = {}
    end = 0
    with path.open("rb") as file:
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
                raise ValueError(f"{entry.filename} is compressed or encrypted")
            file.seek(entry.header_offset)
            signature, named, padded = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = entry.header_offset + _LOCAL_HEADER.size + named + padded
            stop = start + entry.file_size
            if signature != b"PK\3\4" or file.read(named) != entry.filename.encode():
                raise ValueError(f"the header of {entry.filename} contradicts the directory")
            if not records and entry.header_offset:
                raise ValueError("it doesn't begin with its first entry")
            if entry.header_offset < end or entry.compress_size != entry.file_size:
                raise ValueError(f"{entry.filename} overlaps another entry, or has two sizes")
            if start % _ALIGNMENT and entry.file_size:
                raise ValueError(f"{entry.filename} isn't aligned as torch does it")
            name = entry.filename.removeprefix(folder)
            if name in records:
                raise ValueError(f"{entry.filename} is there twice")
            records[name], end = (start, stop), stop
    if end > directory:
        raise ValueError("its last entry reaches into its directory")
    return records


def _is_expected(entry: zipfile.ZipInfo, folder: str) -> bool:
    if entry.orig_filename != entry.filename or not entry.filename.startswith(folder):
        return False
    name = entry.filename.removeprefix(folder)
    if name == "data/sample_inputs/model.pt" and entry.file_size:
        return False
    return _ENTRY.fullmatch(name) is not None
