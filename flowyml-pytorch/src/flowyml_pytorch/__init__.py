"""The PyTorch adapter of flowyml: describes, saves and loads models and what they are trained with.

flowyml discovers it by its entry point; there is nothing to import for everyday use. Importing
this package doesn't import torch; the first use of a name from it may.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowyml_pytorch.checkpoints import Checkpoint
    from flowyml_pytorch.launching.elastic import Elastic
    from flowyml_pytorch.training.datasets import DatasetRef
    from flowyml_pytorch.training.distributed import distributed_loader

__version__ = "0.1.0"

__all__ = ["Checkpoint", "DatasetRef", "Elastic", "distributed_loader"]

_MODULES = {
    "Checkpoint": "flowyml_pytorch.checkpoints",
    "DatasetRef": "flowyml_pytorch.training.datasets",
    "Elastic": "flowyml_pytorch.launching.elastic",
    "distributed_loader": "flowyml_pytorch.training.distributed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
