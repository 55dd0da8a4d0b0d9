"""Packed weights of quantized layers, taken apart into tensors and packed again.

A quantized layer keeps its weights in an object of torch's C++, laid out for the processor and the
engine. It comes back from the tensors that it gives, which the engine packs anew. The packing code
trusts its caller with sizes, so everything is checked before it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from flowyml_pytorch.quantizing import qconfigs
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training.states import first_line

_PREFIX = "__torch__.torch.classes."


@attrs.frozen
class _Packing:
    """How the objects of one class of torch's C++ are taken apart and packed again."""

    unpack: Callable[[Any], dict[str, Any]]
    pack: Callable[..., Any]


def is_packed(value: Any) -> bool:
    """Tell whether a value is the packed weights of a quantized layer."""
    return type(value) is torch.ScriptObject and _class_of(value) in _PACKINGS


def _class_of(packed: Any) -> str:
    return str(packed._type().qualified_name()).removeprefix(_PREFIX)


def _parts(packed: torch.ScriptObject) -> Mapping[str, Any]:
    name = _class_of(packed)
    packing = _PACKINGS.get(name)
    if packing is None:
        raise NotRestorableError("", f"an object of torch's C++ class {name}")
    try:
        parts = packing.unpack(packed)
    except RuntimeError as error:
        raise NotRestorableError("", f"{name} can't be unpacked: {first_line(error)}") from error
    for key, part in parts.items():
        if isinstance(part, Tensor) and part.device.type != "cpu":
            raise NotRestorableError(key, f"weights packed for {part.device}")
    return {"packs": name, "engine": torch.backends.quantized.engine, **parts}


def _build(cls: type, parts: dict[str, Any]) -> Any:
    if cls is not torch.ScriptObject:
        raise TypeError(f"{cls.__qualname__} is no object of torch's C++")
    if type(parts["packs"]) is not str or type(parts["engine"]) is not str:
        raise TypeError("packed weights are of no kind")
    packing = _PACKINGS[parts["packs"]]
    for part in parts.values():
        if isinstance(part, Tensor) and not part.is_quantized and part.layout is torch.strided:
            expanded = part.nbytes > part.untyped_storage().nbytes()
            _check(not expanded, "a packed tensor takes more memory than it has elements")
    rest = {
        name: part.cpu() if isinstance(part, Tensor) else part
        for name, part in parts.items()
        if name not in ("packs", "engine")
    }
    supported = torch.backends.quantized.supported_engines
    engines = dict.fromkeys((parts["engine"], torch.backends.quantized.engine, *supported))
    reasons = []
    for engine in engines:
        if engine in supported:
            try:
                with _using(engine):
                    return packing.pack(**rest)
            except (RuntimeError, IndexError) as error:
                reasons.append(f"{engine}: {first_line(error)}")
    raise ValueError(f"no engine here packs {parts['packs']}: {'; '.join(reasons)}")


@contextmanager
def _using(engine: str) -> Iterator[None]:
    """Pack with an engine: first with the one that was in use, since others round otherwise."""
    before = torch.backends.quantized.engine
    if engine == before:
        yield
        return
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"weights that can't be packed: {otherwise}")


def _check_weight(
    weight: Any, schemes: Sequence[Any], dtypes: Sequence[Any], axis: int = 0
) -> None:
    """Check a quantized weight; one scale per channel means the channels along an axis."""
    if not isinstance(weight, Tensor) or not weight.is_quantized:
        raise TypeError("weights that can't be packed: they aren't a quantized tensor")
    scheme = weight.qscheme()
    _check(scheme in schemes and weight.dtype in dtypes, f"{weight.dtype} and {scheme}")
    _check(weight.numel() > 0, f"a weight of shape {list(weight.shape)}")
    if scheme == torch.per_tensor_affine:
        return
    counts = {weight.q_per_channel_scales().numel(), weight.q_per_channel_zero_points().numel()}
    _check(weight.q_per_channel_axis() == axis, f"scales along axis {weight.q_per_channel_axis()}")
    _check(counts == {weight.size(axis)}, f"{counts} scales for {weight.size(axis)} channels")


def _check_float(tensor: Any, shape: Sequence[int], what: str) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
        raise TypeError(f"weights that can't be packed: the {what} isn't of float32")
    _check(list(tensor.shape) == [*shape], f"the {what} has shape {list(tensor.shape)}")
    _check(tensor.layout is torch.strided, f"the {what} isn't dense")


def _check_numbers(numbers: Any, count: int, least: int, what: str) -> None:
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise TypeError(f"weights that can't be packed: {what} is no list of numbers")
    fits = len(numbers) == count and all(least <= number < _MOST for number in numbers)
    _check(fits, what)


_MOST = 1 << 15
"""Above this, torch's own serialization of packed weights has no room for a number."""

_AFFINE = (torch.per_tensor_affine, torch.per_channel_affine)


def _linear_parts(packed: Any) -> dict[str, Any]:
    weight, bias = packed.unpack()
    return {"weight": weight, "bias": bias}


def _linear(weight: Any, bias: Any) -> Any:
    is_half = isinstance(weight, Tensor) and not weight.is_quantized  # unpacked to float32
    if is_half:
        _check_float(weight, weight.shape, "weight")
    else:
        _check_weight(weight, _AFFINE, (torch.qint8,))
    _check(weight.dim() == 2 and weight.numel() > 0, f"a weight of shape {list(weight.shape)}")
    if bias is not None:
        _check_float(bias, weight.shape[:1], "bias")
    ops: Any = torch.ops.quantized
    return (ops.linear_prepack_fp16 if is_half else ops.linear_prepack)(weight, bias)


def _sparse_parts(packed: Any) -> dict[str, Any]:
    weight, bias, block = torch.ops.sparse.qlinear_unpack(packed)
    return {"weight": weight, "bias": bias, "block": list(block)}


def _sparse(weight: Any, bias: Any, block: Any) -> Any:
    _check_weight(weight, _AFFINE, (torch.qint8,))
    _check(weight.dim() == 2, f"a weight of shape {list(weight.shape)}")
    _check_numbers(block, 2, 1, "block")
    if bias is not None:
        _check_float(bias, weight.shape[:1], "bias")
    return torch.ops.sparse.qlinear_prepack(weight, bias, *block)


def _convolution_parts(packed: Any) -> dict[str, Any]:
    weight, bias = packed.unpack()
    return {
        "weight": weight,
        "bias": bias,
        "stride": list(packed.stride()),
        "padding": list(packed.padding()),
        "output_padding": list(packed.output_padding()),
        "dilation": list(packed.dilation()),
        "groups": packed.groups(),
        "transposed": packed.transpose(),
    }


def _convolution(dimensions: int) -> Callable[..., Any]:
    """Return what packs a convolution; one over a single dimension is packed as one over two."""

    def pack(
        weight: Any,
        bias: Any,
        stride: Any,
        padding: Any,
        output_padding: Any,
        dilation: Any,
        groups: Any,
        transposed: Any,
    ) -> Any:
        for numbers, least, what in (
            (stride, 1, "stride"),
            (padding, 0, "padding"),
            (output_padding, 0, "output_padding"),
            (dilation, 1, "dilation"),
        ):
            _check_numbers(numbers, dimensions, least, what)
        _check_numbers([groups], 1, 1, "groups")
        if type(transposed) is not bool:
            raise TypeError("transposed is neither True nor False")
        _check_weight(weight, _AFFINE, (torch.qint8,), axis=int(transposed))
        _check(weight.dim() == dimensions + 2, f"a weight of shape {list(weight.shape)}")
        _check(weight.size(0) % groups == 0, f"{groups} groups of {weight.size(0)} channels")
        if bias is not None:
            channels = weight.size(1) * groups if transposed else weight.size(0)
            _check_float(bias, [channels], "bias")
        if dimensions == 3 and torch.backends.quantized.engine == "qnnpack":
            raise RuntimeError("what it packs of three dimensions can't be unpacked")
        ops: Any = torch.ops.quantized
        if not transposed:
            prepack = (ops.conv2d_prepack, ops.conv3d_prepack)[dimensions - 2]
            return prepack(weight, bias, stride, padding, dilation, groups)
        prepack = (ops.conv_transpose2d_prepack, ops.conv_transpose3d_prepack)[dimensions - 2]
        return prepack(weight, bias, stride, padding, output_padding, dilation, groups)

    return pack


def _embedding_parts(packed: Any) -> dict[str, Any]:
    return {"weight": packed.unpack()}


def _embedding(weight: Any) -> Any:
    schemes = (torch.per_channel_affine_float_qparams,)
    _check_weight(weight, schemes, (torch.quint8, torch.quint4x2))
    _check(weight.dim() == 2, f"a weight of shape {list(weight.shape)}")
    return torch.ops.quantized.embedding_bag_prepack(weight)


def _cell_parts(packed: Any) -> dict[str, Any]:
    (kind, tensors, _, flags, weights), _ = packed.__getstate__()
    if kind not in ("quantized_dynamic", "quantized_fp16"):
        raise NotRestorableError("", f"recurrent weights of the kind {kind!r}")
    parts = {"w_ih": weights[0], "w_hh": weights[1]}
    if kind == "quantized_fp16":
        return parts
    return {**parts, "b_ih": tensors[0], "b_hh": tensors[1], "reduce_range": bool(flags[0])}


def _cell(
    w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, reduce_range: Any = None
) -> Any:
    """Pack what a recurrent cell computes with; without biases of its own it is of float16."""
    for packed in (w_ih, w_hh):
        if type(packed) is not torch.ScriptObject or _class_of(packed) != _LINEAR:
            raise TypeError("the weights of a recurrent cell aren't packed ones")
    weights = [packed.unpack()[0] for packed in (w_ih, w_hh)]
    is_half = b_ih is b_hh is reduce_range is None
    _check(all(weight.is_quantized is not is_half for weight in weights), "cells of another type")
    if is_half:
        return torch.ops.quantized.make_quantized_cell_params_fp16(w_ih, w_hh)
    if type(reduce_range) is not bool:
        raise TypeError("reduce_range is neither True nor False")
    for bias, weight, what in zip((b_ih, b_hh), weights, ("b_ih", "b_hh"), strict=True):
        _check_float(bias, weight.shape[:1], what)
    make = torch.ops.quantized.make_quantized_cell_params_dynamic
    return make(w_ih, w_hh, b_ih, b_hh, reduce_range)


_LINEAR = "quantized.LinearPackedParamsBase"

_PACKINGS: Mapping[str, _Packing] = {
    _LINEAR: _Packing(_linear_parts, _linear),
    "quantized.Conv2dPackedParamsBase": _Packing(_convolution_parts, _convolution(2)),
    "quantized.Conv3dPackedParamsBase": _Packing(_convolution_parts, _convolution(3)),
    "quantized.EmbeddingPackedParamsBase": _Packing(_embedding_parts, _embedding),
    "rnn.CellParamsBase": _Packing(_cell_parts, _cell),
    "sparse.LinearPackedParamsBase": _Packing(_sparse_parts, _sparse),
}
"""By the name of the class in C++."""

KINDS: tuple[Kind, ...] = (
    Kind(
        "packed",
        lambda obj: type(obj) is torch.ScriptObject,
        _parts,
        _build,
        ("torch.ScriptObject",),
    ),
    *qconfigs.KINDS,
)
"""What quantized layers keep, and those that are going to be quantized."""
