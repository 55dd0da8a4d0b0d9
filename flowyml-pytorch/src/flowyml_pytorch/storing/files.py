"""The files of one version: ``structure.json``, ``tensors.json`` and the tensors, out and in.

`write` and `digests` start from one `Plan`, so that what isn't written has the digests of what is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError, MaterializationWarning, warn
from flowyml.interfaces import Group, LoadOptions, Saved, SaveOptions, SaveResult
from flowyml_pytorch.storing import pool
from flowyml_pytorch.storing.content import digests_of
from flowyml_pytorch.storing.layout import Layout, lay_out
from flowyml_pytorch.storing.mapped import Pool, Tensors, check_device
from flowyml_pytorch.storing.policy import main_module_name
from flowyml_pytorch.storing.rebuild import FILE, Decoder, read_structure
from flowyml_pytorch.storing.sharded import Shards
from flowyml_pytorch.storing.structure import Structure


@attrs.frozen(eq=False)
class Plan:
    """What is going to be written of an object.

    Attributes:
        structure: the object, or what can be kept of it.
        reason: why the object itself can't come back from that; None when it can.
        details: what loading needs to know besides.
        warning: what a user who saves it should be told.
    """

    structure: Structure
    reason: str | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict)
    warning: str | None = None


def agreed(plan: Callable[[str | None], Plan], group: Group | None) -> Plan:
    """Return what to write, the same in all processes that write it together.

    Args:
        plan: makes a plan; given what stands in the way of more, of no more than goes without.
        group: the processes.
    """
    mine = plan(None)
    if group is None:
        return mine
    told = [text.decode() for text in group.exchange((mine.reason or "").encode())]
    obstacle = next(filter(None, told), None)
    return mine if obstacle == mine.reason else plan(obstacle)


def write(
    plan: Plan, folder: Path, options: SaveOptions, shards: Shards | None = None
) -> SaveResult:
    """Write a structure and its tensors.

    Equal content has one digest, however its tensors are spread over files, or over processes.

    Args:
        plan: what to write.
        folder: where; all processes of ``options.group`` write there.
        options: how.
        shards: the tensors of which each process has a part.

    Raises:
        MaterializationError: when a tensor can't be stored.
        OSError: when the folder can't be written.
    """
    text, layout = _laid_out(plan.structure)
    leads = options.group is None or options.group.rank == 0
    if leads:
        if plan.warning is not None:
            warn(plan.warning, MaterializationWarning)
        (folder / FILE).write_bytes(text)
    ready = _ready(layout, folder, options, shards)
    if not leads:
        return SaveResult()
    written = pool.write(layout, folder, options, ready)
    ready.clear()
    return SaveResult(
        restore="exact" if plan.reason is None else "weights",
        reason=plan.reason,
        required_trust=plan.structure.required_trust,
        details={
            "torch": str(torch.__version__),
            "main": main_module_name(),
            **written.details,
            **plan.details,
        },
        content=(FILE, *written.content),
    )


def _ready(layout: Layout, folder: Path, options: SaveOptions, shards: Shards | None) -> pool.Ready:
    """Write what this process has of tensors that no single one has."""
    if options.group is None or shards is None:
        return pool.Ready()
    from flowyml_pytorch.storing import collective

    return collective.write(layout, shards, folder, options, options.group)


def digests(plan: Plan) -> list[str]:
    """Return the digests that `SaveResult.content` stands for, writing nothing.

    Raises:
        MaterializationError: when a tensor can't be stored.
    """
    text, layout = _laid_out(plan.structure)
    return [digest_of_bytes(text), *digests_of(layout.stored)]


def _laid_out(structure: Structure) -> tuple[bytes, Layout]:
    """Return the text of a structure, and what to store of its tensors."""
    layout = lay_out(structure.tensors)
    for number, attributes in structure.attributes.items():
        layout.entries[number]["attributes"] = attributes
    return _render({**structure.data, "tensors": layout.entries}), layout


def _render(data: dict[str, Any]) -> bytes:
    """Return a structure as text: the same for the same data, an object or tensor a line."""
    members = []
    for key, value in data.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            items = ",\n".join(json.dumps(item, allow_nan=False) for item in value)
            text = f"[\n{items}\n]"
        members.append(f"{json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(members) + "\n}\n").encode("ascii")


def read(saved: Saved, options: LoadOptions, *keys: str) -> list[Any]:
    """Build values of a structure, with their tensors mapped from the files.

    Raises:
        UntrustedDataError: when they name what isn't trusted.
        MaterializationError: when a file is unfit, or names what no longer exists.
    """
    if options.device is not None:
        check_device(options.device, saved.ref)
    data = read_structure(saved)
    entries = data.get("tensors")
    if not isinstance(entries, list):
        raise MaterializationError(f"{saved.ref}: {FILE} has no list of tensors")
    tensors = Tensors(entries, Pool(saved), options.device)
    decoder = Decoder(saved, data, tensors, options, keys)
    return [decoder.decode(key) for key in keys]
