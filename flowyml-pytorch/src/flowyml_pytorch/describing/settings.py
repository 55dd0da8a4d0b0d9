"""What the record of a run says of an object besides its content: see `Materializer.settings`.

It is asked for every argument of every step, so it takes no longer than a walk over a module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from flowyml.encoding import is_encodable
from flowyml.properties import type_name
from flowyml_pytorch.describing import census
from flowyml_pytorch.describing.loading import dataset, generator, loader, sampler
from flowyml_pytorch.describing.losses import class_of, loss
from flowyml_pytorch.describing.optimizers import optimizer, scaler, scheduler
from flowyml_pytorch.describing.readable import readable

_MAX_ITEMS = 20
_MAX_DEPTH = 3


def settings(obj: Any) -> dict[str, Any]:
    """Return the settings of a module, a value or a container of these; never raises."""
    try:
        found = _settings(obj)
        return found if isinstance(found, dict) and is_encodable(found) else {}
    except Exception:  # the record is about a step, which goes on
        return {}


def _settings(obj: Any, depth: int = 0) -> Any:
    for kind, describe in _KINDS:
        if isinstance(obj, kind):
            return describe(obj)
    if depth < _MAX_DEPTH and isinstance(obj, (dict, list, tuple, set, frozenset)):
        return _container(obj, depth + 1)
    return readable(obj)


def _container(obj: Any, depth: int) -> dict[str, Any]:
    """Describe the first items one by one."""
    pairs = islice(obj.items() if isinstance(obj, dict) else enumerate(obj), _MAX_ITEMS)
    items = {str(key): _settings(item, depth) for key, item in pairs}
    return {"class": type_name(obj), "length": len(obj), "items": items}


def _tensor(obj: Tensor) -> dict[str, Any]:
    shape = [int(size) for size in obj.shape]
    return {"dtype": str(obj.dtype), "shape": shape, "device": str(obj.device)}


def _module(obj: nn.Module) -> dict[str, Any]:
    """Describe a module in short; one without parameters is a function with settings."""
    found = census.take(obj)
    if isinstance(obj, _Loss) or not (found.parameters or found.uninitialized):
        return loss(obj)
    return {
        "class": class_of(obj),
        "parameters": sum(found.parameters.values()),
        "trainable_parameters": found.trainable,
        "device": _most(found.parameters, 1),
        "dtype": _most(found.parameters, 0),
        "training_mode": found.training,
    }


def _most(counts: census.Counts, part: int) -> str | None:
    """Return the data type or device, by its place in the key, of most elements."""
    found: Counter[str] = Counter()
    for kind, count in counts.items():
        found[str(kind[part])] += count
    return found.most_common(1)[0][0] if found else None


_KINDS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (Tensor, _tensor),
    (nn.Module, _module),
    (Optimizer, optimizer),
    (LRScheduler, scheduler),
    (GradScaler, scaler),
    (torch.Generator, lambda obj: {"class": type_name(obj), **generator(obj)}),
    (DataLoader, loader),
    (Dataset, dataset),
    (Sampler, sampler),
)
"""What describes objects of which types: the first that fits."""
