"""Recording trivial steps durably, beside what the disk takes for that, and beside the peers.

Run it as ``python benchmarks/steps.py``, where flowyml-core is installed; torch with
flowyml-pytorch, and NumPy, add cases. It takes a minute on a local disk, and half a minute for each
peer. ``--folder`` says whose disk is measured: on a memory file system, an fsync costs nothing.

The peers have environments of their own, which need no torch::

    python -m venv zen && zen/bin/pip install "zenml[local]"
    python -m venv mlf && mlf/bin/pip install "mlflow>=3"
    python -m venv peer && peer/bin/pip install "flowyml==2.2.1"
    FLOWYML_ZENML_PYTHON=zen/bin/python FLOWYML_MLFLOW_PYTHON=mlf/bin/python \\
        FLOWYML_PEER_PYTHON=peer/bin/python python benchmarks/steps.py

The last one is the public package named ``flowyml``, an unrelated one. A peer is measured as it
comes: its database waits for the disk, its files don't. Every case runs in processes of its own,
and each call is timed beside the floors, so that all meet the same disk; figures are medians, and
what counts are their ratios. No figure makes this fail; a step that isn't recorded does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peers
import recording
from imports import PEERS as VARIABLES
from imports import QUIET, bound, row
from measured import Answers, answer_of
from peers import PEERS, Peer
from recording import APPEND, MAKERS, REPLACE, STEP

RUNS, LONG = (100, 1_000), 4_000
STEPS, FEWER = 1_000, 200
HIT, DIGESTED = 45, 400  # MB
PEER_ROUNDS = 5
PARTS = ("overhead", "totals", "peers", "runs", "hits", "digests")

CASES = {
    "returns nothing": ("nothing", False, STEPS),
    "returns a number, which is stored": ("value", False, STEPS),
    "returns nothing, in a run of its own": ("nothing", True, FEWER),
    "draws random numbers with torch": ("random", False, FEWER),
}
"""The function, whether each call is outside of any run, and how many calls there are."""


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def median_of(key: str, found: Sequence[dict[str, float]]) -> float:
    return statistics.median(one[key] for one in found)


def in_new_processes(rounds: int, folder: Path, *case: object) -> list[Any]:
    """Let new processes of this program measure a case, each in a folder of its own."""
    return [
        answer_of(sys.executable, [str(folder), *map(str, case)], folder) for _ in range(rounds)
    ]


def kinds() -> list[str]:
    """Return what there can be large objects of here; say what is missing."""
    found = []
    for kind, needed in zip(MAKERS, ("numpy", "flowyml_pytorch"), strict=True):
        if find_spec(needed):
            found.append(kind)
        else:
            print(f"  {kind}: not measured ({needed} isn't installed)")
    return found


def report_overhead(rounds: int, folder: Path) -> None:
    print(f"\nA trivial step; {rounds} new processes of {FEWER} to {STEPS:,} calls")
    row("", "median", "× append", "last/first", "fsyncs")
    rows: list[tuple[str, float, float]] = []
    for name, (function, alone, count) in CASES.items():
        if function == "random" and not find_spec("torch"):
            print(f"  {name}: not measured (torch isn't installed)")
            continue
        answers = in_new_processes(rounds, folder, "overhead", function, int(alone), count)
        if not rows:
            for floor in (APPEND, REPLACE):
                report_calls(floor, [answer[floor] for answer in answers])
        steps = [answer[STEP] for answer in answers]
        report_calls(name, steps)
        rows.append((name, median_of("median", steps), median_of("own drift", steps)))
    row("bound", "at most", "measured", "holds")
    for name, median, _ in rows:
        bound(name, 2, 1000 * median, "ms")
    for name, _, drift in rows:
        bound(f"{name}: drift", 1.25, drift, "×")
    print("  'last/first' is of a hundred calls each; 'drift' is that beside the first floor's.")


def report_calls(name: str, calls: Sequence[dict[str, float]]) -> None:
    row(
        name,
        ms(median_of("median", calls)),
        f"{median_of('ratio', calls):.2f} ×",
        f"{median_of('drift', calls):.2f} ×",
        f"{median_of('fsyncs', calls):.0f}" if "fsyncs" in calls[0] else "",
    )


def report_totals(rounds: int, folder: Path, counts: Sequence[int]) -> None:
    print(f"\nWhole runs of steps that return nothing; {rounds} new processes")
    answers = in_new_processes(rounds, folder, "totals", *counts)
    row("", "total", "per step", "ending it")
    each = {}
    for count in counts:
        found = [answer[str(count)] for answer in answers]
        total = median_of("total", found)
        each[count] = total / count
        row(f"{count:,} steps", ms(total), ms(each[count]), ms(median_of("ending", found)))
    row("bound", "at most", "measured", "holds")
    for count in counts[1:]:
        ratio = each[count] / each[counts[0]]
        bound(f"a step of {count:,} / a step of {counts[0]}", 1.25, ratio, "×")


def report_peers(rounds: int, folder: Path) -> None:
    print(f"\nA trivial step of the peers; {rounds} batches, ours before and after them")
    row("", "median", "ours", "× ours")
    for name, peer in PEERS.items():
        variable, _ = VARIABLES[name]
        python = os.environ.get(variable)
        if not python:
            print(f"  {name}: not measured ({variable} names no Python that has it)")
            continue
        before = ours(peer, folder)
        try:
            found = answer_of(python, [str(folder), "peer", name, str(rounds)], folder)
        except (OSError, RuntimeError) as error:
            print(f"  {name}: not measured ({str(error).splitlines()[-1]})")
            continue
        after = ours(peer, folder)
        for case, what in peer.timed.items():
            own = (before[case] + after[case]) / 2
            times = f"{found[case] / own:.1f} ×"
            row(f"{name} {found['version']}: {what}", ms(found[case]), ms(own), times)
        if peer.alone:
            print(f"  {name} has nothing smaller than a run, so ours is a step in one of its own.")


def ours(peer: Peer, folder: Path) -> dict[str, float]:
    """Return the median seconds of our steps, by case."""
    found = {}
    for case in peer.timed:
        (answer,) = in_new_processes(1, folder, "overhead", case, int(peer.alone), FEWER)
        found[case] = answer[STEP]["median"]
    return found


def report_runs(rounds: int, folder: Path) -> None:
    print("\nAn empty run: a process's first, for which the environment is found out, and the next")
    row("", "first", "next", "first/next")
    for name in ("", *(name for name in ("numpy", "torch") if find_spec(name))):
        found = in_new_processes(rounds, folder, "first_runs", name)
        first, following = median_of("first", found), median_of("next", found)
        label = f"{name} imported" if name else "nothing else imported"
        row(label, ms(first), ms(following), f"{first / following:.0f} ×")


def report_hits(rounds: int, folder: Path) -> None:
    print(f"\nA cached step that returns {HIT} MB; store.load of the same is the floor")
    row("", "computed", "first hit", "hit", "store.load", "hit/load")
    for kind in kinds():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            computed, *found = [
                answer_of(sys.executable, [place, "kept_hits", kind, str(HIT)], folder)
                for _ in range(rounds + 1)
            ]
        hit, load = median_of("next", found), median_of("load", found)
        first = median_of("first", found)
        row(kind, *map(ms, (computed["first"], first, hit, load)), f"{hit / load:.2f} ×")
    print("  'first hit' is that of a new process.")


def report_digests(rounds: int, folder: Path) -> None:
    print(f"\nThe digest of an argument of {DIGESTED} MB; BLAKE3 of its bytes is the floor")
    found = {k: in_new_processes(rounds, folder, "digests", k, DIGESTED) for k in kinds()}
    row("", "GB/s", "floor", "× floor")
    for kind, answers in found.items():
        digest, floor = median_of("digest", answers), median_of("floor", answers)
        row(kind, f"{1 / digest:.2f}", f"{1 / floor:.2f}", f"{digest / floor:.2f} ×")
    row("bound", "at most", "measured", "holds")
    for kind, answers in found.items():
        bound(f"a GB of {kind}, at 3 GB/s", 1000 / 3, 1000 * median_of("digest", answers), "ms")


def work(folder: str, what: str, *arguments: str) -> None:
    """Measure what the process that started this one wants, and answer."""
    os.environ.update(QUIET)
    answers = Answers()
    given = [int(argument) if argument.isdecimal() else argument for argument in arguments]
    if what == "kept_hits":
        answers.give(recording.hits(Path(folder), *given))
        return
    measure: Callable[..., Any] = peers.measure if what == "peer" else getattr(recording, what)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
        answers.give(measure(Path(place), *given))


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="Measure steps. See the file's first lines.")
    parser.add_argument("--rounds", type=int, default=3, help="how many new processes of each")
    parser.add_argument("--long", action="store_true", help=f"time a run of {LONG:,} steps, too")
    parser.add_argument("--folder", type=Path, default=Path(), help="whose disk is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    rounds, parts = options.rounds, options.parts
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    version = metadata.version("flowyml-core")
    print(f"Python {sys.version.split()[0]}, flowyml-core {version}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary).absolute()
        if "overhead" in parts:
            report_overhead(rounds, folder)
        if "totals" in parts:
            report_totals(rounds, folder, (*RUNS, LONG) if options.long else RUNS)
        if "peers" in parts:
            report_peers(PEER_ROUNDS, folder)
        if "runs" in parts:
            report_runs(rounds, folder)
        if "hits" in parts:
            report_hits(rounds, folder)
        if "digests" in parts:
            report_digests(rounds, folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        main()
