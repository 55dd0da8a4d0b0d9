"""Stored tensors of which each process has a part, written by all of them at the same time.

A large one has a file of its own, which one process prepares, to which all add what they hold, and
which one finishes. Small ones are put together in a file that rank 0 takes them from. So the files
come out as if a single process had saved the whole, and no process ever has more of it in memory
than a few megabytes besides its own shards. Nothing goes by the way that gradients take: training
may go on meanwhile in another thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError
from flowyml.interfaces import Group, SaveOptions
from flowyml_pytorch.storing import archive, common_file
from flowyml_pytorch.storing.common_file import Tally
from flowyml_pytorch.storing.earlier import EarlierTensors
from flowyml_pytorch.storing.frames import Frame
from flowyml_pytorch.storing.index import Row
from flowyml_pytorch.storing.layout import Layout, is_own, name_of
from flowyml_pytorch.storing.pool import Ready, small_ones
from flowyml_pytorch.storing.sharded import Shards
from flowyml_pytorch.storing.shards import Piece, first_rank, pieces

_SMALL = "small.parts"
"""The file in which small tensors are put together; it is no part of the version."""


def write(
    layout: Layout, shards: Shards, folder: Path, options: SaveOptions, group: Group
) -> Ready:
    """Write what this process has of sharded tensors.

    Args:
        layout: what is stored, the same on all processes.
        shards: which of it this process has a part of.
        folder: where all of them write.
        options: how.
        group: the processes.

    Returns:
        What rank 0 needs to complete the version.

    Raises:
        MaterializationError: when the processes have different objects, or the file system loses
            what several of them write into one file.
        OSError: when a file can't be written or read.
    """
    held = {n: shards.of(tensor) for n, tensor in enumerate(layout.stored)}
    parts: dict[int, Sequence[Piece]] = {
        n: pieces(found, n) for n, found in held.items() if found is not None
    }
    _agree(layout, parts, group)
    if not parts:
        return Ready()
    parts |= dict.fromkeys(_held_by_others(held, group), ())
    small = {n: layout.stored[n] for n in small_ones(layout.stored) if n in parts}
    large = {n: layout.stored[n] for n in parts if n not in small}
    _refuse_unusual(large.values())
    earlier = EarlierTensors.of(options.earlier(), layout.stored)
    rows = _keep(large, parts, earlier, group)
    names = _of_rank_0({n: earlier.new_name(str(n)) for n in large if n not in rows}, group)
    files = {n: _File.of(folder / name, name, large[n]) for n, name in names.items()}
    rows |= _write_large(files, parts, group)
    path = folder / _SMALL
    read = _write_small(small, parts, path, group)
    return Ready(rows, read, lambda: path.unlink(missing_ok=True))


def _agree(layout: Layout, parts: Mapping[int, Any], group: Group) -> None:
    """Make sure that all processes save tensors of the same kinds in the same order."""
    here = [
        f"{'a part of ' * (number in parts)}a tensor of {name_of(tensor.dtype)}, shape "
        f"{[*tensor.shape]} and strides {[*tensor.stride()]}"
        for number, tensor in enumerate(layout.stored)
    ]
    text = "\n".join(here)
    if len(set(group.exchange(digest_of_bytes(text.encode()).encode()))) == 1:
        return
    told = [found.decode().split("\n") for found in group.exchange(text.encode())]
    rank = next(rank for rank, found in enumerate(told) if found != told[0])
    pair = told[0], told[rank]
    number = next(n for n in range(len(text)) if told[0][n : n + 1] != told[rank][n : n + 1])
    first, second = (found[number] if number < len(found) else "nothing" for found in pair)
    raise MaterializationError(
        f"The processes have parts of different objects: as tensor number {number}, rank 0 has "
        f"{first}, and rank {rank} has {second}."
    )


def _held_by_others(held: Mapping[int, Any], group: Group) -> list[int]:
    """Return the tensors of which other processes hold the whole as well, and write it."""
    mine = {n: first_rank(tensor) for n, tensor in held.items() if tensor is not None}
    first: dict[int, int] = {}
    for said in _ask(mine, group):
        for number, rank in said.items():
            if rank is not None:
                first[int(number)] = min(rank, first.get(int(number), rank))
    return [number for number, rank in mine.items() if rank != first.get(number)]


def _refuse_unusual(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if not is_own(tensor):
            raise MaterializationError(
                f"A DTensor of {tensor.dtype} and shape {[*tensor.shape]} can't be saved in parts: "
                f"its elements aren't whole bytes."
            )


def _keep(
    large: Mapping[int, Tensor],
    parts: Mapping[int, Sequence[Piece]],
    earlier: EarlierTensors,
    group: Group,
) -> dict[int, Row]:
    """Keep files of the version before that have the same tensors in all processes."""
    same = []
    for number, tensor in large.items():
        there = earlier.at(number, tensor)
        if there is not None:
            _, path, file = there
            if common_file.holds(path, file.data_offset, parts[number], tensor.stride()):
                same.append(number)
    everywhere = set.intersection(*map(set, _ask(same, group)))
    digests, rows = {}, {}
    for place, number in enumerate(sorted(everywhere)):
        found = earlier.at(number, large[number])
        assert found is not None
        rows[number], path, file = found
        if place % group.world_size == group.rank:
            digests[number] = common_file.read_through(path, file.data_offset, large[number])[0]
        if group.rank == 0 and earlier.version is not None:
            earlier.version.keep(rows[number].file, compared=True)
    told = _merged(digests, group)  # what a row says of itself isn't believed
    return {number: attrs.evolve(row, digest=told[number]) for number, row in rows.items()}


@attrs.frozen
class _File:
    """The file of a large tensor."""

    path: Path
    name: str
    tensor: Tensor
    frame: Frame

    @classmethod
    def of(cls, path: Path, name: str, tensor: Tensor) -> _File:
        return cls(path, name, tensor, Frame.of(tensor))

    def finished(self, wrote: Tally) -> tuple[str, str]:
        """Complete the file; return the digests of the elements and of what surrounds them."""
        frame = self.frame
        digest, checksum, found = common_file.read_through(
            self.path, len(frame.before), self.tensor
        )
        found.check(wrote, self.path)
        after = frame.finish(self.path, checksum)
        archive.check(self.path, self.name)
        return digest, digest_of_bytes(frame.before, after)

    def row(self, digest: str, frame: str) -> Row:
        """Return where the tensor is."""
        kind = name_of(self.tensor.dtype), tuple(self.tensor.shape), tuple(self.tensor.stride())
        return Row(digest, self.name, None, *kind, frame)


def _write_large(
    files: Mapping[int, _File], parts: Mapping[int, Sequence[Piece]], group: Group
) -> dict[int, Row]:
    """Write tensors into files of their own, of which each process looks after some."""
    by_size = sorted(files, key=lambda number: -files[number].tensor.nbytes)
    mine = by_size[group.rank :: group.world_size]
    for number in mine:
        files[number].path.parent.mkdir(exist_ok=True)
        files[number].frame.write(files[number].path)
    _ask(None, group)  # now every file is there
    wrote = {
        n: common_file.put(f.path, len(f.frame.before), parts[n], f.tensor.stride())
        for n, f in files.items()
    }
    tallies = _added_up(wrote, group)  # now they have all their elements
    finished = _merged({n: files[n].finished(tallies[n]) for n in mine}, group)
    return {n: files[n].row(*digests) for n, digests in finished.items()}


def _write_small(
    small: Mapping[int, Tensor], parts: Mapping[int, Sequence[Piece]], path: Path, group: Group
) -> dict[int, Any]:
    """Put small tensors together in one file; return what reads them from it in rank 0."""
    if not small:
        return {}
    offsets, size = {}, 0
    for number, tensor in small.items():
        offsets[number] = size
        size += tensor.nbytes
    if group.rank == 0:
        with path.open("xb") as file:
            file.truncate(size)
    _ask(None, group)
    wrote = {
        n: common_file.put(path, offsets[n], parts[n], tensor.stride())
        for n, tensor in small.items()
    }
    tallies = _added_up(wrote, group)
    return {
        n: partial(common_file.read, path, offsets[n], tensor, tallies[n])
        for n, tensor in small.items()
    }


def _ask(data: Any, group: Group) -> list[Any]:
    """Return what every process has to say, in the order of ranks."""
    return [json.loads(said) for said in group.exchange(json.dumps(data).encode())]


def _of_rank_0(data: Mapping[int, Any], group: Group) -> dict[int, Any]:
    return {int(number): item for number, item in _ask(data, group)[0].items()}


def _merged(data: Mapping[int, Any], group: Group) -> dict[int, Any]:
    """Return what all processes say by number; each number is the matter of one of them."""
    return {int(n): item for said in _ask(data, group) for n, item in said.items()}


def _added_up(wrote: Mapping[int, Tally], group: Group) -> dict[int, Tally]:
    found = dict.fromkeys(wrote, Tally())
    for said in _ask({n: attrs.astuple(tally) for n, tally in wrote.items()}, group):
        for number, tally in said.items():
            found[int(number)] = found[int(number)].plus(Tally(*tally))
    return found
