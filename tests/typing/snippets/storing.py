"""The store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

from flowyml import Asset, Model, Store


def roundtrip(model: Model) -> None:
    store = Store(Path("store"))
    assert_type(Store.default(), Store)
    assert_type(store.path, Path)
    assert_type(store.save({"loss": 0.1}, "scores"), Asset)
    assert_type(store.save(model, format="state_dict"), Asset)
    assert_type(store.load("digits@v1", trust=[Path], into=None, verify=False), Any)
    scores: dict[str, float] = store.load("scores")
    del scores


def listing(store: Store) -> None:
    asset = store.get("digits")
    assert_type(asset, Asset)
    if isinstance(asset, Model):
        assert_type(asset.parameters, int | None)
    assert_type(asset.digest, str | None)
    assert_type([parent.ref for parent in asset.parents], list[str])
    if asset.stored is not None:
        assert_type([file.size for file in asset.stored.files], list[int])
    assert_type(store.names(), list[str])
    assert_type(store.versions("digits"), list[str])
    assert_type(store.export("digits", "folder"), Path)


def mistakes(store: Store, asset: Asset) -> None:
    # error: [attr-defined] / reportAttributeAccessIssue, reportUnknownMemberType
    assert asset.parameters
    # error: [arg-type] / reportArgumentType
    store.load("digits", verify=None)
    # error: [call-arg] / reportCallIssue
    store.load("digits", truste=[Path])
    # error: [attr-defined] / reportAttributeAccessIssue, reportUnknownMemberType
    store.lod("digits")
    # error: [arg-type] / reportArgumentType
    store.save("digits", 5)
