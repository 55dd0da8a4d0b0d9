from typing import Any

import pytest
import torch
from torch import nn

from flowyml import Model, Store, adapters, runs, seed_everything, step
from flowyml.errors import FlowymlWarning


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


def test_modules_loaders_and_tensors_are_inputs_by_content(store: Store) -> None:
    @step
    def train(model: nn.Module, x: torch.Tensor, lr: float, scale: torch.Tensor) -> None: ...

    model = nn.Linear(1, 1)
    train(model, torch.ones(3), 0.1, torch.tensor(2.0))
    record = runs()[0].steps[0]
    assert record.hyperparameters == {"lr": 0.1, "scale": 2.0}
    assert {name: found.type for name, found in record.inputs.items()} == {
        "model": "torch.nn.modules.linear.Linear",
        "x": "torch.Tensor",
        "scale": "torch.Tensor",
    }
    assert record.inputs["model"].digest == store.save(model, "m").digest
    assert record.inputs["x"].digest == store.save(torch.ones(3), "x").digest


def batches(model: nn.Module, data: torch.Tensor, epochs: int) -> list[float]:
    """Train a module in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_in_place_makes_a_version_derived_from_the_old(store: Store) -> None:
    @step
    def tune(model: nn.Module, data: torch.Tensor) -> Model:
        history = batches(model, data, 2)
        return Model.from_pytorch(model, "net", training_history={"loss": history})

    store.save(nn.Linear(3, 1), "net")
    store.save(data := torch.ones(4, 3), "data")
    tuned = tune(store.load("net"), data)
    assert tuned.ref == "net@v2"
    assert [(parent.ref, parent.relation) for parent in store.get("net@v2").parents] == [
        ("net@v1", "parent"),
        ("data@v1", "trained_on"),
    ]
    found = runs()[0].steps[0].inputs["model"]
    assert (found.ref, found.digest) == ("net@v1", store.get("net@v1").digest)
    assert found.changed == tuned.digest


def test_a_module_that_is_trained_in_place_and_not_returned_is_recognised(store: Store) -> None:
    @step
    def tune(model: nn.Module) -> list[float]:
        return batches(model, torch.ones(4, 3), 1)

    @step
    def score(model: nn.Module) -> float:
        return 0.5

    store.save(model := nn.Linear(3, 1), "net")
    tune(model)
    score(model)
    first, second = (record.steps[0].inputs["model"] for record in runs())
    assert (first.ref, second.ref) == ("net@v1", f"kept@{second.digest}")
    assert second.derived_from == "net@v1"
    assert second.digest == first.changed


def test_optimizers_schedulers_and_losses_are_described(store: Store) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    @step
    def train(optimizer: Any, scheduler: Any, loss: nn.Module) -> None: ...

    train(
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, 7),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    )
    inputs = runs()[0].steps[0].inputs
    assert inputs["optimizer"].settings["class"] == "torch.optim.adamw.AdamW"
    assert inputs["optimizer"].settings["lr"] == 0.02
    assert inputs["scheduler"].settings["step_size"] == 7
    assert inputs["loss"].settings["label_smoothing"] == 0.1


def test_a_loop_that_changes_a_module_is_cached_with_what_it_does_to_it(store: Store) -> None:
    calls = []

    @step(cache=True)
    def tune(model: nn.Module, data: torch.Tensor) -> Model:
        calls.append(1)
        batches(model, data, 2)
        return Model.from_pytorch(model, "net")

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    data = torch.ones(4, 3)
    first, second = fresh(), fresh()
    made, taken = tune(first, data), tune(second, data)
    assert calls == [1]
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, fresh().weight)
    assert taken.data is second
    assert (taken.ref, taken.digest) == (made.ref, made.digest)
    assert store.versions("net") == ["v1"]
    with torch.no_grad():
        third = fresh()
        third.weight[0, 1] += 1e-3
    tune(third, data)
    data[2, 1] = 2
    tune(fresh(), data)
    assert calls == [1, 1, 1]


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


def test_parts_of_a_result_that_is_stored_whole_come_from_it(store: Store) -> None:
    @step
    def prepare() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(4, 3), torch.zeros(4)

    @step
    def fit(x: torch.Tensor, y: torch.Tensor) -> Model:
        return Model.from_pytorch(nn.Linear(3, 1), "net")

    fit(*prepare())
    assert runs()[0].outputs == ["prepare@v1"]
    inputs = runs()[1].steps[0].inputs
    assert [found.derived_from for found in inputs.values()] == ["prepare@v1", "prepare@v1"]
    assert [found.ref for found in inputs.values()] == [f"kept@{i.digest}" for i in inputs.values()]
    assert [(p.ref, p.relation) for p in store.get("net").parents] == [("prepare@v1", "trained_on")]
    fit(*store.load("prepare"))
    assert runs()[2].steps[0].inputs["x"].derived_from == "prepare@v1"


def test_an_optimizer_of_another_equal_model_is_another_call(store: Store) -> None:
    @step(cache=True)
    def one(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return next(model.parameters()).sum().item()

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(2, 1)

    model, other = fresh(), fresh()
    before = model.weight.sum().item()
    assert one(fresh(), torch.optim.SGD(other.parameters(), lr=1.0)) == before
    assert one(model, torch.optim.SGD(model.parameters(), lr=1.0)) != before


def test_a_function_that_leaves_its_model_in_another_mode_runs_each_time(store: Store) -> None:
    calls = []

    @step(cache=True)
    def tune(model: nn.Module) -> float:
        calls.append(1)
        loss = batches(model, torch.ones(4, 3), 1)[0]
        model.eval()
        return loss

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    tune(fresh())
    with pytest.warns(FlowymlWarning, match="changes more of its argument 'model'"):
        tune(model := fresh())
    assert calls == [1, 1]
    assert not model.training
    assert not torch.equal(model.weight, fresh().weight)
