"""What is known about a module class: computed once per class and process.

Wrappers and generated classes are seen through here: a class is named as its author named it,
whatever torch made of it for parametrization, sharding, compilation or scripting.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import attrs
from torch import nn

from flowyml_pytorch.describing import functional

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
"""Where a wrapper keeps the model, by the wrapper's dotted name: none has to be imported."""

_STATE_METHODS = ("state_dict", "_save_to_state_dict", "get_extra_state")


@attrs.frozen
class ClassFacts:
    """What every module of a class has in common.

    Attributes:
        name: the class's name, as its author wrote it.
        container: whether it only holds other modules.
        inner: the attribute in which a wrapper keeps the model; None for other classes.
        sharded: whether ``fully_shard`` made the class.
        plain_state: whether its state dict is just its parameters and persistent buffers.
        quantized: whether its weights are quantized.
        packs: whether it is a part of a quantized layer that only keeps the packed weights.
        scripted: whether the name has to be asked of each module.
        traced: whether its forward was generated from a graph.
        calls: what the forward calls, see `functional`.
        unusual: whether any of the last six says more than the ordinary.
    """

    name: str
    container: bool
    inner: str | None
    sharded: bool
    plain_state: bool
    quantized: bool
    packs: bool
    scripted: bool
    traced: bool
    calls: tuple[functional.Call, ...]

    unusual: bool = attrs.field(init=False)

    @unusual.default
    def _unusual(self) -> bool:
        return bool(
            self.calls
            or self.quantized
            or self.packs
            or self.scripted
            or self.traced
            or not self.plain_state
        )


_known: WeakKeyDictionary[type, ClassFacts] = WeakKeyDictionary()


def facts_of(cls: type[nn.Module]) -> ClassFacts:
    """Return what is known about a class."""
    facts = _known.get(cls)
    if facts is None:
        facts = _known[cls] = _facts(cls)
    return facts


def _facts(cls: type[nn.Module]) -> ClassFacts:
    author = author_class(cls)
    lines = {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}
    return ClassFacts(
        name=author.__name__,
        container=author in _CONTAINERS,
        inner=next((_WRAPPERS[line] for line in lines if line in _WRAPPERS), None),
        sharded=_is_sharded(cls),
        plain_state=all(
            getattr(cls, name, None) is getattr(nn.Module, name) for name in _STATE_METHODS
        ),
        quantized=author.__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")),
        packs=author.__name__.endswith(("PackedParams", "PackedParameter")),
        scripted="torch.jit._script.ScriptModule" in lines,
        traced="torch.fx.graph_module.GraphModule" in lines,
        calls=functional.calls_of(author),
    )


def author_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a person wrote, for one that torch derived from it."""
    base = cls.__bases__[-1]
    generated = _is_sharded(cls) or cls.__name__ == f"Parametrized{base.__name__}"
    return author_class(base) if generated and issubclass(base, nn.Module) else cls


def _is_sharded(cls: type[nn.Module]) -> bool:
    return len(cls.__bases__) == 2 and cls.__bases__[0].__name__ == "FSDPModule"
