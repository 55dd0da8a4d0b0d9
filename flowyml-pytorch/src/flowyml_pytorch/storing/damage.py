"""What is lost when a file is damaged: the names of the tensors in it, found without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flowyml.interfaces import Saved
from flowyml_pytorch.storing.archive import damaged_ranges
from flowyml_pytorch.storing.index import read_index

_MOST = 5
"""Names in one message."""


def blame(saved: Saved, path: str) -> str | None:
    """Name the tensors in a damaged file; None when that can't be told."""
    if not path.startswith("tensors/"):
        return None
    if path in saved.files and damaged_ranges(saved.files[path]) == []:
        return "the frame around the tensors, not the tensors"
    rows = read_index(saved.result.details, lambda name: saved.files[name].read_bytes())
    stored = {number for number, row in enumerate(rows) if row.file == path}
    structure = json.loads(saved.files["structure.json"].read_bytes())
    entries = structure["tensors"]
    found = _names(structure)
    names = [name for number, name in found.items() if entries[number].get("stored") in stored]
    listed = ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" * (len(names) > _MOST))
    if len(names) == 1:
        return f"the tensor {listed}"
    return f"one or more of the tensors {listed}" if names else None


def _names(structure: Mapping[str, Any]) -> dict[int, str]:
    """Return what the tensors are called, by number: their keys in the state dict if they have."""
    names: dict[int, str] = {}
    todo = [("", structure[key]) for key in ("root", "state") if key in structure]
    met: set[int] = set()
    while todo:
        path, form = todo.pop()
        number = form.get("$object") if isinstance(form, dict) else None
        if number is not None:
            if number not in met:
                met.add(number)
                todo.append((path, structure["objects"][number]["state"]))
        elif isinstance(form, dict) and "$tensor" in form:
            names.setdefault(form["$tensor"], path)
        else:
            todo += reversed([(_below(path, key), item) for key, item in _items(form)])
    return names


def _items(form: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a form with their names, those of containers with their keys."""
    if isinstance(form, dict):
        for key, item in form.items():
            if key in ("$dict", "$ordered"):
                yield from item
            elif key in ("$defaultdict", "$state_dict"):
                yield from item[1]
            elif key == "$shared":
                yield "", item[1]
            else:
                yield ("" if key.startswith("$") else key), item
    elif isinstance(form, list):
        yield from enumerate(form)


def _below(path: str, key: Any) -> str:
    if key in ("", "_modules", "_parameters", "_buffers") or not isinstance(key, (str, int)):
        return path
    return f"{path}.{key}" if path else str(key)
