"""One training by several processes: a script for torchrun, and one with a step that launches.

Both run the same loop; ``benchmarks/distributed.py`` starts them. The one for torchrun is what a
user writes without flowyml, and imports nothing of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

WIDTH, ROWS = 512, 256


def train(batches: int, result: str) -> None:
    """Train a network; rank 0 writes down when its first batch began, and its last ended."""
    torch.manual_seed(0)
    net: Any = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows = torch.randn(ROWS, WIDTH)
    began = time.time()
    for _ in range(batches):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()
    ended = time.time()
    if distributed.get_rank() == 0:
        found = {"began": began, "ended": ended, "result": net[-1].bias.sum().item()}
        Path(result).write_text(json.dumps(found))


def main() -> None:
    """Join the group that torchrun made, and train."""
    distributed.init_process_group("gloo")
    train(int(sys.argv[1]), sys.argv[2])
    distributed.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort Python's own end


if __name__ == "__main__":
    main()
