"""Describing a module, beside the floor ``sum(p.numel() for p in model.parameters())``.

Run it as ``python benchmarks/extraction.py``, where torchinfo and transformers are installed. Every
time is the median of several interleaved rounds; what counts are the ratios. With
``FLOWYML_PEER_PYTHON`` naming a Python that has the public package named ``flowyml``, an unrelated
one that has a ``Model.from_pytorch`` too, this same file measures that in a process of its own,
beside a floor of its own. Nothing is downloaded: every model is built from its config.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any

import torch
from torch import nn

PEER = "FLOWYML_PEER_PYTHON"
ROUNDS = {"encoder": 51, "stack": 11, "llama": 21, "gpt2": 11, "fresh": 3}
SMALL, LARGE = 10_000, 100_000  # layers of the two stacks
LLAMA_70B = 70_553_706_496

Times = dict[str, float]


def floor(model: nn.Module) -> int:
    """Do what no description can do without."""
    return sum(p.numel() for p in model.parameters())


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def medians(rounds: int, operations: Mapping[str, Callable[[], object]], burst: int = 1) -> Times:
    """Time operations in a new order each round, after a round that isn't counted.

    Calls of less than a millisecond come in bursts: one call alone is as slow as the operation
    before it left the processor's caches, and not every process has the same operations.
    """
    times: dict[str, list[float]] = {name: [] for name in operations}
    for operation in operations.values():
        operation()
    gc.collect()
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(operations), len(operations)):
            times[name] += [seconds(operations[name]) for _ in range(burst)]
    fastest = {f"{name}, fastest": min(values) for name, values in times.items()}
    return {name: statistics.median(values) for name, values in times.items()} | fastest


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    return nn.TransformerEncoder(layer, 12)


def stack(layers: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(1, 1) for _ in range(layers)])


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    """Build GPT-2 small with random weights, in no more memory than these take in the end.

    What its own constructor needs on the way would be a peak, under which later ones don't show.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model: nn.Module = GPT2LMHeadModel(GPT2Config())
    weights: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                known = weights.get(id(parameter))
                if known is None:
                    values = nn.init.normal_(torch.empty(parameter.shape), std=0.02)
                    known = weights[id(parameter)] = nn.Parameter(values)
                module._parameters[name] = known
    model.train(False)
    return model


def gpt2_inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.zeros(1, 128, dtype=torch.long)}


def describe(library: str, model: nn.Module, inputs: Any = None) -> Any:
    """Let a library describe a model; ``flowyml`` is the one of the Python that runs this."""
    if library == "torchinfo":
        from torchinfo import summary

        return summary(model, input_data=inputs, verbose=0)
    from flowyml import Model

    options = {} if inputs is None else {"example_inputs": inputs}
    found = Model.from_pytorch(model, name="model", **options)
    if found.parameters is None or found.metadata.properties.get("observation_error"):
        raise RuntimeError(f"flowyml describes no {type(model).__name__} here; no time to measure")
    return found


def time_encoder(libraries: Sequence[str]) -> Times:
    """Time a 12-layer encoder."""
    model = encoder()
    operations: dict[str, Callable[[], object]] = {
        "floor": partial(floor, model),
        "state_dict": model.state_dict,
        **{library: partial(describe, library, model) for library in libraries},
    }
    return medians(ROUNDS["encoder"], operations, burst=5)


def time_stacks() -> Times:
    """Time many small layers."""
    small, large = stack(SMALL), stack(LARGE)
    operations = {
        "small floor": partial(floor, small),
        "small": partial(describe, "flowyml", small),
        "large floor": partial(floor, large),
        "large": partial(describe, "flowyml", large),
    }
    return medians(ROUNDS["stack"], operations)


def peak() -> float:
    """Return the most memory that this process has ever had, in MB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def first_pass(library: str, warm: bool) -> dict[str, float]:
    """Measure this process's first pass over GPT-2: its seconds, and MB above the model's own.

    When warm, the library has described something else before, so that its imports are done.
    """
    empty = peak()
    model, inputs = gpt2(), gpt2_inputs()
    if warm:
        describe(library, nn.Linear(8, 8), torch.zeros(1, 8))
    gc.collect()
    before = peak()
    if before - empty < 4e-6 * floor(model):
        raise RuntimeError("the process that started this one was larger: its peak is ours too")
    elapsed = seconds(partial(describe, library, model, inputs))
    return {"seconds": elapsed, "mb": peak() - before}


def answer_of(python: str, *arguments: str) -> Any:
    """Run this file in a new process, and return what it found."""
    own = python == sys.executable
    options = [] if own else ["-E"]  # what PYTHONPATH leads to is ours
    command = [python, *options, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(arguments: Sequence[str]) -> object:
    """Find out what the process that started this one wants to know."""
    match arguments:
        case ["peer"]:
            found = {"encoder": time_encoder(["flowyml"]), "stacks": time_stacks()}
            return {**found, "version": metadata.version("flowyml")}
        case ["first-pass", library, temperature]:
            return first_pass(library, temperature == "warm")
    raise SystemExit(f"unknown arguments: {' '.join(arguments)}")


def first_passes() -> dict[tuple[str, str], dict[str, float]]:
    """Measure first passes in fresh processes, in turn; median times and the largest memory."""
    cases = [(lib, how) for how in ("cold", "warm") for lib in ("flowyml", "torchinfo")]
    found: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(ROUNDS["fresh"]):
        for case in cases:
            found[case].append(answer_of(sys.executable, "first-pass", *case))
    return {
        case: {
            "seconds": statistics.median(item["seconds"] for item in items),
            "fastest": min(item["seconds"] for item in items),
            "mb": max(item["mb"] for item in items),
        }
        for case, items in found.items()
    }


def row(name: str, figure: str, ratio: str = "", target: str = "", met: bool = False) -> None:
    verdict = f"target {target}: {'met' if met else 'MISSED'}" if target else ""
    print(f"  {name:<44} {figure:>14}  {ratio:>16}  {verdict}".rstrip())


def timed(name: str, value: float, least: float, target: str = "", met: bool = False) -> None:
    """Print a time and what it is as a multiple of the floor."""
    row(name, f"{value * 1000:.2f} ms", f"{value / least:.2f} × floor", target, met)


def report_encoder(times: Times, peer: dict[str, Any] | None) -> None:
    least, ours = times["floor"], times["flowyml"]
    print(f"12-layer d=768 encoder, {ROUNDS['encoder']} rounds")
    timed("floor", least, least)
    timed("model.state_dict()", times["state_dict"], least)
    timed("Model.from_pytorch", ours, least, "≤ 3 × floor", ours <= 3 * least)
    others = {"torchinfo.summary(model, verbose=0)": times["torchinfo"] / least}
    timed("torchinfo.summary(model, verbose=0)", times["torchinfo"], least)
    if peer:
        theirs = peer["encoder"]
        name = f"another flowyml {peer['version']}"
        others[name] = theirs["flowyml"] / theirs["floor"]
        timed(f"{name}: floor", theirs["floor"], theirs["floor"])
        timed(f"{name}: Model.from_pytorch", theirs["flowyml"], theirs["floor"])
    nearest = min(others.values()) / (ours / least)
    row("slowdown of the fastest other", "", f"{nearest:.2f} × ours", "> 1 ×", nearest > 1)


def report_stacks(times: Times, peer: dict[str, Any] | None) -> None:
    print(f"Sequential of {SMALL:,} and {LARGE:,} × Linear(1, 1), {ROUNDS['stack']} rounds")
    timed(f"{SMALL:,}: floor", times["small floor"], times["small floor"])
    met = times["small"] <= 0.040
    timed(f"{SMALL:,}: Model.from_pytorch", times["small"], times["small floor"], "≤ 40 ms", met)
    timed(f"{LARGE:,}: floor", times["large floor"], times["large floor"])
    timed(f"{LARGE:,}: Model.from_pytorch", times["large"], times["large floor"])
    growth = times["large"] / times["small"]
    floors = times["large floor"] / times["small floor"]
    row("growth of the floor", "", f"{floors:.2f} ×")
    row("growth of Model.from_pytorch", "", f"{growth:.2f} ×", "≤ 11 ×", growth <= 11)
    if peer:
        theirs, name = peer["stacks"], f"another flowyml {peer['version']}"
        for size, layers in (("small", SMALL), ("large", LARGE)):
            timed(f"{name}: {layers:,}", theirs[size], theirs[f"{size} floor"])
        row(f"{name}: growth", "", f"{theirs['large'] / theirs['small']:.2f} ×")


def report_llama() -> None:
    print(f"Llama-70B on the meta device, {ROUNDS['llama']} rounds")
    model = llama()
    operations = {"floor": partial(floor, model), "flowyml": partial(describe, "flowyml", model)}
    times = medians(ROUNDS["llama"], operations, burst=5)
    least, ours = times["floor"], times["flowyml"]
    counted = describe("flowyml", model).parameters
    timed("floor", least, least)
    timed("Model.from_pytorch", ours, least, "< 50 ms", ours < 0.050)
    row("parameters", f"{counted:,}", "", f"{LLAMA_70B:,}", counted == LLAMA_70B)


def report_gpt2(fresh: dict[tuple[str, str], dict[str, float]]) -> None:
    print(f"GPT-2 small with example inputs (1, 128), {ROUNDS['gpt2']} rounds")
    model, inputs = gpt2(), gpt2_inputs()
    operations = {
        "floor": partial(floor, model),
        "flowyml": partial(describe, "flowyml", model, inputs),
        "torchinfo": partial(describe, "torchinfo", model, inputs),
    }
    times = medians(ROUNDS["gpt2"], operations)
    least, ours, theirs = times["floor"], times["flowyml"], times["torchinfo"]
    # Real arithmetic on several threads waits long for a busy machine; its best round doesn't.
    best = times["torchinfo, fastest"]
    timed("floor", least, least)
    timed("Model.from_pytorch(..., example_inputs=)", ours, least, "< torchinfo", ours < best)
    timed("torchinfo.summary(model, input_data=)", theirs, least)
    timed("its fastest round", best, least)
    row("its fastest / median Model.from_pytorch", "", f"{best / ours:.2f} × ours")
    print(f"  in fresh processes, {ROUNDS['fresh']} rounds:")
    for library in ("flowyml", "torchinfo"):
        cold, warm = fresh[library, "cold"], fresh[library, "warm"]
        for name, found in (("its import and first pass", cold), ("first pass, warmed up", warm)):
            best, middle = found["fastest"] * 1000, found["seconds"] * 1000
            row(f"{library}: {name}", f"{middle:.0f} ms", f"fastest {best:.0f} ms")
        target = "< 50 MB" if library == "flowyml" else ""
        name = f"{library}: peak memory above the model"
        row(name, f"{warm['mb']:.1f} MB", "", target, warm["mb"] < 50)
        row(f"{library}: the same with its import", f"{cold['mb']:.1f} MB")


def measure_peer() -> tuple[dict[str, Any] | None, str]:
    """Return what the peer's Python measured, or None and the reason."""
    python = os.environ.get(PEER)
    if not python:
        return None, f"{PEER} names no Python that has it"
    try:
        return answer_of(python, "peer"), ""
    except (OSError, RuntimeError) as error:
        return None, str(error).splitlines()[-1]


def main() -> None:
    """Measure, and print a table; no figure makes this fail."""
    # A process starts with the peak of the one that started it, so these come before all models.
    fresh = first_passes()
    peer, reason = measure_peer()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; median times")
    if not peer:
        print(f"Another flowyml wasn't measured: {reason}")
    report_encoder(time_encoder(["flowyml", "torchinfo"]), peer)
    report_stacks(time_stacks(), peer)
    report_llama()
    report_gpt2(fresh)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    if len(sys.argv) > 1:
        print(json.dumps(answer(sys.argv[1:])))
    else:
        main()
