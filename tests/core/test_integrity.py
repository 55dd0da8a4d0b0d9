"""What is on disk may be damaged, or made by a stranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowyml import Model, Store, encoding
from flowyml.digests import digest_of_bytes
from flowyml.errors import IntegrityError, StoreError
from flowyml.store import manifest


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def blob_of(store: Store, name: str) -> Path:
    stored = store.get(name).stored
    assert stored is not None
    digest = stored.files[0].digest
    return store.path / "blobs" / digest[:2] / digest[2:]


def test_a_flipped_bit_anywhere_in_a_blob_is_refused(store: Store) -> None:
    store.save(["some", "content"], "n")
    blob = blob_of(store, "n")
    content = blob.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << index % 8
        rewrite(blob, bytes(damaged))
        with pytest.raises(IntegrityError, match=r"n@v1, file 'value.json', is damaged"):
            store.load("n")
        with pytest.raises(IntegrityError, match="n@v1"):
            store.verify("n")
    rewrite(blob, content)
    assert store.load("n") == ["some", "content"]


def test_a_flipped_bit_anywhere_in_a_manifest_is_refused(store: Store, toy: Any) -> None:
    Model.create(toy([1.0]), "n", training_history={"loss": [0.5]}).save(store)
    path = store.path / "assets" / "n" / "v1.json"
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << index % 8
        rewrite(path, bytes(damaged))
        with pytest.raises(StoreError, match="n@v1"):
            store.get("n")


def test_a_truncated_or_missing_blob_is_told(store: Store) -> None:
    store.save([1, 2, 3], "n")
    blob = blob_of(store, "n")
    content = blob.read_bytes()
    rewrite(blob, content[:-1])
    with pytest.raises(IntegrityError, match=f"has {len(content) - 1} bytes where {len(content)}"):
        store.load("n", verify=False)
    blob.unlink()
    with pytest.raises(IntegrityError, match=r"n@v1, file 'value.json', can't be read.*missing"):
        store.load("n")


def test_verification_can_be_left_out(store: Store) -> None:
    store.save([1, 2, 3], "n")
    blob = blob_of(store, "n")
    rewrite(blob, blob.read_bytes().replace(b"2", b"7"))
    assert store.load("n", verify=False) == [1, 7, 3]


def test_verify_walks_everything_and_lists_all_damage(store: Store) -> None:
    for number in range(4):
        store.save(["x", number], f"n{number}")
    assert store.verify().versions == 4
    for name in ("n1", "n3"):
        blob = blob_of(store, name)
        rewrite(blob, blob.read_bytes()[::-1])
    with pytest.raises(IntegrityError) as caught:
        store.verify()
    assert "n1@v1" in str(caught.value)
    assert "n3@v1" in str(caught.value)
    assert "n2@v1" not in str(caught.value)


def test_a_swapped_manifest_is_refused(store: Store) -> None:
    store.save(1, "n")
    store.save(2, "n")
    first, second = (store.path / "assets" / "n" / f"v{i}.json" for i in (1, 2))
    rewrite(first, second.read_bytes())
    with pytest.raises(IntegrityError, match="manifest of n@v1 is that of n@v2"):
        store.get("n@v1")


def test_a_blob_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    store.save([1], "n")
    blob = blob_of(store, "n")
    (tmp_path / "elsewhere").write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="isn't a plain file"):
        store.load("n")


def forge(data: dict[str, Any]) -> bytes:
    """Write a manifest as an attacker would: with every digest right."""
    try:
        files = [manifest.StoredFile(**file) for file in data["files"]]
        data["digest"] = manifest.content_digest(data["materializer"], data["format"], tuple(files))
    except (TypeError, KeyError, ValueError, AttributeError):
        pass
    body = encoding.render(data)
    return encoding.render({**data, "manifest_digest": digest_of_bytes(body)})


def honest(store: Store) -> dict[str, Any]:
    store.save([1], "n")
    data = json.loads((store.path / "assets" / "n" / "v1.json").read_bytes())
    del data["manifest_digest"]
    assert isinstance(data, dict)
    return data


def test_a_forged_manifest_that_changes_nothing_is_read(store: Store) -> None:
    assert manifest.read(forge(honest(store)), "n@v1").asset.ref == "n@v1"


@pytest.mark.parametrize(
    "path", ["../../x", "/etc/passwd", "a/../../b", "..", "", "a//b", "a\\b", "C:x", "a\n", "ä"]
)
def test_a_file_outside_of_its_folder_is_refused(store: Store, path: str) -> None:
    data = honest(store)
    data["files"][0]["path"] = path
    with pytest.raises(IntegrityError, match="has the path"):
        manifest.read(forge(data), "n@v1")


@pytest.mark.parametrize("digest", ["../../../etc/passwd", "", "0" * 63, "G" * 64, 7, None])
def test_a_digest_that_is_none_is_refused(store: Store, digest: object) -> None:
    data = honest(store)
    data["files"][0]["digest"] = digest
    with pytest.raises(IntegrityError):
        manifest.read(forge(data), "n@v1")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", None), ("schema", 0), ("schema", True), ("schema", "1"), ("schema", 1.0),
        ("kind", "thing"), ("kind", []), ("name", "../x"), ("version", "../v1"), ("version", 1),
        ("files", {}), ("files", [1]), ("properties", []), ("properties", None), ("tags", {"a": 1}),
        ("parents", [{"ref": 1}]), ("parents", [{"ref": "a", "digest": None, "relation": "evil"}]),
        ("restore", "please"), ("required_trust", [1]), ("created_at", "yesterday"),
        ("created_at", 7), ("digest", "0" * 64), ("details", None), ("type", 5),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_kind_is_refused(store: Store, key: str, value: object) -> None:
    data = honest(store)
    forged = json.loads(forge({**data, key: value}))
    if key == "digest":
        forged["digest"] = value
        del forged["manifest_digest"]
        forged["manifest_digest"] = digest_of_bytes(encoding.render(forged))
    with pytest.raises(StoreError):
        manifest.read(encoding.render(forged), "n@v1")


def test_a_layout_of_the_future_says_to_upgrade(store: Store) -> None:
    data = honest(store)
    with pytest.raises(StoreError, match="saved in layout 2.*Upgrade flowyml-core") as caught:
        manifest.read(forge({**data, "schema": 2}), "n@v1")
    assert not isinstance(caught.value, IntegrityError)


FIELDS = [
    "kind", "name", "version", "created_at", "type", "digest", "adapter", "materializer", "format",
    "restore", "required_trust", "files", "details", "properties", "framework",
    "training_history", "tags", "parents", "run", "step", "unknown",
]  # fmt: skip

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_nothing_parses_into_something_else(changes: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        manifest.read(forge({"schema": 1, **changes}), "n@v1")


@settings(max_examples=300, deadline=None)
@given(text=st.binary(max_size=200))
def test_any_bytes_are_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(StoreError):
        manifest.read(text, "n@v1")


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000])
def test_deep_nesting_and_huge_numbers_are_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError, match="manifest of n@v1 is damaged"):
        manifest.read(text, "n@v1")
