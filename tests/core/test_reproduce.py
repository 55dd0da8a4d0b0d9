"""Runs that are repeated and compared bit for bit."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import random
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import attrs
import numpy as np
import pytest

from flowyml import Store, run, runs, step
from flowyml.errors import IntegrityError, StoreError
from flowyml.interfaces import Change
from flowyml.reproducing import reproduce
from flowyml.reproducing.reproduction import (
    OutputReproduction,
    Reproduction,
    StepReproduction,
    in_words,
)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def python(*arguments: object, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process; it has to end with a status."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def reproduced(folder: Path, *arguments: str, status: int = 0, which: int = -1) -> list[str]:
    """Reproduce the last run of a project's store by the command line; return what it says."""
    record = runs(Store(folder / ".flowyml"))[which]
    done = python("-m", "flowyml", "reproduce", record.id, *arguments, folder=folder, status=status)
    return done.stdout.splitlines()


def digests(store: Store, which: int = -1) -> list[str]:
    return [output.digest for one in runs(store)[which].steps for output in one.outputs]


def last(store: Store) -> str:
    return runs(store)[-1].id


TRAIN = """
    import sys
    import numpy as np
    from flowyml import step, run
    from helpers import normalize

    class Config:
        '''Only to be in the module.'''

    @step
    def train(rows, rate=0.1):
        weights = np.random.rand(3)
        return {"weights": weights * sum(normalize(rows)) * rate, "loss": 0.5}

    @step
    def evaluate():
        return np.random.rand()

    if __name__ == "__main__":
        with run("all", seed=int(sys.argv[1])):
            train([1, 2, 3])
            evaluate()
    """

HELPERS = """
    SCALE = 2.0
    def normalize(rows):
        return [row / SCALE for row in rows]
    """


@pytest.fixture
def project(tmp_path: Path) -> Path:
    written(tmp_path / "project" / "helpers.py", HELPERS)
    return written(tmp_path / "project" / "train.py", TRAIN).parent


def test_a_script_gives_the_same_in_two_processes_and_when_it_is_reproduced(
    project: Path,
) -> None:
    for seed in (1, 1, 2):
        python("train.py", seed, folder=project)
    store = Store(project / ".flowyml")
    assert digests(store, 0) == digests(store, 1)
    weights, _, score = zip(digests(store, 1), digests(store, 2), strict=True)
    assert weights[0] != weights[1]
    assert score[0] != score[1]
    lines = reproduced(project, which=0)
    assert lines[0] == f"The script {project / 'train.py'} was loaded for its definitions."
    assert lines[-1].endswith("(all) is bit for bit identical: 3 results compared.")
    assert "0  train: identical, 2 results" in lines
    assert not [line for line in lines if line.startswith("code differs")]


def test_it_can_be_reproduced_from_elsewhere(project: Path, tmp_path: Path) -> None:
    python("train.py", 1, folder=project)
    record = runs(Store(project / ".flowyml"))[-1]
    command = ("-m", "flowyml", "reproduce", record.id, "--store", str(project / ".flowyml"))
    lines = python(*command, folder=tmp_path).stdout.splitlines()
    assert f"working directory differs: {project} → {tmp_path}" in lines
    assert "bit for bit identical" in lines[-1]


def test_a_changed_library_function_is_said_before_anything_runs(project: Path) -> None:
    text = (project / "train.py").read_text()
    (project / "train.py").write_text(text.replace("weights = ", "print('RUNS'); weights = "))
    python("train.py", 1, folder=project)
    (project / "helpers.py").write_text(dedent(HELPERS).replace("/ SCALE", "* SCALE"))
    record = runs(Store(project / ".flowyml"))[-1]
    done = subprocess.run(
        [sys.executable, "-u", "-m", "flowyml", "reproduce", record.id],
        check=False,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    said = done.stdout.index("code differs: helpers.normalize")
    assert said < done.stdout.index("RUNS") < done.stdout.index("0  train: differs in 1 of 2")
    assert "3 of 3 elements differ, first at [0]: was " in done.stdout
    assert "(all) isn't identical: 1 of 2 steps." in done.stdout


def test_a_changed_function_that_makes_no_difference_is_said_and_is_identical(
    project: Path,
) -> None:
    python("train.py", 1, folder=project)
    (project / "helpers.py").write_text(dedent(HELPERS).replace("row / SCALE", "row / (SCALE * 1)"))
    lines = reproduced(project)
    assert any("code differs: helpers.normalize" in line for line in lines)
    assert "bit for bit identical" in lines[-1]


def test_a_script_without_a_guard_is_reproduced(tmp_path: Path) -> None:
    written(
        tmp_path / "flat.py",
        """
        import random
        from flowyml import step

        @step
        def draw(count):
            return [random.random() for _ in range(count)]

        numbers = draw(3)
        print(numbers)

        @step
        def total(numbers):
            return sum(numbers)

        total(numbers)
        """,
    )
    python("flat.py", folder=tmp_path)
    lines = reproduced(tmp_path, which=0)
    assert lines[0].endswith(
        "flat.py was loaded for its definitions, until line 9 calls the step 'draw'."
    )
    assert "bit for bit identical: 1 result" in lines[-1]
    assert "bit for bit identical: 1 result" in reproduced(tmp_path)[-1]


def test_a_module_that_was_started_by_name_is_reproduced(tmp_path: Path) -> None:
    written(tmp_path / "made" / "__init__.py", "")
    written(tmp_path / "made" / "parts.py", "FACTOR = 3")
    written(
        tmp_path / "made" / "training.py",
        """
        import random
        from flowyml import step
        from .parts import FACTOR

        @step
        def draw():
            return random.random() * FACTOR

        if __name__ == "__main__":
            draw()
        """,
    )
    python("-m", "made.training", folder=tmp_path)
    assert "bit for bit identical: 1 result" in reproduced(tmp_path)[-1]


def test_steps_of_an_imported_module_and_arguments_of_the_script_are_reproduced(
    tmp_path: Path,
) -> None:
    written(
        tmp_path / "project" / "library.py",
        "from flowyml import step\n@step\ndef scaled(config):\n    return config.rate * 2\n",
    )
    written(
        tmp_path / "project" / "main.py",
        """
        from dataclasses import dataclass
        from flowyml import run
        import library

        @dataclass
        class Config:
            rate: float

        if __name__ == "__main__":
            library.scaled(Config(0.1))
        """,
    )
    python("main.py", folder=tmp_path / "project")
    store = str(tmp_path / "project" / ".flowyml")
    done = python(
        "-m", "flowyml", "reproduce", last(Store(store)), "--store", store, folder=tmp_path
    )
    assert "bit for bit identical: 1 result" in done.stdout


def test_what_a_guard_defines_is_missing_and_that_is_said(tmp_path: Path) -> None:
    written(
        tmp_path / "train.py",
        """
        from flowyml import step

        @step
        def scaled():
            return RATE

        if __name__ == "__main__":
            RATE = 0.5
            scaled()
        """,
    )
    python("train.py", folder=tmp_path)
    text = "\n".join(reproduced(tmp_path, status=1))
    assert "it fails now: NameError: name 'RATE' is not defined" in text


def test_a_script_that_is_gone_is_said(project: Path) -> None:
    python("train.py", 1, folder=project)
    (project / "train.py").unlink()
    text = "\n".join(reproduced(project, status=1))
    assert "its function __main__.train isn't there. Import the module that defines it." in text
    assert f"The script {project / 'train.py'} can't be read: FileNotFoundError" in text


def test_a_run_of_a_session_without_a_file_is_only_known_there(tmp_path: Path) -> None:
    code = "from flowyml import step\ndef f(): return 1\nstep(f)()"
    python("-c", code, folder=tmp_path)
    text = "\n".join(reproduced(tmp_path, status=1))
    assert "call flowyml.reproduce there" in text


def test_a_session_reproduces_its_own_run(tmp_path: Path) -> None:
    code = """
        from flowyml import runs, step
        from flowyml.reproducing import reproduce
        @step
        def f(x): return x + 1
        f(1)
        print(reproduce(runs()[-1].id))
        """
    assert "bit for bit identical" in python("-c", dedent(code), folder=tmp_path).stdout


def test_random_numbers_of_a_step_without_a_seed_come_again(store: Store) -> None:
    @step
    def draw() -> tuple[float, Any]:
        return random.random(), np.random.rand(3)

    with run("a", store=store):
        draw()
        draw()
    first, second = (one.outputs for one in runs(store)[-1].steps)
    assert first[0].digest != second[0].digest
    found = reproduce(last(store), store)
    assert found.identical
    assert [one.identical for one in found.steps] == [True, True]


def test_the_random_numbers_around_it_stay_as_they_were(store: Store) -> None:
    @step
    def draw() -> float:
        return random.random() + np.random.rand()

    @step(seed=1)
    def seeded() -> float:
        return random.random() + np.random.rand()

    with run("a", store=store):
        draw()
        seeded()
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    assert reproduce(last(store), store).identical
    assert (random.random(), np.random.rand()) == expected


def test_a_step_that_is_never_the_same_is_shown_in_numbers(store: Store) -> None:
    @step
    def noise() -> Any:
        return np.frombuffer(os.urandom(80), dtype=np.uint64).reshape(2, 5).astype(float)

    with run("a", store=store):
        noise()
    found = reproduce(last(store), store)
    (repeated,) = found.steps
    (output,) = repeated.outputs
    assert not found.identical
    assert output.changes is not None
    (change,) = output.changes
    assert (change.elements, change.different, change.first) == (10, 10, (0, 0))
    assert found.differences == [f"step 0 (noise): the output: {in_words(change)}"]
    assert "10 of 10 elements differ, first at [0, 0]: was " in found.text()
    assert found.text() == str(found)


def test_one_output_that_differs_among_others_is_named(store: Store) -> None:
    calls: list[int] = []

    @step
    def count() -> dict[str, Any]:
        calls.append(1)
        return {"same": np.ones(3), "calls": np.full(3, len(calls)), "kept": {"a": 1}}

    with run("a", store=store):
        count()
    (repeated,) = reproduce(last(store), store).steps
    assert [(one.key, one.identical) for one in repeated.outputs] == [
        ("same", True),
        ("calls", False),
        ("kept", True),
    ]
    assert repeated.identical is False


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    rate: float
    layers: tuple[int, ...]
    color: Color


@attrs.frozen
class Frozen:
    path: Path


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "value",
    [
        Settings(0.1, (1, 2), Color.RED),
        Frozen(Path("data") / "x"),
        Pair(1, Color.RED),
        (1, "a", None, [True]),
        {"a": {"b": (1,)}, 3: {4, 5}},
        math.nan,
        -0.0,
        np.float64(0.1),
        np.float32("nan"),
        np.arange(12.0).reshape(3, 4).T,
        [np.zeros(2), 1],
        math.sqrt,
        Settings,
        "x" * 100_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_of_every_kind_come_again(value: Any, store: Store) -> None:
    seen: list[Any] = []

    @step
    def look(value: Any, *rest: Any, default: float = 0.5, **more: Any) -> int:
        seen.append((value, rest, default, more))
        return 1

    with run("a", store=store):
        look(value, value, 2, more=value)
    found = reproduce(last(store), store)
    assert found.identical, found
    assert repr(seen[0]) == repr(seen[1])


def test_an_argument_that_was_changed_after_the_call_comes_as_it_was(store: Store) -> None:
    @step
    def total(rows: Any) -> float:
        return float(rows.sum())

    rows = np.ones(5)
    with run("a", store=store):
        total(rows)
    rows[2] = 100
    assert reproduce(last(store), store).identical


def test_a_later_step_starts_from_what_was_recorded_not_from_what_came_out(
    store: Store,
) -> None:
    @step
    def noise() -> Any:
        return np.frombuffer(os.urandom(80), dtype=np.uint64)

    @step
    def total(rows: Any) -> Any:
        return rows.sum()

    with run("a", store=store):
        total(noise())
    assert [one.identical for one in reproduce(last(store), store).steps] == [False, True]


def test_an_input_that_is_not_in_the_store_is_named_and_can_be_given(store: Store) -> None:
    @step(keep_inputs=False)
    def total(rows: Any) -> Any:
        return rows.sum()

    @step
    def other() -> int:
        return 1

    with run("a", store=store):
        total(np.arange(5000.0))
        other()
    found = reproduce(last(store), store)
    assert not found.identical
    assert [one.identical for one in found.steps] == [False, True]
    reason = str(found.steps[0].reason)
    assert reason.startswith("its argument 'rows', a numpy.ndarray, isn't in the store")
    assert "arguments={'rows': ...}" in reason
    assert "@step(keep_inputs=True)" in reason
    assert reproduce(last(store), store, arguments={"rows": np.arange(5000.0)}).identical
    found = reproduce(last(store), store, arguments={"rows": np.zeros(5000)})
    assert not found.identical
    assert "its argument 'rows' isn't what it was: its digest was " in found.text()


def test_an_object_without_a_digest_can_be_given(store: Store) -> None:
    @step
    def read(source: Any) -> Any:
        return next(source)

    with run("a", store=store):
        read(iter([3]))
    found = reproduce(last(store), store)
    assert "its argument 'source', a list_iterator, isn't in the store" in found.text()
    assert reproduce(last(store), store, arguments={"source": iter([3])}).identical


def test_an_input_that_is_not_what_was_recorded_is_said(store: Store) -> None:
    @step
    def total(rows: Any) -> Any:
        return rows.sum()

    with run("a", store=store) as current:
        total(np.arange(5000.0))
    path = store.path / "runs" / f"{current.id}.json"
    data = json.loads(path.read_text())
    data["steps"][0]["inputs"]["rows"]["digest"] = "1" * 64
    path.write_text(json.dumps(data))
    found = reproduce(current.id, store)
    (note,) = found.steps[0].notes
    assert note.startswith("its argument 'rows' isn't what it was: its digest was 111111111111…")
    assert f"note: {note}" in found.text()
    assert found.identical  # what came of it is the same all the same


def test_an_input_that_was_deleted_is_said(store: Store) -> None:
    @step
    def total(rows: Any) -> Any:
        return rows.sum()

    rows = np.arange(5000.0)
    store.save(rows, "rows")
    with run("a", store=store):
        total(rows)
    store.delete("rows@v1")
    found = reproduce(last(store), store)
    assert "its argument 'rows' can't be loaded from rows@v1: " in str(found.steps[0].reason)


def test_a_method_of_an_object_has_to_be_given(store: Store) -> None:
    @step
    def draw(source: Any) -> int:
        return int(source() < 1)

    with run("a", store=store):
        draw(random.random)
    assert "its argument 'source', a builtin_function_or_method, isn't in" in (
        reproduce(last(store), store).text()
    )
    assert reproduce(last(store), store, arguments={"source": random.random}).identical


def test_a_masked_argument_has_to_be_given(store: Store) -> None:
    @step
    def fetch(url: str, api_key: str) -> str:
        return f"{url} {len(api_key)}"

    with run("a", store=store):
        fetch("here", api_key="hunter2")
    found = reproduce(last(store), store)
    assert not found.identical
    assert "arguments={'api_key': ...}" in found.text()
    assert reproduce(last(store), store, arguments={"api_key": "hunter2"}).identical


def test_a_name_that_nothing_needs_is_refused(store: Store) -> None:
    @step
    def fetch(url: str, api_key: str) -> str:
        return url

    with run("a", store=store):
        fetch("here", api_key="hunter2")
    with pytest.raises(ValueError, match=r"'api_keys', which no step .* Did you mean 'api_key'\?"):
        reproduce(last(store), store, arguments={"api_keys": 1})
    with pytest.raises(ValueError, match=r"'url', which no step .* only what was masked"):
        reproduce(last(store), store, arguments={"url": 1})


def test_steps_in_steps_are_compared_too(store: Store) -> None:
    @step
    def inner(x: int) -> Any:
        return x if x < 2 else os.urandom(8).hex()

    @step
    def outer() -> None:
        inner(1)
        inner(2)

    with run("a", store=store):
        outer()
    found = reproduce(last(store), store)
    assert [(one.name, one.index, one.identical) for one in found.steps] == [
        ("outer", 0, None),
        ("inner", 1, True),
        ("inner", 2, False),
    ]


def test_seeds_of_a_run_reach_steps_in_steps_again(store: Store) -> None:
    @step
    def inner() -> float:
        return random.random()

    @step
    def outer() -> list[float]:
        return [inner(), inner(), random.random()]

    with run("a", seed=3, store=store):
        outer()
        outer()
    found = reproduce(last(store), store)
    assert found.identical
    assert len(found.steps) == 6


def test_a_step_that_is_not_called_this_time_is_said(store: Store) -> None:
    calls: list[int] = []

    @step
    def inner() -> int:
        return 1

    @step
    def outer() -> int:
        calls.append(1)
        return inner() if len(calls) == 1 else 1

    with run("a", store=store):
        outer()
    found = reproduce(last(store), store)
    assert found.steps[1].reason == "it wasn't called this time"
    assert not found.identical


def test_a_step_that_fails_again_in_the_same_way_is_identical(store: Store) -> None:
    addresses = iter(("0x7f01", "0x7f02"))

    @step
    def fail(text: str) -> None:
        raise ValueError(f"{text}: <object object at {next(addresses)}>")

    with pytest.raises(ValueError, match="no"), run("a", store=store):
        fail("no")
    found = reproduce(last(store), store)
    assert found.identical
    assert found.steps[0].failed_again
    assert found.text().splitlines()[0] == "0  fail: failed again in the same way"
    assert found.text().endswith(
        "is bit for bit identical: 0 results compared, 1 step failed again in the same way."
    )


def test_a_step_that_fails_in_another_way_is_not(store: Store) -> None:
    calls: list[int] = []

    @step
    def fail() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError(f"call {len(calls)}")
        return 1

    with pytest.raises(ValueError, match="call"), run("a", store=store):
        fail()
    (reason,) = reproduce(last(store), store).differences
    assert reason == (
        "step 0 (fail): it fails in another way now: ValueError: call 2; then: ValueError: call 1"
    )
    (reason,) = reproduce(last(store), store).differences
    assert "it failed then, and doesn't now; then: ValueError: call 1" in reason


def test_a_step_that_ends_the_process_ends_only_itself(store: Store) -> None:
    calls: list[int] = []

    @step
    def leave() -> int:
        calls.append(1)
        if len(calls) > 1:
            sys.exit(3)
        return 1

    with run("a", store=store):
        leave()
    found = reproduce(last(store), store)
    assert found.steps[0].reason == "it fails now: SystemExit: 3"


def test_an_interruption_ends_it(store: Store) -> None:
    calls: list[int] = []

    @step
    def wait() -> int:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return 1

    with run("a", store=store):
        wait()
    with pytest.raises(KeyboardInterrupt):
        reproduce(last(store), store)


def test_methods_are_repeated_on_the_object_as_it_was(store: Store) -> None:
    with run("a", store=store):
        Trainer(0.5).fit([1, 2])
    assert reproduce(last(store), store).identical


@dataclasses.dataclass
class Trainer:
    rate: float

    @step
    def fit(self, rows: list[int]) -> float:
        self.rate *= 2
        return self.rate * sum(rows)


def test_nothing_is_written_to_the_store(store: Store) -> None:
    @step
    def make(rows: Any) -> Any:
        return rows * 2

    with run("a", store=store):
        make(np.arange(5000.0))
    before = contents(store)
    assert reproduce(last(store), store).identical
    assert contents(store) == before


def contents(store: Store) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.path.rglob("*")}


def test_what_a_function_saves_by_itself_is_not_written_to_the_store_either(
    store: Store,
) -> None:
    @step
    def make() -> int:
        store.save(np.arange(3.0), "mine")
        return len(store.load("mine"))

    with run("a", store=store):
        make()
    before = contents(store)
    found = reproduce(last(store), store)
    assert contents(store) == before
    assert found.identical
    assert [str(output) for output in found.steps[0].outputs] == ["the output", "the saved 'mine'"]


def test_a_function_finds_what_it_saved_under_the_version_that_it_had(store: Store) -> None:
    @step
    def make() -> tuple[str, list[float], list[float]]:
        ref = str(store.save(np.ones(2), "mine").ref)
        return ref, store.load(ref).tolist(), store.load("mine@v1").tolist()

    store.save(np.full(2, 7.0), "mine")
    with run("a", store=store) as first:
        make()
    store.save(np.full(2, 8.0), "mine")
    found = reproduce(first.id, store)
    assert found.identical, found
    assert store.versions("mine") == ["v1", "v2", "v3"]


def test_formats_other_than_the_first_are_compared_as_such(tmp_path: Path, toy: Any) -> None:
    store = Store(tmp_path / "compact", format="compact")

    @step
    def make() -> Any:
        return toy([1.0])

    with run("a", store=store):
        make()
    assert reproduce(last(store), Store(store.path)).identical


def test_a_result_that_was_taken_from_an_earlier_call_is_computed(store: Store) -> None:
    calls: list[int] = []

    @step(cache=True)
    def draw() -> float:
        return random.random()

    @step(cache=True, seed=3)
    def seeded() -> float:
        return random.random()

    @step
    def count() -> int:
        calls.append(1)
        return len(calls)

    for _ in range(2):
        with run("a", store=store):
            draw()
            seeded()
    assert all(one.cached_from for one in runs(store)[-1].steps)
    found = reproduce(last(store), store)
    assert found.identical, found
    assert "identical, 1 result" in found.text()


def test_a_run_without_results_has_nothing_to_compare(store: Store) -> None:
    @step
    def nothing() -> None: ...

    with run("a", store=store):
        nothing()
    found = reproduce(last(store), store)
    assert not found.identical
    assert found.steps[0].identical is None
    assert found.differences == ["the run has no results that could be compared"]
    assert found.text().splitlines()[0] == "0  nothing: nothing to compare"


@pytest.mark.filterwarnings("ignore::flowyml.errors.MaterializationWarning")
def test_an_output_that_was_not_stored_is_named(store: Store) -> None:
    @step
    def mixed() -> dict[str, Any]:
        return {"a": 1, "rows": iter([])}

    with run("a", store=store):
        mixed()
    found = reproduce(last(store), store)
    assert found.identical
    assert "0  mixed: identical, 1 result; not compared, as it wasn't stored then: 'rows'" in (
        found.text()
    )


def test_a_seed_that_is_declared_otherwise_now_is_said(store: Store) -> None:
    def draw() -> float:
        return random.random()

    with run("a", store=store):
        step(seed=1)(draw)()
    again = step(seed=2)(draw)
    told: list[str] = []
    found = reproduce(last(store), store, tell=told.append)
    assert again.settings.seed == 2
    assert found.identical
    assert "seed differs: draw has 2 now; it is run with 1" in told
    assert "seed differs: draw has 2 now; it is run with 1" in found.before


def test_a_run_that_has_not_ended_is_refused(store: Store) -> None:
    @step
    def f() -> int:
        return 1

    with run("a", store=store) as current:
        f()
        with pytest.raises(StoreError, match=r"is still going on, or its process was killed"):
            reproduce(current.id, store)
    assert reproduce(current.id, store).identical


def test_an_unknown_or_damaged_run_is_refused(store: Store) -> None:
    @step
    def f() -> int:
        return 1

    with run("a", store=store) as current:
        f()
    with pytest.raises(StoreError, match=r"holds no run 'nothing'. The newest are: "):
        reproduce("nothing", store)
    path = store.path / "runs" / f"{current.id}.json"
    path.write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        reproduce(current.id, store)


def forged(store: Store, function: str, call: object = None) -> str:
    """Make the record of a run name another function, as a stranger might."""

    @step
    def f() -> int:
        return 1

    with run("a", store=store) as current:
        f()
    path = store.path / "runs" / f"{current.id}.json"
    data = json.loads(path.read_text())
    data["steps"][0]["function"] = function
    if call is not None:
        data["steps"][0]["call"] = call
    path.write_text(json.dumps(data))
    return current.id


@pytest.mark.parametrize("function", ["os.mkdir", "os.path.join", "json.JSONEncoder.encode"])
def test_only_steps_are_called(function: str, store: Store, tmp_path: Path) -> None:
    call = {"args": [str(tmp_path / "made")], "kwargs": {}}
    (found,) = reproduce(forged(store, function, call), store).steps
    assert f"{function} is a " in str(found.reason)
    assert "no step any more, and nothing but steps is called" in str(found.reason)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "function",
    ["", ".", "nothing", "no such.f", "os", "os.path", "../x.f", "a.<locals>.b", "os..f"],
)
def test_a_name_that_means_nothing_is_said(function: str, store: Store) -> None:
    (found,) = reproduce(forged(store, function), store).steps
    assert "isn't there" in str(found.reason) or "can't be imported" in str(found.reason)


def test_a_module_that_fails_when_it_is_imported_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "breaking_module.py", "import sys\nsys.exit('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = reproduce(forged(store, "breaking_module.f"), store).steps
    assert found.reason == (
        "the module that defines breaking_module.f can't be imported: SystemExit: no"
    )


def test_a_module_that_calls_a_step_when_it_is_imported_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from flowyml import step\n@step\ndef f(): return 1\nf()\n"
    written(tmp_path / "calling_module.py", text)
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = reproduce(forged(store, "calling_module.f"), store).steps
    assert "can't be imported: CalledWhileLoading: calls the step 'f'" in str(found.reason)
    assert len(runs(store)) == 1


@pytest.mark.parametrize(
    "call",
    [{}, {"args": [["x"]], "kwargs": {}}, {"args": [["input", "x"]], "kwargs": {}}, {"args": 3}],
)
def test_a_damaged_call_is_said(call: object, store: Store) -> None:
    name = "flowyml_test_damaged"

    @step(name=name)
    def f() -> int:
        return 1

    (found,) = reproduce(forged(store, f.dotted, call), store).steps
    assert "arguments can't be rebuilt: " in str(found.reason)


def test_a_step_that_takes_other_arguments_now_is_said(store: Store) -> None:
    def make(function: Callable[..., int]) -> Any:
        function.__qualname__ = "changing"
        return step(function)

    with run("a", store=store):
        make(lambda x: 1)(1)
    now = make(lambda: 1)
    (found,) = reproduce(last(store), store).steps
    assert now is not None
    assert "it can't be called as it was then: TypeError" in str(found.reason)


def test_states_that_are_gone_are_a_note_where_something_differs(store: Store) -> None:
    @step
    def draw() -> float:
        return random.random()

    with run("a", store=store) as current:
        draw()
    (store.path / "runs" / f"{current.id}.states").unlink()
    found = reproduce(current.id, store)
    assert not found.identical
    assert any("the random state of python" in note for note in found.steps[0].notes)


def test_it_is_refused_within_a_script_that_is_being_loaded(tmp_path: Path) -> None:
    written(
        tmp_path / "itself.py",
        """
        from flowyml import runs, step
        from flowyml.reproducing import reproduce

        @step
        def f(): return 1

        if not runs():
            f()
        print(reproduce(runs()[-1].id))
        """,
    )
    python("itself.py", folder=tmp_path)
    lines = reproduced(tmp_path)
    assert lines[0].endswith("until line 10 reproduces a run.")
    assert "bit for bit identical" in lines[-1]


def test_a_value_that_differs_is_told_in_words() -> None:
    assert in_words(Change("w", "float32 (2,)", None)) == "w: is gone"
    assert in_words(Change("w", None, "float32 (2,)")) == "w: float32 (2,) is new"
    assert in_words(Change("w", "float32 (2,)", "float32 (3,)")) == (
        "w: was float32 (2,), is float32 (3,)"
    )
    change = Change(
        "w", "float32 (3, 1000)", "float32 (3, 1000)", 3000, 1200, (0, 3), "0.5", "0.25", 0.25, 0.5
    )
    assert in_words(change) == (
        "w: 1,200 of 3,000 elements differ, first at [0, 3]: was 0.5, is 0.25; "
        "by at most 0.25 absolute, 0.5 relative"
    )
    change = Change("loss", "0.5", "0.25", 1, 1, (), "0.5", "0.25", 0.25, 0.5)
    assert in_words(change) == (
        "loss: differs, was 0.5, is 0.25; by at most 0.25 absolute, 0.5 relative"
    )


def test_many_values_that_differ_are_counted() -> None:
    changes = tuple(Change(f"w{number}", "a", "b") for number in range(100))
    output = OutputReproduction("net", "output", "1" * 64, "2" * 64, changes)
    found = Reproduction("id", "all", (StepReproduction("train", 0, (output,)),))
    assert len(found.differences) == 100
    lines = found.text().splitlines()
    assert lines[0] == "0  train: differs in 1 of 1 result"
    assert lines[1] == "     the output 'net': w0: was a, is b"
    assert lines[21] == "     and 80 more values of the output 'net'"
    assert len(lines) == 23


def test_an_output_without_comparable_values_is_told_by_its_digests() -> None:
    output = OutputReproduction("", "output", "1" * 64, "2" * 64, None, "they are of two kinds")
    assert output.differences == [
        f"the output differs: its digest was {'1' * 12}… and is {'2' * 12}… (they are of two kinds)"
    ]
    gone = OutputReproduction("a", "output", "1" * 64, None)
    assert gone.differences == ["the output 'a' isn't there now: the step gave none"]
