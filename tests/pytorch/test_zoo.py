"""Architectures of the `transformers` library, tiny and built from configs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from flowyml import Model
from flowyml_pytorch.describing.observe import signature

zoo = pytest.importorskip("zoo", reason="needs transformers")

DATA_DEPENDENT = {"switch_transformers": "experts are chosen by nonzero() of the router's output"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace_of(module: nn.Module) -> list[Any]:
    """Everything that a pass could leave on a module, by identity, version and length."""
    return [
        [(id(t), t._version, t.requires_grad) for t in (*module.parameters(), *module.buffers())],
        [
            (m.training, [(key, id(item)) for key, item in vars(m).items()])
            for m in module.modules()
        ],
        [
            (len(item), [id(part) for part in (item.values() if isinstance(item, dict) else item)])
            for m in module.modules()
            for item in vars(m).values()
            if isinstance(item, (dict, list))
        ],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES, ids=lambda item: item.name)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_architecture_is_described_exactly(architecture: Any) -> None:
    module, inputs = architecture.build(), architecture.example_inputs()
    before = trace_of(module)
    model = Model.from_pytorch(module, example_inputs=inputs)
    assert trace_of(module) == before

    assert model.parameters == module.num_parameters()
    assert model.trainable_parameters == module.num_parameters(only_trainable=True)
    assert model.num_tensors == len(module.state_dict())
    tied = [
        sorted(group)
        for group in _names(module).values()
        if len(group) > 1
    ]  # fmt: skip
    assert sorted(map(sorted, model.metadata.properties["tied_parameters"])) == sorted(tied)
    assert model.layer_types == Model.from_pytorch(architecture.build()).layer_types

    found = model.metadata.properties
    if architecture.name in DATA_DEPENDENT:
        assert found["observation_error"]
        return
    assert found["observation_error"] is None
    with torch.no_grad():
        assert found["output_signature"] == signature(module(**inputs))
    assert found["flops"] > 0


def _names(module: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def test_the_zoo_is_large() -> None:
    assert len(zoo.ARCHITECTURES) >= 40
