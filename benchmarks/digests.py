"""Content digests of what is in memory, beside plain BLAKE3 over the same bytes.

Run it as ``python benchmarks/digests.py``, where torch and flowyml-pytorch are installed; it takes
half a minute and 3 GB of memory (``--size 40`` is for trying it out). Both take turns, round after
round; figures are medians, and what counts is the ratio: how much of BLAKE3's own speed is left for
somebody who asks for the digest of an object. ``--threads 2`` has the machine use two cores, where
the system can bind a process to cores. No figure makes this fail; a digest that is another one
than a store's does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import blake3
import torch
from torch import Tensor, nn

from flowyml import Store, adapters
from flowyml.digests import digest_of_bytes
from flowyml.store import manifest
from flowyml_pytorch.storing.layout import bytes_of

WANTED = 3.0
"""GB/s on two cores."""


def layers(megabytes: int) -> nn.Module:
    """Return a module of layers of 4 MB."""
    return nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(megabytes // 4)))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a module, or a tensor by itself."""
    if isinstance(value, nn.Module):
        return [tensor.detach() for tensor in value.state_dict().values()]
    return [value]


def plain(tensors: Iterable[Tensor]) -> str:
    """Return the BLAKE3 of all the bytes."""
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    for tensor in tensors:
        hasher.update(bytes_of(tensor))
    return hasher.hexdigest()


def digests(value: Any) -> Sequence[str]:
    """Return what makes up the content of an object, as its adapter tells."""
    materializer = adapters.materializer_of(value)
    assert materializer is not None
    found = materializer.digests(value, materializer.formats[0])
    assert isinstance(found, list)
    return found


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(name: str, value: Any, rounds: int) -> float:
    """Print how fast an object is digested; return the seconds that it takes."""
    tensors = tensors_in(value)
    size = sum(tensor.nbytes for tensor in tensors) / 1e9
    digests(value), plain(tensors)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: digests(value)))
        theirs.append(seconds(lambda: plain(tensors)))
    took, floor = statistics.median(ours), statistics.median(theirs)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(
        f"  {name:<34}{size * 1000:>8.1f} MB{took * 1000:>10.1f} ms{size / took:>8.2f} GB/s"
        f"{size / floor:>10.2f} GB/s{ratio:>9.2f}"
    )
    return took


def check(value: Any) -> None:
    """Make sure that a store comes to the same digest."""
    materializer = adapters.materializer_of(value)
    assert materializer is not None
    with tempfile.TemporaryDirectory() as folder:
        stored = Store(folder).save(value, "value")
    together = digest_of_bytes("\n".join(digests(value)).encode())
    key, format = materializer.key, materializer.formats[0]
    if manifest.content_digest(key, format, (), together) != stored.digest:
        raise SystemExit("the store has another digest")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=400, help="MB of the module")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="cores to use; all by default")
    options = parser.parse_args()
    if options.threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(1)
    module, tensor = layers(options.size), torch.randn(options.size * 625_000)
    few, many = (nn.Sequential(*(nn.Linear(8, 8) for _ in range(n))) for n in (500, 5000))
    for value in (module, few):
        check(value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"torch {torch.__version__}, blake3 {blake3.__version__}, {cores} cores")
    print(f"{'':<36}{'size':>11}{'digested':>13}{'':>13}{'BLAKE3':>15}{'ratio':>9}")
    speeds = []
    for name, value in (("a module of layers of 4 MB", module), ("one tensor", tensor)):
        took = measure(name, value, options.rounds)
        speeds.append(sum(each.nbytes for each in tensors_in(value)) / 1e9 / took)
    one = measure("1,000 small tensors", few, options.rounds)
    ten = measure("10,000 small tensors", many, options.rounds)
    verdict = "yes" if min(speeds) >= WANTED else "NO"
    print(f"  at least {WANTED} GB/s on two cores: {min(speeds):.2f}, {verdict}")
    print(f"  ten times as many small tensors take {ten / one:.1f} times as long")


if __name__ == "__main__":
    main()
