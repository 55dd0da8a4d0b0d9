"""Saving, loading and keeping versions, beside plain torch, safetensors, ZenML and MLflow.

Run it as ``python benchmarks/store.py``, where safetensors and transformers are installed; it takes
about half an hour, or ten minutes with ``--quick``, which leaves out the module of 4 GB. It needs
12 GB of disk below the current folder (or ``--folder``), and 16 GB of memory; quick, 4 GB of each.
``--size 40 --rounds 1`` is for trying it out, ``--parts tiny`` for one part alone. Where the disk's
speed varies too much to compare, ``--folder /dev/shm`` shows what is left without a disk.

ZenML and MLflow have environments of their own, since their requirements contradict those here::

    python -m venv zen && zen/bin/pip install torch==2.13.0 numpy "zenml[local]"
    python -m venv mlf && mlf/bin/pip install torch==2.13.0 "mlflow>=3"
    FLOWYML_ZENML_PYTHON=zen/bin/python FLOWYML_MLFLOW_PYTHON=mlf/bin/python \\
        python benchmarks/store.py

Contenders take turns, round after round, every operation on the large modules in a process of its
own that did it once with a tiny module before. Figures are medians, and what counts are their
ratios. Whatever is saved is on the disk, file and folder, when its time ends; whatever is loaded is
in the page cache. Memory is the peak above what the process had before, in a round of its own:
anonymous (the process's own), and resident, which counts the mapped pages of files as well. No
figure makes this fail; a wrong weight does.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import contenders
import torch
from contenders import BUILD, OPERATIONS, PEERS
from measured import Answers, Figures, answer_of, measured

ROUNDS = {400: 7, 4000: 3}
TINY, TINY_OF_PEERS = 1_000, 50
FEW_DOZEN = 48
FLOORS = ("torch.save + fsync", "torch.load")
PARTS = ("modules", "tiny", "versions", "epochs", "tensors")


def row(name: str, *cells: str) -> None:
    print(f"  {name:<46}" + "".join(f"{cell:>11}" for cell in cells))


def bounds_of(title: str = "bound") -> None:
    row(title, "at most", "measured", "holds")


def bound(name: str, limit: float, value: float | None, unit: str) -> None:
    """Print what was demanded and what was found."""
    if value is None or math.isnan(value):
        row(name, f"{limit:.4g} {unit}", "unknown", "")
    else:
        verdict = "yes" if value <= limit else "NO"
        row(name, f"{limit:.4g} {unit}", f"{value:.4g} {unit}", verdict)


def ms(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 10 else f"{value:.2f} s"


def mb(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} MB"


def told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def pythons(folder: Path) -> dict[str, str]:
    """Return whose Python runs which contender; tell the peers' versions, or why there are none."""
    found = dict.fromkeys(("torch", "flowyml", "safetensors"), sys.executable)
    for name, variable in PEERS.items():
        python = os.environ.get(variable, "")
        try:
            versions = answer_of(python, ["versions"], folder) if python else {}
        except (OSError, RuntimeError) as error:
            print(f"{python}: {str(error).splitlines()[-1]}")
            versions = {}
        if name.lower() in versions:
            found[name] = python
            print(f"{name}: {told(versions)}")
        else:
            print(f"{name}: not measured ({variable} names no Python that has it)")
    return found


class Rounds:
    """What was measured on a large module: figures by operation, and the largest file saved."""

    def __init__(self) -> None:
        self.memory: dict[str, Figures] = {}
        self.times: dict[str, list[Figures]] = {}
        self.shard = 0.0

    def forget(self, operations: Iterable[str]) -> None:
        for operation in operations:
            self.memory.pop(operation, None)
            self.times.pop(operation, None)

    def median(self, operation: str) -> float:
        return statistics.median(figures.seconds for figures in self.times[operation])

    def used(self, operation: str) -> float:
        """Return the median time of loading and then reading every weight."""
        return statistics.median([f.seconds + float(f.after) for f in self.times[operation]])


def measure_module(layers: int, rounds: int, by: dict[str, str], folder: Path) -> Rounds:
    """Let every contender save and load a module in turn; the first round is for the memory."""
    found = Rounds()
    running, order = dict(by), random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(list(running), len(running)):  # who comes after whom matters
            try:
                one_round(found, name, layers, number, running[name], folder)
            except (OSError, RuntimeError) as error:
                if name not in PEERS:
                    raise
                print(f"  {name}: not measured ({str(error).splitlines()[-1]})")
                del running[name]
                found.forget(OPERATIONS[name])
    return found


def one_round(
    found: Rounds, name: str, layers: int, number: int, python: str, folder: Path
) -> None:
    """Let one contender save a new module and load it in all its ways."""
    place = folder / name
    place.mkdir()
    try:
        for index, operation in enumerate(OPERATIONS[name]):
            case = ["module", name, str(index), str(place), str(layers), str(number)]
            figures = measured(python, case, folder, memory=number == 0)
            if number == 0:
                found.memory[operation] = figures
            else:
                found.times.setdefault(operation, []).append(figures)
            if name == "flowyml":
                sizes = (p.stat().st_size for p in place.rglob("*") if p.is_file())
                found.shard = max(found.shard, *(size / 1e6 for size in sizes))
    finally:
        shutil.rmtree(place)


def report_module(megabytes: int, rounds: int, by: dict[str, str], folder: Path) -> None:
    layers = max(1, round(megabytes / 20))
    size = layers * 4e-6 * contenders.WIDTH * (contenders.WIDTH + 1)
    print(f"\nA module of {size:.0f} MB: {layers} layers; {rounds} rounds")
    found = measure_module(layers, rounds, by, folder)
    row("operation", "median", "fastest", "× floor", "anonymous", "resident", "then read")
    for index in (0, 1):
        for operations in OPERATIONS.values():
            for operation in operations[:1] if index == 0 else operations[1:]:
                if operation in found.times:
                    report_operation(found, operation, FLOORS[index])
    print(
        f"  The floors are {' and '.join(FLOORS)}. 'then read' is loading and reading all weights."
    )
    report_bounds(found, size)


def report_operation(found: Rounds, operation: str, floor: str) -> None:
    median, memory = found.median(operation), found.memory[operation]
    row(
        operation,
        ms(median),
        ms(min(figures.seconds for figures in found.times[operation])),
        f"{median / found.median(floor):.3f}",
        mb(memory.anonymous),
        mb(memory.resident),
        "" if floor == FLOORS[0] else ms(found.used(operation)),
    )


def report_bounds(found: Rounds, size: float) -> None:
    saving, loading = found.memory["store.save"], found.memory["store.load"]
    save, load, unverified = map(found.median, OPERATIONS["flowyml"])
    bounds_of()
    bound(f"store.save / {FLOORS[0]}", 1.1, save / found.median(FLOORS[0]), "×")
    bound(f"store.load / {FLOORS[1]}", 0.25, load / found.median(FLOORS[1]), "×")
    if size < 1000:
        bound("store.load(verify=False)", 10, unverified * 1000, "ms")
    limit = 64 + found.shard
    bound(f"saving: anonymous (a shard has {mb(found.shard)})", limit, saving.anonymous, "MB")
    bound("saving: resident", limit, saving.resident, "MB")
    bound("loading: anonymous", 32, loading.anonymous, "MB")
    above = None if loading.resident is None else max(0.0, loading.resident - size)
    bound("loading: resident above the mapped weights", 32, above, "MB")
    row("store.load / " + BUILD, "", f"{load / found.median(BUILD):.4g} ×")
    row("store.load(verify=False) / the same", "", f"{unverified / found.median(BUILD):.4g} ×")


def report_tiny(by: dict[str, str], folder: Path) -> None:
    print(f"\n{TINY:,} tiny assets: modules of 20 parameters, and values of two numbers")
    times = answer_of(sys.executable, ["tiny", str(folder), str(TINY)], folder)
    row("operation", "median", "mean", "× floor")
    floor = statistics.median(times["torch.save + fsync"])
    report_times("torch.save + fsync of a module", times["torch.save + fsync"], floor)
    report_times("store.save of a module", times["module"], floor)
    report_times("store.save of a value", times["value"], floor)
    for name in PEERS:
        if name in by:
            place = folder / name
            place.mkdir()
            case = ["tiny-of", name, str(place), str(TINY_OF_PEERS)]
            try:
                label = f"{OPERATIONS[name][0]} of a module"
                report_times(label, answer_of(by[name], case, folder), floor)
            except (OSError, RuntimeError) as error:
                print(f"  {name}: not measured ({str(error).splitlines()[-1]})")
    row("store.refs()", ms(statistics.median(times["listing"])))
    row("store.stats()", ms(statistics.median(times["stats"])))
    bounds_of()
    bound("saving a tiny module, mean", 5, 1000 * statistics.fmean(times["module"]), "ms")
    bound("saving a tiny value, mean", 5, 1000 * statistics.fmean(times["value"]), "ms")
    bound(f"listing {TINY + 1:,} assets", 0.2, statistics.median(times["listing"]), "s")


def report_times(name: str, times: Iterable[float], floor: float) -> None:
    values = list(times)
    median = statistics.median(values)
    row(name, ms(median), ms(statistics.fmean(values)), f"{median / floor:.2f}")


def report_versions(megabytes: int, rounds: int, folder: Path) -> None:
    size = max(400, megabytes)
    print(f"\nA second version of {size} MB, one layer of twenty changed; {rounds} rounds")
    case = ["second_version", str(folder), str(size), str(rounds)]
    found = answer_of(sys.executable, case, folder)
    row("changed layer", "first", "second", "grows by", "written")
    for place, one in found.items():
        shares = f"{one['share']:.2%}", f"{one['handed']:.2%}"
        row(place, ms(one["first"]), ms(one["second"]), *shares)
    print(
        "  'grows by' are files, 'written' what went through write(); shares of the first version"
    )
    bounds_of()
    for place, one in found.items():
        bound(f"{place} layer changed: the store grows by", 6, 100 * one["share"], "%")
        bound(f"{place} layer changed: written", 6, 100 * one["handed"], "%")
        bound(f"{place} layer changed: second / first", 0.25, one["second"] / one["first"], "×")


def report_epochs(folder: Path) -> None:
    print("\nEight runs × ten epochs of a ResNet-18 with a frozen backbone, saved as Models")
    found = answer_of(sys.executable, ["epochs", str(folder)], folder)
    row("as plain files", mb(found["plain"] / 1e6))
    row("versions, blobs", f"{found['versions']}", f"{found['blobs']}")
    row("Model.from_pytorch and save, median", ms(found["seconds"]))
    bounds_of()
    bound("the store's folder, manifests included", 60, found["bytes"] / 1e6, "MB")


def report_tensors(rounds: int, folder: Path) -> None:
    print(f"\nA module of 10,000 tensors; {rounds} rounds")
    found = answer_of(sys.executable, ["many_tensors", str(folder), str(rounds)], folder)
    row("operation", "median", "× floor")
    for floor, ours in zip(FLOORS, ("store.save", "store.load"), strict=True):
        for name in (floor, ours):
            row(name, ms(found[name]), f"{found[name] / found[floor]:.2f}")
    bounds_of()
    bound(f"blobs of {found['tensors']:,} tensors", FEW_DOZEN, found["blobs"], "")


def work(arguments: list[str]) -> None:
    """Do what the process that started this one wants, and answer."""
    answers = Answers()
    match arguments:
        case ["module", name, index, folder, layers, seed]:
            case_ = name, int(index), Path(folder), int(layers), int(seed)
            answers.serve(*contenders.operation(*case_))
        case ["tiny-of", name, folder, count]:
            answers.give(contenders.tiny(name, Path(folder), int(count)))
        case ["versions"]:
            answers.give(contenders.versions())
        case [what, folder, *numbers]:
            import dedup

            with tempfile.TemporaryDirectory(dir=folder) as place:
                measure: Any = getattr(dedup, what)
                answers.give(measure(Path(place), *map(int, numbers)))


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="Measure the store. See the file's first lines.")
    parser.add_argument("--quick", action="store_true", help="leave out the module of 4 GB")
    parser.add_argument("--size", type=int, help="MB of the only module, for trying this out")
    parser.add_argument("--rounds", type=int, help="how often; by default 7, and 3 for 4 GB")
    parser.add_argument("--folder", type=Path, default=Path(), help="whose disk is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    missing = [name for name in ("safetensors", "transformers") if find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} must be installed to compare with them.")
    sizes = [options.size] if options.size else [400] if options.quick else list(ROUNDS)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"{told(contenders.versions())}; {torch.get_num_threads()} threads; page cache warm")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary).absolute()
        by = pythons(folder)
        rounds = options.rounds or ROUNDS[400]
        if "modules" in options.parts:
            for size in sizes:
                report_module(size, options.rounds or ROUNDS.get(size, ROUNDS[400]), by, folder)
        if "tiny" in options.parts:
            report_tiny(by, folder)
        if "versions" in options.parts:
            report_versions(sizes[0], rounds, folder)
        if "epochs" in options.parts:
            report_epochs(folder)
        if "tensors" in options.parts:
            report_tensors(rounds, folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2:])
    else:
        main()
