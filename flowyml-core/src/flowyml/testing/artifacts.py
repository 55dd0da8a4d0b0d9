"""Versions that a stranger might write, knowing an honest one: each with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowyml.testing import payloads, rewriting, zipping
from flowyml.testing.damage import cuts, flips, noise, varied
from flowyml.testing.payloads import Payload

__tracebackhide__ = True

_FILES = 12
"""Files of which variants are tried."""


@attrs.frozen
class Artifact:
    """A version: what is wrong with it, its files' bytes by path, and its details.

    Attributes:
        refused: whether loading has to refuse it, as nobody could take it for what was saved.
    """

    what: str
    files: Mapping[str, bytes]
    details: Mapping[str, Any]
    refused: bool = False


def artifacts(
    files: Mapping[str, bytes], details: Mapping[str, Any], mark: Path, *, first: bool = True
) -> Iterator[Artifact]:
    """Yield versions that differ from an honest one.

    Args:
        files: the honest version's, bytes by path.
        details: what its materializer noted for loading.
        mark: the folder that is made by whatever runs code.
        first: False leaves out damage and takes fewer samples, where another model was tried.
    """
    chosen = varied(sorted(files), _FILES)
    share = max(1, (4 if first else 1) // max(len(chosen), 1))
    for path in chosen:
        content = files[path]
        for payload in _whole(content, mark, share, first):
            other = {**files, path: payload.content}
            yield Artifact(f"{path!r} {payload.what}", other, details, payload.refused)
        rest = {each: files[each] for each in files if each != path}
        yield Artifact(f"{path!r} is missing", rest, details)
    if files:
        yield Artifact("every file is missing", {}, details, refused=True)
    for name in ("extra.pkl", "__init__.py"):
        more = {**files, name: payloads.pickled(2, mark)}
        yield Artifact(f"there is one more file, {name!r}, a pickle", more, details)
    if details:
        yield Artifact("the manifest's details are empty", files, {})
    for what, changed in rewriting.other_data(dict(details), 8 * share, mark):
        yield Artifact(f"in the manifest's details, {what}", files, changed)


def _whole(content: bytes, mark: Path, share: int, damaged: bool) -> Iterator[Payload]:
    """Yield what may stand in the place of a file; `share` tells how many of each kind."""
    yield from payloads.code(mark)
    if damaged:
        yield from _damaged(content, share)
    yield from rewriting.other_json(content, 8 * share, mark)
    if not zipping.is_archive(content):
        return
    for name, member in zipping.members(content, 3 * share).items():
        for part in _parts(member, mark, share, damaged):
            other = zipping.other_archive(content, name, part.content)
            yield Payload(f"has a member {name!r} that {part.what}", other)
        yield Payload(
            f"has a member {name!r} that unpacks to {zipping.BOMB:,} bytes",
            zipping.bomb(content, name),
        )
    for name in ("../slipped.txt", str(mark)):
        other = zipping.other_archive(content, name, b"from a stranger")
        yield Payload(f"has one more member, {name!r}", other)


def _parts(content: bytes, mark: Path, share: int, damaged: bool) -> Iterator[Payload]:
    """Yield what may stand in the place of an archive's member."""
    yield from payloads.code_in_parts(mark)
    if damaged:
        yield from _damaged(content, 1)
    yield from rewriting.other_json(content, 8 * share, mark)


def _damaged(content: bytes, share: int) -> Iterator[Payload]:
    for size, cut in cuts(content, 4 * share):
        yield Payload(f"is cut short to {size:,} of {len(content):,} bytes", cut)
    yield Payload("has random bytes", noise(content))
    for offset, flipped in flips(content, 24 * share):
        yield Payload(f"has another bit in the byte at offset {offset:,}", flipped)
