"""Two stored versions, value by value: their adapter says how they differ.

The framework is imported only where the contents differ, and nothing is built of the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowyml import adapters
from flowyml.errors import AdapterWarning, told, warn
from flowyml.interfaces import Change, Materializer
from flowyml.progress import Progress
from flowyml.properties import type_name
from flowyml.store import Store, loading
from flowyml.store.manifest import Manifest
from flowyml.stored import StoredFile
from flowyml.summary import size_of


def compare_assets(
    store_before: Store, ref_before: str, store_after: Store, ref_after: str
) -> list[Change] | None:
    """Return how two stored versions differ, value by value; their files are checked first.

    Equal contents have no changes. None means that it isn't known: they were saved in two ways, or
    their adapter doesn't compare. One that fails costs an `AdapterWarning`, and the changes are
    those of files then.

    Raises:
        AssetNotFoundError: when a store has no such version.
        IntegrityError: when what is on disk isn't what was saved.
    """
    before = store_before._catalog.manifest(ref_before)
    after = store_after._catalog.manifest(ref_after)
    if before.stored.digest == after.stored.digest:
        return []
    if before.stored.materializer != after.stored.materializer:
        return None
    title = f"Comparing {before.asset.ref} and {after.asset.ref}"
    with (
        Progress(title, before.stored.size + after.stored.size) as progress,
        loading.Check(store_before._blobs, before, True, progress) as first,
        loading.Check(store_after._blobs, after, True, progress) as second,
    ):
        first.finish()
        second.finish()
        try:
            materializer = adapters.materializer(before.stored.materializer)
            found = materializer.compare(
                loading.saved(before, first.paths), loading.saved(after, second.paths)
            )
            return None if found is None else _checked(materializer, found)
        except (Warning, KeyboardInterrupt):  # a warning is an error where the user wants it to be
            raise
        except BaseException as error:
            warn(
                f"How {before.asset.ref} and {after.asset.ref} differ is told by files alone, as "
                f"the materializer {before.stored.materializer!r} can't compare them: "
                f"{told(error)}",
                AdapterWarning,
            )
            return list(changed_files(before, after))


def _checked(materializer: Materializer, found: object) -> list[Change]:
    changes: list[Any] = list(found) if isinstance(found, Sequence) else [found]
    unfit = [item for item in changes if not isinstance(item, Change)]
    if unfit:
        raise TypeError(
            f"the compare() of {type_name(materializer)} returned a {type_name(unfit[0])} where a "
            f"Change is needed"
        )
    return changes


def changed_files(before: Manifest, after: Manifest) -> Iterator[Change]:
    """Yield a change for each file that isn't the same in both."""
    first, second = ({file.path: file for file in m.stored.files} for m in (before, after))
    for path in sorted({*first, *second}):
        old, new = first.get(path), second.get(path)
        if old is None or new is None or old.digest != new.digest:
            yield Change(f"file {path}", _told(old), _told(new))


def _told(file: StoredFile | None) -> str | None:
    return None if file is None else f"{size_of(file.size)}, {file.digest[:12]}…"
