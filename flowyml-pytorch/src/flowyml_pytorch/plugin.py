"""What flowyml discovers: registers the extractor, materializers, random source and launcher.

torch is looked up in ``sys.modules`` only: whoever holds a module or a tensor has imported it.
The work is done in modules that import torch, which are imported when there is work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowyml.hookspecs import hookimpl
from flowyml.interfaces import (
    Change,
    Extractor,
    Launcher,
    Layer,
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)
from flowyml_pytorch.launching.elastic import Elastic
from flowyml_pytorch.randomness import TorchRandomSource

if TYPE_CHECKING:
    import torch


api_version = 3
"""Version of flowyml.interfaces that this adapter is written for."""

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

TRAINED_WITH = ("optimizer", "scheduler", "loss")
"""The options that become properties of the same names."""


def _is_module(obj: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def _is_exported(obj: object) -> bool:
    export = sys.modules.get("torch.export.exported_program")
    return export is not None and isinstance(obj, export.ExportedProgram)


def _is_value(obj: object) -> bool:
    """Tell whether it is a tensor itself, as a subclass would come back as one, or the like."""
    torch = sys.modules["torch"]
    if type(obj) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return True
    if type(obj) in (torch.device, torch.dtype, torch.Size, torch.layout, torch.memory_format):
        return True
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is not None and isinstance(obj, distributed.DTensor):
        return True
    data = torch.utils.data
    return isinstance(
        obj,
        (
            torch.optim.Optimizer,
            torch.optim.lr_scheduler.LRScheduler,
            torch.amp.GradScaler,
            torch.Generator,
            data.DataLoader,
            data.Dataset,
            data.Sampler,
        ),
    )


def _holds_values(obj: object) -> bool:
    """Tell whether it is a container with values or modules, and else only with plain data."""
    todo, met, found = [obj], set(), False
    while todo:
        item = todo.pop()
        if isinstance(item, _CONTAINERS) and type(item) in _CONTAINERS:
            if id(item) not in met:
                met.add(id(item))
                todo += item
                todo += item.values() if isinstance(item, dict) else ()
        elif type(item) in _PLAIN or _is_array(item):
            continue
        elif _is_value(item) or _is_module(item):
            found = True
        else:
            return False
    return found and type(obj) in _CONTAINERS


def _is_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(obj, (numpy.ndarray, numpy.generic)):
        return False
    return not obj.dtype.hasobject


_CONTAINERS = (list, tuple, dict, OrderedDict, set, frozenset)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class ModuleExtractor(Extractor):
    """Describes a ``torch.nn.Module``."""

    modules = ("torch",)
    framework = "pytorch"
    accepts = "a torch.nn.Module"
    options = frozenset({"example_inputs", *TRAINED_WITH})
    optional = frozenset({*OBSERVED, *TRAINED_WITH})

    def detect(self, obj: object) -> bool:
        """Tell whether it is a module, or a program that ``torch.export`` made of one."""
        return _is_module(obj) or _is_exported(obj)

    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties that `describing.describe` finds.

        ``example_inputs`` is a tensor, a tuple of positional arguments, or a dict of keyword
        arguments: what the forward does with such inputs is then described too. ``optimizer``,
        ``scheduler`` and ``loss`` are described by `describing.trained_with`.

        Raises:
            UnsupportedObjectError: when one of these three is something else.
        """
        from flowyml_pytorch.describing.describe import describe
        from flowyml_pytorch.describing.trained_with import trained_with

        given = trained_with(options)
        return {**describe(obj, options.get("example_inputs")), **given}

    def default_name(self, obj: Any) -> str:
        """Return the name of the model's class, whatever wraps it."""
        if not _is_module(obj):
            return type(obj).__name__
        from flowyml_pytorch.describing.census import class_name

        return class_name(obj)

    def outline(self, obj: Any) -> Layer | None:
        """Return the tree of layers."""
        from flowyml_pytorch.describing.outline import outline

        return outline(obj)

    def environment(self) -> Mapping[str, Any]:
        """Return torch's versions, threads, modes and devices, as far as they are known."""
        if "torch" not in sys.modules:
            return {}
        from flowyml_pytorch.describing.environment import environment

        return environment()


class ModuleMaterializer(Materializer):
    """Saves a ``torch.nn.Module``: structure and state dict, or in other formats its weights."""

    modules = ("torch",)
    key = "pytorch.module"
    formats = ("module", "state_dict", "safetensors", "exported")
    types = ("torch.nn.Module",)
    conversions = MappingProxyType({"module": ("state_dict",), "safetensors": ("state_dict",)})
    accepts = frozenset({"into", "device", "class_map"})

    def detect(self, obj: object) -> bool:
        """Tell whether it is a module."""
        return _is_module(obj)

    def can_save(self, obj: Any, format: str, described_with: Mapping[str, Any]) -> bool:
        """Tell whether there are example inputs to export with, or the package that writes."""
        if format == "exported":
            return described_with.get("example_inputs") is not None
        return format != "safetensors" or importlib.util.find_spec("safetensors") is not None

    def save(self, obj: torch.nn.Module, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``structure.json``, ``tensors.json`` and tensors, or the file of the format."""
        from flowyml_pytorch.storing import formats

        return formats.save(obj, folder, options)

    def is_spread(self, obj: Any) -> bool:
        """Tell whether it has parameters that are sharded over several processes."""
        from flowyml_pytorch.storing.sharded import is_spread

        return is_spread(obj)

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give back the live module, or what the format keeps of it."""
        from flowyml_pytorch.storing import formats

        return formats.load(saved, options)

    def digests(self, obj: torch.nn.Module, format: str) -> Sequence[str] | None:
        """Return the digests of structure and tensors; None for the other formats."""
        from flowyml_pytorch.storing import formats

        return formats.digests(obj, format)

    def parts(self, obj: Any) -> Collection[Hashable]:
        """Return what tells its tensors and generators from those of others."""
        from flowyml_pytorch.training.common_parts import parts

        return parts(obj)

    def compare(self, before: Saved, after: Saved) -> Sequence[Change] | None:
        """Return how two modules differ, tensor by tensor and setting by setting."""
        from flowyml_pytorch.storing import formats

        return formats.compare(before, after)

    def settings(self, obj: Any) -> Mapping[str, Any]:
        """Return class, size, device and mode; of a loss or the like its arguments."""
        from flowyml_pytorch.describing.settings import settings

        return settings(obj)

    def blame(self, saved: Saved, path: str) -> str | None:
        """Name the tensors in a damaged file."""
        from flowyml_pytorch.storing.damage import blame

        return blame(saved, path)


class ProgramMaterializer(Materializer):
    """Saves what ``torch.export`` made of a module."""

    modules = ("torch",)
    key = "pytorch.program"
    formats = ("exported",)
    types = ("torch.export.ExportedProgram",)

    def detect(self, obj: object) -> bool:
        """Tell whether it is an exported program."""
        return _is_exported(obj)

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``model.pt2``, which holds no pickle."""
        from flowyml_pytorch.exporting import programs

        return programs.save(obj, folder, None)

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give the program back."""
        from flowyml_pytorch.exporting import programs

        return programs.load(saved, options)


class ValueMaterializer(Materializer):
    """Saves tensors, optimizers, schedulers, loaders and the like, and containers with them."""

    modules = ("torch",)
    key = "pytorch.value"
    formats = ("torch",)
    types = (
        "torch.Tensor",
        "torch.device",
        "torch.dtype",
        "torch.optim.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "torch.amp.GradScaler",
        "torch.Generator",
        "torch.utils.data.DataLoader",
        "torch.utils.data.Dataset",
        "torch.utils.data.Sampler",
        "list, tuple and dict with these in them",
    )
    accepts = frozenset({"into", "device", "class_map"})

    def detect(self, obj: object) -> bool:
        """Tell whether it is one of these, or a container that holds one and nothing unknown."""
        torch = sys.modules.get("torch")
        return torch is not None and (_is_value(obj) or _holds_values(obj))

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``structure.json``, ``tensors.json`` and tensors."""
        from flowyml_pytorch.storing import values

        return values.save(obj, folder, options)

    def is_spread(self, obj: Any) -> bool:
        """Tell whether there are tensors in it that are sharded over several processes."""
        from flowyml_pytorch.storing.sharded import is_spread

        return is_spread(obj)

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give the object back; its tensors are mapped: the files keep what was saved."""
        from flowyml_pytorch.storing import values

        return values.load(saved, options)

    def digests(self, obj: Any, format: str) -> Sequence[str]:
        """Return the digests of structure and tensors."""
        from flowyml_pytorch.storing import values

        return values.digests(obj)

    def parts(self, obj: Any) -> Collection[Hashable]:
        """Return what tells its tensors and generators from those of others."""
        from flowyml_pytorch.training.common_parts import parts

        return parts(obj)

    def compare(self, before: Saved, after: Saved) -> Sequence[Change]:
        """Return how two values differ, tensor by tensor and setting by setting."""
        from flowyml_pytorch.storing.comparing import compare

        return compare(before, after)

    def settings(self, obj: Any) -> Mapping[str, Any]:
        """Return what it is set to: learning rates, batch sizes, shapes; no values."""
        from flowyml_pytorch.describing.settings import settings

        return settings(obj)

    def blame(self, saved: Saved, path: str) -> str | None:
        """Name the tensors in a damaged file."""
        from flowyml_pytorch.storing.damage import blame

        return blame(saved, path)


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    """Register the extractor of the framework ``pytorch``."""
    return [ModuleExtractor()]


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register the materializers of modules and of values."""
    return [ModuleMaterializer(), ProgramMaterializer(), ValueMaterializer()]


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    """Register torch's default generators."""
    return [TorchRandomSource()]


@hookimpl
def flowyml_register_launchers() -> list[Launcher]:
    """Register the launcher on torch's elastic agent, with its defaults."""
    return [Elastic()]
