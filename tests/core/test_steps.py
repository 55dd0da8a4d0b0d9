import enum
import gc
import pickle
import random
import threading
import warnings
import weakref
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowyml import Model, Store, adapters, hookimpl, run, runs, step
from flowyml.errors import (
    AdapterWarning,
    FlowymlWarning,
    MaterializationWarning,
    StoreError,
)
from flowyml.interfaces import RandomSource
from flowyml.records import RunRecord, StepRecord


@pytest.fixture(autouse=True)
def store_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test's store the default one."""
    monkeypatch.setenv("FLOWYML_STORE", str(store.path))


def only_step(store: Store) -> StepRecord:
    (record,) = runs(store)
    (found,) = record.steps
    return found


def test_a_step_returns_what_its_function_returned_and_stores_it(store: Store) -> None:
    result = [1, 2]

    @step
    def make() -> list[int]:
        """Make it."""
        return result

    assert make() is result
    assert make.__name__ == "make"
    assert make.__doc__ == "Make it."
    assert store.load("make") == result
    record = only_step(store)
    assert (record.name, record.status, record.seeded) == ("make", "completed", False)
    assert record.outputs[0].ref == "make@v1"
    assert record.outputs[0].digest == store.get("make").digest
    assert record.duration is not None
    assert runs(store)[0].outputs == ["make@v1"]
    assert store.get("make").stored.run == runs(store)[0].id
    assert store.get("make").stored.step == "make"


def test_a_returned_model_is_stored_with_its_metadata(store: Store, toy: Any) -> None:
    @step("training")
    def train() -> Model:
        return Model.create(toy([1.0]), "m", training_history={"loss": [0.5]})

    model = train()
    assert model.version == "v1"
    loaded = Model.load("m")
    assert loaded.training_history == {"epochs": [1], "loss": [0.5]}
    assert loaded.stored.step == "training"


def test_hyperparameters_are_the_jsonable_arguments_with_their_defaults(store: Store) -> None:
    class Kind(enum.Enum):
        FAST = 1

    @step
    def train(data: Any, /, lr: float, *rest: int, kind: Kind = Kind.FAST, **more: Any) -> None: ...

    train(object(), 0.1, 2, 3, path=Path("x"), api_key="hidden", n=np.int64(4))
    record = only_step(store)
    assert record.hyperparameters == {
        "lr": 0.1, "rest": [2, 3], "kind": "FAST", "path": "x", "api_key": "***", "n": 4,
    }  # fmt: skip
    assert {name: found.type for name, found in record.inputs.items()} == {
        "data": "object",
        "n": "numpy.int64",
    }
    assert "hidden" not in (store.path / "runs").joinpath(f"{runs()[0].id}.json").read_text()


def test_data_is_no_hyperparameter(store: Store) -> None:
    @step
    def train(numbers: list[int]) -> None: ...

    train(list(range(100_000)))
    found = only_step(store).inputs["numbers"]
    assert found.type == "list"
    assert np.array_equal(store.load(str(found.ref)), range(100_000))


Pair = namedtuple("Pair", ["first", "second"])


@pytest.mark.parametrize(
    ("result", "refs"),
    [
        (None, []),
        ((1, 2), ["make@v1"]),
        ((np.zeros(1), 2), ["make.0@v1", "make.1@v1"]),
        ({"a": np.zeros(1), "b": 0.5}, ["make.a@v1", "make.b@v1"]),
        (Pair(np.zeros(1), 3), ["make.first@v1", "make.second@v1"]),
    ],
)
def test_outputs_are_stored_whole_or_part_by_part(
    store: Store, result: object, refs: list[str]
) -> None:
    @step
    def make() -> object:
        return result

    make()
    assert [output.ref for output in only_step(store).outputs] == refs
    assert store.names() == sorted(ref.partition("@")[0] for ref in refs)


def test_what_no_materializer_handles_is_told_and_recorded(store: Store) -> None:
    @step
    def make() -> tuple[object, int]:
        return marker, 2

    marker = object()
    with pytest.warns(MaterializationWarning, match="output '0' of the step 'make', a object"):
        assert make() == (marker, 2)
    record = only_step(store)
    assert record.status == "completed"
    assert [(left.key, left.type) for left in record.not_stored] == [("0", "object")]
    assert [output.ref for output in record.outputs] == ["make.1@v1"]


def test_an_exception_goes_through_unchanged_and_the_run_has_failed(store: Store) -> None:
    error = ValueError("no data")

    @step
    def fail(lr: float = 0.1) -> None:
        raise error

    with pytest.raises(ValueError, match="no data") as caught:
        fail()
    assert caught.value is error
    (record,) = runs(store)
    assert record.status == record.steps[0].status == "failed"
    failure = record.steps[0].error
    assert failure is not None
    assert (failure.type, failure.message) == ("ValueError", "no data")
    assert "raise error" in failure.traceback
    assert record.steps[0].hyperparameters == {"lr": 0.1}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_recorded_too(store: Store, kind: type[BaseException]) -> None:
    @step
    def stop() -> None:
        raise kind

    with pytest.raises(kind):
        stop()
    assert runs(store)[0].status == "failed"


def test_print_prints(capsys: pytest.CaptureFixture[str]) -> None:
    @step
    def talk() -> None:
        print("hello")

    talk()
    assert capsys.readouterr().out == "hello\n"


def test_a_run_groups_its_steps(store: Store) -> None:
    @step
    def one(value: int) -> int:
        return value

    @step
    def both() -> int:
        return one(1) + one(2)

    with run("experiment", tags={"stage": "test"}) as r:
        both()
        assert runs(store)[0].status == "running"
    assert [(s.name, s.parent) for s in r.steps] == [("both", None), ("one", 0), ("one", 0)]
    assert r.outputs == ["both@v1", "one@v1", "one@v2"]
    (record,) = runs(store)
    assert (record.id, record.name, record.tags) == (r.id, "experiment", {"stage": "test"})
    assert record.status == "completed"
    assert record.environment["python"]
    assert record.steps == r.steps


def test_a_run_that_raises_has_failed(store: Store) -> None:
    with pytest.raises(RuntimeError), run("experiment"):
        raise RuntimeError("stop")
    (record,) = runs(store)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.message == "stop"


def test_a_decorated_function_is_a_run_each_time(store: Store) -> None:
    @step
    def one() -> int:
        return 1

    @run("nightly")
    def main() -> int:
        return one() + one()

    assert [main(), main()] == [2, 2]
    assert [(record.name, len(record.steps)) for record in runs(store)] == [("nightly", 2)] * 2


def test_runs_are_listed_oldest_first_and_a_corrupt_record_is_left_out(store: Store) -> None:
    @step
    def one() -> None: ...

    for _ in range(3):
        one()
    records = runs(store)
    assert [r.started_at for r in records] == sorted(r.started_at for r in records)
    path = store.path / "runs" / f"{records[1].id}.json"
    for text in (b"{", b"[]", b'{"schema": 9}', path.read_bytes().replace(b'"steps"', b'"stops"')):
        path.write_bytes(text)
        with pytest.warns(FlowymlWarning, match=records[1].id):
            assert [r.id for r in runs(store)] == [records[0].id, records[2].id]


def test_the_seed_of_a_run_is_for_steps_without_one(store: Store) -> None:
    @step
    def free() -> None: ...

    @step(seed=5)
    def own() -> None: ...

    with run("seeded", seed=3) as r:
        free()
        own()
        free()
    first, second, third = (record.seed for record in r.steps)
    assert second == 5
    assert len({3, first, third}) == 3
    assert [record.seeded for record in r.steps] == [True] * 3
    assert r.seed == 3
    with run("again", seed=3) as again:
        free()
        own()
        free()
    assert [record.seed for record in again.steps] == [first, second, third]


def test_methods_and_recursion(store: Store) -> None:
    class Trainer:
        @step
        def fit(self, depth: int) -> int:
            return 0 if depth == 0 else 1 + self.fit(depth - 1)

    assert Trainer().fit(2) == 2
    (record,) = runs(store)
    assert [s.parent for s in record.steps] == [None, 0, 1]
    assert record.steps[0].inputs["self"].type.endswith("Trainer")


def test_a_thread_has_a_run_of_its_own(store: Store) -> None:
    @step
    def one(number: int) -> int:
        return number

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.steps[0].hyperparameters["number"] for record in runs(store)) == [
        0,
        1,
        2,
        3,
    ]
    assert store.versions("one") == ["v1", "v2", "v3", "v4"]


def test_what_returns_before_it_has_run_is_refused_at_decoration() -> None:
    async def later() -> None: ...

    def many() -> Any:
        yield 1

    for function, told in ((later, "an async function"), (many, "a generator")):
        with pytest.raises(TypeError, match=told):
            step(function)
    with pytest.raises(TypeError, match="@step decorates functions"):
        step(int)


def test_a_wrong_call_is_a_type_error_and_no_run(store: Store) -> None:
    @step
    def one(number: int) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument: 'number'"):
        one()  # type: ignore[call-arg]
    assert runs(store) == []


def test_a_store_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    called = []

    @step(store=Store(tmp_path / "file"))
    def train() -> None:
        called.append(1)

    with pytest.raises(StoreError, match="is a file"):
        train()
    assert called == []


def test_a_store_that_fails_after_training_takes_nothing_from_the_user(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    def train() -> list[int]:
        monkeypatch.setattr(Store, "save_for_run", full)
        monkeypatch.setattr(Store, "write_record", full)
        return [1]

    def full(*arguments: Any, **keywords: Any) -> None:
        raise StoreError("the disk is full")

    with pytest.warns(FlowymlWarning, match="the disk is full") as caught:
        assert train() == [1]
    assert any(item.category is MaterializationWarning for item in caught)


def test_an_exception_without_a_text_is_recorded(store: Store) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    @step
    def fail() -> None:
        raise MuteError

    with pytest.raises(MuteError):
        fail()
    assert only_step(store).error is not None


def test_a_record_reads_back_as_it_was(store: Store) -> None:
    @step(seed=1)
    def one(x: float = float("nan")) -> list[int]:
        return [1]

    with run("r") as r:
        one()
    (record,) = runs(store)
    assert isinstance(record, RunRecord)
    assert repr(record) == repr(r.record)


def test_secrets_are_masked_at_any_depth_and_counts_are_not(store: Store) -> None:
    @step
    def train(config: Any, max_tokens: int, dbPassword: str, private_key: str) -> None:  # noqa: N803
        ...

    config = {"password": "LEAK", "nested": [{"api_key": "LEAK", "lr": 0.1}], "authToken": "LEAK"}
    train(config, 512, "LEAK", "LEAK")
    text = (store.path / "runs" / f"{runs()[0].id}.json").read_text()
    assert "LEAK" not in text
    found = only_step(store).hyperparameters
    assert found["max_tokens"] == 512
    assert found["config.nested[0].lr"] == 0.1
    assert found["config.nested[0].api_key"] == "***"


class Unruly(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no")


def test_a_result_that_cannot_even_be_looked_at_is_returned(store: Store) -> None:
    result = Unruly(a=1)

    @step
    def make() -> object:
        return result

    with pytest.warns(MaterializationWarning, match="was not stored"):
        assert make() is result
    assert only_step(store).not_stored[0].type.endswith("Unruly")


def test_a_random_source_that_fails_takes_nothing_from_the_user(store: Store) -> None:
    class Failing(RandomSource):
        name = "failing"

        def seed(self, seed: int) -> None:
            raise RuntimeError("no seed")

        def state(self) -> object:
            return None

        def restore(self, state: object) -> None:
            raise RuntimeError("no way back")

    class Plugin:
        @hookimpl
        def flowyml_register_random_sources(self) -> list[RandomSource]:
            return [Failing()]

    adapters.register(Plugin(), "failing")

    @step(seed=1)
    def draw() -> float:
        return random.random()

    with pytest.warns(AdapterWarning, match="random source 'failing' failed"):
        first = draw()
    with pytest.warns(AdapterWarning):
        assert draw() == first


@step
def at_the_top(number: int) -> int:
    return number


def test_a_step_pickles_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top  # noqa: S301


def test_attributes_of_the_function_do_not_become_the_steps_settings(store: Store) -> None:
    def make() -> int:
        return 1

    make.store, make.name = "nonsense", "other"  # type: ignore[attr-defined]
    assert step(make)() == 1
    assert runs(store)[0].outputs == ["make@v1"]


def test_a_run_inside_a_step_has_steps_of_its_own(store: Store) -> None:
    @step
    def inner() -> None: ...

    @step
    def outer() -> None:
        with run("nested"):
            inner()

    outer()
    assert {record.name: [s.parent for s in record.steps] for record in runs(store)} == {
        "outer": [None],
        "nested": [None],
    }


def test_a_long_argument_is_not_copied(store: Store) -> None:
    @step
    def count(numbers: range) -> int:
        return len(numbers)

    assert count(range(10**12)) == 10**12
    assert only_step(store).inputs["numbers"].type == "range"


class Hidden:
    """Raises whatever is asked of it, even for its class."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Leaving:
    def __fspath__(self) -> str:
        raise SystemExit

    def __getattr__(self, name: str) -> Any:
        raise SystemExit


@pytest.mark.filterwarnings("ignore::flowyml.errors.AdapterWarning")
@pytest.mark.parametrize("kind", [Hidden, Leaving])
def test_arguments_and_results_that_raise_whatever_they_are_asked_go_through(
    store: Store, kind: type[Any]
) -> None:
    @step(store=store)
    def through(x: Any, more: Any) -> Any:
        return [x]

    odd = kind()
    with pytest.warns(MaterializationWarning, match="was not stored"):
        assert through(odd, more=[odd])[0] is odd
    (record,) = runs(store)[-1].steps
    assert record.status == "completed"
    assert record.inputs["x"].digest is None


def test_what_steps_return_is_not_kept_in_memory(store: Store) -> None:
    @step(store=store)
    def make() -> dict[str, Any]:
        return {"rows": [0] * 10, "more": Held()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = weakref.ref(make()["more"])
    gc.collect()
    assert held() is None


class Held:
    """Something that can be referred to weakly."""
