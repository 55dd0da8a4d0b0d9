"""Sharded modules seen whole, and free of what the sharding put into them.

Where the processes save together, a sharded tensor is seen as one that has no elements, and each
process writes those that it holds, see `storing.collective`. A process that saves by itself needs
them all: gathering them is a collective operation, in which the others have to take part. Whoever
asks for a digest may be one process alone, so nothing is gathered for that.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from flowyml.errors import MaterializationError
from flowyml.interfaces import Group
from flowyml.properties import type_name
from flowyml_pytorch.describing.classes import facts_of
from flowyml_pytorch.storing.layout import contiguous_stride, is_dense, storage_of

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params", "_distribute_module_applied")


def model_in(module: nn.Module) -> nn.Module:
    """Return the model under its wrappers: one that averages weights is more than a wrapper."""
    facts = facts_of(type(module))
    while facts.inner is not None and not isinstance(module, AveragedModel):
        module = getattr(module, facts.inner)
        facts = facts_of(type(module))
    return module


class Shards:
    """Sharded tensors, each as the whole that it is a part of; without elements."""

    def __init__(self) -> None:
        self._wholes: dict[Hashable, Tensor] = {}
        self._shards: dict[int, Any] = {}

    def whole(self, tensor: Tensor) -> Tensor:
        """Return what stands for a sharded tensor; any other is itself."""
        if not is_sharded(tensor):
            return tensor
        shards: Any = tensor
        local = shards._local_tensor
        where = storage_of(local), local.storage_offset(), local.shape, local.stride(), local.dtype
        key = where, shards.shape, shards.placements, isinstance(tensor, nn.Parameter)
        if key not in self._wholes:
            from flowyml_pytorch.storing.frames import without_elements  # it imports a lot

            stride = shards.stride() if is_dense(shards) else contiguous_stride(shards.shape)
            made = without_elements(shards.shape, stride, shards.dtype, shards.device)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
            self._wholes[key] = made
            self._shards[storage_of(made)] = shards
        return self._wholes[key]

    def of(self, stored: Tensor) -> Any:
        """Return the DTensor that a stored tensor stands for, or None."""
        return self._shards.get(storage_of(stored)) if self._shards else None


@attrs.frozen(eq=False)
class Seen:
    """How the tensors of an object are seen whole.

    Attributes:
        whole: returns a tensor whole.
        shards: those that stand for sharded ones; None where there are only real ones.
    """

    whole: Callable[[Tensor], Tensor]
    shards: Shards | None = None


@contextmanager
def seen(modules: Iterable[nn.Module], group: Group | None) -> Iterator[Seen]:
    """See sharded parameters of modules whole, while they are saved.

    What is gathered is gathered in one order on every process, before anything that may fail on
    some of them.

    Args:
        modules: the modules.
        group: the processes that save them together; None where this one does it by itself.
    """
    gathered: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for module in modules:
            if _is_flat(module):
                fsdp = sys.modules[_FLAT].FullyShardedDataParallel
                stack.enter_context(fsdp.summon_full_params(module, writeback=False))
            elif any(map(_is_sharded_here, module.modules())):
                state = module.state_dict(keep_vars=True)  # which also puts the shards in place
                for tensor in state.values() if group is None else ():
                    if isinstance(tensor, Tensor) and is_sharded(tensor):
                        gathered.setdefault(id(tensor), unsharded(tensor))
        if group is None:
            yield Seen(lambda tensor: gathered.get(id(tensor), unsharded(tensor)))
        else:
            shards = Shards()
            yield Seen(shards.whole, shards)


def alone(tensor: Tensor) -> Tensor:
    """Return a tensor that this process has all of.

    Raises:
        MaterializationError: when it is sharded.
    """
    if is_sharded(tensor):
        raise spread(tensor)
    return tensor


def check_whole(modules: Iterable[nn.Module]) -> None:
    """Make sure that modules can be looked at without the processes that hold the rest of them.

    Raises:
        MaterializationError: when they are sharded.
    """
    for module in modules:
        if is_spread_module(module):
            raise spread(module)


def is_spread(value: Any) -> bool:
    """Tell whether other processes hold parts of a module, or of a value with tensors."""
    todo, met = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, Tensor):
            if is_sharded(item):
                return True
        elif isinstance(item, nn.Module):
            if is_spread_module(item):
                return True
        elif id(item) not in met:
            met.add(id(item))
            todo += _parts_of(item)
    return False


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Optimizer):
        return (value.param_groups, [*value.state.values()])
    return (getattr(value, "optimizer", None),) if isinstance(value, LRScheduler) else ()


def is_spread_module(module: nn.Module) -> bool:
    """Tell whether a module is sharded over several processes."""
    return _is_flat(module) or any(map(_is_sharded_here, module.modules()))


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
    attributes = vars(module)
    held = (module._parameters, module._buffers, attributes)
    return "_is_fsdp_managed_module" in attributes or any(
        isinstance(item, Tensor) and is_sharded(item) for table in held for item in table.values()
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
    from flowyml_pytorch.storing import shards

    where: Any = target
    return shards.part_of(value, where)


def unsharded_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's attributes without those that sharding or tensor parallelism put there."""
    kept = {
        name: _without_hooks(value) if name.endswith("_hooks") else value
        for name, value in state.items()
        if name not in _MARKS and not name.startswith("__composable_api_state_key")
    }
    for name, hooks in kept.items():
        flags = f"{name}_with_kwargs"
        if hooks is not state[name] and flags in kept:  # what is noted of hooks that are gone
            left = ((number, flag) for number, flag in state[flags].items() if number in hooks)
            kept[flags] = OrderedDict(left)
    return kept


def _without_hooks(hooks: Any) -> Any:
    if not isinstance(hooks, dict) or not any(map(_is_of_sharding, hooks.values())):
        return hooks
    return OrderedDict(
        (number, hook) for number, hook in hooks.items() if not _is_of_sharding(hook)
    )


def _is_of_sharding(hook: Any) -> bool:
    function = getattr(hook, "__func__", hook)
    return str(getattr(function, "__module__", "")).startswith(
        ("torch.distributed.fsdp.", "torch.distributed.tensor.")
    )
