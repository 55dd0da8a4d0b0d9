"""How a module becomes an exported program: for any batch size where that can be done.

Example inputs have a batch size, and torch builds it into the program, all the more when it is 1.
So the first attempts let the first dimension of every tensor vary; what torch then refuses, or
what can't be stored then, is exported for the sizes of the examples alone.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from flowyml.errors import MaterializationError, MaterializationWarning, warn
from flowyml_pytorch.describing.census import class_name
from flowyml_pytorch.describing.observe import arguments_of, unchanged

_LONGEST_REASON = 300
_LOUD = ("_export.non_strict_utils", "_export.serde.serialize", "fx.experimental.symbolic_shapes")
"""Where torch logs what it finds odd while it exports."""


@attrs.frozen
class Exported:
    """An exported program, and what was found about it.

    Attributes:
        program: what torch made.
        description: what the caller's function made of it.
        dynamic: the inputs whose first dimension may be of any size that the program accepts.
    """

    program: ExportedProgram
    description: Any
    dynamic: tuple[str, ...]


def export(
    module: nn.Module, example_inputs: Any, describe: Callable[[ExportedProgram], Any]
) -> Exported:
    """Export a module in its present mode; it is as before afterwards.

    Args:
        module: any module.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        describe: makes of a program what is going to be stored; raises when it can't be.

    Raises:
        MaterializationError: with torch's reason, when the module can't be exported.
    """
    args, kwargs = arguments_of(example_inputs)
    owned = [*module.parameters(), *module.buffers(), *_tensors((args, kwargs))]
    reason: Exception | None = None
    for given, shapes in _attempts(args, kwargs):
        with _quiet() as told:
            try:
                with torch.inference_mode(False), torch.enable_grad(), unchanged(module, owned):
                    sizes = None if shapes is None else shapes.dynamic_shapes(module, *given)
                    program = torch.export.export(module, *given, dynamic_shapes=sizes)
                description = describe(program)
                accepted = _accepts(program, args, kwargs)
            except Exception as error:  # a forward, or torch on symbolic shapes, may raise anything
                reason = error
                continue
        if accepted:
            _pass_on(module, told)
            return Exported(program, description, _dynamic(program, *given))
        reason = MaterializationError("the program refuses the example inputs themselves.")
    raise MaterializationError(
        f"{class_name(module)} can't be saved as an exported program: {_told(reason)} Save it in "
        f"another format, or change its forward so that torch.export takes it."
    ) from reason


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings, and drop what torch prints about an attempt: the reason is told once."""
    logs = [logging.getLogger(f"torch.{name}") for name in _LOUD]
    levels = [log.level for log in logs]
    with warnings.catch_warnings(record=True) as told, redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        for log in logs:
            log.setLevel(logging.CRITICAL + 1)
        try:
            yield told
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def _attempts(args: Any, kwargs: Any) -> Iterator[tuple[tuple[Any, Any], ShapesCollection | None]]:
    """Yield inputs with the dimensions that may vary: all first ones, those above 1, none."""
    tensors = [tensor for tensor in _tensors((args, kwargs)) if tensor.dim()]
    if any(tensor.shape[0] == 1 for tensor in tensors):  # torch takes a 1 for a constant
        doubled = pytree.tree_map_only(Tensor, _doubled, (args, kwargs))
        yield doubled, _varying(_tensors(doubled))
    if any(tensor.shape[0] > 1 for tensor in tensors):
        yield (args, kwargs), _varying(tensors)
    yield (args, kwargs), None


def _doubled(tensor: Tensor) -> Tensor:
    if not tensor.dim() or tensor.shape[0] != 1:
        return tensor
    twice = torch.cat([tensor.detach(), tensor.detach()])
    return twice.requires_grad_(tensor.requires_grad)


def _varying(tensors: list[Tensor]) -> ShapesCollection:
    shapes = ShapesCollection()
    for tensor in tensors:
        if tensor.dim() and tensor.shape[0] > 1:
            shapes[tensor] = {0: Dim.AUTO}
    return shapes


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _accepts(program: ExportedProgram, args: Any, kwargs: Any) -> bool:
    """Tell whether a program takes inputs of these sizes, by the guards that torch derived."""
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None:
        return True
    try:
        guards(*pytree.tree_leaves((args, kwargs)))
    except AssertionError:
        return False
    return True


def _dynamic(program: ExportedProgram, args: Any, kwargs: Any) -> tuple[str, ...]:
    """Return the inputs that may have another first dimension, all of them at once."""
    leaves = pytree.tree_leaves((args, kwargs))
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"][-len(leaves) :]
    names = []
    for index, node in enumerate(inputs):
        value = node.meta.get("val")
        if (
            isinstance(value, Tensor) and value.dim() and type(value.shape[0]) is not int
        ):  # a symbol
            names.append(str(node.name))
            leaves[index] = leaves[index][:1].expand(2 * len(leaves[index]), *value.shape[1:])
    spec = pytree.tree_structure((args, kwargs))
    return tuple(names) if _accepts(program, *pytree.tree_unflatten(leaves, spec)) else ()


def _pass_on(module: nn.Module, told: list[warnings.WarningMessage]) -> None:
    """Tell what torch warned of; of a recurrent layer's own list of its weights, it needn't."""
    for warning in told:
        text = str(warning.message)
        if "were assigned during export" in text and "_flat_weights" not in text:
            warn(
                f"What the forward of {class_name(module)} leaves on the module isn't part of the "
                f"exported program: {text}",
                MaterializationWarning,
            )


def _told(reason: Exception | None) -> str:
    lines = [line for line in str(reason).strip().splitlines() if line.strip()] or [""]
    kind = "" if isinstance(reason, MaterializationError) else f"{type(reason).__name__}: "
    text = f"{kind}{lines[0].strip()}"[:_LONGEST_REASON]
    return text if text.endswith((".", "!", "?")) else f"{text}."
