"""What a structure consists of, node by node, as its JSON says: nothing in it is built."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from flowyml_pytorch.storing.structure import DEFAULTS

_MOST = 100
"""Characters of a value's text."""

_FEW = 16
"""Plain values in a row that are compared each by itself, at most."""

_WITHOUT_NAMES = ("_modules", "_parameters", "_buffers")
"""Attributes of a module that the names of what is in them leave out."""

_PAIRS = {"$dict": "dict", "$ordered": "OrderedDict"}
_MORE_THAN_PAIRS = {"$defaultdict": "default_factory", "$state_dict": "_metadata"}
_PARTS = {
    "$partial": ("func", "args", "keywords"),
    "$method": ("__self__", "__func__"),
    "$deque": ("maxlen", ""),
}
_ITEMS = {"$list": "list", "$tuple": "tuple", "$set": "set", "$frozenset": "frozenset"}


@attrs.frozen(eq=False)
class Node:
    """One value in a structure.

    Attributes:
        tag: which kind of a form it has: ``"value"`` if it has no parts, ``"values"`` for a row of
            such.
        told: what it is, in words.
        form: the form, without what says that it is shared; of a tensor its entry, of an object
            its record.
        token: equal for values that are equal, whatever is in them.
        identity: equal for forms that stand for one and the same value; None for what can't be
            told from its equals.
    """

    tag: str
    told: str
    form: Any
    token: str
    identity: tuple[str, int] | None = None


@attrs.frozen(eq=False)
class Child:
    """A part of a node: its name there, and whether it is the key of a dict rather than a value."""

    label: str
    node: Node
    is_key: bool = False


class Anatomy:
    """The nodes of one structure."""

    def __init__(self, structure: Mapping[str, Any]) -> None:
        self._objects = structure["objects"]
        self._tensors = structure["tensors"]
        self._shared = dict(_shared_in(structure))

    def tensor(self, number: int) -> Any:
        """Return the entry of a tensor."""
        return self._tensors[number]

    def node(self, form: Any) -> Node:
        """Return the node of a form."""
        shared = _number_if_shared(form)
        if shared is not None:
            return attrs.evolve(self.node(self._shared[shared]), identity=("shared", shared))
        if isinstance(form, list):
            return _items("$list", form)
        if not isinstance(form, dict):
            return _value(form)
        inner: Any
        key, inner = next(iter(form.items())) if len(form) == 1 else ("", None)
        if not key.startswith("$"):
            pairs = [[name, item] for name, item in form.items()]
            return Node("$dict", f"dict of {len(pairs)}", pairs, "")
        if key == "$object":
            record = self._objects[inner]
            token = json.dumps([record["$class"], record.get("kind"), record.get("parametrized")])
            told = record["$class"].replace(":", ".")
            return Node("object", told, record, token, ("object", inner))
        if key == "$tensor":
            return Node("tensor", "tensor", self._tensors[inner], "", ("tensor", inner))
        if key == "$numpy" and inner[1] is not None:
            told = " ".join([f"array of {inner[0]} {tuple(inner[1])}", *inner[3:]])
            return Node("array", told, inner, told)
        if key in _PAIRS or key in _MORE_THAN_PAIRS:
            count = len(inner if key in _PAIRS else inner[1])
            return Node(key, f"{_PAIRS.get(key, key.removeprefix('$'))} of {count}", inner, "")
        if key in _PARTS:
            return Node(key, key.removeprefix("$"), inner, "")
        if key in _ITEMS and (key == "$tuple" or _refers(inner)):
            return _items(key, inner)
        return _value(form)

    def children(self, node: Node) -> dict[Any, Child]:
        """Return the parts of a node, by what tells which of them belong together in two nodes."""
        found: dict[Any, Child] = {}
        if node.tag == "object":
            for name, form in node.form["state"].items():
                label = "" if name in _WITHOUT_NAMES else name
                found[name] = Child(label, self.node(form))
        elif node.tag == "tensor":
            for name, form in node.form.get("attributes", {}).items():
                found[name] = Child(name, self.node(form))
        elif node.tag in _PAIRS:
            self._add_pairs(node.form, found)
        elif node.tag in _MORE_THAN_PAIRS:
            name = _MORE_THAN_PAIRS[node.tag]
            self._add_pairs(node.form[1], found)
            found[None] = Child(name, self.node(node.form[0]))
        elif node.tag in _PARTS:
            for name, form in zip(_PARTS[node.tag], node.form, strict=True):
                found[name] = Child(name, self.node(form))
        elif node.tag in _ITEMS:
            for index, form in enumerate(node.form):
                found[index] = Child(str(index), self.node(form))
        return found

    def _add_pairs(self, pairs: Any, found: dict[Any, Child]) -> None:
        """Add the values of a dict by their keys; by their place where a key is no plain value."""
        for place, (key, form) in enumerate(pairs):
            known = self.node(key)
            if known.tag == "value":
                label = key if isinstance(key, str) else known.told
                found["value", known.token] = Child(label, self.node(form))
            else:
                found["key", place] = Child(f"{place} (the key)", known, is_key=True)
                found["value", place] = Child(str(place), self.node(form))

    def default(self, name: Any, beside: Node) -> Node | None:
        """Return what a module has in place of an attribute that isn't written."""
        if name not in DEFAULTS:
            return None
        usual = DEFAULTS[name]
        if isinstance(usual, (bool, type(None))):
            return self.node(usual)
        return self.node({beside.tag: []} if beside.tag == "$ordered" else _EMPTY[type(usual)])


_EMPTY: Mapping[type, Any] = {dict: {}, set: {"$set": []}}


def array_of(elements: Tensor, form: Any) -> Tensor:
    """Return the numbers of a NumPy array, or its bytes where torch has no such numbers.

    Args:
        elements: its bytes.
        form: its type, shape and bytes, and maybe flags.
    """
    kind, shape, _, *flags = form
    dtype = _DTYPES.get(kind.lstrip("<|"))
    if dtype is None:
        return elements
    if flags and "F" in flags[0]:
        return elements.view(dtype).reshape(shape[::-1]).permute(*range(len(shape))[::-1])
    return elements.view(dtype).reshape(shape)


_DTYPES = {
    **{"b1": torch.bool, "f2": torch.float16, "f4": torch.float32, "f8": torch.float64},
    **{"i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64},
    **{"u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "u8": torch.uint64},
    **{"c8": torch.complex64, "c16": torch.complex128},
}


def _number_if_shared(form: Any) -> int | None:
    """Return the number of a form that occurs several times, wherever this one stands."""
    if not isinstance(form, dict) or len(form) != 1:
        return None
    if "$same" in form:
        return int(form["$same"])
    return int(form["$shared"][0]) if "$shared" in form else None


def _shared_in(structure: Any) -> Iterator[tuple[int, Any]]:
    """Yield the forms that occur again, by number."""
    todo = [structure]
    while todo:
        form = todo.pop()
        if isinstance(form, dict):
            if len(form) == 1 and "$shared" in form:
                number, inner = form["$shared"]
                yield int(number), inner
            todo += form.values()
        elif isinstance(form, list):
            todo += form


def _refers(form: Any) -> bool:
    """Tell whether a form has objects or tensors in it."""
    todo = [form]
    while todo:
        form = todo.pop()
        if isinstance(form, dict):
            if not {"$object", "$tensor"}.isdisjoint(form):
                return True
            todo += form.values()
        elif isinstance(form, list):
            todo += form
    return False


def _items(tag: str, items: Any) -> Node:
    """Return the node of a list or the like; of many plain values in a row, one for all of them."""
    told = f"{_ITEMS[tag]} of {len(items)}"
    if len(items) > _FEW and not any(isinstance(item, (dict, list)) for item in items):
        return Node("values", told, items, json.dumps([tag, items]))
    return Node(tag, told, items, str(len(items)))


def _value(form: Any) -> Node:
    token = json.dumps(form)
    told = _told(form)
    return Node("value", told if len(told) <= _MOST else f"{told[:_MOST]}…", form, token)


def _told(form: Any) -> str:
    """Return a value in words, as Python would write most of them."""
    if not isinstance(form, dict) or len(form) != 1:
        return repr(form)
    ((key, inner),) = form.items()
    if key in ("$set", "$frozenset"):
        items = ", ".join(map(_told, inner[:_MOST]))
        return f"{{{items}}}" if inner else f"{key.removeprefix('$')}()"
    if key in ("$dtype", "$qscheme", "$layout", "$memory_format"):
        return f"torch.{inner}"
    if key == "$numpy":
        return _number_of_numpy(*inner)
    if key == "$enum":
        return f"{_told(inner[0])}.{inner[1]}"
    if key in ("$slice", "$range", "$size"):
        return f"{key.removeprefix('$')}({', '.join(map(_told, inner))})"
    if key == "$name":
        return str(inner).replace(":", ".")
    return inner if isinstance(inner, str) else repr(inner)


def _number_of_numpy(kind: str, _: None, digits: str) -> str:
    dtype = _DTYPES.get(kind.lstrip("<|"))
    if dtype is None:
        return f"{kind} {digits}"
    return repr(torch.frombuffer(bytearray.fromhex(digits), dtype=dtype).item())
