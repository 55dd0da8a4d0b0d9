"""Results that are kept for equal calls, and what makes two calls differ."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flowyml import Asset, Store, caching, run, runs, step
from flowyml.errors import FlowymlWarning
from flowyml.records import StepRecord


@pytest.fixture(autouse=True)
def said_nothing_yet() -> None:
    caching._said.clear()


def last(store: Store | None = None) -> StepRecord:
    return runs(store)[-1].steps[0]


class Counter:
    """Counts calls in a file, so that the count is no part of the function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        with self.path.open("a") as file:
            file.write("x")

    @property
    def count(self) -> int:
        return len(self.path.read_text()) if self.path.exists() else 0


def test_an_equal_call_takes_the_result_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calls"

    @step(cache=True)
    def scale(x: Any, factor: float = 2.0) -> Any:
        with path.open("a") as file:
            file.write("x")
        return x * factor

    first = scale(np.arange(3.0))
    second = scale(np.arange(3.0))
    third = scale(np.arange(3.0), factor=2.0)
    assert path.read_text() == "x"
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)
    assert second.flags.writeable
    source = runs()[0]
    record = last()
    assert record.cached_from == f"{source.id}/0"
    assert record.status == "completed"
    assert [output.ref for output in record.outputs] == ["scale@v1"]
    assert Store.default().versions("scale") == ["v1"]
    told = capsys.readouterr().err
    assert told.count("scale was not run again") == 1
    assert source.id in told


def test_a_result_that_is_changed_leaves_the_kept_one_alone() -> None:
    @step(cache=True)
    def ones() -> Any:
        return np.ones(3)

    ones()
    ones()[0] = 5
    assert np.array_equal(ones(), np.ones(3))


def test_a_changed_element_in_the_middle_is_another_call(tmp_path: Path) -> None:
    path = tmp_path / "calls"

    @step(cache=True)
    def total(x: Any) -> float:
        with path.open("a") as file:
            file.write("x")
        return float(x.sum())

    data = np.zeros(100_000)
    assert total(data) == 0
    data[50_000] = 1
    assert total(data) == 1
    assert total(data.astype(np.float32)) == 1
    assert path.read_text() == "xxx"


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 1.0), (1, True), ([1], (1,)), ("a", "b"), ({"a": 1}, {"a": 2}), (0.0, -0.0)],
    ids=str,
)
def test_other_arguments_are_another_call(first: Any, second: Any, tmp_path: Path) -> None:
    path = tmp_path / "calls"

    @step(cache=True)
    def keep(x: Any) -> None:
        with path.open("a") as file:
            file.write("x")

    keep(first)
    keep(second)
    keep(first)
    assert path.read_text() == "xx"


def test_another_seed_is_another_call(tmp_path: Path) -> None:
    def draw() -> Any:
        return np.random.rand(2)

    first, second = step(cache=True, seed=1)(draw), step(cache=True, seed=2)(draw)
    assert not np.array_equal(first(), second())
    assert np.array_equal(first(), first())
    assert [record.steps[0].cached_from is None for record in runs()] == [True, True, False, False]


SCALE = 2.0


def helper(x: Any) -> Any:
    return x * SCALE


def other_helper(x: Any) -> Any:
    return x * SCALE + 1


def test_a_changed_helper_or_global_is_another_call(monkeypatch: pytest.MonkeyPatch) -> None:
    @step(cache=True)
    def apply(x: Any) -> Any:
        return helper(x)

    x = np.ones(2)
    assert apply(x)[0] == 2
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SCALE", 3.0)
        assert apply(x)[0] == 3
        patch.setitem(globals(), "helper", other_helper)
        assert apply(x)[0] == 4
    assert apply(x)[0] == 2
    assert [record.steps[0].cached_from is None for record in runs()] == [True, True, True, False]


def test_what_a_function_counts_in_is_no_part_of_it() -> None:
    calls = []
    counts = {"n": 0}

    @step(cache=True)
    def compute(x: int) -> int:
        calls.append(x)
        counts["n"] += 1
        return x + 1

    assert compute(1) == compute(1) == 2
    assert calls == [1]
    assert counts == {"n": 1}


class Result(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    "result",
    [
        None,
        3,
        [1, (2, 3)],
        {"a": 1, "b": [2]},
        {"": Asset(name="whole", data=[3])},
        (1, Path("x").name),
        {"x": np.arange(3), "n": 2},
        [np.arange(2), 5],
        Asset(name="named", data=[1, 2]),
        {"asset": Asset(name="other", data=[1]), "n": 3},
    ],
    ids=lambda value: type(value).__name__,
)
def test_results_come_back_as_they_were(result: Any) -> None:
    @step(cache=True)
    def make(n: int) -> Any:
        return result

    make(1)
    found = make(1)
    assert last().cached_from is not None
    assert type(found) is type(result)
    assert_same(found, result)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, Asset):
        assert (found.ref, found.data) == (expected.ref, expected.data)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Result(1, 2), "it returned a .*Result"),
        ([np.ones(1), np.ones(2)], "may have memory in common"),
        (object(), "an output wasn't stored"),
    ],
    ids=["a named tuple", "arrays", "an object"],
)
def test_what_would_come_back_as_something_else_is_not_kept(result: Any, reason: str) -> None:
    @step(cache=True)
    def make(n: int) -> Any:
        return result

    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert make(1) is result
        assert any("isn't cached" in str(item.message) for item in caught)
    record = last()
    assert record.cached_from is None
    assert record.not_cached is not None


def test_an_argument_without_a_digest_is_not_cached_and_says_why() -> None:
    @step(cache=True)
    def consume(rows: Any) -> int:
        return len(list(rows))

    for _ in range(2):
        with pytest.warns(FlowymlWarning, match=r"'consume' isn't cached: the argument 'rows' has"):
            assert consume(iter([1, 2])) == 2
    assert last().not_cached == "the argument 'rows' has no digest: no materializer handles a " + (
        "list_iterator"
    )


def test_a_failed_call_is_not_kept() -> None:
    calls = []

    @step(cache=True)
    def fail(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            raise ValueError("no")
        return n

    with pytest.raises(ValueError, match="no"):
        fail(1)
    assert fail(1) == 1


def test_a_deleted_output_is_computed_again() -> None:
    calls = []

    @step(cache=True)
    def make(n: int) -> Any:
        calls.append(n)
        return np.full(3, n)

    make(1)
    Store.default().delete("make@v1")
    with pytest.warns(FlowymlWarning, match="can't be used, so it is made again"):
        assert make(1)[0] == 1
    assert make(1)[0] == 1
    assert calls == [1, 1]
    assert last().outputs[0].ref == "make@v2"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 9}', '{"schema": 1, "outputs": 3}']
)
def test_a_damaged_entry_is_a_miss(text: str) -> None:
    calls = []

    @step(cache=True)
    def make(n: int) -> int:
        calls.append(n)
        return n

    make(1)
    (entry,) = Path(".flowyml/cache").glob("*.json")
    entry.chmod(0o644)
    entry.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert make(1) == 1
    assert calls == [1, 1]
    assert make(1) == 1
    assert calls == [1, 1]


def test_what_a_function_does_to_its_argument_is_done_again() -> None:
    @step(cache=True)
    def fill(x: dict[str, Any]) -> int:
        x["filled"] = np.ones(2)
        return 3

    # A dict can't be filled by its materializer, so the function runs each time.
    for _ in range(2):
        x: dict[str, Any] = {"rows": [0] * 10_000, "more": ["y" * 20_000]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fill(x)
        assert "filled" in x


def test_steps_in_a_cached_step_are_not_recorded_again() -> None:
    @step
    def inner(n: int) -> int:
        return n + 1

    @step(cache=True)
    def outer(n: int) -> int:
        return inner(n)

    with run("both") as r:
        outer(1)
        outer(1)
    assert [record.name for record in r.steps] == ["outer", "inner", "outer"]
    assert r.steps[2].cached_from == f"{r.id}/0"


def test_threads_that_make_an_equal_call_compute_it_once(tmp_path: Path) -> None:
    count = Counter(tmp_path / "calls")
    store = Store(tmp_path / "store")

    def slow(n: int) -> Any:
        import time

        count()
        time.sleep(0.3)
        return np.full(2, n)

    made = step(cache=True, store=store)(slow)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=made, args=(1,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.versions("slow") in (["v1"], ["v1", "v2", "v3", "v4"])


PROGRAM = """
import sys, time
import numpy as np
from flowyml import step

@step(cache=True)
def slow(n):
    with open("calls", "a") as file:
        file.write("x")
    time.sleep(1)
    return np.full(2, n)

assert slow(1)[0] == 1
"""


def test_processes_that_make_an_equal_call_compute_it_once(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "error", "program.py"]
    running = [subprocess.Popen(command, cwd=tmp_path) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"
    store = Store(tmp_path / ".flowyml")
    assert store.versions("slow") == ["v1"]
    assert sum(record.steps[0].cached_from is not None for record in runs(store)) == 2


def test_a_killed_computation_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("time.sleep(1)", "time.sleep(600)"))
    killed = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path)
    while not (tmp_path / "calls").exists() or not (tmp_path / "calls").read_text():
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    (tmp_path / "program.py").write_text(PROGRAM)
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "calls").read_text() == "xx"


SETTINGS = {"rate": 2, "calls": 0}


def test_what_a_function_reads_of_a_variable_that_it_changes_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @step(cache=True)
    def scale(x: int) -> int:
        SETTINGS["calls"] += 1
        return x * SETTINGS["rate"]

    monkeypatch.setitem(SETTINGS, "calls", 0)
    assert scale(2) == 4
    monkeypatch.setitem(SETTINGS, "rate", 3)
    assert scale(2) == 6


MODEL = """
import sys
from dataclasses import dataclass
from flowyml import step


@dataclass
class Net:
    weight: int = 2

    def forward(self, x):
        return x OPERATION self.weight


@step(cache=True)
def evaluate(net, x):
    return net.forward(x)


print(evaluate(Net(), 3))
"""


def test_a_changed_class_of_an_argument_is_another_call(tmp_path: Path) -> None:
    printed = []
    for operation in ("+", "+", "*", "+"):
        (tmp_path / "program.py").write_text(MODEL.replace("OPERATION", operation))
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        printed.append((done.stdout.strip(), "was not run again" in done.stderr))
    assert printed == [("5", False), ("5", True), ("6", False), ("5", True)]


def test_a_result_with_one_list_at_two_places_is_not_kept() -> None:
    @step(cache=True)
    def make(n: int) -> Any:
        row = [n]
        return [row, row]

    for _ in range(2):
        with pytest.warns(FlowymlWarning, match="a part of its result is in it more than once"):
            found = make(1)
        assert found[0] is found[1]
