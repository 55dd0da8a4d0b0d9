"""What a model was trained with: the options ``optimizer=``, ``scheduler=`` and ``loss=``.

Each becomes a property of its name. One that isn't given is no property: the user may have one of
their own by that name, and what an earlier version was trained with stays noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor, nn

from flowyml.errors import AdapterWarning, UnsupportedObjectError, told, warn
from flowyml.properties import type_name
from flowyml_pytorch.describing.losses import loss
from flowyml_pytorch.describing.optimizers import (
    is_optimizer,
    is_scheduler,
    optimizer,
    scheduler,
)
from flowyml_pytorch.describing.readable import readable


@attrs.frozen
class _Option:
    """One of the options.

    Attributes:
        takes: what it takes, in words.
        fits: tells whether something is that.
        describe: describes it.
    """

    takes: str
    fits: Callable[[Any], bool]
    describe: Callable[[Any], dict[str, Any]]


def _is_loss(obj: Any) -> bool:
    is_callable = callable(obj) and not isinstance(obj, (type, Tensor))
    return isinstance(obj, nn.Module) or (is_callable and not is_optimizer(obj))


_OPTIONS: Mapping[str, _Option] = {
    "optimizer": _Option("a torch.optim.Optimizer", is_optimizer, optimizer),
    "scheduler": _Option("a scheduler of torch.optim.lr_scheduler", is_scheduler, scheduler),
    "loss": _Option("a loss module, a function or a number", _is_loss, loss),
}


def trained_with(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of those options that are given.

    Raises:
        UnsupportedObjectError: when one is something else.
    """
    given = {name: options.get(name) for name in _OPTIONS}
    return {name: _described(name, item) for name, item in given.items() if item is not None}


def _described(name: str, given: Any, depth: int = 0) -> Any:
    """Describe what is given, several in a list or dict one by one."""
    option = _OPTIONS[name]
    if given is None or isinstance(given, str) or (name == "loss" and _is_number(given)):
        return readable(given)
    if depth < 3 and type(given) in (list, tuple):
        return [_described(name, item, depth + 1) for item in given]
    if depth < 3 and type(given) is dict:
        return {str(key): _described(name, item, depth + 1) for key, item in given.items()}
    if not option.fits(given):
        raise UnsupportedObjectError(_refusal(name, given))
    try:
        return option.describe(given)
    except Exception as error:  # another library's object may raise anything
        warn(
            f"{name}= is described by its class alone: a {type_name(given)} failed with "
            f"{told(error)}",
            AdapterWarning,
        )
        return {"class": type_name(given)}


def _is_number(given: Any) -> bool:
    if isinstance(given, (bool, type)):
        return False
    return isinstance(given, (int, float)) or (
        getattr(given, "shape", None) == () and hasattr(given, "item")
    )


def _refusal(name: str, given: Any) -> str:
    text = f"{name}= takes {_OPTIONS[name].takes}, or several in a list or dict; got"
    if isinstance(given, type):
        return f"{text} the class {given.__qualname__}. Pass an instance: {given.__name__}(...)."
    others = [other for other, option in _OPTIONS.items() if option.fits(given)]
    hint = f"Pass it as {others[0]}=." if others else f"To note it: properties={{{name!r}: ...}}."
    return f"{text} a {type_name(given)}. {hint}"
