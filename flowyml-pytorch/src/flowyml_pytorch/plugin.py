"""What flowyml discovers: registers the PyTorch extractor, materializers and random source.

torch is looked up in ``sys.modules`` only: whoever holds a module or a tensor has imported it.
The work is done in modules that import torch, which are imported when there is work.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowyml.hookspecs import hookimpl
from flowyml.interfaces import (
    Extractor,
    Layer,
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)

if TYPE_CHECKING:
    import torch


OBSERVED = (
    "flops",
    "activation_bytes",
    "input_signature",
    "output_signature",
    "observed_layers",
    "observed_operations",
    "operations_without_flops",
    "observation_error",
)
"""The properties that a pass over example inputs adds."""


def _is_module(obj: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def _is_exported(obj: object) -> bool:
    export = sys.modules.get("torch.export.exported_program")
    return export is not None and isinstance(obj, export.ExportedProgram)


def _is_tensor(obj: object) -> bool:
    """Tell whether it is a tensor itself: a subclass would come back as one."""
    torch = sys.modules.get("torch")
    return torch is not None and type(obj) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class ModuleExtractor(Extractor):
    """Describes a ``torch.nn.Module``."""

    framework = "pytorch"
    accepts = "a torch.nn.Module"
    options = frozenset({"example_inputs"})
    optional = frozenset(OBSERVED)

    def detect(self, obj: object) -> bool:
        """Tell whether it is a module, or a program that ``torch.export`` made of one."""
        return _is_module(obj) or _is_exported(obj)

    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties that `flowyml_pytorch.describe` finds.

        ``example_inputs`` is a tensor, a tuple of positional arguments, or a dict of keyword
        arguments: what the forward does with such inputs is then described too.
        """
        from flowyml_pytorch.describe import describe

        return describe(obj, options.get("example_inputs"))

    def default_name(self, obj: Any) -> str:
        """Return the name of the model's class, whatever wraps it."""
        if not _is_module(obj):
            return type(obj).__name__
        from flowyml_pytorch.census import class_name

        return class_name(obj)

    def outline(self, obj: Any) -> Layer | None:
        """Return the tree of layers."""
        from flowyml_pytorch.outline import outline

        return outline(obj)


class ModuleMaterializer(Materializer):
    """Saves a ``torch.nn.Module``: its weights as a state dict, and the structure beside them."""

    key = "pytorch.module"
    formats = ("module", "state_dict")
    types = ("torch.nn.Module",)

    def detect(self, obj: object) -> bool:
        """Tell whether it is a module."""
        return _is_module(obj)

    def save(self, obj: torch.nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``weights.pt`` and, in the format ``module``, ``structure.json``."""
        from flowyml_pytorch import modules

        return modules.save(obj, folder, with_structure=options.format == "module")

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give back the live module, or, saved as ``state_dict``, the state dict."""
        from flowyml_pytorch import modules

        return modules.load(saved, options)


class TensorMaterializer(Materializer):
    """Saves a tensor, or a dict of tensors such as a state dict, with ``torch.save``."""

    key = "pytorch.tensors"
    formats = ("torch",)
    types = ("torch.Tensor", "dict[str, torch.Tensor]")

    def detect(self, obj: object) -> bool:
        """Tell whether it is a tensor, or a dict of tensors by name that isn't empty."""
        if type(obj) in (dict, OrderedDict) and isinstance(obj, dict) and obj:
            return all(type(key) is str and _is_tensor(item) for key, item in obj.items())
        return _is_tensor(obj)

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``tensors.pt``."""
        from flowyml_pytorch import tensors

        tensors.write(obj, folder / "tensors.pt")
        return SaveResult()

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Map ``tensors.pt``: changes stay in memory, the file keeps what was saved."""
        from flowyml_pytorch import tensors

        return tensors.load(saved, options)


class TorchRandomSource(RandomSource):
    """torch's default generators: the CPU's and every CUDA device's."""

    name = "torch"

    def seed(self, seed: int) -> None:
        """Seed them all, if torch is imported."""
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(seed)

    def state(self) -> Any:
        """Return the states, those of CUDA devices once CUDA is in use; None without torch."""
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        return torch.get_rng_state(), cuda

    def restore(self, state: Any) -> None:
        """Put the generators back."""
        if state is None:
            return
        torch = sys.modules["torch"]
        cpu, cuda = state
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    """Register the extractor of the framework ``pytorch``."""
    return [ModuleExtractor()]


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register the materializers of modules and tensors."""
    return [ModuleMaterializer(), TensorMaterializer()]


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    """Register torch's default generators."""
    return [TorchRandomSource()]
