"""The git program, asked in a way in which it runs no other.

A work tree may be a stranger's, and a repository's own settings can name programs that git runs
whenever it looks for changes: monitors, filters, diff drivers, hooks, transports. All of these
are switched off here. Those of the user's own settings are not, so that files kept by Git LFS, say,
count as unchanged.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from flowyml.environment import commands

Config: TypeAlias = Sequence[tuple[str, str, str]]
"""Settings: the scope, the key and the value of each."""

_SETTINGS = {
    "core.fsmonitor": "",
    "core.hooksPath": os.devnull,
    "core.quotePath": "true",
}
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",  # nothing is written
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what it lacks
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C",
}
_STATUS = (
    "status", "--porcelain=v2", "--branch", "--no-ahead-behind", "-z", "--untracked-files=all",
    "--ignore-submodules=dirty", "--no-renames",
)  # fmt: skip
_DIFF = (  # one text for one change, whatever the user's settings are
    "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index",
    "--unified=0", "--inter-hunk-context=0", "--diff-algorithm=myers", "--no-indent-heuristic",
    "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=dirty",
    f"-O{os.devnull}",
)  # fmt: skip
_RUN_BY_SETTINGS = ("filter.", "lfs.extension.")
_OFF = {"clean": "", "smudge": "", "process": "", "required": "false"}


@attrs.frozen
class Status:
    """What isn't committed.

    Attributes:
        commit: the id of the last commit; None before the first.
        branch: the branch; None when none is checked out.
        changed: tracked files that have changed, submodules with other commits among them.
        untracked: paths of the files that are neither tracked nor ignored.
    """

    commit: str | None
    branch: str | None
    changed: int
    untracked: tuple[bytes, ...]


@attrs.frozen
class Git:
    """The git program in one work tree. What can't be had is None; nothing is raised.

    Attributes:
        program: its path.
        root: the folder of the work tree.
        deadline: the value of `time.monotonic` from which on nobody waits for it.
        settings: what takes the place of the repository's own settings.
    """

    program: str
    root: Path
    deadline: float
    settings: Mapping[str, str] = _SETTINGS

    @classmethod
    def found(cls, root: Path, seconds: float) -> Git | None:
        """Return git, if it is installed.

        Args:
            root: the folder of the work tree.
            seconds: how long it may take in all.
        """
        program = shutil.which("git")
        return None if program is None else cls(program, root, time.monotonic() + seconds)

    def inside(self, root: Path) -> Git:
        """Return git in another work tree, with what is left of the time."""
        return Git(self.program, root, self.deadline)

    def config(self) -> Config | None:
        """Read every setting. Only a git whose settings can be overridden tells them."""
        text = self._output("config", "--list", "--show-scope", "-z")
        if text is None:
            return None
        fields = os.fsdecode(text).split("\0")
        pairs = zip(fields[::2], fields[1::2], strict=False)
        config = [(scope, *_key_and_value(item)) for scope, item in pairs]
        # A git before 2.31 doesn't know of settings that come in environment variables.
        return config if ("command", "core.hookspath", os.devnull) in config else None

    def without_filters(self, config: Config) -> Git:
        """Return git with those filters switched off that the repository itself defines."""
        names = {
            key.rpartition(".")[0]
            for scope, key, _ in config
            if scope in ("local", "worktree") and key.startswith(_RUN_BY_SETTINGS)
        }
        off = {f"{name}.{key}": value for name in sorted(names) for key, value in _OFF.items()}
        return attrs.evolve(self, settings={**self.settings, **off})

    def status(self) -> Status | None:
        """Tell what isn't committed; see `without_filters`."""
        text = self._output(*_STATUS)
        if text is None:
            return None
        lines = text.split(b"\0")
        words = (line.split(b" ", 2) for line in lines if line.startswith(b"# branch."))
        head = {each[1]: os.fsdecode(each[2]) for each in words if len(each) == 3}
        commit, branch = head.get(b"branch.oid"), head.get(b"branch.head")
        if commit is None or branch is None:
            return None
        return Status(
            None if commit == "(initial)" else commit,
            None if branch == "(detached)" else branch,
            sum(line[:2] in (b"1 ", b"2 ", b"u ") for line in lines),
            tuple(line[2:] for line in lines if line.startswith(b"? ")),
        )

    def diff(self, commit: str | None, take: Callable[[bytes], object]) -> bool:
        """Hand on the changes of tracked files since a commit, or since nothing.

        Returns:
            Whether it is complete.
        """
        tree = commit or self._empty_tree()
        return tree is not None and self._run(take, *_DIFF, tree)

    def _empty_tree(self) -> str | None:
        """Return the id of the tree without files, which git knows before the first commit."""
        kind = self._output("rev-parse", "--show-object-format")
        if kind is None:
            return None
        algorithm = "sha256" if kind.strip() == b"sha256" else "sha1"
        return hashlib.new(algorithm, b"tree 0\0", usedforsecurity=False).hexdigest()

    def submodules(self) -> list[str]:
        """Return the paths of submodules, as the work tree has them; they may be any text."""
        if not (self.root / ".gitmodules").is_file():
            return []
        keys = r"^submodule\..*\.path$"
        text = self._output("config", "--file", ".gitmodules", "-z", "--get-regexp", keys)
        items = os.fsdecode(text or b"").split("\0")
        return [path for item in items if (path := _key_and_value(item)[1])]

    def _output(self, *arguments: str) -> bytes | None:
        parts: list[bytes] = []
        return b"".join(parts) if self._run(parts.append, *arguments) else None

    def _run(self, take: Callable[[bytes], object], *arguments: str) -> bool:
        inherited = {k: value for k, value in os.environ.items() if not k.startswith("GIT_")}
        environment = {
            **inherited,
            **_ENVIRONMENT,
            "GIT_WORK_TREE": str(self.root),  # whatever the repository's own settings say
            "GIT_CONFIG_COUNT": str(len(self.settings)),
        }
        for index, (key, value) in enumerate(self.settings.items()):
            environment[f"GIT_CONFIG_KEY_{index}"] = key
            environment[f"GIT_CONFIG_VALUE_{index}"] = value
        command = [self.program, "-C", str(self.root), *arguments]
        return commands.succeeds(command, take, self.deadline, environment)


def git_folder(root: Path) -> Path | None:
    """Return where a work tree's repository has its own files; None if it is no work tree."""
    own = root / ".git"
    try:
        if own.is_file():  # of a submodule, or of a work tree beside the first
            own = root / read(own).removeprefix("gitdir:").strip()
        return own if (own / "HEAD").is_file() else None
    except (OSError, ValueError):
        return None


def head(root: Path) -> tuple[str | None, str | None]:
    """Read the last commit and the branch as git would, where git itself isn't to be had."""
    own = git_folder(root)
    text = read(own / "HEAD") if own else ""
    if own is None or not text.startswith("ref:"):
        return _commit_in(text), None
    name = text.removeprefix("ref:").strip()
    if not name.startswith("refs/") or ".." in name:
        return None, None
    common = own / (read(own / "commondir") or ".")
    packed = re.search(
        rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", read(common / "packed-refs"), re.M
    )
    commit = _commit_in(read(common / name)) or (packed[1] if packed else None)
    return commit, name.removeprefix("refs/heads/")


def _commit_in(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else None


def read(path: Path) -> str:
    """Return the text of one of git's files, or nothing."""
    try:
        return path.read_text("utf-8", "surrogateescape").strip() if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _key_and_value(item: str) -> tuple[str, str]:
    key, _, value = item.partition("\n")
    return key, value
