"""Sharded modules seen whole: parameters gathered, and free of what the sharding put into them.

Gathering is a collective operation: every process that holds a shard has to save at the same time.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flowyml_pytorch.describing.classes import facts_of

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")


def model_in(module: nn.Module) -> nn.Module:
    """Return the model under its wrappers: one that averages weights is more than a wrapper."""
    facts = facts_of(type(module))
    while facts.inner is not None and not isinstance(module, AveragedModel):
        module = getattr(module, facts.inner)
        facts = facts_of(type(module))
    return module


@contextmanager
def whole(modules: Iterable[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Give sharded parameters of modules back whole, while they are saved.

    Gathering happens in one order on every process, before anything that may fail on some of them.
    Yields the whole tensors of those that are DTensors, by the identity of the shards.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    gathered: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for module in modules:
            parts = [*module.modules()]
            if fsdp and any(isinstance(part, fsdp.FullyShardedDataParallel) for part in parts):
                summon = fsdp.FullyShardedDataParallel.summon_full_params
                stack.enter_context(summon(module, writeback=False))
            elif any(_is_sharded_here(part) for part in parts):
                state = module.state_dict(keep_vars=True)  # which also puts the shards in place
                for tensor in state.values():
                    if isinstance(tensor, Tensor) and is_sharded(tensor):
                        gathered.setdefault(id(tensor), unsharded(tensor))
        yield gathered


def _is_sharded_here(module: nn.Module) -> bool:
    parameters = module._parameters.values()
    return "_is_fsdp_managed_module" in vars(module) or any(
        parameter is not None and is_sharded(parameter) for parameter in parameters
    )


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


def distributed(value: Any, target: Any) -> Any:
    """Return a whole tensor as the shard that a sharded target takes of it; others as they are."""
    if not (isinstance(target, Tensor) and is_sharded(target) and isinstance(value, Tensor)):
        return value
    module: Any = sys.modules["torch.distributed.tensor"]
    where: Any = target
    return module.distribute_tensor(
        value.to(where.device), where.device_mesh, where.placements, src_data_rank=None
    )


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
