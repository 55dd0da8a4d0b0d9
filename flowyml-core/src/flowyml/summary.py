"""A model's description as a table that people want to read, in text and in HTML.

The tree of layers comes from the live model, or from what a pass over example inputs noted in the
properties. Equal blocks in a row are shown once.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowyml.interfaces import Layer

_FACTS = ("framework", "architecture", "wrapper", "device", "dtype", "training_mode")
_TOTALED = (
    "parameters", "trainable_parameters", "frozen_parameters", "buffers", "size_bytes", "flops",
    "activation_bytes", "tied_parameters", "uninitialized_parameters", "observation_error",
)  # fmt: skip
_TITLES = ("Layer", "Output", "FLOPs", "Parameters", "Trainable", "Share")
_RIGHT = ("FLOPs", "Parameters", "Trainable", "Share")


@attrs.frozen
class Row:
    """One line of the table: a layer, or several equal ones in a row."""

    depth: int
    label: str
    cells: tuple[str, ...]
    notes: tuple[str, ...]


@attrs.frozen
class Summary:
    """A description that is ready to be laid out."""

    title: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    totals: tuple[tuple[str, str], ...]


def summarize(
    title: str,
    properties: Mapping[str, Any],
    outline: Layer | None,
    history: Mapping[str, Sequence[float]] | None,
    depth: int | None,
) -> Summary:
    """Collect what a summary shows.

    Args:
        title: the first line.
        properties: the model's.
        outline: its tree of layers, if the model is at hand.
        history: its training history.
        depth: how deep to go into the tree; None goes all the way.
    """
    observed = properties.get("observed_layers") or {}
    if outline is None and observed:
        outline = _outline_of(observed)
    known = {key: value for key, value in properties.items() if value not in (None, [], {}, "")}
    rows: tuple[Row, ...] = ()
    if outline is not None:
        rows = tuple(_Tree(observed, outline.parameters, depth).rows(outline, ""))
        shown = [key for key in _FACTS if key in known]
    else:
        shown = [key for key in known if key not in _TOTALED and not isinstance(known[key], dict)]
    last = {f"final {key}": series[-1] for key, series in (history or {}).items() if series}
    return Summary(
        title=title,
        facts=tuple((key.replace("_", " "), text_of(known[key])) for key in shown),
        rows=rows,
        totals=(*_totals(known), *((key, text_of(value)) for key, value in last.items())),
    )


def plainly(title: str, properties: Mapping[str, Any]) -> Summary:
    """Collect properties whatever they are."""
    facts = ((str(key).replace("_", " "), text_of(value)) for key, value in properties.items())
    return Summary(title, tuple(facts), (), ())


def _totals(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("parameters", "trainable_parameters", "frozen_parameters", "buffers"):
        if key in known:
            yield key.replace("_", " "), text_of(known[key])
    if "size_bytes" in known:
        yield "size", size_of(known["size_bytes"])
    if "flops" in known:
        yield "FLOPs", _engineering(known["flops"])
    if "activation_bytes" in known:
        yield "activations", size_of(known["activation_bytes"])
    for names in known.get("tied_parameters", ()):
        yield "tied", " = ".join(names)
    if "uninitialized_parameters" in known:
        yield "without a shape yet", ", ".join(known["uninitialized_parameters"])
    if "observation_error" in known:
        yield "not observed", known["observation_error"]


def _outline_of(observed: Mapping[str, Any]) -> Layer:
    """Build the tree from paths, when only the metadata is at hand."""
    below: dict[str, list[str]] = {}
    for path in observed:
        if path:
            parent = path.rpartition(".")[0]
            while parent and parent not in observed:  # containers don't run, so none was seen
                parent = parent.rpartition(".")[0]
            below.setdefault(parent, []).append(path)

    def layer(path: str, parent: str) -> Layer:
        seen = observed.get(path, {})
        return Layer(
            name=path.removeprefix(f"{parent}." if parent else ""),
            type=seen.get("type", ""),
            parameters=seen.get("parameters", 0),
            children=tuple(layer(child, path) for child in below.get(path, ())),
        )

    return layer("", "")


@attrs.frozen
class _Tree:
    """What the rows of one table have in common."""

    observed: Mapping[str, Any]
    total: int
    depth: int | None

    def rows(self, layer: Layer, path: str, level: int = 0) -> Iterator[Row]:
        """Yield a layer's row, then those of the layers in it."""
        label = f"{layer.name} ({layer.type})" if layer.name else layer.type
        yield self._row(layer, label, path, level)
        if self.depth is not None and level >= self.depth:
            return
        prefix = f"{path}." if path else ""
        for run in self._runs(layer.children, prefix):
            first = run[0]
            rows = self.rows(first, prefix + first.name, level + 1)
            if len(run) > 1:
                next(rows)
                above = f"{layer.name}." if layer.name else ""
                label = f"{above}{first.name}-{run[-1].name}: {len(run)} × {first.type}"
                yield self._row(first, label, prefix + first.name, level + 1, len(run))
            yield from rows

    def _runs(self, layers: Sequence[Layer], prefix: str) -> Iterator[list[Layer]]:
        """Group layers that are equal but for their names, where these are numbers in a row."""
        run: list[Layer] = []
        for layer in layers:
            if run and _follows(run[-1], layer) and self._alike(run[0], layer, prefix):
                run.append(layer)
                continue
            if run:
                yield run
            run = [layer]
        if run:
            yield run

    def _alike(self, left: Layer, right: Layer, prefix: str) -> bool:
        if left != attrs.evolve(right, name=left.name):
            return False
        return self.observed.get(prefix + left.name) == self.observed.get(prefix + right.name)

    def _row(self, layer: Layer, label: str, path: str, level: int, times: int = 1) -> Row:
        seen = self.observed.get(path, {})
        flops = seen.get("flops")
        parameters = layer.parameters * times
        cells = (
            _shapes(seen.get("outputs")),
            _engineering(flops * times) if flops else "",
            f"{parameters:,}" if parameters else "",
            f"{layer.trainable * times:,}" if layer.trainable else "",
            f"{parameters / self.total:.1%}" if parameters and self.total else "",
        )
        return Row(level, label, cells, layer.notes)


def _follows(left: Layer, right: Layer) -> bool:
    numbered = left.name.isdecimal() and right.name.isdecimal()
    return numbered and int(right.name) == int(left.name) + 1


def _shapes(signature: Any) -> str:
    """Return the shapes in a signature; of many, the first."""
    shapes = list(_all_shapes(signature))
    return "" if not shapes else f"{shapes[0]} …" if len(shapes) > 1 else f"{shapes[0]}"


def _all_shapes(signature: Any) -> Iterator[list[int]]:
    if isinstance(signature, dict) and "shape" in signature and "dtype" in signature:
        yield signature["shape"]
    elif isinstance(signature, (dict, list)):
        for item in signature.values() if isinstance(signature, dict) else signature:
            yield from _all_shapes(item)


def as_text(summary: Summary) -> str:
    """Lay a summary out for a terminal."""
    lines = [summary.title, *_pairs(summary.facts)]
    if summary.rows:
        table = [_TITLES, *(("  " * row.depth + row.label, *row.cells) for row in summary.rows)]
        filled = [i for i, column in enumerate(zip(*table, strict=True)) if any(column[1:])]
        widths = {i: max(len(line[i]) for line in table) for i in filled}
        notes = [(), *(row.notes for row in summary.rows)]
        lines.append("")
        for line, note in zip(table, notes, strict=True):
            cells = [
                line[i].rjust(widths[i]) if _TITLES[i] in _RIGHT else line[i].ljust(widths[i])
                for i in filled
            ]
            lines.append("  ".join([*cells, *(f"({text})" for text in note)]).rstrip())
        lines.insert(len(lines) - len(summary.rows), "─" * len(max(lines[-len(table) :], key=len)))
    if summary.totals:
        lines += ["", *_pairs(summary.totals)]
    return "\n".join(lines)


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"  {key:<{width}}  {value}" for key, value in pairs]


def as_html(summary: Summary) -> str:
    """Lay a summary out for a notebook."""
    escape = html.escape
    head = "".join(f"<th style='text-align:left'>{escape(title)}</th>" for title in _TITLES)
    body = "".join(
        "<tr>"
        f"<td style='text-align:left;padding-left:{1.5 * row.depth + 0.5}em'>{escape(row.label)}"
        + "".join(f" <small>{escape(note)}</small>" for note in row.notes)
        + "</td>"
        + "".join(f"<td style='text-align:right'>{escape(cell)}</td>" for cell in row.cells)
        + "</tr>"
        for row in summary.rows
    )
    facts, totals = (
        " · ".join(f"{escape(key)} <b>{escape(value)}</b>" for key, value in pairs)
        for pairs in (summary.facts, summary.totals)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f"<div><h4>{escape(summary.title)}</h4><p>{facts}</p>{table}<p>{totals}</p></div>"


def text_of(value: Any) -> str:
    """Return a property's value as people write it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def size_of(size: int) -> str:
    """Return a number of bytes as people write it: ``"121.9 kB"``."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"


def _engineering(number: int) -> str:
    amount = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if amount < 1000 or unit == "T":
            break
        amount /= 1000
    return f"{amount:.0f}" if not unit else f"{amount:,.2f} {unit}"
