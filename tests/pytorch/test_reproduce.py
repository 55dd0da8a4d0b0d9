"""Trainings that are repeated and compared bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flowyml import Model, Store, run, runs, step
from flowyml.reproducing import reproduce

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.5)
        self.outer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.dropout(torch.relu(self.inner(x))))


def loader(**options: Any) -> DataLoader[Any]:
    rows = torch.linspace(0, 1, 64).reshape(16, 4)
    return DataLoader(TensorDataset(rows, rows.sum(1)), batch_size=4, shuffle=True, **options)


@step
def train(dataloader: Any, model: nn.Module, epochs: int = 2) -> Model:
    """Train in place, as the page does."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(epochs):
        for rows, targets in dataloader:
            optimizer.zero_grad()
            loss = (model(rows).squeeze(1) - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return Model.from_pytorch(model, name="net", training_history={"loss": losses})


def last(store: Store) -> str:
    return runs(store)[-1].id


def test_a_model_that_was_trained_in_place_is_trained_again_from_where_it_was(
    store: Store,
) -> None:
    torch.manual_seed(0)
    model = Net()
    with run("a", store=store):
        train(loader(), model)
        train(loader(), model, epochs=1)
    found = reproduce(last(store), store)
    assert found.identical, found
    kinds = [(output.kind, output.key) for one in found.steps for output in one.outputs]
    assert kinds == [("output", ""), ("argument", "model")] * 2


def test_shuffling_and_dropout_without_a_seed_come_again(store: Store) -> None:
    @step
    def make() -> list[Any]:
        net = Net()
        return [net(rows) for rows, _ in loader()]

    with run("a", store=store) as first:
        make()
        make()
    digests = {output.digest for one in first.steps for output in one.outputs}
    assert len(digests) > 1
    assert reproduce(first.id, store).identical


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_workers_of_a_loader_draw_the_same_again(store: Store) -> None:
    with run("a", store=store):
        train(DataLoader(Noise(), batch_size=2, num_workers=2), Net(), epochs=1)
    found = reproduce(last(store), store)
    assert found.identical, found


class Noise(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(4), torch.rand(())


def test_what_differs_is_told_tensor_by_tensor(store: Store) -> None:
    scale = [1.0]

    @step(seed=1)
    def make() -> nn.Module:
        net = Net()
        with torch.no_grad():
            net.outer.weight *= scale[0]
        return net

    with run("a", store=store):
        make()
    scale[0] = 1.5
    told: list[str] = []
    found = reproduce(last(store), store, tell=told.append)
    assert any(line.startswith("code differs: ") and "scale" in line for line in told)
    (output,) = found.steps[0].outputs
    assert output.changes is not None
    (change,) = output.changes
    assert change.name == "outer.weight"
    assert (change.elements, change.different, change.first) == (8, 8, (0, 0))
    assert change.max_relative == pytest.approx(0.5)
    assert "the output: outer.weight: 8 of 8 elements differ, first at [0, 0]: was " in (
        found.text()
    )


@step
def one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, data: torch.Tensor
) -> None:
    model(data).sum().backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()


def test_arguments_that_had_parts_in_common_have_them_again(store: Store) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with run("a", store=store) as r:
        one_step(model, optimizer, scheduler, torch.ones(2, 4))
    inputs = r.steps[0].inputs
    together = {inputs[name].within for name in ("model", "optimizer", "scheduler")}
    assert len(together) == 1
    assert None not in together
    assert inputs["data"].within is None
    found = reproduce(last(store), store)
    assert found.identical, found.text()


def python(*arguments: object, folder: Path, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_digits_example_gives_the_same_in_two_processes_and_when_it_is_reproduced(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sklearn", reason="the example's images come with scikit-learn")
    text = (EXAMPLES / "digits.py").read_text()
    start = "evaluate(sys.argv[1]) if len(sys.argv) > 1 else main()"
    assert start in text
    quick = text.replace(start, "train(epochs=1)")
    (tmp_path / "digits.py").write_text(quick)
    for _ in range(2):
        python("digits.py", folder=tmp_path)
    first, second = runs()
    assert [one.digest for one in first.steps[0].outputs] == [
        one.digest for one in second.steps[0].outputs
    ]
    lines = python("-m", "flowyml", "reproduce", first.id, folder=tmp_path).splitlines()
    assert lines[1] == "Nothing that is recorded differs from then."
    assert "bit for bit identical: 1 result" in lines[-1]
    (tmp_path / "digits.py").write_text(quick.replace("/ 16", "/ 15"))
    said = python("-m", "flowyml", "reproduce", first.id, folder=tmp_path, status=1)
    before, _, after = said.partition("0  train: ")
    assert "code differs: digits.digits changed" in before
    assert "conv1.weight: " in after


def test_states_of_torch_in_a_script_come_again(tmp_path: Path) -> None:
    text = """
        import random
        import numpy as np
        import torch
        from flowyml import step

        @step
        def draw():
            return torch.rand(2), np.random.rand(2), random.random()

        if __name__ == "__main__":
            draw()
        """
    (tmp_path / "draw.py").write_text(dedent(text))
    python("draw.py", folder=tmp_path)
    record = runs()[-1]
    said = python("-m", "flowyml", "reproduce", record.id, folder=tmp_path)
    assert "is bit for bit identical: 1 result compared." in said
