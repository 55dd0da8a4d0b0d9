"""Training in several processes that are killed, and goes on to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flowyml import Store, runs

pytestmark = pytest.mark.xdist_group("resuming")

SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset
from flowyml import Model, current, step
from flowyml_pytorch import Checkpoint, Elastic, distributed_loader

torch.set_num_threads(1)

def die(how):
    here = current()
    if how == "rank" and here.rank == 1 and here.group.restarts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "all" and not os.path.exists("died"):
        if here.rank == 0:
            open("died", "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

PROCESSES = int(os.environ.get("PROCESSES", "2"))

@step(seed=3, launcher=Elastic(nproc_per_node=PROCESSES, max_restarts=1))
def train(kind, workers, how, stop):
    here = current()
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(rows, rows.sum(1))
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Dropout(0.2), nn.Linear(300, 1))
    torch.manual_seed(here.rank)
    if kind == "fsdp":
        fully_shard(net[0], mesh=init_device_mesh("cpu", (here.world_size,)))
        model = fully_shard(net, mesh=init_device_mesh("cpu", (here.world_size,)))
    else:
        model = DistributedDataParallel(net) if here.world_size > 1 else net
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    loader = distributed_loader(data, 8, num_workers=workers)
    ckpt = Checkpoint(model=model, optimizer=optimizer, scheduler=scheduler, dataloader=loader)
    print("BEGINS", here.rank, ckpt.resumed, flush=True)
    for epoch in ckpt.epochs(3):
        for number, (x, y) in enumerate(ckpt.batches()):
            if ckpt.resumed is None and ckpt.step == stop:
                ckpt._saver.writer.join()
                die(how)
            optimizer.zero_grad()
            loss = (model(x)[:, 0] - y).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            ckpt.save(loss=loss)
    state = [[v if torch.is_tensor(v) else v for v in each.values()]
             for each in optimizer.state_dict()["state"].values()] if kind != "fsdp" else []
    return {
        "model": model, "optimizer": state, "history": ckpt.history, "exact": ckpt.exact,
        "reason": str(ckpt.reason), "rate": scheduler.get_last_lr(), "resumed": str(ckpt.resumed),
        "next": torch.rand(2), "rank": here.rank,
    }

if __name__ == "__main__":
    kind, workers, how, stop, out, resume = sys.argv[1:]
    found = train(kind, int(workers), how, int(stop), resume=resume == "resume")
    if found["rank"] == 0 and kind != "fsdp":
        found["model"] = found["model"].state_dict()
        torch.save(found, out)
    elif found["rank"] == 0:
        torch.save({k: v for k, v in found.items() if k != "model"}, out)
"""


def start(
    folder: Path, *arguments: object, torchrun: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable]
    if torchrun:
        command += ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    return subprocess.run(
        [*command, "script.py", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FLOWYML_STORE": ".flowyml", **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def trained(folder: Path, *arguments: object, **options: Any) -> dict[str, Any]:
    done = start(folder, *arguments, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(folder / str(arguments[4]), weights_only=True)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


COMPARED = ("model", "optimizer", "history", "rate", "next")


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in COMPARED if key in one and not same(one[key], other[key])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train without a break in two processes."""
    return trained(tmp_path_factory.mktemp("whole"), "ddp", 0, "none", 7, "whole", "anew")


def test_a_killed_rank_is_started_again_and_ends_with_the_same_bits(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    found = trained(tmp_path, "ddp", 0, "rank", 7, "found", "anew")
    assert found["resumed"] == "train.checkpoint@v6"
    assert found["exact"], found["reason"]
    assert differing(whole, found) == []
    assert whole["resumed"] == "None"
    assert len(whole["history"]["loss"]) == 15
    assert len(runs(Store(tmp_path / ".flowyml"))) == 1


def test_when_all_is_killed_the_call_is_resumed_with_workers_too(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    done = start(tmp_path, "ddp", 2, "all", 8, "found", "anew")
    assert done.returncode == -9
    found = trained(tmp_path, "ddp", 2, "all", 8, "found", "resume")
    assert found["resumed"] == "train.checkpoint@v7"
    assert found["exact"], found["reason"]
    assert differing(whole, found) == []  # without workers the batches are the same


def test_under_torchrun_a_restart_goes_on_by_itself(tmp_path: Path, whole: dict[str, Any]) -> None:
    found = trained(tmp_path, "ddp", 0, "rank", 7, "found", "anew", torchrun=True)
    assert found["resumed"] == "train.checkpoint@v6"
    assert differing(whole, found) == []


def test_another_number_of_processes_goes_on_and_says_that_it_is_not_exact(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    start(tmp_path, "ddp", 0, "all", 7, "found", "anew")
    found = trained(tmp_path, "ddp", 0, "none", 7, "found", "anew", PROCESSES="1")
    assert found["resumed"] == "None"  # other arguments
    found = trained(tmp_path, "ddp", 0, "all", 7, "found", "resume", PROCESSES="1")
    assert found["resumed"] == "train.checkpoint@v6"
    assert not found["exact"]
    assert "2 processes saved it, and 1 go on" in found["reason"]
    assert len(found["history"]["loss"]) == 15
    assert found["history"]["loss"][:6] == whole["history"]["loss"][:6]


def test_a_sharded_training_goes_on_and_on_fewer_processes(tmp_path: Path) -> None:
    whole = trained(tmp_path, "fsdp", 0, "none", 7, "whole", "anew")
    store = Store(tmp_path / ".flowyml")
    (weights,) = (ref for ref in runs(store)[-1].outputs if ".model@" in ref)
    expected = store.load(weights)
    assert start(tmp_path, "fsdp", 0, "all", 7, "found", "anew").returncode == -9
    found = trained(tmp_path, "fsdp", 0, "all", 7, "found", "resume")
    assert found["exact"], found["reason"]
    assert differing(whole, found) == []
    (weights,) = (ref for ref in runs(store)[-1].outputs if ".model@" in ref)
    assert same(expected.state_dict(), store.load(weights).state_dict())
    (tmp_path / "died").unlink()
    assert start(tmp_path, "fsdp", 0, "all", 8, "found", "anew").returncode == -9
    alone = trained(tmp_path, "fsdp", 0, "all", 8, "found", "resume", PROCESSES="1")
    assert not alone["exact"]
    assert len(alone["history"]["loss"]) == 15
