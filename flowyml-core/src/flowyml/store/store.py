"""The store: names, versions, and the way of an object into files and back.

Saving writes into a private staging folder, publishes the blobs, and publishes the manifest
last: until then nothing is visible, and a crash at any moment leaves the earlier versions as they
were. Loading verifies every byte before it is handed out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from flowyml import adapters, encoding, names
from flowyml.assets import Asset, Stored, StoredFile
from flowyml.errors import (
    AssetNotFoundError,
    FlowymlError,
    IntegrityError,
    MaterializationError,
    StoreError,
)
from flowyml.interfaces import LoadOptions, Saved, SaveOptions
from flowyml.properties import type_name
from flowyml.store import manifest as manifests
from flowyml.store import saving
from flowyml.store.backend import LocalDirectory, make_folder
from flowyml.store.blobs import Blobs
from flowyml.store.export import export
from flowyml.store.manifest import Manifest
from flowyml.trust import Trust

LAYOUT = 1
"""Version of the store's folder layout, kept in ``store.json``."""


@attrs.frozen
class Verification:
    """What `Store.verify` checked: numbers of versions and files, and their bytes."""

    versions: int
    files: int
    size: int


class Store:
    """Assets by name and version in a directory.

    The directory is made when something is first saved. Any number of processes may use it at
    the same time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._backend = LocalDirectory(self.path)
        self._blobs = Blobs(self._backend)
        self._checked = False

    @classmethod
    def default(cls) -> Store:
        """Return the store of ``$FLOWYML_STORE``, or else of ``./.flowyml``."""
        return cls(os.environ.get("FLOWYML_STORE") or ".flowyml")

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def save(self, obj: Any, name: str | None = None, *, format: str | None = None) -> Asset:
        """Save an object as a new version.

        Args:
            obj: a `Model` (saved with its metadata), another `Asset`, or any object that a
                materializer handles.
            name: its name; an asset's own by default.
            format: one of the materializer's formats, such as ``"state_dict"``.

        Returns:
            The asset with its version; the one that was given, if it was one.

        Raises:
            MaterializationError: when no materializer handles the object or has the format.
            StoreError: when the store can't take it. Whatever the error, nothing became visible.
        """
        return self.save_for_run(obj, name, format=format)

    def save_for_run(
        self,
        obj: Any,
        name: str | None = None,
        *,
        format: str | None = None,
        run: str | None = None,
        step: str | None = None,
    ) -> Asset:
        """Save like `save`, noting the run and step that made the object."""
        asset = obj if isinstance(obj, Asset) else Asset(data=obj)
        if asset.data is None and asset.stored is not None and asset.stored.type != "NoneType":
            raise StoreError(
                f"{asset.ref} was read without its data, so there is nothing to save. Load it with "
                f"Model.load or Store.load first."
            )
        name = names.check_name(name if name is not None else asset.name)
        materializer = saving.materializer_of(asset.data)
        options = SaveOptions(saving.checked_format(materializer, format, asset.data))
        self._prepare()
        try:
            with self._backend.staging() as folder:
                result = saving.written(materializer, asset.data, folder, options)
                files = tuple(self._added(folder))
                stored = Stored(
                    digest=manifests.content_digest(materializer.key, options.format, files),
                    created_at=datetime.now(UTC),
                    type=type_name(asset.data),
                    adapter=saving.origin(materializer),
                    materializer=materializer.key,
                    format=options.format,
                    files=files,
                    restore=result.restore,
                    restore_reason=result.reason,
                    required_trust=result.required_trust,
                    run=run,
                    step=step,
                )
                version = self._publish(asset, name, stored, dict(result.details), folder)
        except OSError as error:
            raise StoreError(
                f"{name!r} can't be saved in {self.path}: {error}. Nothing of it became visible."
            ) from error
        asset.name, asset.version, asset.stored = name, version, stored
        return asset

    def _added(self, folder: Path) -> Iterator[StoredFile]:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield StoredFile(path.relative_to(folder).as_posix(), *self._blobs.add(path))

    def _publish(
        self, asset: Asset, name: str, stored: Stored, details: dict[str, Any], folder: Path
    ) -> str:
        """Write the manifest under the first version that nobody else takes."""
        wanted = None if asset.stored else asset.version
        while True:
            version = wanted or names.next_version(self.versions(name))
            to_write = attrs.evolve(asset, name=name, version=version, stored=stored)
            staged = folder / "manifest.json"
            staged.write_bytes(saving.checked_text(Manifest(to_write, details)))
            staged.chmod(0o444)
            if self._backend.publish(staged, _key(name, version)):
                return version
            if wanted:
                raise StoreError(
                    f"{name}@{wanted} exists already in {self.path}, and a version never changes. "
                    f"Leave version= out to get the next one."
                )
            staged.unlink()

    def load(
        self,
        ref: str,
        *,
        trust: Iterable[Any] = (),
        into: Any = None,
        device: Any = None,
        verify: bool = True,
    ) -> Any:
        """Load the object itself. Runs no code from the files, nor any that isn't trusted.

        Args:
            ref: ``"name"`` for the newest version, or ``"name@v3"``.
            trust: classes and dotted names (``"mypkg.*"``) that loading may import and use.
            into: an object that you built, to be filled.
            device: where to put the values, in the framework's words; by default where they
                were, if that exists here.
            verify: False leaves out comparing every byte with its digest.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            IntegrityError: when what is on disk isn't what was saved.
            AdapterNotFoundError: when the adapter that saved it isn't installed.
            UntrustedDataError: when loading needs what isn't trusted.
            MaterializationError: when the object can't be rebuilt.
        """
        options = LoadOptions(Trust.of(trust), into, device)
        manifest = self._manifest(ref)
        stored = manifest.stored
        materializer = adapters.materializer(stored.materializer)
        files = {file.path: self._file(manifest, file, verify=verify) for file in stored.files}
        saved = Saved(str(manifest.asset.ref), stored.format, files, manifest.result)
        try:
            return materializer.load(saved, options)
        except (FlowymlError, Warning):
            raise
        except Exception as error:  # the files may come from a stranger
            raise MaterializationError(
                f"{saved.ref} can't be loaded: the materializer {materializer.key!r} failed with "
                f"{type(error).__name__}: {error}"
            ) from error

    def get(self, ref: str) -> Asset:
        """Read what is known about an asset; imports no framework.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            IntegrityError: when its manifest isn't what was saved.
        """
        return self._manifest(ref).asset

    def names(self) -> list[str]:
        """Return the names of all assets that have a version, sorted."""
        self._check_layout()
        found = filter(names.is_name, self._backend.keys("assets"))
        return [name for name in found if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a name, oldest first; none for an unknown name."""
        self._check_layout()
        files = self._backend.keys(f"assets/{names.check_name(name)}")
        versions = [file.removesuffix(".json") for file in files if file.endswith(".json")]
        return sorted(filter(names.is_version, versions), key=names.version_order)

    def verify(self, ref: str | None = None) -> Verification:
        """Compare every byte of a version, or of all, with its digest.

        Raises:
            IntegrityError: listing everything that is damaged, after all was checked.
            AssetNotFoundError: when there is no such name or version.
        """
        refs = [ref] if ref else [f"{n}@{v}" for n in self.names() for v in self.versions(n)]
        checked: dict[str, int] = {}
        problems: list[str] = []
        for one in refs:
            try:
                manifest = self._manifest(one)
            except StoreError as error:
                problems.append(str(error))
                continue
            for file in manifest.stored.files:
                if file.digest in checked:
                    continue
                checked[file.digest] = file.size
                try:
                    self._file(manifest, file)
                except IntegrityError as error:
                    problems.append(str(error))
        if problems:
            raise IntegrityError("\n".join(problems))
        return Verification(len(refs), len(checked), sum(checked.values()))

    def export(self, ref: str, directory: str | os.PathLike[str]) -> Path:
        """Lay a version out as a plain folder: its files by their names, and ``manifest.json``.

        Args:
            ref: which version.
            directory: a folder that doesn't exist yet.

        Raises:
            StoreError: when the folder exists or can't be written.
            IntegrityError: when what is on disk isn't what was saved; no folder is left.
        """
        manifest = self._manifest(ref)
        files = {file.path: self._file(manifest, file) for file in manifest.stored.files}
        return export(manifest, files, Path(directory).absolute())

    def write_record(self, key: str, data: Any) -> None:
        """Write a small JSON file that may change, such as a run's record, in one atomic step.

        Raises:
            StoreError: when the store can't take it.
        """
        self._prepare()
        try:
            with self._backend.staging() as folder:
                staged = folder / "record.json"
                staged.write_bytes(encoding.dumps(data))
                self._backend.replace(staged, key)
        except OSError as error:
            raise StoreError(f"{key} can't be written in {self.path}: {error}.") from error

    def records(self, folder: str) -> list[str]:
        """Return the keys of the JSON files in a folder."""
        self._check_layout()
        return [f"{folder}/{n}" for n in self._backend.keys(folder) if n.endswith(".json")]

    def read_record(self, key: str) -> Any:
        """Read what `write_record` wrote.

        Raises:
            IntegrityError: when it isn't JSON of that form.
        """
        try:
            return encoding.loads(self._backend.read(key))
        except encoding.EncodingError as error:
            raise IntegrityError(f"{self.path / key} is damaged: {error}.") from error

    def _file(self, manifest: Manifest, file: StoredFile, *, verify: bool = True) -> Path:
        what = f"{manifest.asset.ref}, file {file.path!r},"
        return self._blobs.checked(file.digest, file.size, what, verify=verify)

    def _manifest(self, ref: str) -> Manifest:
        name, version = names.parse_ref(ref)
        versions = self.versions(name)
        if version is None and versions:
            version = versions[-1]
        if version is None:
            known = ", ".join(self.names()[:20]) or "nothing yet"
            raise AssetNotFoundError(f"{self.path} holds no {name!r}. It holds: {known}.")
        try:
            text = self._backend.read(_key(name, version))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise StoreError(f"{name}@{version} can't be read: {error}.") from error
            known = ", ".join(versions[-20:]) or "no version"
            raise AssetNotFoundError(
                f"{self.path} holds no {name}@{version}. Of {name!r} it holds: {known}."
            ) from None
        return manifests.read(text, f"{name}@{version}")

    def _prepare(self) -> None:
        """Make the directory a store, unless it is one."""
        if self._check_layout():
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

    def _check_layout(self) -> bool:
        """Tell whether the directory is a store yet.

        Raises:
            StoreError: when it holds something else, or a newer layout.
        """
        if self._checked:
            return True
        try:
            layout = self.read_record("store.json")
        except (FileNotFoundError, NotADirectoryError):
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path} is a file; a store is a directory.") from None
            others = set(self._backend.keys(".")) - {"staging", ".gitignore"}
            if "store.json" in others:  # another process has just made the store
                return self._check_layout()
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


def _key(name: str, version: str) -> str:
    return f"assets/{name}/{version}.json"
