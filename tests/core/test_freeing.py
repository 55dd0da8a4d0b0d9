"""Deleting versions together with the room that only they took."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flowyml import Store
from flowyml.store.freeing import Freeing


def blobs(store: Store) -> list[Path]:
    return [path for path in (store.path / "blobs").rglob("*") if path.is_file()]


def test_what_only_a_deleted_version_held_is_freed(store: Store) -> None:
    for number in range(3):
        store.save([number] * 100, "numbers")
    store.save([1] * 100, "others")  # the same file as that of numbers@v2
    freeing = Freeing(store)
    size = store.get("numbers@v1").stored.size
    for version in ("v1", "v2"):
        freeing.delete(f"numbers@{version}")
    assert freeing.free(grace=0) == size
    assert store.refs() == ["numbers@v3", "others@v1"]
    assert len(blobs(store)) == 2
    store.verify()


def test_what_somebody_has_just_made_use_of_waits_for_the_next_time(store: Store) -> None:
    store.save([1] * 100, "numbers")
    freeing = Freeing(store)
    freeing.delete("numbers@v1")
    assert freeing.free() == 0
    assert len(blobs(store)) == 1
    for path in blobs(store):
        os.utime(path, (time.time() - 100,) * 2)
    assert freeing.free() > 0
    assert blobs(store) == []


def test_what_is_referred_to_since_stays(store: Store) -> None:
    store.save([1] * 100, "numbers")
    freeing = Freeing(store)
    freeing.delete("numbers@v1")
    store.save([1] * 100, "later")
    assert freeing.free(grace=0) == 0
    assert store.load("later") == [1] * 100


def test_nothing_is_freed_where_a_manifest_cannot_be_read(store: Store) -> None:
    store.save([1] * 100, "numbers")
    store.save([2] * 100, "others")
    manifest = store.path / "assets" / "others" / "v1.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    freeing = Freeing(store)
    freeing.delete("numbers@v1")
    assert freeing.free(grace=0) == 0
    assert len(blobs(store)) == 2


def test_a_version_that_is_gone_already_is_no_error(store: Store) -> None:
    store.save([1], "numbers")
    store.delete("numbers@v1")
    freeing = Freeing(store)
    freeing.delete("numbers@v1")
    assert freeing.free(grace=0) == 0
