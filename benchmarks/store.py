"""Saving and loading a module, beside plain ``torch.save`` and ``torch.load`` in the same run.

Run it as ``python benchmarks/store.py [MEGABYTES]``. Every figure is the median of several
interleaved rounds; what counts are the ratios. Files are in the page cache when they are read.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flowyml import Store

ROUNDS = 5
WIDTH = 3536  # one layer has 50 MB


class Net(nn.Sequential):
    """A stack of linear layers; building it initialises every weight, as users' classes do."""

    def __init__(self, layers: int) -> None:
        super().__init__(*[nn.Linear(WIDTH, WIDTH) for _ in range(layers)])


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def main(megabytes: int) -> None:
    """Measure, and print a table."""
    layers = max(1, round(megabytes / 50))
    net = Net(layers)
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary)
        store, plain = Store(folder / "store"), folder / "plain.pt"
        x = torch.randn(2, WIDTH)

        def torch_save() -> None:
            torch.save(net.state_dict(), plain)
            sync(plain)

        def change() -> None:
            """Change every weight and clear the folder: both write new content to new files."""
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(1e-3)
            plain.unlink(missing_ok=True)
            for version in store.versions("net"):
                store.delete(f"net@{version}")
            store.gc(grace=0)

        def build() -> nn.Module:
            fresh = Net(layers)
            fresh.load_state_dict(torch.load(plain, weights_only=True))
            return fresh

        operations: dict[str, Callable[[], object]] = {
            "torch.save + fsync": torch_save,
            "store.save": lambda: store.save(net, "net"),
            "torch.load of the state dict": lambda: torch.load(plain, weights_only=True),
            "build the class + load_state_dict": build,
            "store.load": lambda: store.load("net"),
            "store.load(verify=False)": lambda: store.load("net", verify=False),
        }
        times: dict[str, list[float]] = {name: [] for name in operations}
        for _ in range(ROUNDS):
            change()
            for name, operation in operations.items():
                times[name].append(seconds(operation))
        assert torch.equal(store.load("net")(x), net(x))

    medians = {name: statistics.median(values) for name, values in times.items()}
    size = sum(p.nbytes for p in net.parameters()) / 1e6
    print(f"{size:.0f} MB, {layers} layers, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    for name, value in medians.items():
        print(f"  {name:<34} {value * 1000:9.1f} ms")
    for name, floor in (
        ("store.save", "torch.save + fsync"),
        ("store.load", "torch.load of the state dict"),
        ("store.load", "build the class + load_state_dict"),
        ("store.load(verify=False)", "build the class + load_state_dict"),
    ):
        print(f"  {name} / {floor} = {medians[name] / medians[floor]:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
