"""The store: names, versions, and the way of an object into files and back.

Saving writes into a private staging folder, publishes the blobs, and publishes the manifest
last: until then nothing is visible, and a crash at any moment leaves the earlier versions as they
were. Loading verifies every byte before it is handed out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from flowyml import adapters, encoding, groups, identity, names, origins
from flowyml.assets import Asset, Parent
from flowyml.errors import (
    AssetNotFoundError,
    FlowymlError,
    IntegrityError,
    MaterializationError,
    StoreError,
    quiet,
)
from flowyml.interfaces import (
    Earlier,
    Group,
    LoadOptions,
    Materializer,
    SaveOptions,
    SaveResult,
)
from flowyml.models import described
from flowyml.progress import Progress
from flowyml.properties import type_name
from flowyml.store import loading, maintenance, saving, together, verification
from flowyml.store import manifest as manifests
from flowyml.store.backend import LocalDirectory
from flowyml.store.blobs import Blobs
from flowyml.store.catalog import KEPT, Catalog, deleted_key, is_kept, manifest_key
from flowyml.store.layout import Layout
from flowyml.store.manifest import Manifest
from flowyml.store.transfer import export, read_manifest, take_in
from flowyml.stored import Stored, StoredFile
from flowyml.trust import Trust

if TYPE_CHECKING:
    from flowyml.difference import Difference
    from flowyml.lineage import Lineage


class Store:
    """Assets by name and version in a directory.

    The directory is made when something is first saved. Any number of processes may use it at
    the same time.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, format: str | Iterable[str] | None = None
    ) -> None:
        """Use a directory as a store.

        Args:
            path: the directory.
            format: the format, or formats in order of preference, in which `save` writes objects
                that have it, unless it is told another.

        Raises:
            ValueError: for a format that no installed adapter has.
        """
        self.path = Path(path).absolute()
        self.format = saving.checked_preference(format)
        self._backend = LocalDirectory(self.path)
        self._blobs = Blobs(self._backend)
        self._layout = Layout(self.path, self._backend)
        self._catalog = Catalog(self.path, self._backend, self._layout)

    @classmethod
    def default(cls) -> Store:
        """Return the store of ``$FLOWYML_STORE``, or else of ``./.flowyml``."""
        return cls(os.environ.get("FLOWYML_STORE") or ".flowyml")

    @classmethod
    def of(cls, store: Store | str | os.PathLike[str] | None) -> Store:
        """Return a store: the one given, that of a directory, or the default one for None."""
        if store is None:
            return cls.default()
        if isinstance(store, Store):
            return store
        if isinstance(store, (str, os.PathLike)):
            return cls(store)
        raise TypeError(f"store= takes a Store or a directory; got a {type_name(store)}.")

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def save(self, obj: Any, name: str | None = None, *, format: str | None = None) -> Asset:
        """Save an object as a new version.

        Args:
            obj: a `Model` (saved with its metadata), another `Asset`, or any object that a
                materializer handles.
            name: its name; an asset's own by default.
            format: one of the materializer's formats, such as ``"state_dict"``; by default the
                store's, for an object that has it, or else the materializer's first.

        What several processes hold parts of, such as a sharded model, all of them save at the same
        time, under the same name: each writes its own part. In a step that runs in several
        processes, rank 0 alone saves everything else, and the others get assets without a version.

        Returns:
            The asset with its version; the one that was given, if it was one.

        Raises:
            MaterializationError: when no materializer handles the object or has the format.
            StoreError: when the store can't take it, or another process fails. Whatever the error,
                nothing became visible.
            LaunchError: when another process has to save its part too, and doesn't.
        """
        return self.save_for_run(obj, name, format=format)

    def save_for_run(
        self,
        obj: Any,
        name: str | None = None,
        *,
        format: str | None = None,
        preferred: Iterable[str] = (),
        run: str | None = None,
        step: str | None = None,
        inputs: Iterable[Parent] = (),
    ) -> Asset:
        """Save like `save`, noting the run and step that made the object.

        Args:
            obj: as in `save`.
            name: as in `save`.
            format: as in `save`.
            preferred: formats for objects that have them; they come before the store's own.
            run: id of the run.
            step: name of the step.
            inputs: what the step was given, as far as that is known in the store.
        """
        scope = origins.current_scope.get() if run is None else None
        if scope is not None and scope.store not in (None, self):
            saved: Asset = scope.store.save_for_run(
                obj, name, format=format, preferred=(*preferred, *self.format)
            )
            return saved
        if scope is not None:  # the function of a step saves by itself
            run, step, inputs = scope.run, scope.step, scope.inputs
        asset = obj if isinstance(obj, Asset) else described(obj)
        asset.before_save()
        if asset.data is None and asset.stored is not None and asset.stored.type != "NoneType":
            raise StoreError(
                f"{asset.ref} was read without its data, so there is nothing to save. Load it with "
                f"Model.load or Store.load first."
            )
        name = names.check_name(name if name is not None else asset.name)
        materializer = saving.materializer_of(asset)
        group = _group_of_several()
        spread = group is not None and saving.is_spread(materializer, asset.data)
        if group is not None and group.rank and scope is not None and not spread:
            return asset  # rank 0 saves it
        chosen = saving.chosen_format(materializer, format, (*preferred, *self.format), asset)
        before = self._before(asset)
        asset.recognised = tuple({parent.ref: parent for parent in (*before, *inputs)}.values())
        if group is not None and spread:
            stored = self._write_together(group, asset, name, materializer, chosen, run, step)
        else:
            stored = self._write(asset, name, materializer, chosen, run, step)
        ref = str(asset.ref)
        canonical = identity.is_canonical(materializer, chosen) and stored.restore == "exact"
        origins.note(asset, self.path, ref, stored.digest if canonical else _digest_or_none(asset))
        origins.note_parts(asset.data, self.path, ref)
        if scope is not None:
            scope.saved.append(ref)
        return asset

    def _before(self, asset: Asset) -> tuple[Parent, ...]:
        """Return what an object was saved as or loaded from before it became what it is."""
        ref = origins.before(asset.data, self.path)
        return (Parent(ref, self._digest_of(ref)),) if ref else ()

    def _digest_of(self, ref: str) -> str | None:
        try:
            return self.get(ref).digest
        except StoreError:  # it was deleted since
            return None

    def keep(self, obj: Any, digest: str, *, limit: int | None = None) -> str | None:
        """Keep an object by its content, without a name; return its ref, ``"kept@<digest>"``.

        Args:
            obj: what a materializer handles.
            digest: its content digest.
            limit: bytes; what is larger isn't kept, and None returned.

        Raises:
            MaterializationError: when it can't be saved exactly.
            StoreError: when the store can't take it.
        """
        ref = f"{KEPT}@{digest}"
        if self._catalog.has_version(KEPT, digest):
            return ref
        asset = Asset(name=KEPT, version=digest, data=obj)
        materializer = saving.materializer_of(asset)
        try:
            with quiet():
                self._write(asset, KEPT, materializer, materializer.formats[0], None, None, limit)
        except saving.TooLargeError:
            return None
        return ref

    def has(self, ref: str) -> bool:
        """Tell whether there is a version, such as ``"name@v3"``; reads nothing of it."""
        name, version = names.parse_ref(ref)
        if version is None:
            return bool(self.versions(name))
        return self._catalog.has_version(name, version)

    def _write(
        self,
        asset: Asset,
        name: str,
        materializer: Materializer,
        chosen: str,
        run: str | None,
        step: str | None,
        limit: int | None = None,
    ) -> Stored:
        """Write an asset's files and manifest; its name, version and `stored` are set then."""
        self._layout.prepare()
        try:
            with (
                self._backend.staging() as folder,
                Progress(f"Saving {name}") as progress,
                saving.Intake(self._blobs, folder, progress) as intake,
            ):
                options = SaveOptions(
                    chosen,
                    asset.described_with(),
                    lambda: self._earlier(
                        self._earlier_ref(name, asset), materializer.key, chosen, intake
                    ),
                    saving.expecting(progress, limit),
                    intake.done,
                )
                result = saving.written(materializer, asset.data, folder, options)
                files = intake.finish()
                if limit is not None:
                    saving.check_limit(sum(file.size for file in files), limit)
                if name == KEPT and result.restore != "exact":
                    raise MaterializationError(f"it can't be kept exactly: {result.reason}")
                stored = _stored(asset, materializer, chosen, result, files, run, step)
                version = self._publish(asset, name, stored, dict(result.details), folder)
        except OSError as error:
            raise StoreError(
                f"{name!r} can't be saved in {self.path}: {error}. Nothing of it became visible."
            ) from error
        asset.name, asset.version, asset.stored = name, version, stored
        return stored

    def _write_together(
        self,
        group: Group,
        asset: Asset,
        name: str,
        materializer: Materializer,
        chosen: str,
        run: str | None,
        step: str | None,
    ) -> Stored:
        """Write an asset's files with other processes, and its manifest by rank 0."""
        try:
            with together.Talk(group, name) as talk:
                self._layout.prepare()
                talk.agree({"materializer": materializer.key, "format": chosen})
                with together.common_folder(talk, self._backend, self.path) as folder:
                    if folder is not None:
                        told = self._write_parts(
                            talk, folder, asset, materializer, chosen, run, step
                        )
                        text, version = told["manifest"].encode(), told["version"]
                        stored = manifests.read(text, f"{name}@{version}").stored
                        asset.name, asset.version, asset.stored = name, version, stored
                        return stored
        except OSError as error:
            raise StoreError(
                f"{name!r} can't be saved in {self.path}: {error}. Nothing of it became visible."
            ) from error
        return self._write(asset, name, materializer, chosen, run, step)  # each into its own store

    def _write_parts(
        self,
        talk: together.Talk,
        folder: Path,
        asset: Asset,
        materializer: Materializer,
        chosen: str,
        run: str | None,
        step: str | None,
    ) -> Any:
        """Write this process's part into a folder that all see; return what rank 0 committed."""
        name = talk.name
        with Progress("") as unseen, saving.Intake(self._blobs, folder, unseen) as intake:
            ref = talk.tell(lambda: self._earlier_ref(name, asset))
            options = SaveOptions(
                chosen,
                asset.described_with(),
                lambda: self._earlier(ref, materializer.key, chosen, intake),
                group=talk,
            )
            result = saving.written(materializer, asset.data, folder, options)
            files = together.take_in(talk, folder, self._blobs, intake.kept)
        if talk.rank:
            return talk.tell(dict)
        stored = _stored(asset, materializer, chosen, result, files, run, step)
        version = self._publish(asset, name, stored, dict(result.details), folder)
        committed = attrs.evolve(asset, name=name, version=version, stored=stored)
        text = manifests.write(Manifest(committed, dict(result.details))).decode()
        told = {"version": version, "manifest": text}
        with suppress(FlowymlError):  # somebody ended after having done its part
            talk.tell(lambda: told)
        return told

    def _earlier_ref(self, name: str, asset: Asset) -> str | None:
        """Return the ref of the version whose files the next one of a name may refer to."""
        versions = self.versions(name)
        return f"{name}@{versions[-1]}" if versions else asset.ref if asset.stored else None

    def _earlier(
        self, ref: str | None, materializer: str, format: str, intake: saving.Intake
    ) -> Earlier | None:
        """Open a version for one that may refer to its files."""
        if ref is None:
            return None
        try:
            found = self._catalog.manifest(ref)
        except StoreError:  # another store's, or damaged: then everything is written
            return None
        if (found.stored.materializer, found.stored.format) != (materializer, format):
            return None
        return saving.EarlierVersion(found, self._blobs, intake)

    def _publish(
        self, asset: Asset, name: str, stored: Stored, details: dict[str, Any], folder: Path
    ) -> str:
        """Write the manifest under the first version that nobody else takes."""
        wanted = None if asset.stored else asset.version
        while True:
            version = wanted or f"v{self._catalog.last(name) + 1}"
            to_write = attrs.evolve(asset, name=name, version=version, stored=stored)
            if self._catalog.commit(Manifest(to_write, details), folder):
                return version
            if is_kept(name, version):  # somebody else has just kept it
                return version
            self._catalog.forget_last(name)
            if wanted:
                raise StoreError(
                    f"{name}@{wanted} exists already in {self.path}, and a version never changes. "
                    f"Leave version= out to get the next one."
                )

    def load(
        self,
        ref: str,
        *,
        trust: Iterable[Any] = (),
        into: Any = None,
        device: Any = None,
        verify: bool = True,
        format: str | None = None,
        class_map: Mapping[str, type] | None = None,
    ) -> Any:
        """Load the object itself. Runs no code from the files, nor any that isn't trusted.

        Args:
            ref: ``"name"`` for the newest version, or ``"name@v3"``.
            trust: classes and dotted names (``"mypkg.*"``) that loading may import and use.
            into: an object that you built, to be filled.
            device: where to put the values, in the framework's words; by default where they
                were, if that exists here.
            verify: False leaves out comparing every byte with its digest.
            format: another form to give it back in, such as ``"state_dict"`` for the weights
                alone of what was saved as a module.
            class_map: classes by the dotted names of those whose place they take, for classes
                that have moved: ``{"old_package.Net": Net}``. They count as trusted.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            IntegrityError: when what is on disk isn't what was saved.
            AdapterNotFoundError: when the adapter that saved it isn't installed.
            UntrustedDataError: when loading needs what isn't trusted.
            MaterializationError: when the object can't be rebuilt.
        """
        options = LoadOptions(
            Trust.of(trust), into, device, format, loading.checked_class_map(class_map or {})
        )
        holder = self._holder_of(ref)
        if holder is not self:
            return holder.load(
                ref,
                trust=trust,
                into=into,
                device=device,
                verify=verify,
                format=format,
                class_map=class_map,
            )
        manifest = self._catalog.manifest(ref)
        stored = manifest.stored
        materializer = adapters.materializer(stored.materializer)
        loading.check_options(materializer, manifest, options)
        with (
            Progress(f"Loading {manifest.asset.ref}", stored.size) as progress,
            loading.Check(self._blobs, manifest, verify, progress) as check,
        ):
            if options.changes_something():
                check.finish()
            loaded = loading.loaded(materializer, loading.saved(manifest, check.paths), options)
            check.finish()
        self._note_loaded(loaded, manifest, options, verify)
        return loaded

    def _note_loaded(
        self, loaded: Any, manifest: Manifest, options: LoadOptions, verify: bool
    ) -> None:
        """Note where an object comes from. One in another form has another digest."""
        stored = manifest.stored
        materializer = adapters.materializer(stored.materializer)
        same = (
            identity.is_canonical(materializer, stored.format)
            and stored.restore == "exact"
            and options.format is None
            and not options.changes_something()
        )
        digest = stored.digest if same else _digest_or_none(loaded) if verify else None
        ref = str(manifest.asset.ref)
        origins.note(loaded, self.path, ref, digest)
        origins.note_parts(loaded, self.path, ref)

    def get(self, ref: str) -> Asset:
        """Read what is known about an asset; imports no framework.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            IntegrityError: when its manifest isn't what was saved.
        """
        return self._holder_of(ref)._catalog.manifest(ref).asset

    def _holder_of(self, ref: str) -> Store:
        """Return the store to read from: while a run is repeated, what it saved is in another."""
        scope = origins.current_scope.get()
        if scope is None or scope.store in (None, self):
            return self
        holder: Store = scope.store
        return holder if holder.has(ref) else self

    def names(self) -> list[str]:
        """Return the names of all assets that have a version, sorted."""
        return [name for name, _ in self._catalog.listed()]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a name, oldest first; none for an unknown name."""
        return self._catalog.versions(name)

    def refs(self) -> list[str]:
        """Return ``"name@version"`` of everything, sorted by name, versions oldest first."""
        return [
            f"{name}@{version}" for name, versions in self._catalog.listed() for version in versions
        ]

    def verify(self, ref: str | None = None) -> verification.Verification:
        """Compare every byte of a version, or of all, with its digest.

        Raises:
            IntegrityError: listing everything that is damaged, after all was checked.
            AssetNotFoundError: when there is no such name or version.
        """
        refs = [ref] if ref else [*self.refs(), *self._catalog.kept()]
        intact: list[Manifest] = []
        problems: list[str] = []
        for one in refs:
            try:
                intact.append(self._catalog.manifest(one))
            except AssetNotFoundError:
                if ref:
                    raise  # otherwise somebody has just deleted it
            except StoreError as error:
                problems.append(str(error))
        checked = verification.verify(self._blobs, intact, problems, self._catalog.has)
        if problems:
            raise IntegrityError("\n".join(problems))
        return checked

    def lineage(self, ref: str) -> Lineage:
        """Return what an asset was made from, and what was made from it, all the way.

        Raises:
            AssetNotFoundError: when there is no such name or version.
        """
        from flowyml.lineage import lineage

        return lineage(self, ref)

    def diff(self, a: str, b: str, *, values: bool = True) -> Difference:
        """Return what differs between two versions, or between two runs, and the likely causes.

        Args:
            a: a ref, or the id of a run.
            b: another one of the same kind.
            values: whether to compare the contents of versions value by value, which may import
                their framework.

        Raises:
            AssetNotFoundError: when there is no such name or version.
            StoreError: when there is no such run, or one is a version and the other a run.
        """
        from flowyml.difference import diff

        return diff(self, a, b, values=values)

    def export(self, ref: str, directory: str | os.PathLike[str]) -> Path:
        """Lay a version out as a plain folder: its files by their names, and ``manifest.json``.

        Args:
            ref: which version.
            directory: a folder that doesn't exist yet.

        Raises:
            StoreError: when the folder exists or can't be written.
            IntegrityError: when what is on disk isn't what was saved; no folder is left.
        """
        manifest = self._catalog.manifest(ref)
        with Progress(f"Exporting {manifest.asset.ref}", manifest.stored.size) as progress:
            files = loading.checked_files(self._blobs, manifest, True, progress)
        return export(manifest, files, Path(directory).absolute())

    def import_(self, directory: str | os.PathLike[str], name: str | None = None) -> Asset:
        """Take in a version that `export` laid out, checking every byte.

        It keeps its version. What is there already, with the same content, stays as it is.

        Args:
            directory: the folder.
            name: another name for it; by default its own.

        Raises:
            IntegrityError: when a file isn't what was exported; nothing is taken in.
            StoreError: when it is no such folder, or the version is taken by other content.
        """
        folder = Path(directory).absolute()
        try:
            text = read_manifest(folder)
            manifest = manifests.read(text, manifests.ref_in(text))
            asset = attrs.evolve(manifest.asset, name=names.check_name(name or manifest.asset.name))
            self._layout.prepare()
            title = f"Importing {asset.ref}"
            with (
                self._backend.staging() as staging,
                Progress(title, manifest.stored.size) as progress,
            ):
                take_in(folder, manifest, staging, self._blobs, progress)
                imported = attrs.evolve(manifest, asset=asset)
                if not self._catalog.commit(imported, staging):
                    self._refuse_other_content(imported)
        except OSError as error:
            raise StoreError(
                f"{folder} can't be imported: {error}. What can be is a folder that export made."
            ) from error
        return self.get(str(asset.ref))

    def _refuse_other_content(self, manifest: Manifest) -> None:
        ref = str(manifest.asset.ref)
        if self.get(ref).digest != manifest.stored.digest:
            raise StoreError(f"{self.path} has a {ref} of other content. Import it as name=...")

    def delete(self, ref: str) -> None:
        """Delete one version. Its number isn't used again; `gc` removes what only it held.

        Args:
            ref: with its version, ``"name@v3"``: a bare name would mean another one every time.

        Raises:
            ValueError: without a version.
            AssetNotFoundError: when there is no such version.
        """
        name, version = names.parse_ref(ref)
        if version is None:
            raise ValueError(f"Say which version to delete, as in '{name}@v1': {ref!r} has none.")
        if not self._catalog.has_version(name, version):
            self._catalog.manifest(ref)
        if not is_kept(name, version):  # the same content may be kept again
            self.write_record(deleted_key(name, version), {"deleted_at": _now().isoformat()})
        self._backend.remove(manifest_key(name, version))

    def gc(
        self, *, grace: float = maintenance.GRACE, drop_kept: bool = False
    ) -> maintenance.Collected:
        """Remove what nothing refers to: blobs of deleted versions, leftovers of killed saves.

        Safe while others write.

        Args:
            grace: seconds for which what nobody refers to is left alone.
            drop_kept: whether to remove arguments and results, too, that steps kept by their
                content: runs that need them can't be reproduced then.

        Raises:
            IntegrityError: when a manifest can't be read; nothing is removed then.
            StoreError: when the store's folder can't be changed.
        """
        self._layout.check()
        try:
            for ref in self._catalog.kept() if drop_kept else ():
                key = manifest_key(*ref.split("@"))
                if self._backend.age(key) >= grace:
                    self._backend.remove(key)
            manifests = self._catalog.manifests(kept=True)
            return maintenance.collect(self._backend, manifests, grace)
        except OSError as error:
            raise StoreError(f"{self.path} can't be cleared up: {error}.") from error

    def stats(self) -> maintenance.Stats:
        """Return how much the store holds, and how much of it is shared.

        Raises:
            IntegrityError: when a manifest can't be read.
        """
        self._layout.check()
        return maintenance.measure(self._backend, self._catalog.manifests())

    def prepare(self) -> None:
        """Make the directory a store, unless it is one.

        Raises:
            StoreError: when it can't be made, or is another layout's.
        """
        self._layout.prepare()

    def write_record(self, key: str, data: Any) -> None:
        """Write a small JSON file that may change, such as a run's record, in one atomic step.

        Raises:
            StoreError: when the store can't take it.
        """
        self._layout.prepare()
        try:
            with self._backend.staging() as folder:
                staged = folder / "record.json"
                staged.write_bytes(encoding.dumps(data))
                self._backend.replace(staged, key)
        except OSError as error:
            raise StoreError(f"{key} can't be written in {self.path}: {error}.") from error

    def append_record(self, key: str, data: Any, *, durable: bool = True) -> None:
        """Add a line of JSON to a file; one that is cut off by a crash harms no other line.

        Raises:
            StoreError: when the store can't take it.
        """
        self._layout.prepare()
        line = json.dumps(encoding.encode(data), allow_nan=False).encode("ascii")
        try:
            self._backend.append(key, b"\n" + line, durable=durable)
        except OSError as error:
            raise StoreError(f"{key} can't be written in {self.path}: {error}.") from error

    def read_lines(self, key: str) -> list[Any]:
        """Read what `append_record` added, without lines that were cut off."""
        found = []
        for line in self._backend.read(key).split(b"\n"):
            try:
                found.append(encoding.loads(line))
            except encoding.EncodingError:
                continue
        return found

    def remove_record(self, key: str) -> None:
        """Remove a record; nothing when there is none.

        Raises:
            StoreError: when the store's folder can't be changed.
        """
        try:
            self._backend.remove(key)
        except OSError as error:
            raise StoreError(f"{key} can't be removed in {self.path}: {error}.") from error

    def records(self, folder: str, suffix: str = ".json") -> list[str]:
        """Return the keys of the files in a folder whose names end in a suffix."""
        self._layout.check()
        return [f"{folder}/{n}" for n in self._backend.keys(folder) if n.endswith(suffix)]

    def read_record(self, key: str) -> Any:
        """Read what `write_record` wrote.

        Raises:
            IntegrityError: when it isn't JSON of that form.
        """
        try:
            return encoding.loads(self._backend.read(key))
        except encoding.EncodingError as error:
            raise IntegrityError(f"{self.path / key} is damaged: {error}.") from error


def _stored(
    asset: Asset,
    materializer: Materializer,
    format: str,
    result: SaveResult,
    files: tuple[StoredFile, ...],
    run: str | None,
    step: str | None,
) -> Stored:
    """Return what a manifest says of files that a materializer wrote."""
    content = saving.digest_of_content(result, files)
    return Stored(
        digest=manifests.content_digest(materializer.key, format, files, content),
        created_at=_now(),
        type=type_name(asset.data),
        adapter=saving.origin(materializer),
        materializer=materializer.key,
        format=format,
        files=files,
        restore=result.restore,
        restore_reason=result.reason,
        required_trust=result.required_trust,
        content=content,
        run=run,
        step=step,
    )


def _group_of_several() -> Group | None:
    """Return the group that this process is one of; None when it is alone."""
    group = groups.group()
    return group if group is not None and group.world_size > 1 else None


def _now() -> datetime:
    return datetime.now(UTC)


def _digest_or_none(obj: Any) -> str | None:
    try:
        return identity.content_digest_of(obj)
    except identity.NoDigestError:
        return None
