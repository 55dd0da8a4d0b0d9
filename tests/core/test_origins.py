"""Lineage by content: what a step returned, or the store loaded, is recognised when passed on."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from flowyml import Asset, Store, origins, run, runs, step
from flowyml.assets import Parent


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> None:
    origins.forget()


@step
def make(n: int = 3) -> Any:
    return np.arange(n)


@step
def double(x: Any) -> Any:
    return x * 2


def test_an_output_that_is_passed_on_is_the_parent(store: Store) -> None:
    with run("r", store=store) as r:
        double(make())
    record = r.steps[1].inputs["x"]
    assert (record.ref, record.digest) == ("make@v1", store.get("make").digest)
    assert store.get("double").parents == (Parent("make@v1", record.digest),)
    assert not list((store.path / "kept").glob("*")) if (store.path / "kept").exists() else True


def test_what_is_loaded_is_recognised(store: Store) -> None:
    store.save(np.ones(4), "ones")
    origins.forget()
    loaded = store.load("ones")
    with run("r", store=store) as r:
        double(loaded)
    assert r.steps[0].inputs["x"].ref == "ones@v1"


def test_equal_content_is_recognised_whatever_the_object(store: Store) -> None:
    store.save(np.ones(4), "ones")
    with run("r", store=store) as r:
        double(np.ones(4))
        double(np.ones(4, np.float32))
    assert [s.inputs["x"].ref == "ones@v1" for s in r.steps] == [True, False]


def test_what_was_changed_in_place_is_derived_from_what_it_was(store: Store) -> None:
    store.save(x := np.ones(4), "ones")
    x[2] = 5
    with run("r", store=store) as r:
        double(x)
    record = r.steps[0].inputs["x"]
    assert (record.derived_from, record.ref) == ("ones@v1", f"kept@{record.digest}")
    assert np.array_equal(store.load(str(record.ref)), x)
    assert store.get("double").parents == (Parent("ones@v1", None),)


def test_saving_a_changed_object_again_makes_a_version_derived_from_the_old(store: Store) -> None:
    store.save(x := np.ones(4), "ones")
    x[2] = 5
    store.save(x, "ones")
    (parent,) = store.get("ones@v2").parents
    assert (parent.ref, parent.digest) == ("ones@v1", store.get("ones@v1").digest)


def test_each_version_has_the_one_before_as_its_parent_and_no_more(store: Store) -> None:
    asset = Asset(name="x", data=np.ones(2))
    for number in range(3):
        asset.data[0] = number
        store.save(asset)
    assert [parent.ref for parent in store.get("x@v3").parents] == ["x@v2"]


def test_what_the_maker_said_comes_first(store: Store) -> None:
    store.save(x := np.ones(4), "ones")
    made = Asset(name="made", data=x, made_from=(("data", "trained_on"),))
    store.save(made)
    assert [str(parent) for parent in store.get("made").parents] == ["data", "ones@v1"]


@step
def measure() -> Any:
    return {"accuracy": 0.75, "errors": [3, 4]}


@step
def best() -> float:
    return float("0.75")


@step
def report(metrics: Any, score: float = 0.0) -> str:
    return "done"


def test_plain_values_that_are_passed_on_are_recognised_too(store: Store) -> None:
    with run("r", store=store) as r:
        report(measure(), best())
        report({"accuracy": 0.5}, 0.75)
    first, second = r.steps[2:]
    assert {name: found.ref for name, found in first.inputs.items()} == {
        "metrics": "measure@v1",
        "score": "best@v1",
    }
    assert first.hyperparameters["metrics.accuracy"] == 0.75
    assert second.inputs == {}
    assert [parent.ref for parent in store.get("report@v1").parents] == ["measure@v1", "best@v1"]


def test_equal_numbers_are_not_the_same_thing(store: Store) -> None:
    store.save(3, "three")
    store.save("adam", "name")
    store.save([], "nothing")
    with run("r", store=store) as r:
        step(store=store)(lambda a, b, c: None)(3, "adam", [])
    assert r.steps[0].inputs == {}


def test_an_object_of_another_store_is_not_recognised(store: Store, tmp_path: Any) -> None:
    other = Store(tmp_path / "other")
    other.save(x := np.ones(4), "ones")
    with run("r", store=store) as r:
        double(x)
    record = r.steps[0].inputs["x"]
    assert (record.ref, record.derived_from) == (f"kept@{record.digest}", None)


def test_a_deleted_version_is_not_referred_to(store: Store) -> None:
    store.save(x := np.ones(4), "ones")
    store.delete("ones@v1")
    with run("r", store=store) as r:
        double(x)
    assert r.steps[0].inputs["x"].ref == f"kept@{r.steps[0].inputs['x'].digest}"


def test_objects_are_not_kept_alive(store: Store) -> None:
    class Array(np.ndarray):
        deleted = False

        def __del__(self) -> None:
            Array.deleted = True

    x = np.ones(3).view(Array)
    origins.note(x, store.path, "x@v1", "0" * 64)
    del x
    gc.collect()
    assert Array.deleted


def test_what_the_function_saves_itself_names_run_and_inputs(store: Store) -> None:
    store.save(x := np.ones(4), "ones")

    @step(store=store)
    def train(x: Any) -> None:
        store.save(x + 1, "inside")

    with run("r", store=store) as r:
        train(x)
    assert r.steps[0].saved == ["inside@v1"]
    stored = store.get("inside").stored
    assert stored is not None
    assert (stored.run, stored.step) == (r.id, "train")
    assert [parent.ref for parent in store.get("inside").parents] == ["ones@v1"]


def test_a_step_that_raises_keeps_what_it_saved(store: Store) -> None:
    @step(store=store)
    def train() -> None:
        store.save([1], "half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        train()
    (record,) = runs(store)[-1].steps
    assert (record.status, record.saved) == ("failed", ["half@v1"])


def test_large_inputs_are_not_kept_unless_asked_for(store: Store) -> None:
    data = np.zeros(3 << 20)

    def look(x: Any) -> None: ...

    with run("r", store=store) as r:
        step(look)(data)
        step(keep_inputs=100)(look)(np.ones(50))
        step(keep_inputs=False)(look)(np.ones(1))
        step(keep_inputs=True)(look)(data)
    first, second, third, fourth = (s.inputs["x"] for s in r.steps)
    assert first.ref is None
    assert "@step(keep_inputs=True)" in str(first.reason)
    assert (second.ref, third.ref) == (None, None)
    assert fourth.ref == f"kept@{first.digest}"


def test_kept_inputs_are_no_names_and_survive_gc_until_they_are_dropped(store: Store) -> None:
    with run("r", store=store) as r:
        step(store=store)(lambda x: None)(np.ones(7))
    ref = str(r.steps[0].inputs["x"].ref)
    assert store.names() == []
    store.gc(grace=0)
    store.verify()
    assert np.array_equal(store.load(ref), np.ones(7))
    store.gc(grace=0, drop_kept=True)
    assert not store.has(ref)
    assert store.stats().blobs == 0
