"""What may have happened to a file's bytes, at samples that are the same every time."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

__tracebackhide__ = True

HEADER = 16
"""Bytes at the beginning of a file, each of which is tried: they say what the rest is."""

_Item = TypeVar("_Item")


def flips(content: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield offsets, and the content with a bit flipped there.

    Args:
        content: a file's bytes.
        count: how many; every byte of a smaller file, or else its header, its end and a sample.
    """
    for offset in offsets(content, count):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << offset % 8
        yield offset, bytes(damaged)


def offsets(content: bytes, count: int) -> list[int]:
    """Return where to look into a file: everywhere if it is small; first, last, header, others."""
    size = len(content)
    if size <= count:
        return list(range(size))
    known = [*range(min(HEADER, count // 2)), size - 1]
    rest = seeded(content).sample(range(known[-2] + 1, size - 1), count - len(known))
    return sorted({*known, *rest})


def cuts(content: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield sizes, and the content cut short to each: empty, by one byte, and others."""
    size = len(content)
    if size == 0:
        return
    lengths = {0, size - 1, *(size * step // count for step in range(1, count - 1))}
    for length in sorted(lengths):
        yield length, content[:length]


def noise(content: bytes) -> bytes:
    """Return as many bytes that mean nothing, at least a few."""
    return seeded(content).randbytes(max(len(content), 64))


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Return that many items of a sequence, the first and last among them, evenly apart."""
    if len(items) <= count:
        return [*items]
    steps = max(count - 1, 1)
    return [items[round(step * (len(items) - 1) / steps)] for step in range(count)]


def varied(paths: Iterable[str], count: int) -> list[str]:
    """Return that many paths, of many kinds: the first of each suffix, then the second."""
    met: Counter[str] = Counter()
    ranked = []
    for path in paths:
        suffix = PurePosixPath(path).suffix
        ranked.append((met[suffix], path))
        met[suffix] += 1
    return [path for _, path in sorted(ranked)[:count]]


def seeded(content: bytes) -> random.Random:
    """Return a generator that yields the same for the same bytes."""
    return random.Random(zlib.crc32(content))
