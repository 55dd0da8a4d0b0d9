"""What is trained: the objects of a checkpoint, and states put back into all of them or none.

A model's state is that of the model itself, without what wrappers add to its names, so that it
fits whatever the model is wrapped in when training goes on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowyml.errors import MaterializationError
from flowyml.properties import type_name
from flowyml_pytorch.checkpoints.plain import UnfitStateError, mapped, tensors_in
from flowyml_pytorch.storing.matching import check_same_keys, shapes_of
from flowyml_pytorch.storing.sharded import distributed, is_sharded, model_in
from flowyml_pytorch.training import states

_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module)\.")
"""What ``torch.compile`` and activation checkpointing put into names."""


@attrs.frozen(eq=False)
class Part:
    """One object; `name` is the argument, and where in it the object is: ``optimizer[0]``."""

    name: str
    obj: Any


class Parts:
    """The objects, by the names that they were given."""

    def __init__(self, objects: Mapping[str, Any]) -> None:
        """Take objects, and lists or dicts of objects.

        Raises:
            TypeError: for one that has no state, or one that can't be stored.
        """
        self._given = dict(objects)
        self._parts = [p for name, obj in objects.items() for p in _parts_in(obj, name)]
        for part in self._parts:
            _check_takes(part)
        self._check_plain()

    def _check_plain(self) -> None:
        for part in self._parts:
            try:
                mapped(_state(part.obj), lambda tensor: tensor, part.name)
            except UnfitStateError as error:
                raise TypeError(
                    f"Checkpoint can't store the state of {part.name}: {error}, where numbers, "
                    f"text, tensors and containers of them can be. Leave that out of its "
                    f"state_dict()."
                ) from None

    def state(self) -> dict[str, Any]:
        """Return the states as they are now, with the tensors of the objects in them."""
        return {name: _nested(obj, _state) for name, obj in self._given.items()}

    def models(self) -> Parts:
        """Return the modules alone."""
        return Parts({p.name: p.obj for p in self._parts if isinstance(p.obj, nn.Module)})

    def load(self, found: Mapping[str, Any], ref: str) -> None:
        """Put states back.

        Raises:
            MaterializationError: when they don't fit, naming each part that doesn't; or when
                code of the user's fails. Nothing is changed then.
        """
        wanted = {name: _nested(obj, lambda obj: None) for name, obj in self._given.items()}
        problems = list(_other_parts(wanted, found))
        pairs = [] if problems else list(self._paired(found))
        for part, state in pairs:
            problems += [f"{part.name}: {told}" for told in _problems(part.obj, state)]
        if problems:
            raise MaterializationError(
                f"The checkpoint {ref} doesn't fit what is to be trained, and nothing was loaded. "
                f"{'; '.join(problems)}. Pass the objects that it was saved with, or "
                f"resume=False to begin anew."
            )
        _load_all(pairs, ref)

    def load_models(self, found: Mapping[str, Any], ref: str) -> None:
        """Put the states of modules back, and leave everything else as it is."""
        pairs = [(p, s) for p, s in self._paired(found) if isinstance(p.obj, nn.Module)]
        _load_all(pairs, ref)

    def _paired(self, found: Mapping[str, Any]) -> Iterator[tuple[Part, Any]]:
        states_by_name: dict[str, Any] = {}
        for name, obj in self._given.items():
            _collect(obj, found[name], name, states_by_name)
        for part in self._parts:
            yield part, states_by_name[part.name]


def _parts_in(obj: Any, name: str) -> Iterator[Part]:
    if type(obj) in (list, tuple):
        for number, item in enumerate(obj):
            yield from _parts_in(item, f"{name}[{number}]")
    elif type(obj) is dict:
        for key, item in obj.items():
            yield from _parts_in(item, f"{name}[{key!r}]")
    else:
        yield Part(name, obj)


def _nested(obj: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a container of objects with something in place of each."""
    if type(obj) in (list, tuple):
        return [_nested(item, convert) for item in obj]
    if type(obj) is dict:
        return {key: _nested(item, convert) for key, item in obj.items()}
    return convert(obj)


def _collect(obj: Any, state: Any, name: str, into: dict[str, Any]) -> None:
    if type(obj) in (list, tuple):
        for number, (item, each) in enumerate(zip(obj, state, strict=True)):
            _collect(item, each, f"{name}[{number}]", into)
    elif type(obj) is dict:
        for key, item in obj.items():
            _collect(item, state[key], f"{name}[{key!r}]", into)
    else:
        into[name] = state


def _other_parts(wanted: Any, found: Any, name: str = "") -> Iterator[str]:
    """Yield how two nestings of parts differ."""
    if isinstance(wanted, dict) and isinstance(found, Mapping):
        where = (lambda key: f"{name}[{key!r}]") if name else str
        for key in wanted:
            if key not in found:
                yield f"it has no state for {where(key)}"
            else:
                yield from _other_parts(wanted[key], found[key], where(key))
        for key in found:
            if key not in wanted:
                yield f"it has a state for {where(key)}, which isn't given"
    elif isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            count = len(found) if isinstance(found, list) else "no list of"
            yield f"{name}: it has {count} states where {len(wanted)} objects are given"
            return
        for number, (item, each) in enumerate(zip(wanted, found, strict=True)):
            yield from _other_parts(item, each, f"{name}[{number}]")
    elif wanted is None and isinstance(found, list):
        yield f"{name}: it has {len(found)} states where one object is given"


def _check_takes(part: Part) -> None:
    obj = part.obj
    if isinstance(obj, nn.Module) and _is_flat(obj):
        raise TypeError(
            f"{part.name} is sharded by FullyShardedDataParallel, whose optimizers hold flat "
            f"parameters that fit no other number of processes. Shard it with "
            f"torch.distributed.fsdp.fully_shard, which Checkpoint stores."
        )
    if isinstance(obj, torch.Generator):
        return
    methods = ("state_dict", "load_state_dict")
    if isinstance(obj, type) or not all(callable(getattr(obj, name, None)) for name in methods):
        raise TypeError(
            f"Checkpoint takes objects with state_dict() and load_state_dict(), and lists and "
            f"dicts of them; {part.name} is a {type_name(obj)}."
        )


def _is_flat(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    return fsdp is not None and any(
        isinstance(each, fsdp.FullyShardedDataParallel) for each in module.modules()
    )


def _state(obj: Any) -> Any:
    if isinstance(obj, nn.Module):
        return {_plain_name(key): item for key, item in model_in(obj).state_dict().items()}
    if isinstance(obj, torch.Generator):
        return states.state_of(obj)
    return obj.state_dict()


def _plain_name(key: str) -> str:
    return _WRAPPED.sub("", key)


def _problems(obj: Any, state: Any) -> list[str]:
    """Return what of a state doesn't fit into an object, as far as that can be told beforehand."""
    if not isinstance(obj, nn.Module):
        told = states.problems_of(obj, state) if states.is_known(obj) else []
        return [each.replace("into=", "the one given") for each in told]
    if not isinstance(state, dict):
        return ["it is no state of a module"]
    own = _state(obj)
    other = {key: None for key in own if not isinstance(own[key], Tensor)}
    here = {**shapes_of(own), **other}
    there = {**shapes_of(state), **{k: None for k in state if not isinstance(state[k], Tensor)}}
    try:
        check_same_keys(there, here, "the saved state")
    except MaterializationError as error:
        text = str(error).partition("nothing was changed. ")[2].rstrip(".")
        return [text.replace("into=", "the one given").replace("what the one given holds", "it")]
    return []


def _load_all(pairs: list[tuple[Part, Any]], ref: str) -> None:
    """Load what was checked last; what users' own code loads, and may refuse, comes first."""
    ordered = sorted(pairs, key=lambda pair: _can_be_told(pair[0].obj))
    before: list[tuple[Part, Any]] = []
    for part, state in ordered:
        if not _can_be_told(part.obj):
            before.append((part, mapped(_state(part.obj), lambda tensor: tensor.detach().clone())))
        try:
            _load(part.obj, state)
        except Exception as error:
            for changed, old in before:
                _load(changed.obj, old)
            raise MaterializationError(
                f"The checkpoint {ref} can't be loaded into {part.name}: {states.first_line(error)}"
            ) from error


def _can_be_told(obj: Any) -> bool:
    return isinstance(obj, nn.Module) or states.is_known(obj)


def _load(obj: Any, state: Any) -> None:
    if isinstance(obj, nn.Module):
        inner = model_in(obj)
        own = inner.state_dict()
        inner.load_state_dict(
            {key: distributed(state[_plain_name(key)], item) for key, item in own.items()}
        )
        return
    # The files of a checkpoint go one day: what an object keeps of them has to be its own.
    state = mapped(state, lambda tensor: tensor.detach().clone())
    if isinstance(obj, Optimizer) and any(is_sharded(p) for p in _params(obj)):
        state = _distributed_state(obj, state)
        obj.load_state_dict(state)
    elif states.is_known(obj):
        states.load_into(obj, state, "the checkpoint")
    else:
        obj.load_state_dict(state)


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _distributed_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with shards of what has the shape of a sharded parameter."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    params = dict(zip(numbers, _params(optimizer), strict=True))
    shards = {
        number: {
            name: distributed(value, params[number])
            if isinstance(value, Tensor) and value.shape == params[number].shape and value.dim()
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": shards}


def tensors_of(parts: Parts) -> list[Tensor]:
    """Return the tensors that the objects hold now."""
    return list(tensors_in(parts.state()))
