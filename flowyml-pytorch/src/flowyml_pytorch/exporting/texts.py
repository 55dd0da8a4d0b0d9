"""What the texts in an exported program may be, each by a grammar far narrower than Python's.

torch evaluates symbolic sizes with sympy, which is Python's ``eval``; it runs guards, names and
paths as parts of the source that it makes; and it imports what the structure of inputs names.
These grammars admit what torch itself writes there, and nothing by which code could come along.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
import unicodedata
from math import prod
from typing import Any

_LONGEST = 4000
"""Characters of a formula; far above what torch writes, and quickly parsed."""

_LARGEST = 1 << 64
_BITS = 53
"""Of a float's precision."""
_STEEPEST = 64
"""The largest power, all that are nested multiplied: it bounds the digits of a constant."""

_SYMBOL = re.compile(r"[suz][a-z]{0,3}[0-9]{1,6}")
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,60})?(e[+-]?[0-9]{1,3})?")
_FORMULA = re.compile(r"[A-Za-z0-9_ .,'=()+-]*")
_TAME = re.compile(r"[\w .,:;+\-*/=<>()\[\]@|&%!?~^$]*")
_ATOM = re.compile(r"[\w +\-*/=<>()\[\]@|&%!?~^$,:;]+")


def is_name(text: str) -> bool:
    """Tell whether it is a name for a variable, and nothing that Python gives a meaning."""
    plain = text.isidentifier() and unicodedata.normalize("NFKC", text) == text
    return plain and not _is_special(text) and not keyword.iskeyword(text) and text != "self"


def is_path(text: str) -> bool:
    """Tell whether it is the dotted path of a parameter, a buffer or a layer."""
    return all(_ATOM.fullmatch(atom) and not _is_special(atom) for atom in text.split("."))


def is_tame(text: str) -> bool:
    """Tell whether a text stays one between quotes of any kind, and in a comment."""
    return _TAME.fullmatch(text) is not None


def is_symbol(text: str) -> bool:
    """Tell whether it names a symbolic size, such as ``s77``."""
    return _SYMBOL.fullmatch(text) is not None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


# Symbolic sizes, as sympy.srepr writes them: Mul(Integer(2), Symbol('s77', integer=True)).

_POWERS = _words("Pow PowByNatural FloatPow LShift RShift")
_OPERATIONS = _POWERS | _words(
    "Add Mul Min Max Mod Abs floor ceiling And Or Not Equality Unequality "
    "LessThan StrictLessThan GreaterThan StrictGreaterThan FloorDiv ModularIndexing Where "
    "PythonMod CleanDiv CeilToInt FloorToInt CeilDiv FloatTrueDiv IntTrueDiv TruncToFloat "
    "TruncToInt RoundToInt RoundDecimal ToFloat Identity IsNonOverlappingAndDenseIndicator"
)
_CONSTANTS = _words("true false oo int_oo")


def is_expression(text: str) -> bool:
    """Tell whether it is a symbolic size: symbols and numbers under arithmetic operations."""
    tree = _parsed(text) if _FORMULA.fullmatch(text) else None
    return tree is not None and _is_operand(tree, 1)


def _is_operand(node: ast.expr, power: int) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _CONSTANTS
    if not isinstance(node, ast.Call):
        return _is_integer(node)
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in ("Integer", "Rational"):
        return not node.keywords and all(map(_is_integer, node.args))
    if name == "Symbol":
        flags = all(isinstance(_value(k.value), bool) for k in node.keywords)
        return flags and len(node.args) == 1 and is_symbol(str(_value(node.args[0])))
    if name == "Float":
        usual = all(k.arg == "precision" and _value(k.value) == _BITS for k in node.keywords)
        return usual and len(node.args) == 1 and _is_number(_value(node.args[0]))
    if name not in _OPERATIONS or node.keywords:
        return False
    if name in _POWERS:
        power *= _steepness(node)
    return power <= _STEEPEST and all(_is_operand(item, power) for item in node.args)


def _steepness(node: ast.Call) -> int:
    """Return at most how many times the digits of its base a power has."""
    exponent = [*ast.walk(node.args[-1])] if len(node.args) == 2 else []
    powers = [n for n in exponent if isinstance(n, ast.Name) and n.id in _POWERS]
    numbers = [_value(n) for n in exponent if type(_value(n)) is int]
    return _LARGEST if powers or not exponent else prod(max(1, number) for number in numbers)


def _is_number(value: Any) -> bool:
    return type(value) is str and _NUMBER.fullmatch(value) is not None


def _is_integer(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    value = _value(node)
    return type(value) is int and abs(value) <= _LARGEST


def _value(node: ast.AST) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


def _parsed(text: str) -> ast.expr | None:
    if len(text) > _LONGEST:
        return None
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


# Guards, as torch's printer writes them: (L['x'].size()[0] % 2) == 0.

_OF_A_TENSOR = _words("size stride storage_offset")
_FUNCTIONS = _words("max min abs int float bool round")
_LIBRARY = _words(
    "math.floor math.ceil math.trunc math.sqrt math.isnan math.inf torch._sym_sqrt "
    "torch.sym_float torch.sym_int torch.sym_max torch.sym_min torch.sym_not"
)
_ARITHMETIC = (
    *(ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.UnaryOp, ast.Load, ast.operator),
    *(ast.boolop, ast.cmpop, ast.unaryop),
)
_STEEP = (ast.Pow, ast.LShift, ast.RShift)


def is_guard(text: str) -> bool:
    """Tell whether it is a condition on the sizes of inputs, and calls nothing else."""
    tree = _parsed(text) if is_tame(text.replace("'", "")) else None
    return tree is not None and _is_condition(tree)


def _is_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float, bool) and abs(node.value) <= _LARGEST  # type: ignore[arg-type]  # narrowed by type
    if isinstance(node, ast.Call):
        return not node.keywords and _is_callee(node.func) and all(map(_is_condition, node.args))
    if isinstance(node, ast.Attribute):
        return _dotted(node) in _LIBRARY
    if isinstance(node, (ast.Name, ast.Subscript)):
        return _is_input(node) or (isinstance(node, ast.Subscript) and _is_element(node))
    if isinstance(node, ast.BinOp) and isinstance(node.op, _STEEP):
        return _is_small(node.right) and not _has_power(node.left) and _is_condition(node.left)
    return isinstance(node, _ARITHMETIC) and all(map(_is_condition, ast.iter_child_nodes(node)))


def _is_small(exponent: ast.expr) -> bool:
    value = _value(exponent)
    return type(value) in (int, float) and abs(value) <= _STEEPEST


def _has_power(node: ast.expr) -> bool:
    return any(isinstance(n, ast.BinOp) and isinstance(n.op, _STEEP) for n in ast.walk(node))


def _is_callee(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in _OF_A_TENSOR:
        return _is_input(node.value)
    return _dotted(node) in _FUNCTIONS | _LIBRARY


def _is_element(node: ast.Subscript) -> bool:
    """Tell whether it takes an element of what a method gives: ``L['x'].size()[0]``."""
    return (
        isinstance(node.value, ast.Call) and _is_integer(node.slice) and _is_condition(node.value)
    )


def _is_input(node: ast.AST) -> bool:
    """Tell whether it leads to an input: ``L['x']['y'][0]``."""
    depth = 0
    while isinstance(node, ast.Subscript):
        key = _value(node.slice)
        if not (is_tame(key) if type(key) is str else type(key) is int):
            return False
        node, depth = node.value, depth + 1
    return depth > 0 and isinstance(node, ast.Name) and node.id == "L"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


# The structure of inputs and outputs, as torch's pytree writes it: JSON, with more in its texts.

_CONTAINERS = _words("builtins.tuple builtins.list builtins.dict collections.OrderedDict")


def structure(text: str) -> tuple[Any, set[str]] | None:
    """Read the structure of inputs or outputs.

    Returns:
        The tree, and the names of the types in it that aren't Python's own containers; None when
        there is more in it than torch would write for harmless data.
    """
    try:
        protocol, tree = json.loads(text)
        names: set[str] = set()
        return (tree, names) if protocol == 1 and _is_tree(tree, names) else None
    except (ValueError, TypeError, RecursionError):
        return None


def is_signature(tree: Any) -> bool:
    """Tell whether a structure is that of arguments: a tuple, and a dict by the names of them."""
    if tree["type"] != "builtins.tuple" or len(tree["children_spec"]) != 2:
        return False
    positional, named = tree["children_spec"]
    if positional["type"] != "builtins.tuple" or named["type"] != "builtins.dict":
        return False
    names = json.loads(named["context"])
    return type(names) is list and all(type(name) is str and is_name(name) for name in names)


def _is_tree(tree: Any, names: set[str]) -> bool:
    if type(tree) is not dict or set(tree) != {"type", "context", "children_spec"}:
        return False
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if type(children) is not list or type(kind) not in (str, type(None)):
        return False
    if kind is None:
        return context is None and not children
    if kind == "collections.namedtuple":
        kind, context = context, "null"
    if kind not in _CONTAINERS:
        if str(kind).startswith(("builtins.", "collections.")):
            return False
        names.add(str(kind))
    dotted = type(kind) is str and all(map(is_name, kind.split(".")))
    harmless = type(context) is str and _is_harmless(json.loads(context))
    return dotted and harmless and all(_is_tree(child, names) for child in children)


def _is_harmless(value: Any) -> bool:
    """Tell whether JSON data holds no object: torch imports the enumeration that one may name."""
    if type(value) is list:
        return all(map(_is_harmless, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or (is_tame(value) if type(value) is str else type(value) in (bool, int))
