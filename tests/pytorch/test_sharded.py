"""Wrappers that need a process group: two processes with gloo, as torchrun starts them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("sharded")

SCRIPT = """
import json, os, sys, warnings
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.device_mesh import init_device_mesh
from flowyml import Model

class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(10, 64)
        self.fc2 = nn.Linear(64, 1)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))

rank, size, port, how = int(sys.argv[1]), 2, sys.argv[2], sys.argv[3]
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
)
net = MyNet()
if how == "ddp":
    net = DistributedDataParallel(net)
elif how == "fsdp1":
    net = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
elif how == "fsdp1-orig":
    net.fc1 = FullyShardedDataParallel(net.fc1, device_id=torch.device("cpu"), use_orig_params=True)
    net = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
else:
    mesh = init_device_mesh("cpu", (size,))
    fully_shard(net.fc1, mesh=mesh)
    fully_shard(net, mesh=mesh)
print("FOUND" + json.dumps(Model.from_pytorch(net).metadata.properties), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def described(folder: Path, how: str) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "script.py").write_text(SCRIPT)
    ranks = [
        subprocess.Popen(
            [sys.executable, "script.py", str(rank), port, how],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
        found.append(json.loads(out.partition("FOUND")[2].splitlines()[0]))
    return found


@pytest.mark.parametrize(
    ("how", "wrapper"),
    [
        ("ddp", "DistributedDataParallel"),
        ("fsdp1", "FullyShardedDataParallel"),
        ("fsdp1-orig", "FullyShardedDataParallel"),
        ("fsdp2", "FSDPModule"),
    ],
)
def test_distributed_models_are_described_whole_and_under_their_own_names(
    tmp_path: Path, how: str, wrapper: str
) -> None:
    for found in described(tmp_path, how):
        assert found["wrapper"] == wrapper
        assert found["parameters"] == found["trainable_parameters"] == 769
        assert found["model_class"] == "MyNet"
        assert found["layer_types"] == ["Linear", "ReLU"]
        assert found["num_layers"] == 2
        assert found["num_tensors"] == 4
        assert found["tensor_shapes_sample"] == {
            "fc1.weight": [64, 10], "fc1.bias": [64], "fc2.weight": [1, 64], "fc2.bias": [1],
        }  # fmt: skip
        assert (found["device"], found["dtype"]) == ("cpu", "torch.float32")


SAVING = """
import copy, json, sys, warnings
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from flowyml import Store

torch.set_num_threads(1)

class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(10, 7)
        self.fc2 = nn.Linear(7, 1)
        self.fc3 = nn.Linear(10, 7)
        self.fc3.weight = self.fc1.weight
        self.fc2.bias.requires_grad_(False)
        self.fc2.eval()
        self.register_buffer("scratch", torch.arange(3.0), persistent=False)
        self.tags = ["a", {"b": 1}]

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x) + self.fc3(x)))

def mixed(net):
    fully_shard(net, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with torch.no_grad():
        net(torch.ones(2, 10))  # what is gathered in half precision stays until the next pass
    return net

def fsdp1(net, orig, nested):
    device = torch.device("cpu")
    if nested:
        net.fc2 = FullyShardedDataParallel(net.fc2, device_id=device, use_orig_params=orig)
    return FullyShardedDataParallel(net, device_id=device, use_orig_params=orig)

def apart(net):
    fully_shard(net, mesh=mesh)
    if rank == 0:
        net.log = lambda text: print(text)  # only one process writes a log
    return net

HOW = {
    "ddp": DistributedDataParallel,
    "fsdp2": lambda net: fully_shard(net, mesh=mesh),
    "fsdp2 in part": lambda net: fully_shard(net.fc2, mesh=mesh) and net,
    "fsdp2 offloaded": lambda net: fully_shard(
        net, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False)
    ),
    "fsdp2 in half precision": mixed,
    "fsdp2 in half precision, in a dict": lambda net: {"model": mixed(net)},
    "fsdp2 in a dict": lambda net: {"model": fully_shard(net, mesh=mesh)},
    "ddp in a dict": lambda net: {"model": DistributedDataParallel(net)},
    "tensor-parallel": lambda net: parallelize_module(
        net, mesh, {"fc1": ColwiseParallel(), "fc3": ColwiseParallel(), "fc2": RowwiseParallel()}
    ),
    "state dict of fsdp2": lambda net: fully_shard(net, mesh=mesh).state_dict(),
    "fsdp1": lambda net: fsdp1(net, False, False),
    "fsdp1 with parameters": lambda net: fsdp1(net, True, False),
    "fsdp1 nested": lambda net: fsdp1(net, True, True),
    "unlike on each rank": apart,
}

def told(module):
    kept = [(n, id(t) == id(module.fc1.weight), type(t).__name__, str(t.dtype), t.requires_grad,
             t.detach().float().tolist()) for n, t in
            (*module.named_parameters(remove_duplicate=False), *module.named_buffers())]
    parts = [(n, type(m).__name__, m.training, sorted(vars(m))) for n, m in module.named_modules()]
    return [sorted(kept), parts, module.tags]  # FSDP 1 changes the order of parameters

rank, port, place = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2,
    timeout=timedelta(seconds=10),
)
mesh = init_device_mesh("cpu", (2,))
warnings.simplefilter("ignore")
for how in sys.argv[4:]:
    torch.manual_seed(0)
    full = MyNet()
    store = Store("together" if place == "together" else f"store{rank}")
    found, name = {}, how.replace(" ", "_").replace(",", "")
    try:
        asset = store.save(HOW[how](copy.deepcopy(full)), name)
        name, found["restore"] = asset.ref, asset.stored.restore
    except Exception as error:
        found["refused"] = f"{type(error).__name__}: {error}"
    dist.barrier()
    if how == "tensor-parallel":  # parallelize_module unties what is tied
        full.fc3.weight = nn.Parameter(full.fc1.weight.detach().clone())
    try:
        if found.get("restore") == "exact":
            loaded = store.load(name, trust=asset.required_trust)
            loaded = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
            if isinstance(loaded, dict):
                loaded = MyNet(), loaded
                loaded[0].load_state_dict(loaded[1])
                found["exact"] = all(map(torch.equal, full.parameters(), loaded[0].parameters()))
            else:
                found["exact"] = told(loaded) == told(full)
        elif found.get("restore") == "weights":
            filled = store.load(name, into=MyNet())
            found["exact"] = all(map(torch.equal, full.parameters(), filled.parameters()))
    except Exception as error:
        found["exact"] = f"{type(error).__name__}: {error}"
    print("FOUND" + json.dumps([how, found]), flush=True)
    dist.barrier()
dist.destroy_process_group()
"""

PLAIN = (
    "ddp", "fsdp2", "fsdp2 in part", "fsdp2 offloaded", "fsdp2 in half precision",
    "fsdp2 in half precision, in a dict", "fsdp2 in a dict", "ddp in a dict",
    "state dict of fsdp2", "tensor-parallel",
)  # fmt: skip
LIMITED = ("fsdp1", "fsdp1 with parameters", "fsdp1 nested")


def saved(folder: Path, place: str, *ways: str) -> list[dict[str, dict[str, Any]]]:
    """Save in two processes at the same time; return what each found, by how it was wrapped."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "saving.py").write_text(SAVING)
    ranks = [
        subprocess.Popen(
            [sys.executable, "saving.py", str(rank), port, place, *ways],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        lines = [line for line in out.splitlines() if line.startswith("FOUND")]
        assert len(lines) == len(ways), err[-2000:]
        found.append(dict(json.loads(line.removeprefix("FOUND")) for line in lines))
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return saved(tmp_path_factory.mktemp("together"), "together", *PLAIN, *LIMITED)


@pytest.mark.parametrize("how", PLAIN)
def test_what_all_processes_save_at_once_comes_back_plain_and_whole(
    together: list[dict[str, dict[str, Any]]], how: str
) -> None:
    for found in together:
        assert found[how] == {"restore": "exact", "exact": True}


@pytest.mark.parametrize("how", LIMITED)
def test_a_model_whose_wrapper_stands_in_the_way_is_whole_or_refused(
    together: list[dict[str, dict[str, Any]]], how: str
) -> None:
    for found in together:
        assert "refused" in found[how] or found[how]["exact"] is True


def test_each_process_may_have_a_store_of_its_own(tmp_path: Path) -> None:
    for found in saved(tmp_path, "apart", "fsdp2", "ddp"):
        assert found["fsdp2"] == found["ddp"] == {"restore": "exact", "exact": True}


def test_nothing_hangs_where_only_one_process_can_save_the_structure(tmp_path: Path) -> None:
    for found in saved(tmp_path, "together", "unlike on each rank"):
        assert found["unlike on each rank"]["exact"] is True
