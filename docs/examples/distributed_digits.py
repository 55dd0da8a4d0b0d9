"""Train the network of digits.py with one process or with several that divide each batch.

The step is the same in all three::

    python distributed_digits.py                        # one process
    PROCESSES=2 python distributed_digits.py            # which starts two
    torchrun --nproc-per-node=2 distributed_digits.py   # two that torchrun has started

For one seed, two processes come to the same network bit for bit, whoever started them, and to
that of a single process but for rounding. The store is ``$FLOWYML_STORE`` or ``./.flowyml``.
"""

from __future__ import annotations

import os
import sys

import torch
from digits import DigitNet, accuracy, digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset
from tqdm import tqdm

from flowyml import Model, current, step
from flowyml_pytorch import Elastic, distributed_loader

PROCESSES = int(os.environ.get("PROCESSES", "1"))


@step(seed=0, launcher=Elastic(nproc_per_node=PROCESSES) if PROCESSES > 1 else None)
def train(epochs: int = 10, learning_rate: float = 0.05, batch_size: int = 64) -> Model:
    """Train a network and return it with its history."""
    here = current()
    train_set, test_set = (  # all of it fits onto any device
        TensorDataset(*(tensor.to(here.device) for tensor in part.tensors)) for part in digits()
    )
    net = DigitNet().to(here.device)
    net.dropout = nn.Identity()  # what it drops would depend on the number of processes
    model = DistributedDataParallel(net) if here.world_size > 1 else net
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    loader = distributed_loader(train_set, batch_size)
    history: dict[str, list[float]] = {"test_accuracy": []}

    for _ in tqdm(range(epochs), desc="training", unit="epoch", disable=here.rank > 0):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        history["test_accuracy"].append(accuracy(net, test_set))

    return Model.from_pytorch(model, name="digits", training_history=history)


def main() -> None:
    """Train for as many epochs as the command line says."""
    model = train(*map(int, sys.argv[1:]))
    if model.version is not None:  # under torchrun, rank 0 alone has saved it
        reached = model.training_history["test_accuracy"][-1]
        print(f"Saved as {model.ref}, test accuracy {reached:.2%}")


if __name__ == "__main__":
    main()
