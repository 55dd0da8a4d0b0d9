"""What a store writes for many versions, assets and tensors, and how long that takes.

Every function measures one case in the folder that it gets and returns plain figures. Bytes are
those of all files in the store's folder, manifests included, so nothing is hidden in a statistic.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import torch
from torch import nn
from torch.nn import functional

from flowyml import Model, Store

RUNS, EPOCHS = 8, 10
MANY = 5_000  # layers of two tensors


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder; a file with two names counts once."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({item.st_ino: item.st_size for item in found}.values())


def handed_to_write() -> int | None:
    """Return the bytes that this process has ever given to the system to write, if it tells."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in text.splitlines())["wchar"])


def second_version(folder: Path, megabytes: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Save a module, change one layer of twenty, and save it again; the last or a middle one."""
    layers = max(20, megabytes // 20)
    Store(folder / "warm").save(contenders.small_net(), "warm")
    found: dict[str, list[tuple[float, ...]]] = {"last": [], "middle": []}
    for seed in range(rounds):
        for place, rows in found.items():
            changed = layers // 20
            start = layers - changed if place == "last" else (layers - changed) // 2
            rows.append(_twice(folder / "store", layers, seed, range(start, start + changed)))
    names = ("first", "second", "share", "handed")
    return {
        place: dict(zip(names, map(statistics.median, zip(*rows, strict=True)), strict=True))
        for place, rows in found.items()
    }


def _twice(folder: Path, layers: int, seed: int, changed: range) -> tuple[float, ...]:
    store, net = Store(folder), contenders.net_of(layers, seed)
    total = sum(parameter.nbytes for parameter in net.parameters())
    os.sync()
    first = seconds(partial(store.save, net, "net"))
    with torch.no_grad():
        for number in changed:
            for parameter in net[number].parameters():
                parameter.add_(1)
    os.sync()
    held, written = size_of(folder), handed_to_write()
    second = seconds(partial(store.save, net, "net"))
    share = (size_of(folder) - held) / total
    handed = handed_to_write()
    loaded = store.load("net").state_dict()
    if not all(torch.equal(loaded[key], value) for key, value in net.state_dict().items()):
        raise RuntimeError("the second version isn't what was saved")
    del loaded
    shutil.rmtree(folder)
    writing = float("nan") if handed is None or written is None else (handed - written) / total
    return first, second, share, writing


def epochs(folder: Path) -> dict[str, float]:
    """Train the head of a ResNet-18 with a frozen backbone, saving every epoch of every run."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    torch.manual_seed(0)
    model = ResNetForImageClassification(config).eval()  # the running statistics stay, too
    model.resnet.requires_grad_(False)
    plain = io.BytesIO()
    torch.save(model.state_dict(), plain)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    store, times = Store(folder / "store"), []
    for run in range(RUNS):
        head = model.classifier[-1]
        head.reset_parameters()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        history: dict[str, list[float]] = {"loss": []}
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images).logits, labels)
            loss.backward()
            optimizer.step()
            history["loss"].append(loss.item())
            times.append(seconds(partial(_save, model, store, run, history)))
    loaded = store.load(f"run-{RUNS - 1}", trust=[ResNetConfig]).state_dict()
    if not all(torch.equal(loaded[key], value) for key, value in model.state_dict().items()):
        raise RuntimeError("the last epoch isn't what was saved")
    stats = store.stats()
    return {
        "plain": len(plain.getbuffer()) * RUNS * EPOCHS,
        "bytes": size_of(store.path),
        "blobs": stats.blobs,
        "versions": stats.versions,
        "seconds": statistics.median(times),
    }


def _save(model: nn.Module, store: Store, run: int, history: dict[str, list[float]]) -> None:
    Model.from_pytorch(model, name=f"run-{run}", training_history=history).save(store)


def many_tensors(folder: Path, rounds: int) -> dict[str, float]:
    """Save and load a module of 10,000 tensors, beside a plain file of the same."""
    plain = contenders.Torch(folder)
    times: dict[str, list[float]] = {}
    blobs = tensors = 0
    for seed in range(rounds):
        torch.manual_seed(seed)
        net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(MANY)])
        store = Store(folder / f"store-{seed}")
        operations: dict[str, Callable[[], object]] = {
            "torch.save + fsync": partial(plain.save, net, "plain"),
            "store.save": partial(store.save, net, "net"),
            "torch.load": partial(plain.load, "plain"),
            "store.load": partial(store.load, "net"),
        }
        for name, operation in operations.items():
            times.setdefault(name, []).append(seconds(operation))
        loaded = store.load("net").state_dict()
        if not all(torch.equal(loaded[key], value) for key, value in net.state_dict().items()):
            raise RuntimeError("the module of many tensors isn't what was saved")
        blobs, tensors = store.stats().blobs, len(loaded)
        shutil.rmtree(store.path)
        plain.path("plain").unlink()
    return {
        "blobs": blobs,
        "tensors": tensors,
        **{name: statistics.median(values) for name, values in times.items()},
    }


def tiny(folder: Path, count: int) -> dict[str, list[float]]:
    """Save many tiny modules and values, each beside a plain file; then list them all."""
    folders = {name: folder / name for name in ("plain", "modules", "values")}
    for one in folders.values():
        one.mkdir()
    plain = contenders.Torch(folders["plain"])
    modules, values = Store(folders["modules"]), Store(folders["values"])
    modules.save(contenders.small_net(), "warm")
    values.save({"epoch": -1}, "warm")
    times: dict[str, list[float]] = {"torch.save + fsync": [], "module": [], "value": []}
    for number in range(count):
        net, name = contenders.small_net(), f"tiny-{number}"
        value = {"epoch": number, "loss": number / 7}
        operations: tuple[Callable[[], object], ...] = (
            partial(plain.save, net, name),
            partial(modules.save, net, name),
            partial(values.save, value, name),
        )
        for kept, operation in zip(times.values(), operations, strict=True):
            kept.append(seconds(operation))
    times["listing"] = []
    for _ in range(5):
        for store in (modules, values):
            fresh = Store(store.path)
            times["listing"].append(seconds(fresh.refs))
            if len(fresh.refs()) != count + 1:
                raise RuntimeError("the list isn't what was saved")
    times["stats"] = [seconds(Store(store.path).stats) for store in (modules, values)]
    return times
