from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowyml import Model, Store
from flowyml.errors import AdapterNotFoundError, StoreError, UnsupportedObjectError


def test_create_detects_the_framework_and_extracts(toy: Any) -> None:
    model = Model.create(toy([1.0, 2.0]), "m")
    assert (model.framework, model.parameters, model.architecture) == ("toy", 2, "Toy")
    assert model.metadata.properties["framework"] == "toy"
    assert model.metadata.properties["parameters"] == 2
    assert model.num_layers is None
    assert (model.name, model.version, model.ref, model.digest) == ("m", None, "m", None)


def test_the_name_is_that_of_the_class_by_default(toy: Any) -> None:
    assert Model.create(toy([])).name == "Toy"


def test_properties_are_described_and_options_reach_the_extractor(toy: Any) -> None:
    model = Model.create(
        toy([]),
        properties={"epochs": np.int64(3)},
        where=Path("a/b"),
        odd=object(),
        example_inputs=[1],
    )
    assert model.metadata.properties["epochs"] == 3
    assert model.metadata.properties["where"] == "a/b"
    assert model.metadata.properties["odd"] == "<object>"
    assert model.metadata.properties["options"] == {"example_inputs": [1]}


def test_an_extracted_property_cannot_be_set_by_hand(toy: Any) -> None:
    with pytest.raises(ValueError, match="'parameters' can't be set as a property"):
        Model.create(toy([]), parameters=3)
    model = Model.create(toy([]), framework="any", auto_extract=False, parameters=3)
    assert (model.framework, model.parameters) == ("any", 3)


@pytest.mark.parametrize(
    ("what", "told"),
    [(None, "got None"), ({}, "got a dict"), ([1], "got a list"), (int, "got the class int")],
)
def test_what_is_no_model_of_the_framework_is_a_type_error(
    toy: Any, what: object, told: str
) -> None:
    with pytest.raises(TypeError, match=f"Model.from_toy needs a Toy; {told}"):
        Model.from_toy(what)


def test_a_class_in_place_of_an_instance_gets_a_hint(toy: Any) -> None:
    with pytest.raises(UnsupportedObjectError, match=r"Pass an instance: Toy\(\.\.\.\)"):
        Model.from_toy(toy)


def test_an_unknown_framework_is_refused(toy: Any) -> None:
    with pytest.raises(AdapterNotFoundError, match="Model.from_jax can't be had"):
        Model.create(toy([]), framework="jax")


@pytest.mark.parametrize(
    "arguments",
    [{"name": "a/b"}, {"version": "v 1"}, {"tags": ["x"]}, {"tags": {"a": 1}}, {"parent": 3}],
)
def test_unfit_arguments_are_refused(toy: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Model.create(toy([]), **arguments)


def test_saving_sets_the_version(toy: Any, store: Store) -> None:
    model = Model.create(toy([1.0]), "m")
    assert model.save(store) is model
    assert (model.version, model.ref) == ("v1", "m@v1")
    assert model.digest is not None
    assert len(model.digest) == 64
    assert repr(model) == "<Model m@v1: toy Toy, 1 parameters>"


def test_a_loaded_model_is_the_saved_one(toy: Any, store: Store) -> None:
    base = Model.create(toy([0.0]), "base").save(store)
    saved = Model.create(
        toy([1.0, 2.0]),
        "m",
        training_history={"loss": [0.5]},
        tags={"stage": "test"},
        epochs=3,
        parent=base,
        trained_on="digits@v1",
    ).save(store)
    loaded = Model.load("m", store=store)
    assert loaded.data.weights == [1.0, 2.0]
    assert loaded.metadata == saved.metadata
    assert loaded.training_history == {"epochs": [1], "loss": [0.5]}
    assert loaded.tags == {"stage": "test"}
    assert loaded.stored == saved.stored
    assert loaded.parents == saved.parents
    assert [(str(p), p.digest, p.relation) for p in loaded.parents] == [
        ("base@v1", base.digest, "parent"),
        ("digits@v1", None, "trained_on"),
    ]


def test_saving_again_is_a_new_version(toy: Any, store: Store) -> None:
    model = Model.create(toy([1.0]), "m").save(store)
    first = model.digest
    model.data.weights = [2.0]
    assert model.save(store).version == "v2"
    assert model.digest != first
    assert Model.load("m", store=store).save(store).version == "v3"


def test_a_version_of_ones_own_is_taken_once(toy: Any, store: Store) -> None:
    assert Model.create(toy([1.0]), "m", version="1.0.0").save(store).ref == "m@1.0.0"
    with pytest.raises(StoreError, match=r"m@1\.0\.0 exists already.*never changes"):
        Model.create(toy([2.0]), "m", version="1.0.0").save(store)
    assert Model.load("m@1.0.0", store=store).data.weights == [1.0]


def test_what_is_no_model_is_not_loaded_as_one(store: Store) -> None:
    store.save([1], "numbers")
    with pytest.raises(UnsupportedObjectError, match=r"numbers@v1 is a list, not a model"):
        Model.load("numbers", store=store)


def test_the_summary_shows_every_property(toy: Any) -> None:
    model = Model.create(toy([1.0] * 1234), "m", training_history={"loss": [0.25]})
    summary = model.summary()
    assert "Model m" in summary
    assert "parameters    1,234" in summary
    assert "final loss    0.25" in summary


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("traning_history", "training_history"), ("example_input", "example_inputs")],
)
def test_a_misspelled_argument_is_not_taken_for_a_property(toy: Any, typo: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"{typo}= is no argument; did you mean {meant}="):
        Model.from_toy(toy([]), **{typo: 1})
    assert Model.from_toy(toy([]), properties={typo: 1}).metadata.properties[typo] == 1


def test_near_misses_are_suggested(toy: Any, store: Store) -> None:
    with pytest.raises(AttributeError, match="Did you mean 'toy'"):
        Model.from_tooy  # noqa: B018
    store.save(1, "digits")
    with pytest.raises(LookupError, match=r"Did you mean 'digits'\?.*FLOWYML_STORE"):
        store.load("digit")
