"""An adapter that was written for version 1 of the interfaces passes the newest conformance kit."""

import warnings
from typing import Any

import flowyml_first
import pytest

from flowyml import Model, Store, adapters
from flowyml.errors import IntegrityError
from flowyml.testing import AdapterConformance


class TestFirstAdapter(AdapterConformance):
    framework = "first"
    properties = (
        "architecture",
        "model_class",
        "parameters",
        "trainable_parameters",
        "frozen_parameters",
        "dtype",
    )

    def make_model(self) -> flowyml_first.Polynomial:
        return flowyml_first.Polynomial([0.5, -1.25, 2.0])

    def change_model(self, model: flowyml_first.Polynomial) -> flowyml_first.Polynomial:
        model.coefficients[1] = -1.2500000000000002
        return model

    def predict(self, model: flowyml_first.Polynomial) -> list[float]:
        return [model(x) for x in (-1.0, 0.1, 3.0)]

    def variants(self) -> list[flowyml_first.Polynomial]:
        return [flowyml_first.Polynomial([0.5, -1.25, 2.0, 0.0])]

    def draw(self) -> list[float]:
        return flowyml_first.Polynomial.drawn(3).coefficients


def test_it_loads_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = next(info for info in adapters.load() if info.name == "first")
    assert (info.distribution, info.version, info.state) == ("flowyml-first", "1.0", "loaded")
    assert info.frameworks == ("first",)
    assert info.formats == ("json", "list")


def test_everything_that_it_brings_is_used(tmp_path: Any) -> None:
    store = Store(tmp_path)
    model = Model.from_first(flowyml_first.Polynomial([1.0, 2.0]), at=3.0)
    assert model.name == "degree-1"
    assert model.metadata.properties["value"] == 7.0
    assert "Term" in model.summary()
    model.save(store)
    assert store.load("degree-1", format="list") == [1.0, 2.0]
    assert store.load("degree-1", into=flowyml_first.Polynomial([])).coefficients == [1.0, 2.0]
    weights = store.save(flowyml_first.Polynomial([1.0]), "weights", format="list")
    assert weights.stored is not None
    assert weights.stored.restore == "weights"
    again = store.save(flowyml_first.Polynomial([1.0, 2.0]), "degree-1")
    first = store.get("degree-1@v1")
    assert again.stored
    assert first.stored
    assert again.stored.digest == first.stored.digest
    (blob,) = (path for path in store.path.glob("blobs/*/*") if path.read_bytes() == b"[1.0, 2.0]")
    blob.chmod(0o600)
    blob.write_bytes(b"[1.0, 2.5]")
    with pytest.raises(IntegrityError, match="Damaged in it: all 2 coefficients"):
        store.load("degree-1")
