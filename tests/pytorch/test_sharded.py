"""Wrappers that need a process group: two processes with gloo, as torchrun starts them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
