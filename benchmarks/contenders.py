"""Who saves and loads here: flowyml, plain torch, safetensors and, where installed, the peers.

Each gets the same module and a folder, and has to leave the module on the disk: what doesn't call
fsync itself is given it. This file runs in the peers' environments too, so only what a contender
is made of is imported with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

WIDTH = 2236  # one layer has 20 MB

PEERS = {"ZenML": "FLOWYML_ZENML_PYTHON", "MLflow": "FLOWYML_MLFLOW_PYTHON"}

BUILD = "build the class + load_state_dict"
OPERATIONS = {
    "torch": ("torch.save + fsync", "torch.load", "torch.load(mmap=True)", BUILD),
    "flowyml": ("store.save", "store.load", "store.load(verify=False)"),
    "safetensors": ("safetensors save_file + fsync", "safetensors load_file"),
    "ZenML": ("ZenML save_artifact + fsync", "ZenML load_artifact"),
    "MLflow": ("MLflow log_model + fsync", "MLflow load_model"),
}
"""What each contender does: saving first, then all its ways of loading."""


class Net(nn.Sequential):
    """A stack of linear layers; building it initialises every weight, as users' classes do."""

    def __init__(self, layers: int, width: int = WIDTH) -> None:
        super().__init__(*[nn.Linear(width, width) for _ in range(layers)])


def net_of(layers: int, seed: int) -> Net:
    """Build a module whose content no other layer or seed has, without initialising it twice."""
    with torch.device("meta"):
        net = Net(layers)
    base = torch.rand(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))
    for number, layer in enumerate(net):
        assert isinstance(layer, nn.Linear)
        layer.weight = nn.Parameter(base * (1 + number / 7))
        layer.bias = nn.Parameter(base[0] * (1 + number / 7))
    return net


def small_net() -> Net:
    """Build a module of twenty parameters."""
    return Net(1, 4)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


class Contender(Protocol):
    """Saves modules by name, and loads them in one or more ways."""

    def save(self, net: nn.Module, name: str) -> object:
        """Save a module durably."""

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        """Return the ways of loading, in the order of `OPERATIONS`."""


class Torch:
    """``torch.save`` of the state dict: what no saving of a module can do without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"

    def save(self, net: nn.Module, name: str) -> None:
        torch.save(net.state_dict(), self.path(name))
        sync(self.path(name))
        sync(self.folder)

    def load(self, name: str, **options: Any) -> Any:
        return torch.load(self.path(name), weights_only=True, **options)

    def build(self, name: str) -> nn.Module:
        state = self.load(name)
        net = Net(len(state) // 2, state["0.bias"].numel())
        net.load_state_dict(state)
        return net

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        return self.load, lambda name: self.load(name, mmap=True), self.build


class Flowyml:
    """The store of the Python that runs this."""

    def __init__(self, folder: Path) -> None:
        from flowyml import Store

        self.store = Store(folder / "store")

    def save(self, net: Any, name: str) -> None:
        self.store.save(net, name)

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        return self.store.load, lambda name: self.store.load(name, verify=False)


class Safetensors:
    """Tensors in a file without any code; the module's structure isn't kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, net: nn.Module, name: str) -> None:
        from safetensors.torch import save_file

        path = self.folder / f"{name}.safetensors"
        save_file(net.state_dict(), path)
        sync(path)
        sync(self.folder)

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        from safetensors.torch import load_file

        return (lambda name: load_file(self.folder / f"{name}.safetensors"),)


class ZenML:
    """Its own materializer for PyTorch modules, with the local stack that it sets up by default."""

    def __init__(self, folder: Path) -> None:
        os.environ["ZENML_CONFIG_PATH"] = str(folder / "zenml")
        os.environ["ZENML_ANALYTICS_OPT_IN"] = "false"
        os.environ["ZENML_LOGGING_VERBOSITY"] = "ERROR"

    def save(self, net: nn.Module, name: str) -> None:
        from zenml import save_artifact
        from zenml.integrations.pytorch.materializers.pytorch_module_materializer import (
            PyTorchModuleMaterializer,
        )

        saved = save_artifact(net, name, materializer=PyTorchModuleMaterializer)
        sync_tree(Path(saved.uri))

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        from zenml import load_artifact

        return (load_artifact,)


class MLflow:
    """Logged models with local files, and SQLite beside them: its own files for runs are retired.

    The format is the one that takes a module without an example input. The requirements are
    named, since finding them out takes seconds.
    """

    def __init__(self, folder: Path) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import mlflow.pytorch

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.mlflow, self.uris = mlflow, folder / "uris"
        self.uris.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        if mlflow.get_experiment_by_name("benchmark") is None:
            mlflow.create_experiment("benchmark", artifact_location=(folder / "models").as_uri())
        mlflow.set_experiment("benchmark")

    def save(self, net: nn.Module, name: str) -> None:
        logged = self.mlflow.pytorch.log_model(
            net, name=name, serialization_format="pickle", pip_requirements=["torch"]
        )
        sync_tree(Path(logged.artifact_path.removeprefix("file://")))
        (self.uris / name).write_text(logged.model_uri)

    def loads(self) -> tuple[Callable[[str], Any], ...]:
        def load(name: str) -> Any:
            return self.mlflow.pytorch.load_model((self.uris / name).read_text())

        return (load,)


def contender(name: str, folder: Path) -> Contender:
    """Make a contender ready, with what it does only the first time behind it."""
    warnings.simplefilter("ignore")
    kinds: tuple[Callable[[Path], Contender], ...] = (Torch, Flowyml, Safetensors, ZenML, MLflow)
    made = dict(zip(OPERATIONS, kinds, strict=True))[name](folder)
    made.save(small_net(), "small")
    for load in made.loads():
        weights(load("small"))
    return made


def weights(loaded: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of what was loaded: a module, or its state dict."""
    return dict(loaded.state_dict() if isinstance(loaded, nn.Module) else loaded)


def operation(
    name: str, number: int, folder: Path, layers: int, seed: int
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Prepare one operation on the large module; return it and what is asked of its result."""
    made = contender(name, folder)
    if number == 0:
        net = net_of(layers, seed)
        return lambda: made.save(net, "net"), lambda result: None
    load = made.loads()[number - 1]
    return lambda: load("net"), lambda result: looked_at(weights(result), layers, seed)


def looked_at(found: dict[str, torch.Tensor], layers: int, seed: int) -> float:
    """Read every weight for the first time, return the seconds; make sure that all are right."""
    started = time.perf_counter()
    for tensor in found.values():
        tensor.sum()
    elapsed = time.perf_counter() - started
    base = torch.rand(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))
    right = len(found) == 2 * layers and all(
        torch.equal(found[f"{number}.weight"], base * (1 + number / 7))
        and torch.equal(found[f"{number}.bias"], base[0] * (1 + number / 7))
        for number in range(layers)
    )
    if not right:
        raise RuntimeError("what was loaded isn't what was saved")
    return elapsed


def tiny(name: str, folder: Path, count: int) -> list[float]:
    """Return the seconds of saving each of many modules of twenty parameters."""
    made, net = contender(name, folder), small_net()
    found = []
    for number in range(count):
        with torch.no_grad():
            net[0].bias.fill_(number)  # type: ignore[operator]
        started = time.perf_counter()
        made.save(net, f"tiny-{number}")
        found.append(time.perf_counter() - started)
    return found


def versions() -> dict[str, str]:
    """Return the versions of what is compared, as far as this Python has it."""
    found = {}
    for name in ("torch", "flowyml-core", "safetensors", "zenml", "mlflow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
