"""Which part of a whole tensor this process holds, and where that lies among the whole's elements.

How torch divides a dimension is in ``torch.distributed.tensor.placement_types``: a `Shard` in
equal chunks, of which the last ones may be smaller or empty, a `_StridedShard` in chunks of chunks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from flowyml.errors import MaterializationError
from flowyml_pytorch.storing.layout import bytes_of

Run = tuple[int, int]
"""First index and number of indices of a dimension."""

_AT_ONCE = 4 << 20
"""Bytes that are copied at a time, where elements have to be copied to be written."""


@attrs.frozen
class Piece:
    """Some elements of a whole tensor.

    Attributes:
        elements: of the shape that they have there.
        start: the index of the first of them in the whole.
    """

    elements: Tensor
    start: tuple[int, ...]


def first_rank(tensor: DTensor) -> int | None:
    """Return the lowest rank of those that hold a tensor together with this process, if it does.

    Parts of a mesh may each hold all of a tensor: those that train the same with other data.
    """
    mesh = tensor.device_mesh
    return None if mesh.get_coordinate() is None else int(mesh.mesh.min())


def pieces(tensor: DTensor, turn: int = 0) -> list[Piece]:
    """Return what this process has to write of a whole tensor; nothing where another one does.

    Args:
        tensor: the shards.
        turn: decides which of those that hold the same elements writes them, so that they take
            turns.

    Raises:
        MaterializationError: when elements aren't known before the processes add theirs up.
    """
    mesh = tensor.device_mesh
    for placement in tensor.placements:
        if not isinstance(placement, (Replicate, Shard, _StridedShard)):
            raise MaterializationError(
                f"A DTensor of shape {[*tensor.shape]} has the placement {placement}, whose "
                f"elements no process knows. Redistribute it before saving: "
                f"tensor.redistribute(placements=[Shard(0)])."
            )
    where = mesh.get_coordinate()
    if where is None:  # it lies on other processes
        return []
    return placed(_local(tensor), tuple(tensor.shape), tensor.placements, mesh.shape, where, turn)


def part_of(whole: Tensor, target: DTensor) -> DTensor:
    """Return a whole tensor as the shards that a target has; only they are copied, to its device.

    Nothing is communicated: every process takes its own part.
    """
    local = torch.empty_like(target._local_tensor)
    mesh = target.device_mesh
    where = mesh.get_coordinate()
    if where is not None:
        shape = tuple(target.shape)
        for piece in placed(local, shape, target.placements, mesh.shape, where, None):
            part = whole
            for dimension, start in enumerate(piece.start):
                part = part.narrow(dimension, start, piece.elements.shape[dimension])
            piece.elements.copy_(part)
    return DTensor.from_local(
        local,
        mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def _local(tensor: DTensor) -> Tensor:
    local = tensor._local_tensor
    if isinstance(local, AsyncCollectiveTensor):
        local = local.wait()
    return local.detach().resolve_conj().resolve_neg()


def placed(
    local: Tensor,
    shape: Sequence[int],
    placements: Sequence[Any],
    sizes: Sequence[int],
    where: Sequence[int],
    turn: int | None = 0,
) -> list[Piece]:
    """Return the pieces that a process with a place in a mesh has to write.

    Args:
        local: its elements.
        shape: the whole's.
        placements: how the whole lies on each dimension of the mesh.
        sizes: the mesh's.
        where: the process's place in the mesh.
        turn: as in `pieces`; None returns what it holds, whoever writes it.
    """
    runs: list[list[Run]] = [[(0, size)] for size in shape]
    for placement, size, at in zip(placements, sizes, where, strict=True):
        if isinstance(placement, Replicate):
            if turn is not None and at != turn % size:
                return []
            continue
        chunks = int(placement.split_factor) if isinstance(placement, _StridedShard) else 1
        runs[placement.dim] = _share(runs[placement.dim], chunks, size, at)
    found = tuple(sum(count for _, count in along) for along in runs)
    if found != tuple(local.shape):
        raise MaterializationError(
            f"A DTensor of shape {[*shape]} with the placements {[*placements]} should have "
            f"{[*found]} of that in this process, and has {[*local.shape]}."
        )
    return [piece for piece in _divided(local, runs) if piece.elements.numel()]


def _share(runs: Sequence[Run], chunks: int, parts: int, part: int) -> list[Run]:
    """Divide what is left of a dimension into chunks and each into parts; return one part of all.

    Chunks and parts are as large as those of ``torch.chunk``.
    """
    total = sum(count for _, count in runs)
    found: list[Run] = []
    for start, end in _chunks(0, total, chunks):
        begin, stop = _chunks(start, end, parts)[part]
        found += _within(runs, begin, stop)
    return found


def _chunks(start: int, end: int, parts: int) -> list[tuple[int, int]]:
    step = -(-(end - start) // parts)
    bounds = [min(start + step * number, end) for number in range(parts + 1)]
    return list(itertools.pairwise(bounds))


def _within(runs: Sequence[Run], begin: int, stop: int) -> Iterator[Run]:
    """Yield the indices from one position in some runs up to another."""
    passed = 0
    for start, count in runs:
        low, high = max(begin - passed, 0), min(stop - passed, count)
        if low < high:
            yield start + low, high - low
        passed += count


def _divided(local: Tensor, runs: Sequence[Sequence[Run]]) -> Iterator[Piece]:
    """Yield the parts of a local tensor that lie together in the whole."""
    along = []
    for dimension in runs:
        offsets = itertools.accumulate((count for _, count in dimension), initial=0)
        along.append([(*run, offset) for run, offset in zip(dimension, offsets, strict=False)])
    for chosen in itertools.product(*along):
        part = local
        for number, (_, count, offset) in enumerate(chosen):
            part = part.narrow(number, offset, count)
        yield Piece(part, tuple(start for start, _, _ in chosen))


def stretches(piece: Piece, stride: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
    """Yield where the bytes of a piece lie in a dense whole, and the bytes, which must not change.

    Args:
        piece: the piece.
        stride: the whole's, in elements.
    """
    width = piece.elements.element_size()
    order = sorted(range(len(stride)), key=lambda dimension: -stride[dimension])
    elements = piece.elements.permute(order)
    steps = [stride[dimension] for dimension in order]
    start = sum(at * step for at, step in zip(piece.start, stride, strict=True))
    length, inner = 1, len(order)
    while inner and (elements.shape[inner - 1] == 1 or steps[inner - 1] == length):
        length *= elements.shape[inner - 1]
        inner -= 1
    for first, part in _parts(elements):
        copied = part.contiguous().cpu()
        size = (length if inner else part.numel()) * width
        flat = bytes_of(copied)  # only as long as the tensor is there
        begin = start + first * steps[0] if first else start
        for number, index in enumerate(itertools.product(*map(range, part.shape[:inner]))):
            apart = sum(at * step for at, step in zip(index, steps, strict=False))
            yield (begin + apart) * width, flat[number * size : (number + 1) * size]


def _parts(elements: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield a tensor in parts that may be copied, with the first index of each; whole if it can."""
    fits = elements.nbytes <= _AT_ONCE or not elements.dim()
    if fits or (elements.device.type == "cpu" and elements.is_contiguous()):
        yield 0, elements
        return
    first = 0
    for part in elements.split(max(1, _AT_ONCE * elements.shape[0] // elements.nbytes)):
        yield first, part
        first += part.shape[0]
