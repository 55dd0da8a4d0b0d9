"""The schema that skops writes: a tree of nodes, each with the rule by which it is rebuilt.

This is the closed world of nodes that this adapter reads and writes, and the order in which skops
visits them, which decides what a reference to an earlier node finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

Node: TypeAlias = dict[str, Any]

PROTOCOL = 2
"""The oldest protocol of skops that is read: rules of older ones were less strict."""

MAX_DEPTH = 150
"""Far above what people compose, and below what skops can visit within Python's limit."""

_CONTENT = {
    "ConstructorFromReduceNode": ("content",),
    "RandomStateNode": ("content",),
    "DTypeNode": ("content",),
    "OperatorFuncNode": ("attrs",),
}
_MEMBERS = {
    "DefaultDictNode": ("main", "default_factory"),
    "PartialNode": ("func", "args", "kwds", "namespace"),
    "MethodNode": ("obj",),
    "MaskedArrayNode": ("data", "mask"),
    "RandomGeneratorNode": ("bit_generator", "seed_seq"),
}
_LISTS = ("ListNode", "SetNode", "TupleNode")
_REDUCED = ("LossNode", "TreeNode", "QuantileForestNode")
_LEAVES = ("FunctionNode", "TypeNode", "JsonNode", "SliceNode")
_FILES = {
    "NdArrayNode": ".npy",
    "SparseMatrixNode": ".npz",
    "BytesNode": ".bin",
    "BytearrayNode": ".bin",
}

LOADERS = frozenset({"DictNode", "ObjectNode", *_CONTENT, *_MEMBERS, *_LISTS, *_REDUCED, *_LEAVES})
LOADERS |= frozenset(_FILES)


def loader(node: Node) -> str:
    """Return the rule by which a node is rebuilt."""
    return str(node["__loader__"])


def dotted(node: Node) -> str:
    """Return the dotted name of what a node is rebuilt with."""
    return f"{node['__module__']}.{node['__class__']}"


def suffix(node: Node) -> str | None:
    """Return how the name of a node's file ends, or None when it has no file."""
    if loader(node) == "NdArrayNode" and node.get("type") != "numpy":
        return None
    return _FILES.get(loader(node))


def is_reference(node: Node) -> bool:
    """Tell whether it stands for a node that came before."""
    return set(node) == {"__id__"}


def slots(node: Node) -> Iterator[tuple[Any, Any, str]]:
    """Yield where a node's children are, in the order in which skops visits them.

    Yields:
        The dict or list that holds a child, the key there, and the child's name for people.
    """
    kind = loader(node)
    if kind == "DictNode":
        yield node, "key_types", ""
        yield from ((node["content"], key, key) for key in node["content"])
    elif kind == "ObjectNode" and node.get("content") is not None:
        yield node, "content", ""
    elif kind in _CONTENT:
        yield from ((node, key, "") for key in _CONTENT[kind])
    elif kind in _MEMBERS:
        yield from ((node["content"], key, key) for key in _MEMBERS[kind])
    elif kind in _LISTS:
        yield from ((node["content"], i, str(i)) for i in range(len(node["content"])))
    elif kind in _REDUCED:
        yield node, "content", ""
        yield node["__reduce__"], "args", "args"
    elif kind == "NdArrayNode" and node["type"] == "json":
        yield from ((node["content"], i, str(i)) for i in range(len(node["content"])))
        yield node, "shape", "shape"


def children(node: Node) -> Iterator[Node]:
    """Yield a node's children in the order in which skops visits them."""
    for holder, key, _ in slots(node):
        yield holder[key]
