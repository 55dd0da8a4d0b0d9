"""Functional operations, read from code that is never run."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn, relu
from torch.nn.functional import gelu as smooth

from flowyml import Model
from flowyml_pytorch.describing import functional

aliased = torch.tanh


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("nothing is run")


def operations(cls: type[nn.Module]) -> list[str]:
    return functional.operations(cls())


def test_through_modules_names_and_aliases_in_code_order() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(aliased(smooth(relu(torch.nn.functional.max_pool2d(x, 2)))), -1)

    assert operations(Net) == ["softmax", "tanh", "gelu", "relu", "max_pool2d"]


def test_a_function_of_the_users_own_is_not_torchs() -> None:
    def gelu(x: Tensor) -> Tensor:
        return x

    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            return gelu(x).relu().softmax(-1)

    assert operations(Net) == []


def test_methods_of_self_are_read_where_they_are_called() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self.body(x))
            return F.elu(x)

        def body(self, x: Tensor) -> Tensor:
            return self.body(torch.tanh(x))

        def unused(self, x: Tensor) -> Tensor:
            return F.mish(x)

    assert operations(Net) == ["sigmoid", "tanh", "elu"]


def test_inherited_forwards_and_super() -> None:
    class Parent(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.hook(torch.relu(x))

        def hook(self, x: Tensor) -> Tensor:
            return F.silu(x)

    class Inheriting(Parent):
        def hook(self, x: Tensor) -> Tensor:
            return F.mish(x)

    class Extending(Parent):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(super().forward(x))

    assert sorted(operations(Inheriting)) == ["mish", "relu"]
    assert sorted(operations(Extending)) == ["relu", "silu", "tanh"]


def test_comprehensions_and_lambdas_belong_to_their_method() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            parts = [torch.relu(self.part(y)) for y in x]
            return functools.reduce(lambda a, b: F.hardtanh(a + b), parts)

        def part(self, x: Tensor) -> Tensor:
            return F.celu(x)

    assert set(operations(Net)) == {"relu", "celu", "hardtanh"}


def test_decorated_forwards_are_read_through() -> None:
    class Net(Base):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    assert operations(Net) == ["relu"]


def test_attributes_that_hold_functions_of_torch() -> None:
    class Net(Base):
        def __init__(self, activation: object) -> None:
            super().__init__()
            self.activation = activation

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(x)

    assert functional.operations(Net(F.gelu)) == ["gelu"]
    assert functional.operations(Net(torch.relu)) == ["relu"]
    assert functional.operations(Net(lambda x: x)) == []
    assert functional.operations(Net(nn.GELU())) == []


def test_in_place_variants_go_by_the_plain_name() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu_(F.elu_(x))

    assert operations(Net) == ["relu", "elu"]


def test_making_tensors_is_no_operation() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(3) + torch.arange(3) + torch.matmul(x, torch.ones(3))

    assert operations(Net) == ["matmul"]


def test_torchs_own_layers_are_not_opened() -> None:
    assert functional.operations(nn.TransformerEncoderLayer(4, 2)) == []
    assert functional.calls_of(nn.LSTM) == ()


def test_a_class_is_read_once() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    assert functional.calls_of(Net) is functional.calls_of(Net)


def test_names_of_modules() -> None:
    names = {
        "relu": "ReLU", "max_pool2d": "MaxPool2d", "log_softmax": "LogSoftmax", "silu": "SiLU",
        "cross_entropy": "CrossEntropyLoss", "binary_cross_entropy": "BCELoss", "gelu": "GELU",
        "layer_norm": "LayerNorm", "nll_loss": "NLLLoss", "leaky_relu": "LeakyReLU",
        "conv2d": "Conv2d", "matmul": None, "scaled_dot_product_attention": None,
    }  # fmt: skip
    assert {name: functional.module_name(name) for name in names} == names


def test_layer_types_come_in_order_modules_first_and_without_containers() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.norm(x))

    net = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([Block(), Block()]), nn.Dropout())
    assert Model.from_pytorch(net).layer_types == [
        "Linear", "Block", "LayerNorm", "Dropout", "ReLU",
    ]  # fmt: skip
    assert Model.from_pytorch(nn.Linear(1, 1)).layer_types == ["Linear"]
