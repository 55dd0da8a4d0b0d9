"""The formats of a module, and which code writes and reads each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from flowyml.interfaces import Change, LoadOptions, Saved, SaveOptions, SaveResult
from flowyml_pytorch.storing import modules


def save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a module in the format that was asked for.

    In formats with one file for all tensors, processes that save together have to gather those that
    are sharded: rank 0's file counts.
    """
    one_file = options.format in ("safetensors", "exported")
    if one_file and options.group is not None and options.group.rank:
        with tempfile.TemporaryDirectory(prefix="flowyml-") as unused:
            return _save(module, Path(unused), options)
    return _save(module, folder, options)


def _save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    if options.format == "safetensors":
        from flowyml_pytorch.exporting import safetensors_file

        return safetensors_file.save(module, folder)
    if options.format == "exported":
        from flowyml_pytorch.exporting import programs

        return programs.save(module, folder, options.described_with.get("example_inputs"))
    return modules.save(module, folder, options)


def digests(module: nn.Module, format: str) -> list[str] | None:
    """Return the digests that make up a module in a format; None where it has to be written."""
    return modules.digests(module, format) if format in ("module", "state_dict") else None


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back what was saved in a format."""
    if saved.format == "safetensors":
        from flowyml_pytorch.exporting import safetensors_file

        return safetensors_file.load(saved, options)
    if saved.format == "exported":
        from flowyml_pytorch.exporting import programs

        return programs.load(saved, options)
    return modules.load(saved, options)


def compare(before: Saved, after: Saved) -> Sequence[Change] | None:
    """Return how two modules differ; None where their formats don't tell."""
    formats = {before.format, after.format}
    if formats <= {"module", "state_dict"}:
        from flowyml_pytorch.storing import comparing

        return comparing.compare(before, after)
    if formats == {"safetensors"}:
        from flowyml_pytorch.exporting import safetensors_file

        return safetensors_file.compare(before, after)
    return None
