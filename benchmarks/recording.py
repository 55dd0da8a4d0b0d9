"""How long flowyml takes to record steps, to find cached results and to digest arguments.

Every function measures one case in the folder that it gets and returns plain figures, after it has
made sure that what it timed is right. This file runs in the peers' environments too, so only the
standard library is imported with it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

LINE = b"x" * 1_499 + b"\n"
"""As long as what the record of a trivial step consists of."""

WARM, HUNDRED, HITS = 5, 100, 11
STEP, APPEND, REPLACE = "step", "append + fsync", "write + fsync + rename + fsync of the folder"
MEGABYTE = 1_000_000

Figures = dict[str, float]


def nothing(number: int) -> None:
    """Return nothing, so that there is only a record to write."""


def value(number: int) -> float:
    """Return another number each time, so that each becomes a new version."""
    return number / 7


def random_value(number: int) -> None:
    """Leave the generators in another state each time, so that each is written."""
    import torch

    torch.rand(1)


FUNCTIONS: dict[str, Callable[[int], object]] = {
    "nothing": nothing,
    "value": value,
    "random": random_value,
}


def seconds(function: Callable[..., object], *arguments: Any) -> float:
    """Time one call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def append(path: Path) -> None:
    """Add a line to a file: what no record of a step can do without."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, LINE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path) -> None:
    """Put a new file in a file's place: what no version of a value can do without."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(LINE)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def floors(folder: Path) -> dict[str, Callable[[int], object]]:
    """Return what the disk is asked for beside each call."""
    return {
        APPEND: lambda number: append(folder / "appended"),
        REPLACE: lambda number: replace(folder / "replaced"),
    }


def figures(times: list[float], floor: list[float]) -> Figures:
    """Sum up calls: what each takes, and whether the last ones take longer than the first."""
    first, last = statistics.median(times[:HUNDRED]), statistics.median(times[-HUNDRED:])
    median = statistics.median(times)
    return {"median": median, "ratio": median / statistics.median(floor), "drift": last / first}


def overhead(folder: Path, case: str, alone: bool, count: int) -> dict[str, Figures]:
    """Time calls of a trivial step in one run, or each in a run of its own, beside the floors."""
    from flowyml import Store, run, step

    store = Store(folder / "store")
    call = step(store=store)(FUNCTIONS[case])
    with run("warm", store=store):
        for number in range(WARM):
            call(number)
    turns = {STEP: call, **floors(folder)}
    times: dict[str, list[float]] = {name: [] for name in turns}
    with nullcontext() if alone else run("steps", store=store):
        with mock.patch.object(os, "fsync", wraps=os.fsync) as synced:
            call(WARM)
        for number in range(WARM + 1, WARM + 1 + count):
            for name, operation in turns.items():
                times[name].append(seconds(operation, number))
        check(store, WARM + 1 + count, outputs=case == "value")
    found = {name: figures(values, times[APPEND]) for name, values in times.items()}
    found[STEP]["fsyncs"] = synced.call_count
    found[STEP]["own drift"] = found[STEP]["drift"] / found[APPEND]["drift"]
    return found


def check(store: Any, count: int, *, outputs: bool) -> None:
    """Make sure that the disk has every step, as completed, while the run still goes on."""
    from flowyml import runs

    steps = [step for record in runs(store) for step in record.steps]
    whole = [s for s in steps if s.status == "completed" and len(s.outputs) == outputs]
    if len(whole) != count:
        raise RuntimeError(f"{len(whole)} of {count} steps are recorded; no time to measure")


def totals(folder: Path, *counts: int) -> dict[str, dict[str, float]]:
    """Time whole runs of trivial steps, from entering to leaving, one after the other."""
    from flowyml import Store, run, step

    store = Store(folder / "store")
    call = step(store=store)(nothing)
    found = {}
    for count in (WARM, *counts):
        started = time.perf_counter()
        with run("steps", store=store):
            for number in range(count):
                call(number)
            ending = time.perf_counter()
        ended = time.perf_counter()
        found[str(count)] = {"total": ended - started, "ending": ended - ending}
    check(store, WARM + sum(counts), outputs=False)
    del found[str(WARM)]
    return found


def first_runs(folder: Path, framework: str) -> dict[str, float]:
    """Time a process's first run and its next ones, with a framework imported or without."""
    if framework:
        import_module(framework)
    from flowyml import Store, run

    store = Store(folder / "store")

    def one() -> None:
        with run("empty", store=store):
            pass

    first = seconds(one)
    return {"first": first, "next": statistics.median(seconds(one) for _ in range(HITS))}


def array(megabytes: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).random(megabytes * MEGABYTE // 8)


def module(megabytes: int) -> Any:
    import torch

    net = torch.nn.Linear(1, 1)
    numbers = torch.rand(megabytes * MEGABYTE // 4, generator=torch.Generator().manual_seed(0))
    net.weight = torch.nn.Parameter(numbers.reshape(-1, 1000))
    return net


MAKERS: dict[str, Callable[[int], Any]] = {"array": array, "module": module}


def hits(folder: Path, kind: str, megabytes: int) -> dict[str, float]:
    """Time calls of a cached step: the first computes it, unless an earlier process did."""
    MAKERS[kind](1)  # imports what it needs, which is no part of a call
    from flowyml import Store, run, step

    known = (folder / "store").exists()
    store = Store(folder / "store")
    call = step("cached", store=store, cache=True)(MAKERS[kind])
    with run("cached", store=store) as this_run:
        first = seconds(call, megabytes)
        times, loads = [], []
        for _ in range(HITS):
            times.append(seconds(call, megabytes))
            loads.append(seconds(store.load, "cached"))
        result = call(megabytes)
    taken = sum(record.cached_from is not None for record in this_run.steps)
    if taken != len(this_run.steps) - (not known):
        raise RuntimeError(f"{taken} of {len(this_run.steps)} calls were hits; no time to measure")
    if not same(result, MAKERS[kind](megabytes)):
        raise RuntimeError("a hit isn't what was computed")
    return {"first": first, "next": statistics.median(times), "load": statistics.median(loads)}


def same(one: Any, other: Any) -> bool:
    """Tell whether all numbers are equal."""
    if hasattr(one, "weight"):
        return bool((one.weight == other.weight).all())
    return bool((one == other).all())


def digests(folder: Path, kind: str, megabytes: int) -> dict[str, float]:
    """Time the digest of a large argument, beside that of its bytes in one piece."""
    from blake3 import blake3

    from flowyml.identity import content_digest_of

    data = MAKERS[kind](megabytes)
    plain = memoryview(data if kind == "array" else data.weight.detach().numpy()).cast("B")
    times: dict[str, list[float]] = {"floor": [], "digest": []}
    for _ in range(HITS):
        times["floor"].append(seconds(lambda: blake3(plain, max_threads=blake3.AUTO).digest()))
        times["digest"].append(seconds(content_digest_of, data))
    gigabytes = len(plain) / 1e9
    return {name: statistics.median(values) / gigabytes for name, values in times.items()}
