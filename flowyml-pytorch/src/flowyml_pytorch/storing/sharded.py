"""Sharded modules seen whole: parameters gathered, and free of what the sharding put into them.

Gathering is a collective operation: every process that holds a shard has to save at the same time.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor, of which this process may have only a part."""
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def unsharded(tensor: Tensor) -> Tensor:
    """Return a tensor whole; any other than a DTensor as it is."""
    if not is_sharded(tensor):
        return tensor
    whole: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]  # it is a DTensor
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(whole, requires_grad=tensor.requires_grad)
    return whole


def unsharded_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's attributes without those that ``fully_shard`` put there."""
    if "_is_fsdp_managed_module" not in state:
        return dict(state)
    kept = {
        name: _without_hooks(value) if name.endswith("_hooks") else value
        for name, value in state.items()
        if name not in _MARKS and not name.startswith("__composable_api_state_key")
    }
    numbers = kept.get("_forward_pre_hooks", ())
    flags = kept.get("_forward_pre_hooks_with_kwargs")
    if flags is not None:
        kept["_forward_pre_hooks_with_kwargs"] = OrderedDict(
            (number, flag) for number, flag in flags.items() if number in numbers
        )
    return kept


def _without_hooks(hooks: Any) -> Any:
    if not isinstance(hooks, dict):
        return hooks
    return OrderedDict(
        (number, hook) for number, hook in hooks.items() if not _is_of_sharding(hook)
    )


def _is_of_sharding(hook: Any) -> bool:
    function = getattr(hook, "__func__", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.distributed.fsdp.")
