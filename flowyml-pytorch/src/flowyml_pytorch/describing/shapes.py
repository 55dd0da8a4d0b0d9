"""A fake-tensor mode that runs a forward on shapes: no arithmetic, no memory for values.

torch's own `FakeTensorMode` knows the shapes; this subclass makes it fast and far-reaching.
Operators are asked once for each combination of shapes, strides and dtypes. Parameters, buffers
and inputs become fake at the operator that uses them, so that the model isn't touched. Small
tensors whose values are known, such as masks and position ids, stay real, so that a forward may
look at them; they stop being known as soon as unknown values are written into them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from flowyml_pytorch.describing.flops import FORMULAS

aten = torch.ops.aten

_KNOWN_LIMIT = 1 << 14
"""Elements of the largest tensor whose values are followed."""

_META = torch.device("meta")
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@attrs.frozen
class _Traits:
    """What matters about an operator."""

    mutable: bool
    data_dependent: bool
    makes: bool
    flops: Callable[..., int] | None
    written: tuple[int, ...]


_traits: dict[OpOverload, _Traits] = {}


def _traits_of(operator: OpOverload) -> _Traits:
    traits = _traits.get(operator)
    if traits is None:
        schema = operator._schema
        written = (a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        traits = _traits[operator] = _Traits(
            mutable=schema.is_mutable,
            data_dependent=bool(_DATA_DEPENDENT & {*operator.tags})
            and operator is not aten.index.Tensor,
            makes=operator is not aten._unsafe_view.default  # a view whose schema doesn't say so
            and all(result.alias_info is None for result in schema.returns),
            flops=FORMULAS.get(operator._overloadpacket) or FORMULAS.get(_not_in_place(operator)),
            written=tuple(index for index, writes in enumerate(written) if writes),
        )
    return traits


def _not_in_place(operator: OpOverload) -> Any:
    """Return the operator that ``name_`` is the in-place variant of, or None."""
    name = operator._overloadpacket.__name__
    return getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None


@attrs.define
class Frame:
    """What was observed while one module ran, the modules in it included."""

    flops: int = 0
    made_bytes: int = 0


_Geometry = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class ShapeMode(FakeTensorMode):
    """Runs operators on shapes; see the module's docstring.

    Attributes:
        frames: one for each module that runs now, the whole pass first.
        operations: how often each operator was seen, by name.
        without_flops: the operators that compute, but for which no formula is known.
    """

    def __init__(self, owned: Iterable[Tensor], home: torch.device) -> None:
        """Make a mode for one pass.

        Args:
            owned: tensors of the model and the inputs; nothing is written into their storage.
            home: the device that stands in for ``meta``, on which a forward can't compute.
        """
        super().__init__(allow_fallback_kernels=False, allow_non_fake_inputs=True)
        self.frames = [Frame()]
        self.operations: Counter[str] = Counter()
        self.without_flops: dict[str, None] = {}
        self._home = home
        self._owned = {t.untyped_storage()._cdata for t in owned if _is_plain(t)}
        self._tainted: dict[int, Tensor] = {}
        self._stand_ins: dict[int, tuple[Tensor, FakeTensor]] = {}
        self._results: dict[Any, Any] = {}
        self._decomposing = False

    def stand_in(self, tensor: Tensor) -> FakeTensor:
        """Return the fake of a real tensor, the same one each time."""
        known = self._stand_ins.get(id(tensor))
        if known is None:
            fake = self._blank(tensor) if _is_plain(tensor) else self.from_tensor(tensor)
            known = self._stand_ins[id(tensor)] = (tensor, fake)  # held, so that the id stays its
        return known[1]

    def is_known(self, tensor: Tensor) -> bool:
        """Tell whether a real tensor's values may be used."""
        return (
            type(tensor) is Tensor
            and tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and tensor.numel() <= _KNOWN_LIMIT
            and id(tensor) not in self._stand_ins
            and not (self._tainted and tensor.untyped_storage()._cdata in self._tainted)
        )

    def _blank(self, tensor: Tensor) -> FakeTensor:
        return self._made((tensor.shape, tensor.stride(), tensor.dtype, tensor.device))

    def _made(self, geometry: _Geometry) -> FakeTensor:
        shape, stride, dtype, device = geometry
        values = torch.empty_strided(shape, stride, dtype=dtype, device=_META)
        return FakeTensor(self, values, self._home if device == _META else device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator on shapes."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and type(args[0]) is FakeTensor:
            return _META if self.in_kernel_invocation else args[0].fake_device
        if self._decomposing or not isinstance(func, OpOverload):
            return FakeTensorMode.dispatch(self, func, types, args, kwargs)
        name = func._overloadpacket._qualified_op_name.replace("::", ".")
        self.operations[name] += 1
        if func is aten.lift_fresh.default and self.is_known(args[0]):
            return args[0].detach().clone()
        traits = _traits_of(func)
        call = _Call(self, func)
        taken = [call.take(item) for item in args]
        named = {key: call.take_named(key, item) for key, item in kwargs.items()}
        if traits.mutable:
            result = self._mutate(call, taken, named, traits)
            self._count(name, traits, taken, named, result)
            return result
        if traits.data_dependent or call.is_masked_index(taken):
            return func(*taken, **named) if call.all_known else self._plain(func, taken, named)
        result = self._result(call, taken, named)
        self._count(name, traits, taken, named, result)
        return result

    def _result(self, call: _Call, taken: list[Any], named: dict[str, Any]) -> Any:
        """Return what an operator returns: computed when all is known, or fake."""
        geometry = self._results.get(call.key) if call.hashable else None
        result = None
        if geometry is None:
            result = self._plain(call.operator, taken, named)
            geometry = _geometry_of(result)
            if geometry is not None and call.hashable:
                self._results[call.key] = geometry
        if geometry is None:
            return result
        if (
            call.all_known
            and _elements(geometry) <= _KNOWN_LIMIT
            and call.operator is not aten.empty.memory_format  # nobody knows what that holds
        ):
            return call.operator(*taken, **named)
        if result is not None:
            return result
        kind, parts = geometry
        made = [self._made(part) for part in parts]
        return made[0] if kind is None else kind(made)

    def _count(
        self, name: str, traits: _Traits, taken: list[Any], named: dict[str, Any], result: Any
    ) -> None:
        if not (traits.makes or traits.mutable):
            return  # a view computes nothing
        frame = self.frames[-1]
        if traits.flops is not None:
            values = {key: item for key, item in named.items() if key != "out"}
            frame.flops += traits.flops(*taken, **values, out_val=result)
        else:
            self.without_flops[name] = None
        if traits.mutable:
            return  # what is written to was made before
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor):
                frame.made_bytes += tensor.numel() * tensor.dtype.itemsize

    def _plain(self, operator: OpOverload, args: Iterable[Any], kwargs: dict[str, Any]) -> Any:
        """Ask torch's mode. What it decomposes an operator into comes back here uncounted."""
        if operator is aten._grouped_mm.default:
            return self._grouped_mm(*args, **kwargs)
        args = tuple(self._all_blank(item) for item in args)
        kwargs = {key: self._all_blank(item) for key, item in kwargs.items()}
        self._decomposing = True
        try:
            return FakeTensorMode.dispatch(self, operator, (), args, kwargs)
        finally:
            self._decomposing = False

    def _all_blank(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._all_blank(part) for part in item]
        return self._blank(item) if isinstance(item, Tensor) and not _is_fake(item) else item

    def _grouped_mm(
        self, a: Tensor, b: Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None
    ) -> FakeTensor:
        """Return the shape of a grouped product: torch's rule for it insists on bfloat16."""
        if a.dim() == 2:
            groups = () if b.dim() == 3 else (offs.shape[0],)
            shape = (*groups, a.shape[0], b.shape[-1])
        else:
            shape = (
                (a.shape[0], a.shape[1], b.shape[2]) if b.dim() == 3 else (a.shape[1], b.shape[1])
            )
        values = torch.empty(shape, dtype=out_dtype or a.dtype, device=_META)
        return FakeTensor(self, values, a.device)

    def _mutate(self, call: _Call, taken: list[Any], named: dict[str, Any], traits: _Traits) -> Any:
        """Run an operator that writes: for real on known temporaries, otherwise on stand-ins."""
        targets = [taken[index] for index in traits.written if index < len(taken)]
        targets += [named[key] for key in ("out",) if key in named]
        real = [t for t in _flat(targets) if isinstance(t, Tensor) and not _is_fake(t)]
        if call.all_known and all(t.untyped_storage()._cdata not in self._owned for t in real):
            return call.operator(*taken, **named)
        for tensor in real:
            self._tainted[tensor.untyped_storage()._cdata] = tensor
        written = {id(t): self.stand_in(t) for t in real}

        def replaced(item: Any) -> Any:
            if isinstance(item, list):
                return [replaced(part) for part in item]
            return written.get(id(item), item)

        return self._plain(
            call.operator,
            [replaced(item) for item in taken],
            {key: replaced(item) for key, item in named.items()},
        )


class _Call:
    """The arguments of one operator call: what is unknown made fake, and a key of their shapes."""

    def __init__(self, mode: ShapeMode, operator: OpOverload) -> None:
        self.operator = operator
        self.hashable = True
        self._mode = mode
        self._parts: list[Any] = [operator]
        self._unknown = self._elsewhere = False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls whose results have equal shapes."""
        return tuple(self._parts)

    @property
    def all_known(self) -> bool:
        """Whether the result can be computed: every operand has values, and they are here."""
        return not self._unknown and not self._elsewhere

    def is_masked_index(self, taken: list[Any]) -> bool:
        """Tell whether the shape of ``x[mask]`` has to be read from a known mask."""
        return (
            self.operator is aten.index.Tensor
            and not self._unknown
            and any(index is not None and index.dtype is torch.bool for index in taken[1])
        )

    def take_named(self, name: str, item: Any) -> Any:
        """Take a keyword argument."""
        self._parts.append(name)
        return self.take(item)

    def take(self, item: Any) -> Any:
        """Return an argument as the operator shall see it."""
        kind = type(item)
        if kind in _VALUES:
            self._parts += (kind, item)
        elif item is None or kind is torch.dtype:
            self._parts.append(item)
        elif kind is list or kind is tuple:
            self._parts.append(len(item))
            return [self.take(part) for part in item]
        elif isinstance(item, Tensor):
            return self._take_tensor(item)
        elif kind is torch.device:
            item = self._mode._home if item == _META else item
            self._elsewhere = self._elsewhere or item.type != "cpu"
            self._parts.append(item)
        elif kind in (torch.layout, torch.memory_format, complex):
            self._parts.append(item)
        else:
            self.hashable = False  # a generator, a symbolic number, an object of a library
        return item

    def _take_tensor(self, tensor: Tensor) -> Tensor:
        if not _is_fake(tensor):
            if self._mode.is_known(tensor):
                self._parts.append((tensor.shape, tensor.stride(), tensor.dtype, tensor.device))
                return tensor
            tensor = self._mode.stand_in(tensor)
        self._unknown = True
        self._parts.append((tensor.shape, tensor.stride(), tensor.dtype, tensor.device))
        return tensor


_VALUES = frozenset((int, float, bool, str))


def _is_fake(tensor: Tensor) -> bool:
    return type(tensor) is FakeTensor


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def _flat(items: Iterable[Any]) -> list[Any]:
    return [part for item in items for part in (item if isinstance(item, list) else [item])]


def _geometry_of(result: Any) -> tuple[type | None, list[_Geometry]] | None:
    """Return what is needed to make such a result again, or None when that isn't possible."""
    if _is_fake(result):
        return None, [(result.shape, result.stride(), result.dtype, result.fake_device)]
    if type(result) in (tuple, list) and all(type(part) is FakeTensor for part in result):
        return type(result), [(t.shape, t.stride(), t.dtype, t.fake_device) for t in result]
    return None


def _elements(geometry: tuple[type | None, list[_Geometry]]) -> int:
    return sum(prod(shape) for shape, *_ in geometry[1])
