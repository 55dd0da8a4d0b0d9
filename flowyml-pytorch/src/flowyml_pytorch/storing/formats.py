"""The formats of a module, and which code writes and reads each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml_pytorch.storing import modules


def save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a module in the format that was asked for."""
    if options.format == "safetensors":
        from flowyml_pytorch.exporting import safetensors_file

        return safetensors_file.save(module, folder)
    if options.format == "exported":
        from flowyml_pytorch.exporting import programs

        return programs.save(module, folder, options.described_with.get("example_inputs"))
    return modules.save(module, folder, options)


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back what was saved in a format."""
    if saved.format == "safetensors":
        from flowyml_pytorch.exporting import safetensors_file

        return safetensors_file.load(saved, options)
    if saved.format == "exported":
        from flowyml_pytorch.exporting import programs

        return programs.load(saved, options)
    return modules.load(saved, options)
