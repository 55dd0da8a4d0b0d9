"""How long a training loop waits for a checkpoint, and a new process until it goes on.

Every function measures one case in the folder that it gets and returns plain figures, after it has
made sure that what it timed is right.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAVES = 8
WIDTH = 1_000  # a layer of 4 MB
PLAIN = "plain.pt"

Figures = dict[str, float]


def net_of(megabytes: int) -> Any:
    """Return a module of so many MB."""
    import torch

    torch.manual_seed(0)
    layers = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(megabytes // 4))
    return torch.nn.Sequential(*layers)


def change(net: Any) -> None:
    """Change every parameter, as a step of training does."""
    import torch

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1e-3)


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Add the seconds of a with block."""
    started = time.perf_counter()
    yield
    times.append(time.perf_counter() - started)


def stall(folder: Path, size: str) -> Figures:
    """Time what a loop waits for at each save, beside saves that it waits for whole."""
    from torch.utils.data import DataLoader

    from flowyml import Store
    from flowyml_pytorch import Checkpoint

    net = net_of(int(size))
    store = Store(folder / "store")
    loader: Any = DataLoader(range(SAVES + 1))  # type: ignore[arg-type]  # a range has items
    ckpt = Checkpoint(model=net, dataloader=loader, store=store, keep=1)
    names = ("save", "stall", "copy", "written", "alone", "beside")
    times: dict[str, list[float]] = {name: [] for name in names}
    asked = None
    for _ in ckpt.batches():
        if asked is not None:  # the batch before has asked for a save
            times["stall"].append(time.perf_counter() - asked)
            with timed(times["beside"]):
                change(net)
            ckpt.wait()
            times["written"].append(time.perf_counter() - asked)
        with timed(times["alone"]):
            change(net)
        saved_whole(net, folder / "whole", times)
        change(net)
        os.sync()
        asked = time.perf_counter()
        ckpt.save(loss=1.0)
    ckpt.wait()
    check(store, net)
    first, *later = times["stall"]
    found = {name: statistics.median(values) for name, values in times.items()}
    share = statistics.median(later) / found["save"]
    slower = found["beside"] / found["alone"]
    return {**found, "first": first, "stall": statistics.median(later)} | {
        "share": share,
        "slower": slower,
    }


def saved_whole(net: Any, folder: Path, times: dict[str, list[float]]) -> None:
    """Time a save that is waited for, and a copy in memory."""
    from flowyml import Store

    copies = [tensor.clone() for tensor in net.state_dict().values()]
    with timed(times["copy"]):
        for tensor, copy in zip(net.state_dict().values(), copies, strict=True):
            copy.copy_(tensor)
    del copies
    os.sync()  # nobody's earlier files are to be written in our time
    with timed(times["save"]):
        Store(folder).save(net.state_dict(), "whole")
    shutil.rmtree(folder)


def check(store: Any, net: Any) -> None:
    """Make sure that the last checkpoint holds what the loop ended with."""
    import torch

    found = store.load("checkpoint")["model"]
    if not all(torch.equal(found[name], value) for name, value in net.state_dict().items()):
        raise RuntimeError("the last checkpoint isn't what was saved")


def saved(folder: Path, size: str) -> Figures:
    """Leave a checkpoint, and the same by torch.save."""
    import torch

    from flowyml import Store
    from flowyml_pytorch import Checkpoint

    net = net_of(int(size))
    loader: Any = torch.utils.data.DataLoader(range(10))  # type: ignore[arg-type]
    ckpt = Checkpoint(model=net, dataloader=loader, store=Store(folder / "store"))
    for number, _ in enumerate(ckpt.batches()):
        if number == 1:
            change(net)
            ckpt.save(loss=1.0)
        if number == 2:
            break
    ckpt.wait()
    torch.save(net.state_dict(), folder / PLAIN)
    return {}


def resumed(folder: Path, size: str, how: str, started: str) -> Figures:
    """Go on in one of three ways; tell when it was ready, after the start of the process."""
    import torch

    import flowyml
    from flowyml_pytorch import Checkpoint

    net = net_of(int(size))
    loader: Any = torch.utils.data.DataLoader(range(10))  # type: ignore[arg-type]
    imported = time.time()
    if how == "checkpoint":
        store = flowyml.Store(folder / "store")
        ckpt = Checkpoint(model=net, dataloader=loader, store=store, resume=True)
        first = int(next(iter(ckpt.batches())))
    else:
        if how == "torch":
            net.load_state_dict(torch.load(folder / PLAIN, weights_only=True))
        first = int(next(iter(loader)))
    ready = time.time()
    if (first, how == "anew") not in ((2, False), (0, True), (0, how == "anew")):
        raise RuntimeError(f"training went on with batch {first}")
    begun = float(started)
    return {
        "imported": imported - begun,
        "loading": ready - imported,
        "first": ready - begun,
    }


CASES: dict[str, Callable[..., Figures]] = {"stall": stall, "saved": saved, "resumed": resumed}
