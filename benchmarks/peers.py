"""How long the peers take to record the same trivial steps, in what they set up by themselves.

Each runs in an environment of its own, with an empty folder for a home.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from recording import FUNCTIONS, seconds

BATCH = 10


def in_batches(run_pipeline: Callable[[int], object], rounds: int) -> Iterable[float]:
    """Return the seconds of a further step: a pipeline of many less a pipeline of one."""
    run_pipeline(1)
    for _ in range(rounds):
        short, long = seconds(run_pipeline, 1), seconds(run_pipeline, 1 + BATCH)
        yield (long - short) / BATCH


def zenml(case: str, rounds: int) -> list[float]:
    """Time steps on the local stack; compiling the pipeline takes a part of each."""
    from zenml import pipeline, step
    from zenml.client import Client

    one = step(enable_cache=False)(FUNCTIONS[case])

    @pipeline(name=case, enable_cache=False)
    def steps(count: int) -> None:
        for number in range(count):
            one(number)

    found = list(in_batches(steps, rounds))
    check(Client().list_pipeline_runs(pipeline=case, status="completed").total, 1 + 2 * rounds)
    return found


def mlflow(case: str, rounds: int) -> list[float]:
    """Time runs in the local database."""
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_experiment(case)

    def one(number: int) -> None:
        with mlflow.start_run():
            mlflow.log_params({"number": number})
            result = FUNCTIONS[case](number)
            if result is not None:
                mlflow.log_metric("result", result)

    one(0)
    found = [seconds(one, number) for number in range(1, 1 + rounds * BATCH)]
    runs = mlflow.search_runs(experiment_names=[case], output_format="list")
    check(sum(run.info.status == "FINISHED" for run in runs), 1 + rounds * BATCH)
    return found


def another_flowyml(case: str, rounds: int) -> list[float]:
    """Time steps of a pipeline, without the web server that one would start."""
    from flowyml import Pipeline, step

    def named(number: int) -> Any:
        def one() -> object:
            return FUNCTIONS[case](number)

        return step(name=f"step{number}", cache=False, register=False)(one)

    def steps(count: int) -> None:
        pipeline = Pipeline(case, enable_cache=False)
        for number in range(count):
            pipeline.add_step(named(number))
        done = pipeline.run(auto_start_ui=False)
        check(sum(result.success for result in done.step_results.values()), count)

    return list(in_batches(steps, rounds))


def check(recorded: int, wanted: int) -> None:
    """Make sure that what was timed was done."""
    if recorded != wanted:
        raise RuntimeError(f"{recorded} of {wanted} are recorded; no time to measure")


class Peer(NamedTuple):
    """Who is measured, and what of it.

    Attributes:
        distribution: whose version is told.
        measure: returns seconds, by case and number of rounds.
        timed: what one of them is, by case.
        alone: whether it has nothing smaller than a run.
    """

    distribution: str
    measure: Callable[[str, int], list[float]]
    timed: dict[str, str]
    alone: bool = False


STEPS = {"nothing": "a step, None", "value": "a step, a number"}
RUNS = {"nothing": "a run, log_params", "value": "a run, log_params, log_metric"}
PEERS = {
    "ZenML": Peer("zenml", zenml, STEPS),
    "MLflow": Peer("mlflow", mlflow, RUNS, alone=True),
    "another flowyml": Peer("flowyml", another_flowyml, STEPS),
}


def measure(folder: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return a peer's version, and the median seconds by case."""
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(folder)
    os.environ["ZENML_CONFIG_PATH"] = str(folder / "zenml")
    os.chdir(folder)
    peer = PEERS[name]
    times = {case: statistics.median(peer.measure(case, rounds)) for case in peer.timed}
    return {"version": metadata.version(peer.distribution), **times}
