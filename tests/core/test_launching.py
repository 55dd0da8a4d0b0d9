"""Steps in several processes, started by a launcher as a third party may write one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowyml import Store, runs

HERE = Path(__file__).parent / "processes"

START = """
import os, sys, random, json, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from flowyml import Model, Store, current, run, runs, step
from flowyml_processes import Processes
"""


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def script(folder: Path, text: str, **variables: str) -> Any:
    """Run a script; return what it printed last, as JSON."""
    (folder / "script.py").write_text(START + text)
    done = start(folder, "script.py", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fails(folder: Path, text: str, **variables: str) -> str:
    (folder / "script.py").write_text(START + text)
    done = start(folder, "script.py", **variables)
    assert done.returncode != 0
    return done.stderr


def test_arguments_and_results_travel_and_one_record_tells_of_it(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
@dataclass
class Config:
    lr: float
    path: Path

@step
def measured(x):
    return x * 2

@step(launcher=Processes(3), seed=4)
def train(config, array, names, *rest, key="k", **more):
    here = current()
    measured(here.rank)
    assert here.world_size == 3 and here.device == f"place:{here.rank}" and here.seed == 4
    assert here.run.name == "train" and here.step == "train" and here.store.path.is_dir()
    array += 1
    names.append(here.rank)
    return {"sum": float(array.sum()), "config": repr(config), "rank": here.rank,
            "random": random.random(), "rest": [rest, more, key], "call": here.call}

if __name__ == "__main__":
    array, names = np.zeros(3), ["a"]
    got = train(Config(0.5, Path("x")), array, names, 1, (2, 3), key="v", other={"n": float("inf")})
    random.seed(4)
    assert got["random"] == random.random()
    assert got["rest"] == [(1, (2, 3)), {"other": {"n": float("inf")}}, "v"], got
    del got["rest"]
    print(json.dumps([got, array.tolist(), names]))
""",
    )
    got, array, names = found
    assert got["config"] == "Config(lr=0.5, path=PosixPath('x'))"
    assert (got["sum"], got["rank"]) == (3.0, 0)
    assert array == [1, 1, 1]  # changed in place, as in a plain call
    assert names == ["a", 0]
    (record,) = runs(Store(tmp_path / ".flowyml"))
    assert [step.name for step in record.steps] == ["train", "measured"]
    train, measured = record.steps
    assert train.status == measured.status == "completed"
    assert (train.world_size, train.launcher) == (3, {"name": "processes", "number": 3})
    assert measured.parent == 0
    assert train.call_id == got["call"]
    assert train.inputs["array"].changed is not None
    assert [output.key for output in train.outputs] == [""]
    assert Store(tmp_path / ".flowyml").versions("measured") == ["v1"]
    assert not [*(tmp_path / ".flowyml/jobs").iterdir()]


def test_ranks_draw_different_numbers_and_the_first_draws_those_of_a_plain_call(
    tmp_path: Path,
) -> None:
    text = """
@step({}, seed=7)
def train(folder):
    import numpy
    (Path(folder) / f"rank{current().rank}").write_text(f"{random.random()} {numpy.random.rand()}")

if __name__ == "__main__":
    train(sys.argv[0] and "{}")
    print("null")
"""
    for name, launcher in (("alone", ""), ("two", "launcher=Processes(2)")):
        (tmp_path / name).mkdir()
        script(
            tmp_path, text.replace("{}, ", f"{launcher}, " * bool(launcher), 1).replace("{}", name)
        )
    alone, first, second = (
        (tmp_path / name).read_text() for name in ("alone/rank0", "two/rank0", "two/rank1")
    )
    assert alone == first != second


def test_a_model_comes_back_as_an_asset_that_was_stored_once(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
@step(launcher=Processes(2))
def train(data):
    return Model.create({"w": data.data.tolist()}, "toy", framework="none", auto_extract=False,
                        training_history={"loss": [2.0, 1.0]})

if __name__ == "__main__":
    store = Store.default()
    from flowyml import Asset
    data = store.save(Asset(name="rows", data=np.arange(3.0)))
    model = train(data)
    print(json.dumps([model.data, model.ref, dict(model.training_history),
                      store.versions("toy"), [p.ref for p in model.parents], runs()[-1].outputs]))
""",
    )
    assert found == [
        {"w": [0.0, 1.0, 2.0]},
        "toy@v1",
        {"epochs": [1, 2], "loss": [2.0, 1.0]},
        ["v1"],
        ["rows@v1"],
        ["toy@v1"],
    ]


def test_the_exception_of_the_rank_that_failed_reaches_the_caller(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
class OwnError(Exception):
    pass

@step
def inner():
    return 1

@step(launcher=Processes(2))
def train(how):
    inner()
    if current().rank == 1:
        if how == "raise":
            raise OwnError("no", 3)
        if how == "die":
            os.kill(os.getpid(), 9)
        if how == "odd":
            raise type("Odd", (Exception,), {})("x")
    time.sleep(2 if how == "die" else 30)
    raise RuntimeError("the other is gone")

if __name__ == "__main__":
    told = []
    for how in ("raise", "die", "odd"):
        try:
            train(how)
        except BaseException as error:
            told.append([type(error).__name__, str(error), str(error.__cause__), error.__notes__
                         if hasattr(error, "__notes__") else []])
    steps = [s for r in runs() for s in r.steps]
    print(json.dumps([told, [[s.status, s.error and s.error.type] for s in steps]]))
""",
    )
    (raised, died, odd), statuses = found
    assert raised[:2] == ["OwnError", "('no', 3)"]
    assert "in rank 1 of 2" in raised[2]
    assert 'raise OwnError("no", 3)' in raised[2]
    assert died[:2] == ["LaunchError", "rank 1 ended with -9"]
    assert odd[0] == "LaunchError"
    assert "rank 1 of 2 failed: __main__.Odd: x" in odd[1]
    assert ["failed", "__main__.OwnError"] in statuses
    assert ["failed", "flowyml.errors.LaunchError"] in statuses


@pytest.mark.parametrize(
    ("definition", "call", "told"),
    [
        ("def outer():\n @step(launcher=Processes(2))\n def train(): return 1\n return train",
         "outer()()", "is defined inside of another function"),
        ("@step(launcher=Processes(2))\ndef train(x): return 1",
         "train(object.__new__(type('Local', (), {'__slots__': ('x',)})))", "in its argument 'x'"),
        ("@step(launcher=Processes(2))\ndef train(x): return 1", "train(lambda: 1)", "'x'"),
        ("@step(launcher=Processes(2))\ndef train(): return open('script.py')", "train()",
         "can't come back"),
        ("@step(launcher=Processes(2))\ndef train(): os._exit(0)", "train()",
         "ended without an outcome"),
        ("@step(launcher=3)\ndef train(): return 1", "train()", "launcher= takes a launcher"),
        ("@step(launcher='nobody')\ndef train(): return 1", "train()", "'nobody'"),
        ("if __name__ == '__main__':\n    @step(launcher=Processes(2))\n    def train(): return 1",
         "train()", "can't be imported"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_told(tmp_path: Path, definition: str, call: str, told: str) -> None:
    text = fails(tmp_path, f"{definition}\n\nif __name__ == '__main__':\n    {call}\n")
    assert told in text
    assert not [*tmp_path.glob(".flowyml/jobs/*")]


def test_variables_that_only_the_started_script_sets_go_along(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
SCALE, EARLY = 2, np.ones(2)

def scaled(x):
    return x * SCALE + sum(TABLE.values()) + float(EARLY.sum())

@step(launcher=Processes(2))
def train(x):
    return scaled(x) + WEIGHTS.sum()

@step
def prepare():
    return np.full(2, 10.0)

if __name__ == "__main__":
    SCALE = 3
    TABLE = {"a": 100}
    WEIGHTS = prepare()
    print(json.dumps(float(train(1))))
""",
    )
    assert found == 3 + 100 + 2 + 20


def test_functions_of_modules_and_of_programs_without_a_guard_work(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(
        START
        + """
class Box:
    def __init__(self, n):
        self.n = n

@step(launcher=Processes(2))
def doubled(box):
    return Box(box.n * 2)
"""
    )
    found = script(
        tmp_path,
        """
from helpers import Box, doubled

@dataclass
class Mine:
    n: int

@step(launcher=Processes(2))
def train(mine):
    return mine.n + current().world_size

first = doubled(Box(4)).n
print(json.dumps([first, doubled(Mine(5)).n, train(Mine(1))]))
""",
    )
    assert found == [8, 10, 3]


NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
import sys, types
main = sys.modules["__main__"] = types.ModuleType("__main__")
shell = InteractiveShell.instance(user_module=main)
for cell in {cells!r}:
    done = shell.run_cell(cell, store_history=True)
    done.raise_error()
"""


def test_functions_of_notebooks_work(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="this environment has no notebooks")
    cells = [
        START,
        "base = 10\nprint('this cell is not run again', file=open('cells', 'a'))",
        "class Net:\n def __init__(self, n):\n  self.n = n\n def out(self): return self.n + base",
        "extra = np.arange(3.0)\nopen('cells', 'a').write('x')",
        "@step(launcher=Processes(2))\ndef train(net):\n    return Net(net.out() + extra.sum())",
        "print(json.dumps(float(train(Net(1)).n)))",
        "base = 20\nprint(json.dumps(float(train(Net(1)).n)))",
    ]
    done = start(tmp_path, "-c", NOTEBOOK.format(cells=cells))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["14.0", "24.0"]
    assert (tmp_path / "cells").read_text() == "this cell is not run again\nx"


TOGETHER = """
@step(seed=3)
def measured(x):
    return x + 1

@step(launcher=Processes(5), seed=9, cache=True)
def train(n):
    here = current()
    Store.default().save([here.rank], "own")
    measured(here.rank)
    return {"rank": here.rank, "size": here.world_size, "random": random.random(), "n": n}

@step
def unseeded():
    return [current().seed, current().call]

if __name__ == "__main__":
    early = current().rank
    with run("all") as r:
        got = train(2)
        assert early == got["rank"]
        got["again"] = train(2)["rank"]
        got["drawn"] = unseeded()
        got["id"] = r.id
    print(json.dumps(got))
"""


def test_a_step_joins_the_processes_that_were_started_before(tmp_path: Path) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from flowyml_processes import start_together
    finally:
        sys.path.remove(str(HERE))
    (tmp_path / "script.py").write_text(START + TOGETHER)
    environment = {**os.environ}
    os.environ.update(PYTHONPATH=str(HERE), FLOWYML_STORE=str(tmp_path / "store"))
    try:
        ended = start_together(3, tmp_path / "talk", [str(tmp_path / "script.py")])
    finally:
        os.environ.clear()
        os.environ.update(environment)
    assert [code for code, _, _ in ended] == [0, 0, 0], ended
    found = [json.loads(out.splitlines()[-1]) for _, out, _ in ended]
    assert [got["rank"] for got in found] == [0, 1, 2]  # each has its own function's result
    assert {got["size"] for got in found} == {3}
    assert len({got["random"] for got in found}) == 3
    assert len({str(got["drawn"]) for got in found}) == len({got["id"] for got in found}) == 1
    store = Store(tmp_path / "store")
    (record,) = runs(store)
    assert record.id == found[0]["id"]
    assert [step.name for step in record.steps] == [
        "train", "measured", "train", "measured", "unseeded",
    ]  # fmt: skip
    assert {step.world_size for step in record.steps} == {3}
    assert record.steps[0].not_cached is not None
    assert store.versions("own") == ["v1", "v2"]
    assert store.load("own") == [0]
    assert "isn't cached" in ended[0][2]


def test_a_call_that_was_interrupted_is_resumed_with_equal_arguments_only(tmp_path: Path) -> None:
    text = """
@step(launcher={launcher})
def train(n, stop):
    Path(f"{mark}{{n}}").open("a").write(current().call + "\\n") if current().rank == 0 else None
    if Path("stop").exists():
        os.kill(os.getppid() if stop == "parent" else os.getpid(), 9)
        time.sleep(5)
    return n

if __name__ == "__main__":
    for n in map(int, sys.argv[1:]):
        train(n, "{stop}", resume=True)
    print("null")
"""
    for stop, launcher in (("self", "None"), ("parent", "Processes(2)")):
        (tmp_path / "stop").touch()
        (tmp_path / "script.py").write_text(
            START + text.format(launcher=launcher, stop=stop, mark=stop)
        )
        assert start(tmp_path, "script.py", "1").returncode == -9
        (tmp_path / "stop").unlink()
        done = start(tmp_path, "script.py", "2", "1", "1")
        assert done.returncode == 0, done.stderr
        first, resumed, after = (tmp_path / f"{stop}1").read_text().splitlines()
        assert first == resumed != after
        assert "train resumes its call in the run" in done.stderr
        assert "no interrupted call" in done.stderr
        other = (tmp_path / f"{stop}2").read_text().splitlines()
        assert other not in ([first], [after])


def test_a_group_that_is_started_again_makes_the_same_call(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
@step(launcher=Processes(2, restarts=1))
def train():
    Path("calls").open("a").write(current().call + "\\n")
    if current().group.restarts == 0:
        time.sleep(0.5)
        raise ValueError("once")
    return current().group.restarts

if __name__ == "__main__":
    print(json.dumps([train(), len(runs())]))
""",
    )
    assert found == [1, 1]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 4
    assert len(set(calls)) == 1


def test_results_of_several_processes_are_cached(tmp_path: Path) -> None:
    text = """
@step(launcher=Processes({}), cache=True)
def train(n):
    Path("ran").open("a").write("x")
    return n + current().world_size

if __name__ == "__main__":
    print(json.dumps(train(1)))
"""
    assert script(tmp_path, text.format(2)) == 3
    assert script(tmp_path, text.format(2)) == 3
    assert (tmp_path / "ran").read_text() == "xx"
    assert script(tmp_path, text.format(1)) == 2
    assert (tmp_path / "ran").read_text() == "xxx"


def test_secrets_travel_without_being_written_down(tmp_path: Path) -> None:
    found = script(
        tmp_path,
        """
@step(launcher=Processes(2))
def train(config, *, api_key):
    jobs = Path(".flowyml/jobs")
    texts = [p.read_bytes() for p in jobs.rglob("*") if p.is_file()]
    hidden = not any(b"HUSH".lower() in text for text in texts)
    came = [api_key == "HUSH1".lower(), config["password"] == "HUSH2".lower()]
    return [hidden, *came, "FLOWYML_PRIVATE" in os.environ]

if __name__ == "__main__":
    print(json.dumps(train({"password": "HUSH2".lower(), "n": 1}, api_key="HUSH1".lower())))
""",
    )
    assert found == [True, True, True, False]
    for path in (tmp_path / ".flowyml").rglob("*"):
        assert not (path.is_file() and b"hush" in path.read_bytes())
