"""How two saved objects differ: their structures side by side, and the tensors in them.

Everything is taken from ``structure.json`` and the files of tensors, which are mapped. Nothing is
built and no name is looked up, so classes needn't exist, and nothing has to be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from torch import Tensor

from flowyml.errors import MaterializationError
from flowyml.interfaces import Change, Saved
from flowyml_pytorch.storing.anatomy import Anatomy, Node, array_of
from flowyml_pytorch.storing.differences import differences
from flowyml_pytorch.storing.index import Row
from flowyml_pytorch.storing.layout import viewed
from flowyml_pytorch.storing.mapped import Pool
from flowyml_pytorch.storing.rebuild import read_structure


def compare(before: Saved, after: Saved) -> list[Change]:
    """Return how two objects differ, in the order of the first; what is equal is left out.

    Raises:
        MaterializationError: when the files of one are unfit.
    """
    try:
        return _Comparison(_Side(before), _Side(after)).changes()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MaterializationError(
            f"{before.ref} and {after.ref} can't be compared, because the structure of one is "
            f"unfit: {error!r}. Find out which with store.verify()."
        ) from error


class _Side:
    """One of the two: its structure, its tensors, and how they are called."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.data = read_structure(saved)
        self.anatomy = Anatomy(self.data)
        self.pool = Pool(saved)
        self._names: dict[Any, str] = {}

    def first_name(self, what: Any, path: str) -> str:
        """Return where something was met first, which is here unless it was met before."""
        return self._names.setdefault(what, path)

    def told(self, node: Node | None, path: str) -> str | None:
        """Return what a node is, in words; None where there is none."""
        if node is None:
            return None
        return self.facts(node.form, path)["type"] if node.tag == "tensor" else node.told

    def row(self, entry: Any) -> Row | None:
        """Return where a tensor is stored; None for one without elements to store."""
        return self.pool.row(entry["stored"]) if "stored" in entry else None

    def elements(self, entry: Any) -> Tensor:
        """Return a tensor that is stored, mapped; its strides may be others than it had."""
        base = self.pool.tensor(entry["stored"])
        return viewed(base, entry["view"]) if "view" in entry else base

    def facts(self, entry: Any, path: str) -> dict[str, str]:
        """Return what is known of a tensor besides its elements, in words."""
        row = self.row(entry)
        if row is None:
            kind, shape, strides = _bare(entry)
        elif "view" in entry:
            kind, shape, strides, _ = entry["view"]
        elif row.dtype is None:
            file = self.pool.file(entry["stored"])
            kind, shape, strides = file.dtype.removeprefix("torch."), file.shape, ()
        else:
            kind, shape, strides = row.dtype, row.shape, entry.get("strides", row.stride)
        owner = path if row is None else self.first_name(("stored", entry["stored"]), path)
        return {
            "shape": str(tuple(shape)),
            "type": f"{kind} {tuple(shape)}",
            "layout": "sparse or quantized" if row and row.dtype is None else "dense",
            "kind": "a parameter" if entry.get("parameter") is True else "no parameter",
            "grad": "requires grad" if entry.get("requires_grad") is True else "requires no grad",
            "device": f"on {entry.get('device', 'cpu')}",
            "strides": f"strides {tuple(strides)}",
            "memory": f"in the memory of {owner}" if owner != path else "in memory of its own",
        }


def _bare(entry: Any) -> tuple[str, Any, Any]:
    if "meta" in entry:
        kind, shape, strides = entry["meta"]
        return f"meta {kind}", shape, strides
    return f"uninitialized {entry['uninitialized']}", (), ()


_NUMBERS = ("tensor", "array")
"""What is told of also where the object that it belongs to is missing on one side."""

_MOST = 100
"""Characters of a value's text."""


@attrs.frozen
class _Pair:
    """What is at one place in both objects, None where it isn't in one.

    Attributes:
        quiet: whether it is below what is missing in one: tensors are told of all the same.
        is_key: whether it is the key of a dict.
    """

    path: str
    before: Node | None
    after: Node | None
    quiet: bool = False
    is_key: bool = False


class _Comparison:
    def __init__(self, before: _Side, after: _Side) -> None:
        self._before = before
        self._after = after
        self._changes: dict[str, Change] = {}
        self._compared: set[Any] = set()

    def changes(self) -> list[Change]:
        """Go through both from their roots."""
        one, two = self._before, self._after
        if ("root" in one.data) != ("root" in two.data):
            self._tell("", *(_root_of(side) for side in (one, two)))
        later: list[_Pair] = []
        for key, path in (("root", ""), ("state", ""), ("metadata", "_metadata")):
            if key in one.data and key in two.data:
                nodes = one.anatomy.node(one.data[key]), two.anatomy.node(two.data[key])
                later += self._through([_Pair(path, *nodes)])
        while later:
            later = self._through(later)
        return list(self._changes.values())

    def _through(self, todo: list[_Pair]) -> list[_Pair]:
        """Compare pairs and all that is in them but keys: these have better names elsewhere."""
        later: list[_Pair] = []
        todo = todo[::-1]
        while todo:
            pair = todo.pop()
            if not self._is_known(pair):
                self._compare(pair)
                below = [*self._below(pair)]
                later += (each for each in below if each.is_key)
                todo += (each for each in reversed(below) if not each.is_key)
        return later

    def _is_known(self, pair: _Pair) -> bool:
        """Tell whether these two were compared already, under another name."""
        what = tuple(node and node.identity for node in (pair.before, pair.after))
        if what == (None, None):
            return False
        known = what in self._compared
        self._compared.add(what)
        return known

    def _compare(self, pair: _Pair) -> None:
        """Compare what two nodes are by themselves."""
        one, two, path = pair.before, pair.after, pair.path
        same = [
            path if node is None or node.identity is None else side.first_name(node.identity, path)
            for side, node in self._sides(pair)
        ]
        told = [side.told(node, path) for side, node in self._sides(pair)]
        if one is None or two is None:
            is_heard = not pair.quiet or any(n and n.tag in _NUMBERS for n in (one, two))
            if is_heard and not (pair.is_key and same != [path, path]):
                self._tell(path, *told)
            return
        if same[0] != same[1]:
            words = [f", the same as {name or 'the whole'}" * (name != path) for name in same]
            self._tell(path, *(f"{what}{more}" for what, more in zip(told, words, strict=True)))
        elif one.tag == two.tag == "values" and one.token != two.token:
            self._compare_values(path, one, two)
        elif (one.tag, one.token) != (two.tag, two.token):
            self._tell(path, *told)
        if one.tag == two.tag == "tensor":
            self._compare_tensors(path, one.form, two.form)
        elif one.tag == two.tag == "array" and one.form[:2] == two.form[:2]:
            self._compare_arrays(path, one.form, two.form)

    def _sides(self, pair: _Pair) -> Iterator[tuple[_Side, Node | None]]:
        yield self._before, pair.before
        yield self._after, pair.after

    def _below(self, pair: _Pair) -> Iterator[_Pair]:
        """Yield the pairs in a pair."""
        one, two = pair.before, pair.after
        if one is not None and two is not None and one.tag != two.tag:
            yield from self._below(attrs.evolve(pair, after=None))
            yield from self._below(attrs.evolve(pair, before=None))
            return
        there, here = (
            {} if node is None else side.anatomy.children(node) for side, node in self._sides(pair)
        )
        quiet = pair.quiet or one is None or two is None
        for key, child in {**there, **here}.items():
            before, after = (each[key].node if key in each else None for each in (there, here))
            if one is not None and two is not None and one.tag == "object":
                before = before or self._before.anatomy.default(key, child.node)
                after = after or self._after.anatomy.default(key, child.node)
            path = f"{pair.path}.{child.label}" if pair.path and child.label else child.label
            surplus = isinstance(key, int) and (before is None or after is None)
            yield _Pair(path or pair.path, before, after, quiet or surplus, child.is_key)

    def _compare_tensors(self, path: str, one: Any, two: Any) -> None:
        facts = self._before.facts(one, path), self._after.facts(two, path)
        other = [name for name in facts[0] if facts[0][name] != facts[1][name]]
        incomparable = "shape" in other or "layout" in other
        unsaid = ("type", "shape", "strides" if incomparable else "")
        other = [name for name in other if name not in unsaid]
        told = [", ".join([each["type"], *(each[name] for name in other)]) for each in facts]
        changes: list[Change] = []
        if "stored" in one and "stored" in two and not self._are_equal(one, two):
            changes = differences(path, self._before.elements(one), self._after.elements(two))
        for change in changes:
            is_whole = change.name == path
            self._add(attrs.evolve(change, before=told[0], after=told[1]) if is_whole else change)
        if told[0] != told[1]:
            self._tell(path, *told)

    def _are_equal(self, one: Any, two: Any) -> bool:
        """Tell whether elements are equal, from their digests or files alone."""
        before, after = self._before.row(one), self._after.row(two)
        if before is None or after is None or one.get("view") != two.get("view"):
            return False
        if before.digest or after.digest:
            return before.digest == after.digest
        return self._before.saved.files[before.file] == self._after.saved.files[after.file]

    def _compare_values(self, path: str, one: Node, two: Node) -> None:
        """Compare rows of plain values, which are one change however many of them differ."""
        pairs = list(zip(one.form, two.form, strict=False))
        differing = [n for n, (there, here) in enumerate(pairs) if repr(there) != repr(here)]
        if len(one.form) != len(two.form) or not differing:
            self._tell(path, one.told, two.told)
            return
        first = differing[0]
        there, here = (repr(item)[:_MOST] for item in pairs[first])
        self._add(
            Change(path, one.told, two.told, len(pairs), len(differing), (first,), there, here)
        )

    def _compare_arrays(self, path: str, one: Any, two: Any) -> None:
        entries = (
            side.anatomy.tensor(form[2]["$tensor"])
            for side, form in ((self._before, one), (self._after, two))
        )
        before, after = entries
        if not self._are_equal(before, after):
            there = array_of(self._before.elements(before), one)
            here = array_of(self._after.elements(after), two)
            for change in differences(path, there, here):
                self._add(change)

    def _tell(self, path: str, before: str | None, after: str | None) -> None:
        self._add(Change(path, before, after))

    def _add(self, change: Change) -> None:
        """Note a change; one that says how numbers differ takes the place of one that doesn't."""
        known = self._changes.get(change.name)
        if known is None or (known.elements is None and change.elements is not None):
            told = (known.before, known.after) if known else (change.before, change.after)
            self._changes[change.name] = attrs.evolve(change, before=told[0], after=told[1])


def _root_of(side: _Side) -> str:
    if "root" not in side.data:
        return "its state alone"
    return side.anatomy.node(side.data["root"]).told
