"""What is particular to this adapter. REPLACE: the tests, all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowyml import Model, Store
from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult

from flowyml_yourframework import toy
from flowyml_yourframework.materializer import ModelMaterializer


def test_a_model_is_described() -> None:
    model = Model.from_yourframework(toy.Linear([1.0, 2.0], rate=0.2), "sums")
    assert model.framework == "yourframework"
    assert model.parameters == 3
    assert model.layer_types == ["Linear"]
    assert model.metadata.properties["rate"] == 0.2
    assert "Linear" in model.summary()


def test_a_model_that_is_saved_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    Model.from_yourframework(toy.Linear([0.1, float("nan")], -0.0, rate=1), "sums").save(store)
    loaded = Model.load("sums", store=store).data
    assert type(loaded) is toy.Linear
    assert repr((loaded.weights, loaded.bias, loaded.rate)) == "([0.1, nan], -0.0, 1.0)"


@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        ("model.json", None, "it is missing"),
        ("model.json", b"rate", "it isn't JSON"),
        ("model.json", b"[" * 100_000, "it isn't JSON"),
        ("model.json", b"[]", "it isn't of schema 1"),
        ("model.json", b'{"schema": 2}', "it isn't of schema 1"),
        ("model.json", b'{"schema": 1, "features": -1, "rate": 0.1}', "its features"),
        ("model.json", b'{"schema": 1, "features": 1.0, "rate": 0.1}', "its features"),
        ("model.json", b'{"schema": 1, "features": 1, "rate": "os.system"}', "its rate"),
        ("model.json", b'{"schema": 1, "features": 1, "rate": 1e999}', "its rate"),
        ("weights.bin", None, "it is missing"),
        ("weights.bin", b"12345678", "its 8 bytes don't fit the features"),
    ],
)
def test_a_file_that_no_model_was_saved_as_is_refused(
    tmp_path: Path, path: str, content: bytes | None, why: str
) -> None:
    materializer = ModelMaterializer()
    materializer.save(toy.Linear([1.0]), tmp_path, SaveOptions("linear"))
    (tmp_path / path).unlink()
    if content is not None:
        (tmp_path / path).write_bytes(content)
    files = {file.name: file for file in tmp_path.iterdir()}
    with pytest.raises(MaterializationError, match=f"sums@v1 .*{path} is unfit: {why}"):
        materializer.load(Saved("sums@v1", "linear", files, SaveResult()), LoadOptions())
