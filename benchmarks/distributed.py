"""Steps in several processes beside torchrun, and checkpoints beside saving and torch.load.

Run it as ``python benchmarks/distributed.py``, where flowyml-core, flowyml-pytorch and torch are
installed; it takes about four minutes on two processors that nobody else uses. ``--folder`` says
whose disk is measured.

Everything happens in new processes, which take turns; figures are medians, and what counts are
ratios within a round. Launching is measured as a user sees it: ``python script.py``, whose step
launches two processes, beside ``torchrun script.py``, which imports nothing of flowyml and runs
the same loop. No figure makes this fail; another result than the peer's does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import checkpointing
from imports import bound, row
from measured import Answers, answer_of

TOGETHER, LAUNCHED = (
    str(Path(__file__).with_name(f"training_{name}.py").absolute())
    for name in ("together", "launched")
)
COMMANDS = {
    "torchrun": [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        TOGETHER,
    ],
    "Elastic": [sys.executable, LAUNCHED],
}
BATCHES = 500
MEGABYTES = 400
PARTS = ("overhead", "stall", "resume")


def seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.2f} s"


def median_of(key: str, found: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(one[key] for one in found)


def trained(command: Sequence[str], folder: Path, batches: int) -> dict[str, float]:
    """Run a training; return what its parts took."""
    result = folder / "result.json"
    variables = {"OMP_NUM_THREADS": "1", "FLOWYML_STORE": str(folder / "store")}
    started = time.time()
    done = subprocess.run(
        [*command, str(batches), str(result)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    ended = time.time()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    found = json.loads(result.read_text())
    result.unlink()
    return {
        "whole": ended - started,
        "starting": found["began"] - started,
        "training": found["ended"] - found["began"],
        "ending": ended - found["ended"],
        "result": found["result"],
    }


def report_overhead(rounds: int, folder: Path, batches: int) -> None:
    print(f"\nA training of {batches} batches by two processes; {rounds} rounds")
    for command in COMMANDS.values():
        trained(command, folder, 1)  # what is read for the first time isn't measured
    found: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            found[name].append(trained(command, folder, batches))
    if len({one["result"] for answers in found.values() for one in answers}) != 1:
        raise RuntimeError("the trainings came to different results; no time to compare")
    row("", "whole", "starting", "training", "ending")
    parts = ("whole", "starting", "training", "ending")
    for name, answers in found.items():
        row(name, *(seconds(median_of(part, answers)) for part in parts))
    pairs = list(zip(found["Elastic"], found["torchrun"], strict=True))
    more = statistics.median(ours["whole"] / theirs["whole"] - 1 for ours, theirs in pairs)
    row("bound", "at most", "measured", "holds")
    bound("what Elastic takes more than torchrun", 10, 100 * more, "%")


def report_stall(rounds: int, folder: Path) -> None:
    print(f"\nSaving {MEGABYTES} MB in the loop; {rounds} new processes of {checkpointing.SAVES}")
    found = [
        answer_of(sys.executable, [str(folder), "stall", str(MEGABYTES)], folder)
        for _ in range(rounds)
    ]
    row("", "first", "later", "of the save")
    share = median_of("share", found)
    row("store.save, which the loop waits for", "", seconds(median_of("save", found)))
    times = (seconds(median_of(key, found)) for key in ("first", "stall"))
    row("ckpt.save: what the loop waits for", *times, f"{share:.1%}")
    row("  a copy of the same in memory, one thread", "", seconds(median_of("copy", found)))
    row("ckpt.save: until it is on the disk", "", seconds(median_of("written", found)))
    row("a batch while it is written, beside one alone", "", f"{median_of('slower', found):.2f} ×")
    row("bound", "at most", "measured", "holds")
    bound("what the loop waits for / store.save", 5, 100 * share, "%")


def report_resume(rounds: int, folder: Path) -> None:
    print(f"\nGoing on with {MEGABYTES} MB in a new process; {rounds} new processes of each")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        answer_of(sys.executable, [place, "saved", str(MEGABYTES)], folder)
        found: dict[str, list[dict[str, float]]] = {"checkpoint": [], "torch": [], "anew": []}
        for _ in range(rounds + 1):
            for how, answers in found.items():
                started = str(time.time())
                arguments = [place, "resumed", str(MEGABYTES), how, started]
                answers.append(answer_of(sys.executable, arguments, folder))
    row("after the start of the process", "imports", "loading", "first batch")
    names = {"checkpoint": "Checkpoint(resume=True)", "torch": "torch.load", "anew": "nothing"}
    for how, name in names.items():
        parts = ("imported", "loading", "first")
        row(name, *(seconds(median_of(part, found[how][1:])) for part in parts))
    ours, floor = (median_of("loading", found[how][1:]) for how in ("checkpoint", "torch"))
    print(f"  Loading, every byte checked, takes {ours / floor:.2f} × torch.load.")


def work(folder: str, case: str, *arguments: Any) -> None:
    """Measure a case, and answer."""
    answers = Answers()
    answers.give(checkpointing.CASES[case](Path(folder), *arguments))


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="Measure launching and checkpoints.")
    parser.add_argument("--rounds", type=int, default=3, help="how many of each")
    parser.add_argument("--batches", type=int, default=BATCHES, help="of the training")
    parser.add_argument("--folder", type=Path, default=Path(), help="whose disk is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("flowyml-core", "torch"))
    print(f"Python {sys.version.split()[0]}, {versions}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary).absolute()
        if "overhead" in options.parts:
            report_overhead(options.rounds, folder, options.batches)
        if "stall" in options.parts:
            report_stall(options.rounds, folder)
        if "resume" in options.parts:
            report_resume(options.rounds, folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        main()
