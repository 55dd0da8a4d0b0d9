"""The formats of a module, and which code writes and reads each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml_pytorch import modules


def save(module: nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
    """Write a module in the format that was asked for."""
    return modules.save(module, folder, options)


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back what was saved in a format."""
    return modules.load(saved, options)
