"""Lineages as pictures: a graph in text, as git draws its history, and a flowchart of Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from flowyml.lineage import Edge, Lineage, Node
from flowyml.summary import size_of

_ELSEWHERE = {
    "deleted": "deleted",
    "missing": "not in this store",
    "damaged": "can't be read",
}


@attrs.frozen
class _Place:
    """Where a node stands in the drawing.

    Attributes:
        id: of the node.
        edge: what leads to it from the line that it hangs on; None for the first.
        is_repeated: whether it is drawn elsewhere, with what hangs on it.
    """

    id: str
    edge: Edge | None = None
    is_repeated: bool = False


@attrs.frozen
class _Tree:
    """A part of a graph in which everything hangs on one other thing.

    Attributes:
        hanging: what hangs on each node; of several the largest part comes last, since what comes
            last is drawn without indentation: so a drawing stays narrow, however deep it is.
    """

    hanging: Mapping[str, Sequence[_Place]]

    @classmethod
    def of(cls, start: str, edges: Mapping[str, Sequence[Edge]], *, upwards: bool) -> _Tree:
        """Hang everything that can be reached on what is nearest to the start."""
        hanging: dict[str, list[_Place]] = {}
        order, drawn = [start], {start}
        for id in order:  # which grows
            for edge in edges.get(id, ()):
                other = edge.parent if upwards else edge.child
                hanging.setdefault(id, []).append(_Place(other, edge, other in drawn))
                if other not in drawn:
                    drawn.add(other)
                    order.append(other)
        sizes: dict[str, int] = {}
        for id in reversed(order):
            places = hanging.get(id, [])
            places.sort(key=lambda place: 0 if place.is_repeated else sizes[place.id])
            sizes[id] = 1 + sum(1 if place.is_repeated else sizes[place.id] for place in places)
        return cls(hanging)

    def lines(self, start: str) -> Iterator[tuple[str, _Place]]:
        """Yield each line's indentation, and what stands there; the start comes first."""
        waiting = [("", "", _Place(start))]
        while waiting:
            above, mark, place = waiting.pop()
            yield above + mark, place
            if place.is_repeated:
                continue
            below = above + ("│ " if mark else "")
            places = self.hanging.get(place.id, ())
            waiting += ((below, "", last) for last in places[-1:])
            waiting += ((below, "├─", branch) for branch in places[-2::-1])


def as_text(lineage: Lineage) -> str:
    """Draw a graph in text.

    What is drawn right above something, or branches off to it, is what it was made from. What has
    several parents or children in it is drawn once, and named where it belongs as well.
    """
    nodes = {node.id: node for node in lineage.nodes}
    above: dict[str, list[Edge]] = {}
    below: dict[str, list[Edge]] = {}
    for edge in lineage.edges:
        above.setdefault(edge.child, []).append(edge)
        below.setdefault(edge.parent, []).append(edge)
    up = _Tree.of(lineage.ref, above, upwards=True).lines(lineage.ref)
    down = _Tree.of(lineage.ref, below, upwards=False).lines(lineage.ref)
    next(up), next(down)
    own = _line(nodes[lineage.ref], None)
    if lineage.equal:
        own += f", the same content as {_listed(lineage.equal)}"
    upper = [f"{indent}○ {_line(nodes[place.id], place, 'further down')}" for indent, place in up]
    lower = [f"{indent}○ {_line(nodes[place.id], place, 'further up')}" for indent, place in down]
    return "\n".join([*reversed(upper), f"● {own}", *lower])


def _line(node: Node, place: _Place | None, elsewhere: str = "") -> str:
    edge = place.edge if place else None
    facts = [] if edge is None else [_relation(edge)]
    if place is not None and place.is_repeated:
        facts.append(f"told {elsewhere}")
    else:
        facts += _facts(node)
        facts += [text] if (text := _made(node)) else []
    name = _on_one_line(node.id)
    return f"{name}: {', '.join(facts)}" if facts else name


def _facts(node: Node) -> list[str]:
    if node.status != "stored":
        return [_ELSEWHERE[node.status]]
    what = f"{node.framework} {node.architecture or ''}".rstrip() if node.framework else node.type
    return [_on_one_line(str(what)), size_of(node.size or 0)]


def _made(node: Node) -> str:
    step = f"step {node.step}" if node.step else ""
    run = f"run {node.run}" if node.run else ""
    return _on_one_line(" of ".join(filter(None, (step, run))))


def _relation(edge: Edge) -> str:
    said = edge.relation.replace("_", " ")
    return f"{said} (as {_on_one_line(edge.recorded_as)})" if edge.recorded_as else said


def _listed(refs: Sequence[str]) -> str:
    shown = ", ".join(refs[:_SHOWN])
    return shown if len(refs) <= _SHOWN else f"{shown} and {len(refs) - _SHOWN:,} more"


_SHOWN = 3


def _on_one_line(text: str) -> str:
    """Return a text without what would break a line or change the terminal."""
    return "".join(each if each.isprintable() else " " for each in text)


def as_mermaid(lineage: Lineage) -> str:
    """Draw a flowchart in the language of Mermaid."""
    names = {node.id: f"n{index}" for index, node in enumerate(lineage.nodes)}
    lines = ["graph TD"]
    for node in lineage.nodes:
        label = "<br>".join(_escaped(text) for text in (node.id, ", ".join(_facts(node))))
        left, right = ("[", "]") if node.status == "stored" else ("([", "])")
        lines.append(f'    {names[node.id]}{left}"{label}"{right}')
    made = {node.id: _made(node) for node in lineage.nodes}
    for edge in lineage.edges:
        texts = (_relation(edge), made[edge.child])
        label = "<br>".join(_escaped(text) for text in texts if text)
        lines.append(f'    {names[edge.parent]} -->|"{label}"| {names[edge.child]}')
    lines.append(f"    style {names[lineage.ref]} stroke-width:4px")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return a text as a label shows it: what might mean something to Mermaid, by its number."""
    special = r"[^\w @,.-]|[.-](?= )"  # a number with a point, or a dash, would begin a list
    return re.sub(special, lambda found: f"#{ord(found[0])};", _on_one_line(text))
