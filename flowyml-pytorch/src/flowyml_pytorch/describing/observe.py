"""One pass over example inputs on shapes: what a forward does, without doing it.

The model's own code runs, under `describing.shapes.ShapeMode`, so nothing is computed and
no memory is needed for values. Whatever the forward leaves on the model, such as caches, hooks or
counters, is put back afterwards.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import is_lazy

from flowyml_pytorch.describing.census import type_name, unwrap
from flowyml_pytorch.describing.classes import facts_of
from flowyml_pytorch.describing.shapes import Frame, ShapeMode
from flowyml_pytorch.plugin import OBSERVED

_lock = threading.Lock()
"""Hooks on all modules and the attention switch are the process's, so one pass runs at a time."""


UNOBSERVED: Mapping[str, Any] = MappingProxyType(dict.fromkeys(OBSERVED))
"""The properties that need example inputs, as they are without."""


def observe(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    """Run a model's forward on the shapes of example inputs and return what was seen.

    Args:
        model: any module; it is as before afterwards.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        The properties of `UNOBSERVED`. ``observation_error`` is the reason why the others are
        None, or None when they are known.
    """
    root, _ = unwrap(model)
    args, kwargs = arguments_of(example_inputs)
    found = {**UNOBSERVED, "input_signature": signature(example_inputs)}
    try:
        found.update(_observe(root, args, kwargs))
    except Exception as error:  # a forward, or torch on shapes, may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        found["observation_error"] = f"{type(error).__name__}: {reason}".removesuffix(": ")
    return found


def arguments_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments: a tensor, a tuple or a dict says which."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}


def signature(value: Any) -> Any:
    """Return shapes and dtypes of the tensors in a value, nested as they are."""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {str(key): signature(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [signature(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


@attrs.define
class _Layer:
    """What was seen of one layer; of the first call, but for the sums over all calls."""

    type: str
    parameters: int
    inputs: Any
    outputs: Any
    flops: int
    activation_bytes: int
    calls: int = 1


def _observe(root: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    modules = dict(_layers("", root))
    owned = [*_tensors_of(root), *_tensors_in((args, kwargs))]
    if any(is_lazy(tensor) for tensor in owned):
        raise ValueError("the module has parameters without a shape; run it once for real first")
    homes = (t.device for t in _tensors_in((args, kwargs)) if t.device.type != "meta")
    mode = ShapeMode(owned, next(homes, torch.device("cpu")))
    layers: dict[str, _Layer] = {}
    thread = threading.get_ident()

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in modules and threading.get_ident() == thread:
            mode.frames.append(Frame())

    def leave(module: nn.Module, given: Any, named: Any, result: Any) -> None:
        if id(module) not in modules or threading.get_ident() != thread:
            return
        frame = mode.frames.pop()
        mode.frames[-1].flops += frame.flops
        mode.frames[-1].made_bytes += frame.made_bytes
        name, _ = modules[id(module)]
        layer = layers.get(name)
        if layer is None:
            layers[name] = _Layer(
                type_name(module, facts_of(type(module))),
                _own_parameters(module),
                signature({**dict(enumerate(given)), **named}),
                signature(result),
                frame.flops,
                frame.made_bytes,
            )
        else:
            layer.calls += 1
            layer.flops += frame.flops
            layer.activation_bytes += frame.made_bytes

    with ExitStack() as stack:
        stack.enter_context(_lock)
        stack.enter_context(_quiet())
        stack.enter_context(unchanged(root, owned))
        for handle in (
            module_hooks.register_module_forward_pre_hook(enter),
            module_hooks.register_module_forward_hook(leave, with_kwargs=True),
        ):
            # torch keeps the number of a global hook that is removed, and a loaded module may have
            # a hook of the same number.
            stack.callback(module_hooks._global_forward_hooks_with_kwargs.pop, handle.id, None)
            stack.callback(handle.remove)
        args, kwargs = _stand_ins(args, mode), _stand_ins(kwargs, mode)
        with torch.no_grad(), mode:
            result = root(*args, **kwargs)
    (total,) = mode.frames
    return {
        "flops": total.flops,
        "activation_bytes": total.made_bytes,
        "output_signature": signature(result),
        "observed_layers": {
            name: attrs.asdict(layers[name]) for name, _ in modules.values() if name in layers
        },
        "observed_operations": dict(mode.operations),
        "operations_without_flops": list(mode.without_flops),
    }


def _layers(path: str, module: nn.Module) -> Iterator[tuple[int, tuple[str, nn.Module]]]:
    """Yield every layer under its own name, by identity; wrappers and inner parts are none."""
    module, _ = unwrap(module)
    yield id(module), (path, module)
    for name, child in module.named_children():
        if name != "parametrizations" and not facts_of(type(child)).packs:
            yield from _layers(f"{path}.{name}" if path else name, child)


def _own_parameters(module: nn.Module) -> int:
    """Count the parameters of a module and of those in it, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _stand_ins(value: Any, mode: ShapeMode) -> Any:
    """Replace tensors by fakes; small whole numbers keep their values, for masks and ids."""
    if isinstance(value, Tensor):
        number = value.is_floating_point() or value.is_complex()
        return value if mode.is_known(value) and not number else mode.stand_in(value)
    if isinstance(value, dict):
        return {key: _stand_ins(item, mode) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_stand_ins(item, mode) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_stand_ins(item, mode) for item in value)
    return value


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item)


def _tensors_of(root: nn.Module) -> Iterator[Tensor]:
    for module in root.modules():
        for item in (*module._parameters.values(), *module._buffers.values()):
            if item is not None:
                yield item
        yield from (item for item in vars(module).values() if isinstance(item, Tensor))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging a traceback for a shape that doesn't fit: we report the reason."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def unchanged(root: nn.Module, owned: list[Tensor]) -> Iterator[None]:
    """Put everything back that a forward may change: attributes, versions, random states."""
    states = [_ModuleState.of(module) for module in root.modules()]
    versions = [(t, t._version) for t in owned if not t.is_inference()]
    numpy = sys.modules.get("numpy")
    generators = torch.get_rng_state(), random.getstate(), numpy and numpy.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fast path is one operator on a whole encoder layer, in which no layer would be seen.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for state in states:
            state.restore()
        moved = [(tensor, version) for tensor, version in versions if tensor._version != version]
        if moved:
            torch._C._autograd._unsafe_set_version_counter(*map(tuple, zip(*moved, strict=True)))
        torch.set_rng_state(generators[0])
        random.setstate(generators[1])
        if numpy:
            numpy.random.set_state(generators[2])


@attrs.frozen
class _ModuleState:
    """A module's attributes, and the contents of the containers among them."""

    live: dict[str, Any]
    attributes: dict[str, Any]
    containers: list[tuple[Any, Any]]

    @classmethod
    def of(cls, module: nn.Module) -> _ModuleState:
        """Note a module's state."""
        live = vars(module)
        containers = [item for item in live.values() if isinstance(item, (dict, list, set))]
        return cls(live, dict(live), [(item, item.copy()) for item in containers])

    def restore(self) -> None:
        """Put back what differs; objects that are the same stay untouched."""
        if not _same_items(self.live, self.attributes):
            self.live.clear()
            self.live.update(self.attributes)
        for container, before in self.containers:
            if isinstance(container, list):
                if len(container) != len(before) or any(map(_is_not, container, before)):
                    container[:] = before
            elif isinstance(container, dict):
                if not _same_items(container, before):
                    container.clear()
                    container.update(before)
            elif container != before:
                container.clear()
                container.update(before)


def _same_items(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return len(now) == len(before) and all(map(_same_pair, now.items(), before.items()))


def _same_pair(left: tuple[Any, Any], right: tuple[Any, Any]) -> bool:
    return left[1] is right[1] and left[0] == right[0]


def _is_not(left: object, right: object) -> bool:
    return left is not right
