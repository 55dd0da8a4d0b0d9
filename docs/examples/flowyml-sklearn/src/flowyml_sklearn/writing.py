"""Turns an archive of skops into one that is the same for the same content, in any process.

skops numbers objects by their addresses, names files by these or at random, writes an object anew
wherever it is met, keeps sets in the order of their hashes, and names a universal function by the
private module in which SciPy's version has it. Here objects that are met more than once are
numbered in the order in which skops will read them, and written once; what has no identity worth
keeping, such as a number, gets no number.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from flowyml_sklearn import arrays
from flowyml_sklearn.archive import UnfitError
from flowyml_sklearn.schema import (
    LOADERS,
    MAX_DEPTH,
    Node,
    children,
    dotted,
    loader,
    slots,
    suffix,
)

LARGE = 2**16
"""A larger array is a file of its own, which versions share that don't change it."""

_VALUES = ("JsonNode", "SliceNode", "BytesNode", "DTypeNode")
_NAMED = ("FunctionNode", "TypeNode")
_BUILT = ("DictNode", "ListNode", "SetNode", "TupleNode", "ObjectNode", "ConstructorFromReduceNode")
_CANONICAL: dict[str, Callable[[bytes], bytes]] = {
    ".npy": arrays.canonical_npy,
    ".npz": arrays.canonical_npz,
    ".bin": bytes,
}


class Writer:
    """Writes one schema.

    Attributes:
        entries: the files by name, such as ``3.npy``, or ``arrays/3.npy`` when large.
        places: which attribute a large file belongs to, for people.
    """

    def __init__(self, raw: Mapping[str, bytes]) -> None:
        self._raw = raw
        self._met: Counter[Hashable] = Counter()
        self._numbers: dict[Hashable, int] = {}
        self._names: dict[tuple[str, bytes], str] = {}
        self._renamed: dict[str, str] = {}
        self.entries: dict[str, bytes] = {}
        self.places: dict[str, str] = {}

    def schema(self) -> Node:
        """Return the schema in its one form; it can be taken once.

        Raises:
            UnfitError: when something couldn't be found again when it is loaded.
        """
        schema: Node = json.loads(self._raw["schema.json"])
        protocol = schema.pop("protocol")
        del schema["_skops_version"]
        self._prepare(schema, 0)
        return {"protocol": protocol, **self._written(schema, "")}

    def _prepare(self, node: Node, depth: int) -> None:
        """Name things as they are found anywhere, sort sets, and count what is met again."""
        if loader(node) not in LOADERS:
            raise UnfitError(f"skops saves a {dotted(node)} by a rule that is unknown here")
        if depth > MAX_DEPTH:
            raise UnfitError(f"it is nested deeper than {MAX_DEPTH} levels")
        _check_found_again(node)
        identity = _identity(node)
        self._met[identity] += 1
        if identity is not None and self._met[identity] > 1:
            return
        for child in children(node):
            self._prepare(child, depth + 1)
        if loader(node) == "SetNode":
            node["content"].sort(key=self._order)
        if dotted(node) == "builtins.frozenset":
            node["content"]["content"][0]["content"].sort(key=self._order)

    def _order(self, node: Node) -> str:
        """Return a text by which items of sets are sorted, the same in any process."""
        if suffix(node) is not None:
            return self._raw[node["file"]].hex()
        below = [self._order(child) for child in children(node)]
        own = None if below else node.get("content")
        return json.dumps([dotted(node), own, below])

    def _written(self, node: Node, path: str) -> Node:
        identity = _identity(node)
        if identity in self._numbers:
            return {"__id__": self._numbers[identity]}
        node.pop("__id__", None)
        if identity is not None and self._met[identity] > 1:
            self._numbers[identity] = node["__id__"] = len(self._numbers) + 1
        ending = suffix(node)
        if ending is not None:
            node["file"] = self._file(node["file"], ending, path)
        for holder, key, name in slots(node):
            below = f"{path}.{name}" if path and name else path or name
            holder[key] = self._written(holder[key], below)
        return node

    def _file(self, raw_name: str, ending: str, path: str) -> str:
        if raw_name not in self._renamed:
            content = _CANONICAL[ending](self._raw[raw_name])
            key = (ending, content)
            if key not in self._names:
                folder = "arrays/" if len(content) > LARGE else ""
                name = self._names[key] = f"{folder}{len(self._names)}{ending}"
                self.entries[name] = content
                if folder:
                    self.places[name] = path
            self._renamed[raw_name] = self._names[key]
        return self._renamed[raw_name]


def _identity(node: Node) -> Hashable:
    """Return what makes a node another one than its equals, or None for a plain value."""
    kind = loader(node)
    if kind in _VALUES or (kind == "NdArrayNode" and node["__class__"] != "ndarray"):
        return None
    if kind in _NAMED:
        return dotted(node)
    if kind == "TupleNode" and all(_is_value(child) for child in children(node)):
        return None
    return node.get("__id__")


def _is_value(node: Node) -> bool:
    return loader(node) in _NAMED or _identity(node) is None


def _check_found_again(node: Node) -> None:
    """Check that a name leads to what was saved, and make it the same in any process.

    An address tells whether it does: the object is alive, since it is a part of the estimator.
    """
    kind = loader(node)
    if dotted(node) == "numpy.memmap":  # a view into a file that may be gone: joblib makes them
        node["__class__"] = "ndarray"
    if kind not in (*_NAMED, *_BUILT):
        return
    found = getattr(sys.modules.get(node["__module__"]), node["__class__"], None)
    if found is None or (kind in _NAMED and id(found) != node["__id__"]):
        raise UnfitError(
            f"{dotted(node)} can't be found again by its name. Functions and classes have to be "
            f"defined at the top level of a module; a lambda is not"
        )
    if isinstance(found, np.ufunc):
        name = str(found.__name__)
        for module in (np, special):
            if getattr(module, name, None) is found:
                node["__module__"], node["__class__"] = module.__name__, name


def difference(left: Any, right: Any, path: str = "") -> str | None:
    """Return where two schemas first differ, in words, or None."""
    if type(left) is not type(right):
        return path
    if isinstance(left, dict):
        if list(left) != list(right):
            return path
        left, right = list(left.items()), list(right.items())
        pairs = [(key, a, b) for (key, a), (_, b) in zip(left, right, strict=True)]
    elif isinstance(left, list):
        if len(left) != len(right):
            return path
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(left, right, strict=True))]
    else:
        return None if left == right else path
    for key, a, b in pairs:
        hidden = key in ("content", "__reduce__", "file", "key_types")
        below = path if hidden else f"{path}.{key}".lstrip(".")
        found = difference(a, b, below)
        if found is not None:
            return found
    return None
