from typing import Any

import torch
from torch import nn

from flowyml import Model, Store, adapters, runs, seed_everything, step


def test_a_returned_module_is_saved_through_torch_save(store: Store) -> None:
    @step
    def train(width: int = 3) -> nn.Module:
        return nn.Linear(width, 1)

    module = train()
    (record,) = runs()
    output = record.steps[0].outputs[0]
    assert output.ref == "train@v1"
    assert output.type == "torch.nn.modules.linear.Linear"
    assert output.digest == store.get("train").digest
    assert torch.equal(store.load("train").weight, module.weight)
    assert store.get("train").stored.materializer == "pytorch.module"


def test_modules_loaders_and_tensors_are_inputs_by_type(store: Store) -> None:
    @step
    def train(model: nn.Module, x: torch.Tensor, lr: float, scale: torch.Tensor) -> None: ...

    train(nn.Linear(1, 1), torch.ones(3), 0.1, torch.tensor(2.0))
    record = runs()[0].steps[0]
    assert record.hyperparameters == {"lr": 0.1, "scale": 2.0}
    assert record.inputs == {"model": "torch.nn.modules.linear.Linear", "x": "torch.Tensor"}


def test_a_seed_reaches_torch_and_the_outer_state_is_put_back(store: Store) -> None:
    @step(seed=4)
    def draw() -> torch.Tensor:
        return torch.rand(3)

    seed_everything(1)
    expected = torch.rand(2), torch.rand(2)
    seed_everything(1)
    assert torch.equal(torch.rand(2), expected[0])
    first = draw()
    assert torch.equal(torch.rand(2), expected[1])
    assert torch.equal(draw(), first)
    assert store.get("draw@v1").digest == store.get("draw@v2").digest


def test_mixed_outputs(store: Store) -> None:
    @step
    def train() -> dict[str, Any]:
        return {
            "model": nn.Linear(1, 1),
            "accuracy": 0.9,
            "asset": Model.from_pytorch(nn.Linear(1, 1), "named"),
        }

    train()
    assert store.names() == ["named", "train.accuracy", "train.model"]


def test_the_adapter_brings_what_it_says() -> None:
    (info,) = [info for info in adapters.load() if info.name == "pytorch"]
    assert (info.distribution, info.state) == ("flowyml-pytorch", "loaded")
