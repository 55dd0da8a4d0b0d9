"""Over how many processes a model is spread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

_WRAPPERS = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
)


def world_size(model: nn.Module) -> int | None:
    """Return how many processes train a model together or hold parts of it; None for one alone.

    That is asked of what spreads it: DDP, FSDP, or the mesh of its tensors.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    sizes = [size for part in model.modules() for size in _sizes(part)]
    if not sizes and any("_is_fsdp_managed_module" in vars(part) for part in model.modules()):
        return int(distributed.get_world_size())  # its parameters are whole for the moment
    return max(sizes, default=None)


def _sizes(part: nn.Module) -> Iterator[int]:
    with suppress(Exception):  # a group that was taken down since has no size
        for module, name in _WRAPPERS:
            wrapper = getattr(sys.modules.get(module), name, None)
            if wrapper is not None and isinstance(part, wrapper):
                held: Any = part
                yield int(held.process_group.size())
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            mesh = _mesh(tensor)
            if mesh is not None:
                yield int(mesh.size())


def _mesh(tensor: Tensor | None) -> Any:
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is None or not isinstance(tensor, distributed.DTensor):
        return None
    return tensor.device_mesh
