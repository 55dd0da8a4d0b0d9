"""Steps that launch processes by Elastic: what torch users give them, and what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("launched_steps")

SCRIPT = """
import json, os, sys, time
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, TensorDataset
from flowyml import Model, Store, current, runs, step
from flowyml.errors import LaunchError
from flowyml_pytorch import Elastic

class Rows(Dataset):
    def __init__(self, n):
        self.n = n
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        return torch.full((3,), float(i))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
    def forward(self, x):
        return self.second(self.first(x))

@step(launcher=Elastic(nproc_per_node=2), seed=1)
def train(net, optimizer, rows, loader, table):
    assert net.second.weight is net.first.weight
    assert optimizer.param_groups[0]["params"][0] is net.first.weight
    assert len(list(loader)) == 2 and table["view"].data_ptr() == table["base"].data_ptr()
    model = DistributedDataParallel(net)
    model(rows[current().rank + 1][None]).sum().backward()
    optimizer.step()
    return {"model": model, "named": Model.from_pytorch(model, "named"), "three": 3}

@step(launcher=Elastic(nproc_per_node=2, timeout=8))
def fails(how):
    dist.barrier()
    if current().rank == 1:
        if how == "hang":
            time.sleep(600)
        raise KeyError(how)
    dist.barrier()

if __name__ == "__main__":
    net = Net()
    before = net.first.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    base = torch.arange(6.0)
    loader = DataLoader(TensorDataset(torch.arange(4)), 2)
    got = train(net, optimizer, Rows(5), loader, {"base": base, "view": base[:2]})
    model, named, three = got["model"], got["named"], got["three"]
    found = {
        "types": [type(model).__name__, type(named.data).__name__, three],
        "tied": model.second.weight is model.first.weight,
        "in_place": torch.equal(net.first.weight, model.first.weight),
        "changed": not torch.equal(net.first.weight, before),
        "wrapper": named.metadata.properties["wrapper"],
        "world_size": named.metadata.properties["world_size"],
        "versions": Store.default().versions("named"),
    }
    for how in ("raise", "hang"):
        try:
            fails(how)
        except (KeyError, LaunchError) as error:
            found[how] = [type(error).__name__, str(error), "rank 1 of 2" in str(error.__cause__)]
    found["runs"] = [[r.name, r.status] for r in runs()]
    print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("launched")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FLOWYML_STORE": ".flowyml"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [*folder.glob(".flowyml/jobs/*")]
    return json.loads(done.stdout.partition("FOUND")[2])


def test_models_optimizers_datasets_and_loaders_travel_with_what_they_share(found: Any) -> None:
    assert found["types"] == ["Net", "Net", 3]
    assert found["tied"]


def test_a_model_that_is_trained_in_place_is_trained_here_too(found: Any) -> None:
    assert found["changed"]
    assert found["in_place"]


def test_what_comes_back_of_parallel_processes_is_one_plain_version(found: Any) -> None:
    assert found["wrapper"] == "DistributedDataParallel"
    assert found["world_size"] == 2
    assert found["versions"] == ["v1"]


def test_the_caller_sees_the_exception_of_the_rank_that_raised(found: Any) -> None:
    assert found["raise"] == ["KeyError", "'raise'", True]


def test_the_caller_is_told_which_rank_hangs_and_where(found: Any) -> None:
    kind, text, _ = found["hang"]
    assert kind == "LaunchError"
    assert "Rank 1 hangs" in text
    assert "time.sleep(600)" in text
    assert found["runs"] == [["train", "completed"], ["fails", "failed"], ["fails", "failed"]]
