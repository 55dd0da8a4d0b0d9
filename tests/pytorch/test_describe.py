from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flowyml import Model
from flowyml.errors import UnsupportedObjectError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_all_properties_of_an_ordinary_module() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    for parameter in net[0].parameters():
        parameter.requires_grad = False
    net.eval()
    model = Model.from_pytorch(net, name="net")
    assert model.framework == "pytorch"
    assert model.parameters == 3 * 8 * 9 + 8 + 16 + 18
    assert model.frozen_parameters == 3 * 8 * 9 + 8
    assert model.trainable_parameters == 34
    assert model.architecture == model.model_class == "Sequential"
    assert model.num_layers == 4
    assert model.layer_types == ["Conv2d", "BatchNorm2d", "Flatten", "Linear"]
    assert model.num_tensors == 9
    assert model.tensor_shapes_sample is not None
    assert model.tensor_shapes_sample["0.weight"] == [8, 3, 3, 3]
    assert list(model.tensor_shapes_sample) == list(net.state_dict())
    assert model.training_mode is False
    assert (model.device, model.dtype) == ("cpu", "torch.float32")


def test_tied_weights_count_once() -> None:
    model = Model.from_pytorch(Tied())
    assert model.parameters == 40
    assert model.num_tensors == 2


def test_an_empty_module_has_all_properties() -> None:
    model = Model.from_pytorch(nn.Module())
    assert (model.parameters, model.num_tensors, model.num_layers) == (0, 0, 1)
    assert (model.device, model.dtype) == (None, None)


def test_device_and_dtype_are_those_of_most_elements() -> None:
    net = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(9, 9))
    assert Model.from_pytorch(net).dtype == "torch.float32"
    assert Model.from_pytorch(nn.Linear(2, 2, device="meta")).device == "meta"


def test_the_history_takes_tensors() -> None:
    model = Model.from_pytorch(
        nn.Linear(1, 1),
        training_history={"loss": [torch.tensor(0.5), torch.tensor([0.25]), np.float32(1)]},
    )
    assert model.training_history == {"epochs": [1, 2, 3], "loss": [0.5, 0.25, 1.0]}
    with pytest.raises(TypeError, match=r"\['loss'\]\[0\] has to be a number; got a torch.Tensor"):
        Model.from_pytorch(nn.Linear(1, 1), training_history={"loss": [torch.zeros(2)]})


@pytest.mark.parametrize(
    "what",
    [None, {}, nn.Linear, [nn.Linear(1, 1)], torch.zeros(1), "model", nn.Linear(1, 1).state_dict()],
)
def test_what_is_no_module_is_refused(what: Any) -> None:
    with pytest.raises(UnsupportedObjectError, match=r"Model.from_pytorch needs a torch.nn.Module"):
        Model.from_pytorch(what)
    with pytest.raises(TypeError):
        Model.create(what)


def test_create_detects_a_module() -> None:
    assert Model.create(Tied()).framework == "pytorch"
