"""The training of ``training_together.py`` as a step that launches its processes."""

from __future__ import annotations

import sys

import training_together

from flowyml import step
from flowyml_pytorch import Elastic

PROCESSES = 2


@step(launcher=Elastic(nproc_per_node=PROCESSES))
def train(batches: int, result: str) -> None:
    training_together.train(batches, result)


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2])
