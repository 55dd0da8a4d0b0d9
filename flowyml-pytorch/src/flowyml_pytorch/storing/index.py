"""Where each stored tensor of a version is: in ``tensors.json``, read without torch.

The few rows of a small version stand in its manifest: a file more would cost it more than they do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

INDEX = "tensors.json"
SCHEMA = 1

_FEW = 16
"""Rows that stand in the manifest, at most."""


@attrs.frozen
class Row:
    """Where a stored tensor is: one row of ``tensors.json``.

    Attributes:
        digest: of its data type, shape, strides and elements; empty for a tensor that is more than
            these, of which the file's digest counts.
        file: path of its file.
        offset: the byte at which it begins among others; None in a file of its own.
        dtype: name of its data type; None for what has to be asked of the file itself.
        shape: its shape.
        stride: its strides, in elements.
        frame: in a file of its own, the digest of what surrounds its elements there: whoever has
            compared the elements knows by it that the file is intact. Empty otherwise.
    """

    digest: str
    file: str
    offset: int | None
    dtype: str | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    frame: str = ""


def write_index(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Write rows into ``tensors.json``, or return them as details of the manifest if they are few.

    Raises:
        OSError: when the folder can't be written.
    """
    listed = [_listed(row) for row in rows]
    if len(rows) <= _FEW:
        return {"tensors": listed}
    text = ",\n".join(map(json.dumps, listed))
    (folder / INDEX).write_text(f'{{"schema": {SCHEMA}, "tensors": [\n{text}\n]}}\n', "ascii")
    return {}


def _listed(row: Row) -> list[Any]:
    frame = [row.frame] if row.frame else []
    return [row.digest, row.file, row.offset, row.dtype, [*row.shape], [*row.stride], *frame]


def read_index(details: Mapping[str, Any], read: Callable[[str], bytes | None]) -> list[Row]:
    """Read the rows of a version.

    Args:
        details: its details.
        read: returns the bytes of one of its files.

    Raises:
        ValueError: when they are unfit, or missing.
    """
    if "tensors" in details:
        return [_row(*row) for row in details["tensors"]]
    data = json.loads(read(INDEX) or b"")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{INDEX} isn't of schema {SCHEMA}")
    return [_row(*row) for row in data["tensors"]]


def _row(
    digest: Any, file: Any, offset: Any, dtype: Any, shape: Any, stride: Any, frame: Any = ""
) -> Row:
    sizes = [*shape, *stride, offset or 0]
    if not all(type(size) is int and 0 <= size < 2**63 for size in sizes) or len(shape) != len(
        stride
    ):
        raise ValueError(f"{INDEX} has a tensor of shape {shape!r}, {stride!r} at {offset!r}")
    texts = (digest, file, frame)
    if any(type(text) is not str for text in texts) or type(dtype) not in (str, type(None)):
        raise ValueError(f"{INDEX} has an unfit row")
    return Row(digest, file, offset, dtype, tuple(shape), tuple(stride), frame)
