"""The PyTorch adapter of flowyml: describes, saves and loads models and what they are trained with.

flowyml discovers it by its entry point; there is nothing to import for everyday use. Importing
this package doesn't import torch; the first use of `DatasetRef` does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowyml_pytorch.training.datasets import DatasetRef

__version__ = "0.1.0"

__all__ = ["DatasetRef"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from flowyml_pytorch.training.datasets import DatasetRef

        globals()[name] = DatasetRef
        return DatasetRef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
