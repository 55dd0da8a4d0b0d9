"""Checks a schema and its files before skops gets to see them: they may come from a stranger.

skops computes what a schema needs and refuses what isn't trusted; it believes the rest. A schema
that refers to itself, or to the same node from everywhere, would keep it busy for ever; a header
would make NumPy reserve any amount of memory; a generator's position would make it read anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flowyml_sklearn import arrays
from flowyml_sklearn.archive import UnfitError
from flowyml_sklearn.schema import (
    LOADERS,
    MAX_DEPTH,
    PROTOCOL,
    Node,
    children,
    dotted,
    is_reference,
    loader,
    suffix,
)

_LIMITS = {"pos": 624, "buffer_pos": 4, "pool_size": 64}
"""The largest values of a random generator's state that NumPy can be given; it doesn't check."""

_KEYS = ("builtins.str", "builtins.int", "builtins.float")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)+")
_TIMES = 20
_ANYWAY = 1_000_000
"""How many nodes a schema may be read as, by the number it has and for any."""


def parse(text: bytes) -> Node:
    """Read a schema's text.

    Raises:
        UnfitError: when it isn't JSON, or of a protocol that isn't read.
    """
    try:
        schema: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"a schema that isn't JSON: {error}") from error
    if not isinstance(schema, dict) or type(schema.get("protocol")) is not int:
        raise UnfitError("a schema without a protocol")
    if schema["protocol"] < PROTOCOL:
        raise UnfitError(f"a schema of protocol {schema['protocol']}, older than {PROTOCOL}")
    return dict(schema)


def check(schema: Node, entries: Mapping[str, bytes]) -> None:
    """Check a schema and the files that belong to it.

    Raises:
        UnfitError: saying what is wrong.
    """
    checker = _Checker(entries)
    try:
        size = checker.node(schema, 0)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UnfitError(f"a schema with an unfit node ({told})") from error
    unused = sorted(set(entries) - checker.used)
    if unused:
        raise UnfitError(f"a file {unused[0]!r} that the schema doesn't name")
    if size > _TIMES * checker.nodes + _ANYWAY:
        raise UnfitError(f"a schema of {checker.nodes} nodes that stands for {size}")


class _Checker:
    def __init__(self, entries: Mapping[str, bytes]) -> None:
        self._entries = entries
        self._known: dict[int, Node] = {}
        self._sizes: dict[int, int] = {}
        self.used: set[str] = set()
        self.nodes = 0

    def node(self, node: Node, depth: int) -> int:
        """Check a node with all below; return how many nodes it stands for."""
        self.nodes += 1
        if is_reference(node):
            return self._size_of(node["__id__"])
        if depth > MAX_DEPTH:
            raise UnfitError(f"a schema nested deeper than {MAX_DEPTH} levels")
        self._check_names(node)
        number = node.get("__id__")
        if number is not None:
            if type(number) is not int or number < 1 or number in self._known:
                raise UnfitError(f"a schema with an unfit number {number!r}")
            self._known[number] = node
        self._check_content(node)
        size = 1 + sum([self.node(child, depth + 1) for child in children(node)])
        self._check_below(node)
        if number is not None:
            self._sizes[number] = size
        return size

    def _size_of(self, number: Any) -> int:
        if type(number) is not int or number not in self._sizes:
            raise UnfitError(f"a schema that refers to the node {number!r} before its end")
        return self._sizes[number]

    def _check_names(self, node: Node) -> None:
        names = [node["__class__"], node["__module__"], node["__loader__"]]
        if loader(node) not in LOADERS or not _NAME.fullmatch(dotted(node)):
            raise UnfitError(f"a schema with a node {names!r}")

    def _check_content(self, node: Node) -> None:
        """Check what a node holds itself."""
        kind = loader(node)
        ending = suffix(node)
        if ending is not None:
            self._check_file(node["file"], ending)
        elif kind == "NdArrayNode" and node["type"] != "json":
            raise UnfitError(f"an array of type {node['type']!r}")
        elif kind == "JsonNode":
            _plain(node)
        elif kind == "SliceNode":
            for key in ("start", "stop", "step"):
                if type(node["content"][key]) not in (int, type(None)):
                    raise UnfitError("a slice of what are no whole numbers")
        elif kind == "DictNode" and type(node["content"]) is not dict:
            raise UnfitError("a dictionary without content")
        elif kind == "MethodNode" and not str(node["content"]["func"]).isidentifier():
            raise UnfitError("a method without a name")

    def _check_file(self, name: str, ending: str) -> None:
        if type(name) is not str or not name.endswith(ending) or name not in self._entries:
            raise UnfitError(f"a schema that names a file {name!r}, which isn't there")
        if name in self.used:
            return
        self.used.add(name)
        if ending == ".npy":
            arrays.check_npy(self._entries[name])
        elif ending == ".npz":
            arrays.check_npz(self._entries[name])

    def _check_below(self, node: Node) -> None:
        """Check what a node makes of those below it, which are known by now."""
        if loader(node) == "DictNode":
            self._check_keys(node)
        elif loader(node) == "RandomStateNode":
            self._check_state(self._of(node["content"]))
        elif loader(node) == "RandomGeneratorNode":
            self._check_state(self._of(node["content"]["bit_generator"]))
            self._check_state(self._of(node["content"]["seed_seq"]))

    def _check_keys(self, node: Node) -> None:
        types = self._of(node["key_types"])
        if loader(types) != "ListNode" or len(types["content"]) != len(node["content"]):
            raise UnfitError("a dictionary whose keys and their types don't match")
        for kind in map(self._of, types["content"]):
            number = kind["__module__"] == "numpy" and loader(kind) == "TypeNode"
            if not number and (loader(kind) != "TypeNode" or dotted(kind) not in _KEYS):
                raise UnfitError(f"a dictionary with keys of type {dotted(kind)}")

    def _check_state(self, node: Node) -> None:
        """Check a random generator's state: a dictionary, with numbers that NumPy can be given."""
        if loader(node) != "DictNode":
            raise UnfitError("a random generator whose state is no dictionary")
        for key, child in node["content"].items():
            value = self._of(child)
            if key == "state" and loader(value) != "JsonNode":
                self._check_state(value)
            elif key == "bit_generator" and not str(_plain(value)).isidentifier():
                raise UnfitError("a random generator without a name")
            elif key in _LIMITS:
                number = _plain(value) if loader(value) == "JsonNode" else None
                if type(number) is not int or not 0 <= number <= _LIMITS[key]:
                    raise UnfitError(f"a random generator whose {key} is out of range")

    def _of(self, node: Node) -> Node:
        return self._known[node["__id__"]] if is_reference(node) else node


def _plain(node: Node) -> Any:
    if type(node["content"]) is not str:
        raise UnfitError("a value that isn't JSON text")
    value = json.loads(node["content"])
    if isinstance(value, (list, dict)):
        raise UnfitError("a value that is a container")
    return value
