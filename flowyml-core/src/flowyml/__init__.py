"""flowyml turns a trained model of any framework into a Model asset.

Described exactly, saved verifiably, loaded back as the live object without running code from the
file, and traceable to the run that made it. `Model` and `step` are where to begin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flowyml import adapters, errors
from flowyml._version import __version__
from flowyml.assets import Asset
from flowyml.hookspecs import hookimpl
from flowyml.models import Model

if TYPE_CHECKING:
    from flowyml import interfaces
    from flowyml.context import current
    from flowyml.reproducing import reproduce
    from flowyml.running import run, runs
    from flowyml.seeds import seed_everything
    from flowyml.steps import step
    from flowyml.store import Store

_LATER = {
    "Store": "flowyml.store",
    "current": "flowyml.context",
    "interfaces": "flowyml",
    "reproduce": "flowyml.reproducing",
    "run": "flowyml.running",
    "runs": "flowyml.running",
    "seed_everything": "flowyml.seeds",
    "step": "flowyml.steps",
}

__all__ = [
    "Asset",
    "Model",
    "Store",
    "__version__",
    "adapters",
    "current",
    "errors",
    "hookimpl",
    "interfaces",
    "reproduce",
    "run",
    "runs",
    "seed_everything",
    "step",
]


def __getattr__(name: str) -> Any:
    """Import the rest of the public names when they are first used, to keep the import short."""
    if name not in _LATER:
        raise AttributeError(f"module 'flowyml' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    value = (
        importlib.import_module(f"flowyml.{name}")
        if _LATER[name] == "flowyml"
        else getattr(module, name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
