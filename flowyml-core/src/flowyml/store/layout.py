"""What makes a directory a store: ``store.json``, which names the layout of the folders in it."""

from __future__ import annotations

from pathlib import Path

from flowyml import encoding
from flowyml.errors import IntegrityError, StoreError
from flowyml.store.backend import Backend, make_folder

LAYOUT = 1
"""Version of the folder layout. A store of a newer one is refused."""


class Layout:
    """The layout of one store's directory."""

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path = path
        self._backend = backend
        self._checked = False

    def prepare(self) -> None:
        """Make the directory a store, unless it is one."""
        if self.check():
            return
        try:
            make_folder(self.path)
            with self._backend.staging() as folder:
                for name, text in (
                    (".gitignore", b"*\n"),
                    ("store.json", encoding.dumps({"layout": LAYOUT})),
                ):
                    (folder / name).write_bytes(text)
                    self._backend.publish(folder / name, name)
        except OSError as error:
            raise StoreError(f"{self.path} can't be made a store: {error}.") from error

    def check(self) -> bool:
        """Tell whether the directory is a store yet.

        Raises:
            StoreError: when it holds something else, or a newer layout.
        """
        if self._checked:
            return True
        try:
            layout = encoding.loads(self._backend.read("store.json"))
        except encoding.EncodingError as error:
            raise IntegrityError(f"{self.path / 'store.json'} is damaged: {error}.") from error
        except (FileNotFoundError, NotADirectoryError):
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path} is a file; a store is a directory.") from None
            others = set(self._backend.keys(".")) - {"staging", ".gitignore"}
            if "store.json" in others:  # another process has just made the store
                return self.check()
            if others:
                raise StoreError(
                    f"{self.path} is not a store: it has no store.json, but {sorted(others)[0]!r} "
                    f"and more. Choose a new or empty directory."
                ) from None
            return False
        found = layout.get("layout") if isinstance(layout, dict) else None
        if found != LAYOUT:
            raise StoreError(
                f"{self.path} has the layout {found!r}; this flowyml knows layout {LAYOUT}. "
                f"Upgrade flowyml-core."
            )
        self._checked = True
        return True
