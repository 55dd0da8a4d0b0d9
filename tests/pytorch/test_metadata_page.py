"""The page on metadata names every property that is emitted, and none that isn't."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowyml import Model
from flowyml_pytorch.describing.observe import UNOBSERVED

PAGE = (Path(__file__).parents[2] / "docs" / "metadata.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.M)
DOCUMENTED = [name for name, _ in ROWS]
GIVEN = ["optimizer", "scheduler", "loss"]
TYPES = {"int": int, "bool": bool, "str": str, "list": list, "dict": dict, "None": type(None)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Broken(Net):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no state")


def plain() -> Model:
    return Model.from_pytorch(Net())


def with_inputs() -> Model:
    return Model.from_pytorch(Net(), example_inputs=torch.ones(2, 4))


def with_unfit_inputs() -> Model:
    return Model.from_pytorch(Net(), example_inputs=torch.ones(3))


def empty() -> Model:
    return Model.from_pytorch(nn.Module())


def lazy() -> Model:
    return Model.from_pytorch(nn.Sequential(nn.LazyLinear(2)))


def wrapped() -> Model:
    return Model.from_pytorch(nn.DataParallel(Net()))


def exported() -> Model:
    return Model.from_pytorch(torch.export.export(Net(), (torch.ones(2, 4),)))


def broken() -> Model:
    with pytest.warns(match="not known"):
        return Model.from_pytorch(Broken())


def trained() -> Model:
    optimizer = torch.optim.SGD(Net().parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return Model.from_pytorch(
        Net(), optimizer=optimizer, scheduler=scheduler, loss=torch.nn.functional.mse_loss
    )


KINDS = [plain, with_inputs, with_unfit_inputs, empty, lazy, wrapped, exported, broken]


@pytest.mark.parametrize("described", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_emitted_is_what_the_page_documents(described: Callable[[], Model]) -> None:
    always = [name for name in DOCUMENTED if name not in GIVEN]
    assert sorted(described().metadata.properties) == sorted(always)


def test_what_a_model_was_trained_with_is_emitted_where_it_is_given() -> None:
    assert sorted(trained().metadata.properties) == sorted(DOCUMENTED)
    section = PAGE.partition("## Optimizer, scheduler and loss")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| ", section, re.M) == GIVEN


@pytest.mark.parametrize("described", KINDS, ids=lambda kind: kind.__name__)
def test_every_property_is_of_the_type_that_the_page_says(described: Callable[[], Model]) -> None:
    found = described().metadata.properties
    for name, types in ROWS:
        if types != "any" and name in found:
            allowed = [TYPES[part] for part in types.split(" or ")]
            assert type(found[name]) in allowed, name


def test_every_table_row_of_a_property_was_read() -> None:
    assert len(DOCUMENTED) == len(re.findall(r"^\| `\w+` \|", PAGE, re.M))


def test_every_property_of_a_pass_over_inputs_is_in_that_section() -> None:
    section = PAGE.partition("## Example inputs")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| ", section, re.M) == list(UNOBSERVED)


def test_every_field_of_an_observed_layer_is_documented() -> None:
    layers = with_inputs().metadata.properties["observed_layers"]
    documented = re.findall(r"^- `(\w+)`: ", PAGE, re.M)
    assert list(layers) == ["", "first", "second"]
    assert all(list(layer) == documented for layer in layers.values())
