"""Which versions there are: their manifests, by name and version, and which were deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowyml import names
from flowyml.digests import is_digest
from flowyml.errors import AssetNotFoundError, StoreError
from flowyml.store import maintenance, saving
from flowyml.store import manifest as manifests
from flowyml.store.backend import Backend
from flowyml.store.layout import Layout
from flowyml.store.manifest import Manifest

_last: dict[tuple[Path, str], tuple[int | None, int]] = {}
"""What `Catalog.last` found, and what the folder's stamp was then."""


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

    def last(self, name: str) -> int:
        """Return the highest number that a version ``v<number>`` of a name has, or had.

        Looking through all versions at each save would make the thousandth save slow.
        """
        stamp = self._backend.stamp(f"assets/{name}")
        known = _last.get((self._path, name))
        if known is not None and stamp is not None and known[0] == stamp:
            return known[1]
        files = self._backend.keys(f"assets/{names.check_name(name)}")
        last = names.last_number([file.rpartition(".")[0] for file in files])
        _last[self._path, name] = stamp, last
        return last

    def forget_last(self, name: str) -> None:
        """Look again the next time: somebody else was faster."""
        _last.pop((self._path, name), None)

    def kept(self) -> list[str]:
        """Return the refs of what is kept by its content."""
        self._layout.check()
        digests = (file.removesuffix(".json") for file in self._backend.keys(KEPT))
        return [f"{KEPT}@{digest}" for digest in digests if is_digest(digest)]

    def has(self, manifest: Manifest) -> bool:
        """Tell whether a version is still there."""
        return self.has_version(str(manifest.asset.name), str(manifest.asset.version))

    def has_version(self, name: str, version: str) -> bool:
        """Tell whether there is a version of a name."""
        self._layout.check()
        return self._backend.size(manifest_key(name, version)) > 0

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

    def manifests(self, *, kept: bool = False) -> list[Manifest]:
        """Read every manifest.

        Args:
            kept: whether also those of what is kept by its content.

        Raises:
            IntegrityError: when one can't be read.
        """
        found, problems = [], []
        refs = [f"{name}@{version}" for name, versions in self.listed() for version in versions]
        for ref in (*refs, *(self.kept() if kept else ())):
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
        if self._backend.size(deleted_key(name, version)) > 0:
            raise StoreError(f"{name}@{version} was deleted, and a version is never used again.")
        staged = folder / f"{version}.manifest"
        staged.write_bytes(saving.checked_text(manifest))
        staged.chmod(0o444)
        committed = self._backend.publish(staged, manifest_key(name, version))
        known = _last.get((self._path, name))
        if committed and known is not None and version == f"v{known[1] + 1}":
            _last[self._path, name] = self._backend.stamp(f"assets/{name}"), known[1] + 1
        return committed


def deleted_key(name: str, version: str) -> str:
    """Return where it is noted that a version was deleted."""
    return f"assets/{name}/{version}.deleted"


KEPT = "kept"
"""The name of objects that are kept by their content: their version is their digest."""


def manifest_key(name: str, version: str) -> str:
    """Return where the manifest of a version is."""
    if is_kept(name, version):
        return f"{KEPT}/{version}.json"
    return f"assets/{name}/{version}.json"


def is_kept(name: str, version: str | None) -> bool:
    """Tell whether an object is kept by its content, rather than being an asset of a name."""
    return name == KEPT and is_digest(version)
