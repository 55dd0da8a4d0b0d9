"""Which versions there are: their manifests, by name and version, and which were deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowyml import names
from flowyml.errors import AssetNotFoundError, StoreError
from flowyml.store import maintenance, saving
from flowyml.store import manifest as manifests
from flowyml.store.backend import Backend
from flowyml.store.layout import Layout
from flowyml.store.manifest import Manifest


class Catalog:
    """The manifests of one store."""

    def __init__(self, path: Path, backend: Backend, layout: Layout) -> None:
        self._path = path
        self._backend = backend
        self._layout = layout

    def versions(self, name: str) -> list[str]:
        """Return the versions of a name, oldest first; none for an unknown name."""
        self._layout.check()
        files = self._backend.keys(f"assets/{names.check_name(name)}")
        versions = [file.removesuffix(".json") for file in files if file.endswith(".json")]
        return sorted(filter(names.is_version, versions), key=names.version_order)

    def listed(self) -> Iterator[tuple[str, list[str]]]:
        """Yield every name that has a version, with its versions."""
        self._layout.check()
        for name in filter(names.is_name, self._backend.keys("assets")):
            versions = self.versions(name)
            if versions:
                yield name, versions

    def deleted(self, name: str) -> list[str]:
        """Return the versions of a name that were deleted, in no order."""
        files = self._backend.keys(f"assets/{name}")
        return [file.removesuffix(".deleted") for file in files if file.endswith(".deleted")]

    def has(self, manifest: Manifest) -> bool:
        """Tell whether a version is still there."""
        return manifest.asset.version in self.versions(str(manifest.asset.name))

    def manifest(self, ref: str) -> Manifest:
        """Read a manifest; a bare name means its last version.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            IntegrityError: when it isn't what was saved.
            StoreError: when it can't be read.
        """
        name, version = names.parse_ref(ref)
        self._layout.check()
        if version is None:
            version = next(reversed(self.versions(name)), None)
        if version is None:
            raise self._unknown(name)
        try:
            text = self._backend.read(manifest_key(name, version))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise StoreError(f"{name}@{version} can't be read: {error}.") from error
            known = ", ".join(self.versions(name)[-20:]) or "no version"
            raise AssetNotFoundError(
                f"{self._path} holds no {name}@{version}. Of {name!r} it holds: {known}."
            ) from None
        return manifests.read(text, f"{name}@{version}")

    def _unknown(self, name: str) -> AssetNotFoundError:
        from difflib import get_close_matches

        known = [listed for listed, _ in self.listed()]
        near = get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return AssetNotFoundError(
            f"{self._path} holds no {name!r}. It holds: {', '.join(known[:20]) or 'nothing yet'}."
            f"{hint} Another store is chosen with store=, or with $FLOWYML_STORE."
        )

    def manifests(self) -> list[Manifest]:
        """Read every manifest.

        Raises:
            IntegrityError: when one can't be read.
        """
        found, problems = [], []
        refs = [f"{name}@{version}" for name, versions in self.listed() for version in versions]
        for ref in refs:
            try:
                found.append(self.manifest(ref))
            except AssetNotFoundError:
                continue  # somebody deletes at the same time
            except StoreError as error:
                problems.append(str(error))
        maintenance.refuse_if_damaged(problems)
        return found

    def commit(self, manifest: Manifest, folder: Path) -> bool:
        """Publish a manifest, which commits its version; False when the version is taken.

        Raises:
            StoreError: when it was deleted.
            MaterializationError: when the manifest couldn't be read again.
        """
        name, version = str(manifest.asset.name), str(manifest.asset.version)
        if version in self.deleted(name):
            raise StoreError(f"{name}@{version} was deleted, and a version is never used again.")
        staged = folder / f"{version}.manifest"
        staged.write_bytes(saving.checked_text(manifest))
        staged.chmod(0o444)
        return self._backend.publish(staged, manifest_key(name, version))


def deleted_key(name: str, version: str) -> str:
    """Return where it is noted that a version was deleted."""
    return f"assets/{name}/{version}.deleted"


def manifest_key(name: str, version: str) -> str:
    """Return where the manifest of a version is."""
    return f"assets/{name}/{version}.json"
