"""Where a store keeps its bytes: a small interface, and the local directory that implements it.

Keys are relative POSIX paths. Two promises carry everything above: what is published appears
whole and at once, and publishing never overwrites.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from flowyml.errors import IntegrityError, StoreError


class Backend(Protocol):
    """What a store needs from the place that keeps its bytes."""

    def staging(self) -> AbstractContextManager[Path]:
        """Open a private folder to write files in; it is gone when the context ends."""

    def publish(self, staged: Path, key: str) -> bool:
        """Move a staged file to a key, durably; False, and nothing done, when the key is taken."""

    def replace(self, staged: Path, key: str) -> None:
        """Move a staged file to a key, durably, in place of what may be there."""

    def append(self, key: str, data: bytes, *, durable: bool) -> None:
        """Add bytes to what is at a key; what is durable is on the disk when this returns."""

    def read(self, key: str) -> bytes:
        """Return the bytes of a key. Raises FileNotFoundError when there are none."""

    def local(self, key: str) -> Path:
        """Return a local file with the bytes of a key. Raises FileNotFoundError likewise."""

    def size(self, key: str) -> int:
        """Return the number of bytes of a key."""

    def age(self, key: str) -> float:
        """Return the seconds since a file, or the newest file below a folder, was written."""

    def touch(self, key: str) -> None:
        """Make a file's age zero."""

    def move(self, key: str, target: str) -> None:
        """Move a file to another key, in place of what may be there.

        Raises FileNotFoundError when it isn't there.
        """

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with what is in it; nothing when it isn't there."""

    def keys(self, folder: str) -> list[str]:
        """Return the names directly below a folder, sorted; none when it doesn't exist."""

    def stamp(self, folder: str) -> int | None:
        """Return what changes whenever something comes into a folder or goes, if it is known."""


class LocalDirectory:
    """A directory on this machine, or one that is mounted like it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Open a private folder on the same file system, so that publishing only links."""
        parent = self.root / "staging"
        try:
            folder = Path(tempfile.mkdtemp(dir=parent))
        except FileNotFoundError:
            parent.mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, key: str) -> bool:
        """Link the file to its key: a hard link is atomic and fails where something is."""
        target = self.root / key
        if not target.exists():
            self._prepared(staged, key)
        else:
            self._refuse_links(target)
        try:
            os.link(staged, target)
        except FileExistsError:
            sync(target.parent)  # whoever published it may not have come to that yet
            return False
        sync(target.parent)
        staged.unlink()
        return True

    def replace(self, staged: Path, key: str) -> None:
        """Rename the file to its key."""
        target = self._prepared(staged, key)
        staged.replace(target)
        sync(target.parent)

    def append(self, key: str, data: bytes, *, durable: bool) -> None:
        """Open the file for this write alone, so that nobody has to close it."""
        target = self.root / key
        self._refuse_links(target)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(target, flags, 0o644)
        except FileNotFoundError:
            make_folder(target.parent)
            descriptor = os.open(target, flags, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _prepared(self, staged: Path, key: str) -> Path:
        sync(staged)
        target = self.root / key
        make_folder(target.parent)
        self._refuse_links(target)
        return target

    def read(self, key: str) -> bytes:
        """Read a file whole."""
        return self.local(key).read_bytes()

    def local(self, key: str) -> Path:
        """Return the file itself, after making sure that it is one: a link could lead anywhere."""
        path = self.root / key
        self._refuse_links(path)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IntegrityError(f"{path} isn't a plain file.")
        return path

    def size(self, key: str) -> int:
        """Ask the file system; 0 for what is gone."""
        try:
            return (self.root / key).lstat().st_size
        except FileNotFoundError:
            return 0

    def age(self, key: str) -> float:
        """Compare times of modification with the clock; zero for what is gone."""
        path = self.root / key
        try:
            times = [path.lstat().st_mtime]
            times += [below.lstat().st_mtime for below in path.rglob("*")] if path.is_dir() else []
        except FileNotFoundError:  # its saver has just finished
            return 0.0
        return time.time() - max(times)

    def touch(self, key: str) -> None:
        """Set the time of modification."""
        os.utime(self.root / key)

    def move(self, key: str, target: str) -> None:
        """Rename the file, which takes its time of modification along."""
        make_folder((self.root / target).parent)
        (self.root / key).rename(self.root / target)

    def remove(self, key: str) -> None:
        """Unlink a file, or a folder's files and the folder."""
        path = self.root / key
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync(path.parent)

    def _refuse_links(self, path: Path) -> None:
        """Make sure that no folder on the way is a link, which could lead anywhere."""
        folder = path.parent
        while folder != self.root and folder != folder.parent:
            if folder.is_symlink():
                raise IntegrityError(f"{folder} isn't a plain folder.")
            folder = folder.parent

    def keys(self, folder: str) -> list[str]:
        """List a folder."""
        try:
            return sorted(os.listdir(self.root / folder))  # noqa: PTH208  (names alone, and faster)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.root / folder} can't be listed: {error.strerror}.") from error

    def stamp(self, folder: str) -> int | None:
        """Return the folder's time of modification, which is a few milliseconds coarse."""
        try:
            return (self.root / folder).stat().st_mtime_ns
        except OSError:
            return None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder {folder} can't be made: {error.strerror}.") from error
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for folders, and no need: NTFS journals them
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
