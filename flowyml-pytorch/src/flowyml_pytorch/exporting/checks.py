"""What the description of an exported program may say, checked before torch sees any of it.

torch makes Python source of a program's names and runs it, evaluates its formulas as Python, looks
functions up by any dotted path from ``torch``, and imports what the structure of its inputs names.
What is walked here are torch's own schema classes, so that no field is overlooked: every text is
held to the grammar of its place, and a place without one may hold no text at all.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any

import attrs
import torch
from torch._export.serde import schema
from torch._export.serde.union import _Union

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.trust import Trust
from flowyml_pytorch.exporting.texts import (
    is_expression,
    is_guard,
    is_name,
    is_path,
    is_signature,
    is_symbol,
    is_tame,
    structure,
)

_ON_SIZES = re.compile(
    r"_operator\.(add|and_|eq|floordiv|ge|gt|le|lshift|lt|mod|mul|ne|neg|or_|pos|pow|rshift|sub"
    r"|truediv)|math\.trunc|torch\.(_sym_sqrt|sym_(float|int|ite|max|min|not))"
)
"""Functions on symbolic numbers."""

_CONTROL_FLOW = re.compile(
    r"torch\.ops\.higher_order\."
    r"(cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
"""Operators that run a part of the same program."""

_OPERATOR = re.compile(r"torch\.ops\.([a-z_]\w*)\.(\w+)\.(\w+)")
_HARMFUL = re.compile(
    r"from_file|_print|_test_\w+|_sparse_\w+_tensor_unsafe|_nested_view_from_buffer\w*"
)
"""Operators of aten that touch files, print, or take their arguments' word for what is safe."""

_DEVICES = frozenset({"cpu", "cuda", "meta", "mps", "xpu"})
_MOST_BITS = 64


@attrs.define
class Checker:
    """Checks one program, part by part; what needs trust is collected.

    Attributes:
        ref: whose program it is, for messages.
        operators: operators outside of torch's own namespaces, by the name for ``trust=``.
        containers: the types among inputs and outputs that aren't Python's own containers.
        refused: what was refused, if anything was.
        known: the operators that torch and the libraries imported so far define.
    """

    ref: str
    operators: dict[str, set[str]] = attrs.field(factory=dict)
    containers: dict[str, None] = attrs.field(factory=dict)
    refused: str | None = None
    known: frozenset[str] = attrs.field(init=False, repr=False)

    @known.default
    def _registered(self) -> frozenset[str]:
        return frozenset(torch._C._dispatch_get_all_op_names())

    def check(self, data: Any, kind: type) -> None:
        """Make sure that JSON data is of a schema class, and harmless.

        Args:
            data: parsed JSON.
            kind: a class of ``torch._export.serde.schema``.

        Raises:
            UntrustedDataError: when torch might run some of it.
            MaterializationError: when it isn't of that class.
        """
        try:
            self._walk(kind, data, kind.__name__)
        except RecursionError:
            raise self._unfit(kind.__name__, "is nested too deeply") from None

    def check_program(self, data: Any) -> None:
        """Make sure that JSON data is the description of a harmless program; see `check`."""
        self.check(data, schema.ExportedProgram)
        try:
            inputs = data["graph_module"]["graph"]["inputs"]
            entries = data["graph_module"]["module_call_graph"]
        except KeyError as error:
            raise self._unfit("ExportedProgram", f"lacks {error}") from None
        for text in (item["as_string"] for item in inputs if "as_string" in item):
            if not is_tame(text):  # it gets between quotes in the code of the guards
                raise self._dangerous("an input", text)
        first = entries[0] if entries else {}
        callable_ = first.get("fqn") == "" and bool(first.get("signature"))
        self._want(callable_, "ExportedProgram", "doesn't say how it is called")

    def check_tensors(self, data: Any) -> None:
        """Make sure that JSON data makes tensors of bytes, and has none pickled; see `check`."""
        self.check(data, schema.PayloadConfig)
        self._want("config" in data, "PayloadConfig", "lacks 'config'")
        for name, payload in data["config"].items():
            if payload.get("use_pickle") is not False:
                raise self._dangerous("PayloadMeta.use_pickle", f"true for {name}")

    @property
    def required(self) -> tuple[str, ...]:
        """The dotted names that loading needs, as ``trust=`` takes them."""
        return *self.operators, *self.containers

    def refuse_untrusted(self, trust: Trust) -> None:
        """Make sure that the caller trusts what the program uses besides torch.

        Raises:
            UntrustedDataError: listing all that isn't trusted.
        """
        refused = [name for name in self.required if not trust.allows(name)]
        if refused:
            raise UntrustedDataError(
                f"{self.ref} can't be loaded yet: its program uses what is neither torch's nor "
                f"Python's own, nor trusted: {', '.join(refused)}. If you trust it, pass "
                f"trust={refused!r}. To load the weights only, pass into= a module you built.",
                refused,
            )

    def refuse_unknown(self) -> None:
        """Make sure that the operators are there which libraries besides torch define.

        Raises:
            MaterializationError: listing all that are missing.
        """
        missing = sorted(set().union(*self.operators.values()) - self.known)
        if missing:
            raise MaterializationError(
                f"{self.ref} uses operators that this process doesn't have: {', '.join(missing)}. "
                f"Import the libraries that define them first."
            )

    def _walk(self, kind: Any, data: Any, where: str) -> None:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):  # X | None
            if data is not None:
                self._walk(arguments[0], data, where)
        elif origin is list:
            self._want(type(data) is list, where, "is no list")
            for item in data:
                self._walk(arguments[0], item, where)
        elif origin is dict:
            self._want(type(data) is dict, where, "is no object")
            for key, item in data.items():
                self._check_text(key, f"{where} key")
                self._walk(arguments[1], item, where)
        elif kind is str:
            self._want(type(data) is str, where, "is no text")
            self._check_text(data, where)
        elif hasattr(kind, "__dataclass_fields__"):
            self._walk_object(kind, data, where)
        else:
            self._want(_is_scalar(kind, data), where, f"is {data!r:.40}")

    def _walk_object(self, kind: type, data: Any, where: str) -> None:
        self._want(type(data) is dict, where, "is no object")
        fields = _fields(kind)
        unknown = [name for name in data if name not in fields]
        self._want(not unknown, where, f"has the unknown field {', '.join(unknown)[:80]!r}")
        self._want(len(data) == 1 or not issubclass(kind, _Union), where, "has several values")
        for name, item in data.items():
            self._walk(fields[name], item, f"{kind.__name__}.{name}")

    def _check_text(self, text: str, where: str) -> None:
        special = _SPECIAL.get(where)
        rule = _RULES.get(where)
        if not (special(self, text) if special else rule is not None and rule(text)):
            raise self._dangerous(where, text)

    def _dangerous(self, where: str, text: str) -> UntrustedDataError:
        self.refused = f"{where} is {text[:120]!r}"
        return UntrustedDataError(
            f"{self.ref}: its program is refused, and nothing of it was run: {self.refused}. No "
            f"program that flowyml loads says that there, and torch may run it."
        )

    def _want(self, condition: bool, where: str, otherwise: str) -> None:
        if not condition:
            raise self._unfit(where, otherwise)

    def _unfit(self, where: str, problem: str) -> MaterializationError:
        return MaterializationError(
            f"{self.ref}: its program isn't one that torch {torch.__version__} knows: {where} "
            f"{problem}. It may be damaged, or of a newer torch."
        )

    def _is_target(self, text: str) -> bool:
        """Tell whether a node may call it; an operator of another library is collected."""
        if _ON_SIZES.fullmatch(text) or _CONTROL_FLOW.fullmatch(text):
            return True
        found = _OPERATOR.fullmatch(text)
        if found is None:
            return False
        namespace, name, overload = found.groups()
        operator = f"{namespace}::{name}" + (f".{overload}" if overload != "default" else "")
        if namespace in ("aten", "prims"):
            return operator in self.known and not _HARMFUL.fullmatch(name)
        if namespace == "higher_order" or not is_name(name) or not is_name(overload):
            return False
        self.operators.setdefault(text.rpartition(".")[0], set()).add(operator)
        return True

    def _is_structure(self, text: str) -> bool:
        """Tell whether it is the structure of outputs; types that need trust are collected."""
        found = structure(text)
        if found is not None:
            self.containers.update(dict.fromkeys(sorted(found[1])))
        return found is not None

    def _is_signature(self, text: str) -> bool:
        found = structure(text)
        return found is not None and is_signature(found[0]) and self._is_structure(text)


def _is_scalar(kind: Any, data: Any) -> bool:
    if kind is bool:
        return type(data) is bool
    if kind is float:
        return type(data) in (int, float) or data in ("Infinity", "-Infinity", "NaN")
    if type(data) is not int or data.bit_length() > _MOST_BITS:
        return False
    return kind is int or (issubclass(kind, IntEnum) and data in {*kind})


@cache
def _fields(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema))


def _one_of(*texts: str) -> Callable[[str], bool]:
    return frozenset(texts).__contains__


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _empty_or(rule: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: not text or rule(text)


def _anything(text: str) -> bool:
    return True


def _each(rule: Callable[[str], bool], *fields: str) -> Iterable[tuple[str, Callable[[str], bool]]]:
    return ((field, rule) for field in fields)


_RULES: Mapping[str, Callable[[str], bool]] = dict(
    (
        *_each(
            is_name, "TensorArgument.name", "SymIntArgument.as_name", "SymFloatArgument.as_name"
        ),
        *_each(is_name, "SymBoolArgument.as_name", "GraphArgument.name", "Node.name"),
        *_each(is_name, "Graph.tensor_values key", "Graph.sym_int_values key"),
        *_each(is_name, "Graph.sym_bool_values key", "Graph.sym_float_values key"),
        *_each(is_name, "InputToConstantInputSpec.name", "UserInputMutationSpec.user_input_name"),
        *_each(is_name, "ModuleCallSignature.forward_arg_names", "NamedTupleDef.field_names"),
        *_each(is_name, "ExportedProgram.opset_version key"),
        *_each(_matching(r"(?!__)\w*"), "NamedArgument.name"),  # an operator may call one "from"
        *_each(is_path, "InputToParameterSpec.parameter_name", "InputToBufferSpec.buffer_name"),
        *_each(is_path, "InputToTensorConstantSpec.tensor_constant_name"),
        *_each(is_path, "BufferMutationSpec.buffer_name", "ParameterMutationSpec.parameter_name"),
        *_each(is_path, "PayloadConfig.config key", "GraphModule.treespec_namedtuple_fields key"),
        *_each(_empty_or(is_path), "ModuleCallEntry.fqn"),
        *_each(_anything, "Argument.as_string", "Argument.as_strings"),  # written as literals
        *_each(_anything, "Node.metadata"),  # kept as it is
        *_each(_one_of("nn_module_stack", "torch_fn"), "Node.metadata key"),
        *_each(is_tame, "ConstantValue.as_string", "ExportedProgram.torch_version"),
        *_each(is_expression, "SymExpr.expr_str"),
        *_each(is_guard, "ExportedProgram.guards_code"),
        *_each(is_symbol, "ExportedProgram.range_constraints key"),
        *_each(_one_of("ATEN", "TRAINING"), "ExportedProgram.verifiers"),
        *_each(_DEVICES.__contains__, "Device.type"),
        *_each(_matching(r"(weight|tensor)_\d{1,6}"), "PayloadMeta.path_name"),
    )
)
"""What a text may be, by its field in torch's schema. A field that isn't here may hold none."""

_SPECIAL: Mapping[str, Callable[[Checker, str], bool]] = {
    "Node.target": Checker._is_target,
    "ModuleCallSignature.in_spec": Checker._is_signature,
    "ModuleCallSignature.out_spec": Checker._is_structure,
}
"""Rules that collect what needs trust."""
