"""Importing flowyml, beside the floor ``import pluggy, attrs, importlib_metadata`` and the peers.

Run it as ``python benchmarks/imports.py``, where flowyml-core is installed; it takes two minutes,
or four where torch and flowyml-pytorch are there too. Every import happens in a process of its
own, and what is timed is that process, from its start to its end: all take turns, round after
round, after a round that isn't counted. What counts are ratios, each the median of the rounds'
ratios; "net" ones are without what the bare interpreter takes. The adapters and the other
distributions are metadata and small modules in a temporary folder on PYTHONPATH, beside all that is
installed here.

The peers have environments of their own, and each is told beside the floor of our own::

    FLOWYML_ZENML_PYTHON=zen/bin/python FLOWYML_MLFLOW_PYTHON=mlf/bin/python \\
        FLOWYML_PEER_PYTHON=peer/bin/python python benchmarks/imports.py

The last one is for the public package named ``flowyml``, an unrelated one. No figure makes this
fail.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FEW, MANY, OTHERS = 3, 10, 300
PEER_ROUNDS, CALLS = 5, 5_000

BARE = "python -c pass"
FLOOR_NAMES = ("pluggy", "attrs", "importlib_metadata")
FLOOR = f"import {', '.join(FLOOR_NAMES)}"
NAMES = "from flowyml import Model, Store, run, step"
OURS = f"import flowyml: {FEW} adapters"
CROWDED = f"import flowyml: {FEW} adapters, {OTHERS} others"
PEERS = {
    "ZenML": ("FLOWYML_ZENML_PYTHON", "zenml"),
    "MLflow": ("FLOWYML_MLFLOW_PYTHON", "mlflow"),
    "another flowyml": ("FLOWYML_PEER_PYTHON", "flowyml"),
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_LOGGING_VERBOSITY": "ERROR",
}

PLUGIN = """
import sys

from flowyml import hookimpl
from flowyml.interfaces import Extractor, Materializer, SaveResult

api_version = 1


class NetExtractor(Extractor):
    framework = "{name}"
    modules = ("{name}_framework",)

    def detect(self, obj):
        return isinstance(obj, sys.modules["{name}_framework"].Net)

    def extract(self, obj, options):
        return {{}}


class NetMaterializer(Materializer):
    key = "{name}.net"
    formats = ("net",)
    modules = ("{name}_framework",)

    def detect(self, obj):
        return isinstance(obj, sys.modules["{name}_framework"].Net)

    def save(self, obj, folder, options):
        return SaveResult()

    def load(self, saved, options):
        return None


@hookimpl
def flowyml_register_extractors():
    return [NetExtractor()]


@hookimpl
def flowyml_register_materializers():
    return [NetMaterializer()]
"""

Command = tuple[str, Sequence[str], Sequence[Path]]
"""A Python, its arguments, and the folders on its PYTHONPATH."""


def write_distribution(folder: Path, name: str, entry_points: str) -> None:
    """Write the metadata of a distribution, as large as most are."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: needed-{number}>=1\n" for number in range(25))
    readme = "This stands for a distribution that somebody has installed.\n" * 150
    header = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{needs}"
    (info / "METADATA").write_text(f"{header}\n{readme}")
    (info / "RECORD").write_text(f"{name}/module.py,sha256=abc,1000\n" * 100)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "INSTALLER").write_text("pip\n")
    if entry_points:
        (info / "entry_points.txt").write_text(entry_points)


def write_adapters(folder: Path, count: int) -> None:
    """Write adapters, each with a framework of its own."""
    for name in adapter_names(count):
        write_distribution(folder, name, f"[flowyml.adapters]\n{name} = {name}_plugin\n")
        (folder / f"{name}_plugin.py").write_text(PLUGIN.format(name=name))
        (folder / f"{name}_framework.py").write_text("class Net:\n    pass\n")


def adapter_names(count: int) -> list[str]:
    return [f"bench{number}" for number in range(count)]


def write_others(folder: Path, count: int) -> None:
    """Write distributions without adapters; every second one has entry points of other groups."""
    for number in range(count):
        name = f"other{number}"
        scripts = f"[console_scripts]\n{name} = {name}.cli:main\n"
        plugins = "".join(f"plugin{each} = {name}.plugins:Plugin{each}\n" for each in range(5))
        text = f"{scripts}\n[some.other.plugins]\n{plugins}" if number % 2 else ""
        write_distribution(folder, name, text)


def output(command: Command) -> str:
    """Run a process, and return the last line that it prints."""
    python, arguments, folders = command
    path = {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    environment = {**os.environ, **QUIET, **path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as compiled when it was installed
    done = subprocess.run(
        [python, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{python} {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout.rstrip().rpartition("\n")[2]


def times_of(commands: Mapping[str, Command], rounds: int) -> dict[str, list[float]]:
    """Time processes in a new order each round, after a round that isn't counted."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        output(command)  # compiles what it imports
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(commands), len(commands)):
            started = time.perf_counter()
            output(commands[name])
            times[name].append(time.perf_counter() - started)
    return times


def load_pytorch() -> float:
    """Return the seconds that loading the PyTorch adapter takes, torch being imported."""
    import torch  # noqa: F401

    from flowyml import adapters

    gc.collect()  # torch's import leaves a full collection due, which takes 90 ms wherever it falls
    started = time.perf_counter()
    adapters.extractor("pytorch")
    return time.perf_counter() - started


def dispatch() -> dict[str, float]:
    """Return the seconds of telling whose an object is, ten adapters' frameworks being imported."""
    from flowyml import adapters

    frameworks = [import_module(f"{name}_framework") for name in adapter_names(MANY)]
    objects = {f"{MANY} adapters": frameworks[-1].Net()}
    if has_pytorch():
        import torch

        objects[f"{MANY} adapters and PyTorch's: a module"] = torch.nn.Linear(1, 1)
    found = {}
    for name, obj in objects.items():
        for find in (adapters.extractor_of, adapters.materializer_of):
            if find(obj) is None:
                raise RuntimeError(f"{find.__name__} recognises nothing; no time to measure")
            found[f"{find.__name__}, {name}"] = median_call(find, obj)
    return found


def median_call(find: Any, obj: object) -> float:
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        find(obj)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def has_pytorch() -> bool:
    return find_spec("torch") is not None and find_spec("flowyml_pytorch") is not None


def row(name: str, *cells: str) -> None:
    print((f"  {name:<52}" + "".join(f"{cell:>11}" for cell in cells)).rstrip())


def bound(name: str, limit: float, value: float, unit: str) -> None:
    """Print what was demanded and what was found."""
    row(name, f"{limit:.4g} {unit}", f"{value:.3g} {unit}", "yes" if value <= limit else "NO")


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def report(times: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Print times as multiples of the floor; return these, of whole processes and net."""
    row("in a new process", "median", "fastest", "× floor", "net")
    found = {}
    for name, values in times.items():
        turns = list(zip(values, times[FLOOR], times[BARE], strict=True))
        whole = statistics.median(ours / floor for ours, floor, _ in turns)
        net = statistics.median((ours - bare) / (floor - bare) for ours, floor, bare in turns)
        found[name] = whole, net
        row(name, ms(statistics.median(values)), ms(min(values)), f"{whole:.2f} ×", f"{net:.2f} ×")
    return found


def report_imports(rounds: int, folder: Path) -> None:
    few, many, rest = folder / "few", folder / "many", folder / "rest"
    write_adapters(few, FEW)
    write_adapters(many, MANY)
    write_others(rest, OTHERS)
    cases: dict[str, Command] = {
        BARE: own("pass", few),
        FLOOR: own(FLOOR, few),
        OURS: own("import flowyml", few),
        f"import flowyml: {MANY} adapters": own("import flowyml", many),
        CROWDED: own("import flowyml", few, rest),
        NAMES: own(NAMES, few),
    }
    installed = sum(1 for _ in metadata.distributions())
    print(f"Importing, beside {installed} distributions that are here; {rounds} rounds")
    times = times_of(cases, rounds)
    found = report(times)
    row("bound", "at most", "measured", "holds")
    bound(f"{OURS} / floor", 1.3, found[OURS][0], "×")
    bound("the same, net", 1.3, found[OURS][1], "×")
    more = [crowd - ours for crowd, ours in zip(times[CROWDED], times[OURS], strict=True)]
    bound(f"what {OTHERS} other distributions add", 15, 1000 * statistics.median(more), "ms")

    peers = installed_peers()
    if peers:
        print(f"\nThe peers; {PEER_ROUNDS} rounds")
        report(times_of({name: cases[name] for name in (BARE, FLOOR, OURS)} | peers, PEER_ROUNDS))


def own(code: str, *folders: Path) -> Command:
    return sys.executable, ["-c", code], folders


def installed_peers() -> dict[str, Command]:
    """Return what imports each peer; say which are not there."""
    found: dict[str, Command] = {}
    for name, (variable, module) in PEERS.items():
        command: Command = os.environ.get(variable, ""), ["-c", f"import {module}"], ()
        try:
            output(command)
        except (OSError, RuntimeError):
            print(f"{name}: not measured ({variable} names no Python that has it)")
        else:
            found[f"{name}: import {module}"] = command
    return found


def answers(question: str, rounds: int, *folders: Path) -> list[Any]:
    """Let new processes of this file answer, after one that isn't counted."""
    command: Command = sys.executable, [__file__, question], folders
    return [json.loads(output(command)) for _ in range(rounds + 1)][1:]


def report_loading(rounds: int) -> None:
    print(f"\nLoading the PyTorch adapter after `import torch, flowyml`; {rounds} new processes")
    if not has_pytorch():
        print("  not measured: torch or flowyml-pytorch isn't installed")
        return
    times = answers("load", rounds)
    middle = statistics.median(times)
    row("", "median", "fastest")
    row("adapters.extractor('pytorch')", ms(middle), ms(min(times)))
    row("bound", "at most", "measured", "holds")
    bound("loading the PyTorch adapter", 5, 1000 * middle, "ms")


def report_dispatch(rounds: int, folder: Path) -> None:
    print(f"\nTelling whose an object is; {rounds} new processes, {CALLS:,} calls each")
    many = folder / "many"
    found = answers("dispatch", rounds, many)
    row("bound", "at most", "measured", "holds")
    for name in found[0]:
        bound(name, 20, 1e6 * statistics.median(times[name] for times in found), "µs")


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="Measure imports. See the file's first lines.")
    parser.add_argument("--rounds", type=int, default=41, help="how many new processes of each")
    rounds = parser.parse_args().rounds
    versions = (f"{name} {metadata.version(name)}" for name in ("flowyml-core", *FLOOR_NAMES))
    print(f"Python {sys.version.split()[0]}, {', '.join(versions)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report_imports(rounds, folder)
        report_loading(min(rounds, 9))
        report_dispatch(min(rounds, 3), folder)


if __name__ == "__main__":
    questions = {"load": load_pytorch, "dispatch": dispatch}
    if sys.argv[1:] and sys.argv[1] in questions:
        print(json.dumps(questions[sys.argv[1]]()))
    else:
        main()
