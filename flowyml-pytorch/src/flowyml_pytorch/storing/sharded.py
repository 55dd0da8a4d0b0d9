"""Sharded modules seen whole: parameters gathered, and free of what the sharding put into them.

Gathering is a collective operation: every process that holds a shard has to save at the same time.
Whoever asks for a digest may be one process alone, so nothing is gathered for that.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flowyml.errors import MaterializationError
from flowyml.properties import type_name
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
    gathered: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for module in modules:
            if _is_flat(module):
                fsdp = sys.modules[_FLAT].FullyShardedDataParallel
                stack.enter_context(fsdp.summon_full_params(module, writeback=False))
            elif any(map(_is_sharded_here, module.modules())):
                state = module.state_dict(keep_vars=True)  # which also puts the shards in place
                for tensor in state.values():
                    if isinstance(tensor, Tensor) and is_sharded(tensor):
                        gathered.setdefault(id(tensor), unsharded(tensor))
        yield gathered


def check_whole(modules: Iterable[nn.Module]) -> None:
    """Make sure that modules can be looked at without the processes that hold the rest of them.

    Raises:
        MaterializationError: when they are sharded.
    """
    for module in modules:
        if _is_flat(module) or any(map(_is_sharded_here, module.modules())):
            raise spread(module)


def spread(what: Any) -> MaterializationError:
    """Return the error that something is sharded where it would have to be whole."""
    return MaterializationError(
        f"A {type_name(what)} is sharded over several processes, so no single one of them knows "
        f"its content. Take the digest that it gets when all of them save it: "
        f"store.save(obj, name).digest."
    )


_FLAT = "torch.distributed.fsdp.fully_sharded_data_parallel"


def _is_flat(module: nn.Module) -> bool:
    """Tell whether a module has parts that the first FSDP sharded, into flat parameters."""
    fsdp = sys.modules.get(_FLAT)
    return fsdp is not None and any(
        isinstance(part, fsdp.FullyShardedDataParallel) for part in module.modules()
    )


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
