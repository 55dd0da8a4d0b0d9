"""The git repository that a run's code is in: its commit, and what isn't committed."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from blake3 import blake3

from flowyml.digests import digest_of_bytes
from flowyml.environment.git import Git, git_folder, head, read

_SECONDS = 5.0
"""How long git may take in all."""
_MOST_FILES = 10_000
"""Untracked files that are looked into; of the others the names count."""
_LARGEST = 1 << 20
_MOST_BYTES = 64 << 20
"""Bytes that are read of one untracked file, and of all; of what is larger the size counts."""


def describe(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Describe the repository that a folder is in; None when it is in no work tree of one.

    Returns:
        ``root``: its folder; ``commit`` and ``branch``, None where there is none; ``remote``: the
        URL it was cloned from, without credentials; ``dirty``: whether anything isn't committed;
        ``changed``: how many tracked files have changed, with ``diff``, the digest of all these
        changes; ``untracked``: how many files are neither tracked nor ignored, with
        ``untracked_digest`` over their names and content; submodules count with what is in them.
        None is what isn't known, because git is missing, fails or takes too long.
    """
    path = Path(folder).absolute()
    root = next((each for each in (path, *path.parents) if git_folder(each) is not None), None)
    if root is None:
        return None
    git = Git.found(root, _SECONDS)
    state = _State(*head(root)) if git is None else _state(git)
    return {"root": str(root), **attrs.asdict(state), "dirty": state.dirty}


@attrs.frozen
class _State:
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    changed: int | None = None
    diff: str | None = None
    untracked: int | None = None
    untracked_digest: str | None = None

    @property
    def dirty(self) -> bool | None:
        if self.changed or self.untracked:
            return True
        return None if self.changed is None or self.untracked is None else False


def _state(git: Git) -> _State:
    state = _State(*head(git.root))
    config = git.config()
    if config is None:
        return state
    state = attrs.evolve(state, remote=_remote(config))
    if _is_bare(git.root, config):
        return state
    git = git.without_filters(config)
    status = git.status()
    if status is None:
        return state
    hasher, diff = blake3(), None
    if status.changed and git.diff(status.commit, hasher.update):
        diff = hasher.hexdigest()
    state = attrs.evolve(
        state,
        commit=status.commit,
        branch=status.branch,
        changed=status.changed,
        diff=diff,
        untracked=len(status.untracked),
        untracked_digest=_digest_of_files(git, status.untracked) if status.untracked else None,
    )
    for path in sorted(git.submodules()):  # one by one: git itself would heed their settings
        folder = git.root / path
        if _is_below(folder, git.root) and git_folder(folder) is not None:
            state = _joined(state, path, _state(git.inside(folder)))
    return state


def _remote(config: Sequence[tuple[str, str, str]]) -> str | None:
    """Return the URL of ``origin``, or of the first remote, without credentials."""
    urls = {key: url for _, key, url in reversed(config) if re.fullmatch(r"remote\..*\.url", key)}
    if not urls:
        return None
    url = urls.get("remote.origin.url") or urls[min(urls)]
    return re.sub(r"[?#].*", "", re.sub(r"://[^/?#]*@", "://", url), flags=re.S)


def _is_bare(root: Path, config: Sequence[tuple[str, str, str]]) -> bool:
    """Tell whether there is no work tree here, though perhaps in other folders."""
    own = git_folder(root)
    values = [value for _, key, value in config if key == "core.bare"]
    return values[-1:] == ["true"] and not (own and read(own / "commondir"))


def _digest_of_files(git: Git, paths: Sequence[bytes]) -> str | None:
    """Return the digest of untracked files; None when that takes too long."""
    hasher, left = blake3(), _MOST_BYTES
    for index, path in enumerate(sorted(paths)):
        if time.monotonic() > git.deadline:
            return None
        content = b""
        if index < _MOST_FILES:
            content, read = _content(os.fsencode(git.root) + b"/" + path, left)
            left -= read
        for part in (path, content):
            hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.hexdigest()


def _content(path: bytes, left: int) -> tuple[bytes, int]:
    """Return what stands for a file's content, and how many bytes of it were read."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(path), 0  # noqa: PTH115  (git's paths are bytes)
        if stat.S_ISREG(found.st_mode) and found.st_size <= min(left, _LARGEST):
            data = Path(os.fsdecode(path)).read_bytes()
            return digest_of_bytes(data).encode(), len(data)
        return str(found.st_size).encode(), 0
    except OSError:  # unreadable, or gone again
        return b"", 0


def _joined(state: _State, path: str, other: _State) -> _State:
    """Add to a state what isn't committed in a submodule."""
    diff, untracked_digest = (
        _both(own, digest, path, others, another)
        for own, digest, others, another in (
            (state.changed, state.diff, other.changed, other.diff),
            (state.untracked, state.untracked_digest, other.untracked, other.untracked_digest),
        )
    )
    return attrs.evolve(
        state,
        changed=_sum(state.changed, other.changed),
        diff=diff,
        untracked=_sum(state.untracked, other.untracked),
        untracked_digest=untracked_digest,
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _both(
    count: int | None, one: str | None, path: str, other_count: int | None, other: str | None
) -> str | None:
    """Join two digests; where something was counted and there is none, it isn't known."""
    if other_count == 0:
        return one
    if other is None or (count != 0 and one is None):
        return None
    return digest_of_bytes(os.fsencode(f"{one}\0{path}\0{other}"))


def _is_below(folder: Path, root: Path) -> bool:
    try:
        resolved, top = folder.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return resolved != top and resolved.is_relative_to(top)
