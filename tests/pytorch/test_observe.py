"""One pass over example inputs, on shapes."""

from __future__ import annotations

import resource
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowyml import Model
from flowyml_pytorch.describing.observe import UNOBSERVED, signature


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        return {"logits": self.head(x.mean((2, 3))) * scale, "features": x}


def observed(module: nn.Module, example_inputs: Any) -> dict[str, Any]:
    return Model.from_pytorch(module, example_inputs=example_inputs).metadata.properties


def test_shapes_flops_and_bytes_are_exact() -> None:
    found = observed(Net(), torch.zeros(2, 3, 16, 16))
    conv, head = 2 * 2 * 8 * 16 * 16 * 27, 2 * 2 * 8 * 5
    assert found["flops"] == conv + head
    assert found["observation_error"] is None
    assert found["input_signature"] == {"shape": [2, 3, 16, 16], "dtype": "torch.float32"}
    assert found["output_signature"] == {
        "logits": {"shape": [2, 5], "dtype": "torch.float32"},
        "features": {"shape": [2, 8, 16, 16], "dtype": "torch.float32"},
    }
    layers = found["observed_layers"]
    assert list(layers) == ["", "conv", "norm", "head"]
    assert layers["conv"] == {
        "type": "Conv2d",
        "parameters": 224,
        "inputs": {"0": {"shape": [2, 3, 16, 16], "dtype": "torch.float32"}},
        "outputs": {"shape": [2, 8, 16, 16], "dtype": "torch.float32"},
        "flops": conv,
        "activation_bytes": 4 * 2 * 8 * 16 * 16,
        "calls": 1,
    }
    assert layers[""]["flops"] == found["flops"]
    assert layers[""]["activation_bytes"] == found["activation_bytes"]
    assert found["observed_operations"]["aten.convolution"] == 1
    assert "aten.relu" in found["operations_without_flops"]
    assert "aten.convolution" not in found["operations_without_flops"]


@pytest.mark.parametrize(
    "example_inputs",
    [
        torch.zeros(1, 3, 4, 4),
        (torch.zeros(1, 3, 4, 4),),
        (torch.zeros(1, 3, 4, 4), 2.0),
        {"x": torch.zeros(1, 3, 4, 4), "scale": 0.5},
    ],
)
def test_inputs_of_every_form(example_inputs: Any) -> None:
    found = observed(Net(), example_inputs)
    assert found["output_signature"]["logits"]["shape"] == [1, 5]
    assert found["input_signature"] == signature(example_inputs)


def test_nested_inputs() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[Tensor, dict[str, list[Tensor]]]) -> Tensor:
            first, rest = pair
            return first + rest["more"][0]

    found = observed(Nested(), {"pair": (torch.zeros(3), {"more": [torch.zeros(3)]})})
    assert found["output_signature"] == {"shape": [3], "dtype": "torch.float32"}


def test_without_example_inputs_the_properties_are_there_and_none() -> None:
    found = Model.from_pytorch(Net()).metadata.properties
    assert {key: found[key] for key in UNOBSERVED} == dict(UNOBSERVED)


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x)
        return y if y.sum() > 0 else -y


def test_a_forward_that_depends_on_data_keeps_the_reason_and_everything_else() -> None:
    found = observed(DataDependent(), torch.zeros(1, 2))
    assert "DataDependent" in found["observation_error"]
    assert found["flops"] is found["observed_layers"] is None
    assert found["parameters"] == 6
    assert found["input_signature"]["shape"] == [1, 2]


def test_wrong_inputs_keep_the_reason() -> None:
    found = observed(Net(), torch.zeros(7))
    assert found["observation_error"]
    assert found["parameters"] == Model.from_pytorch(Net()).parameters
    lazy = observed(nn.LazyLinear(3), torch.zeros(1, 2))
    assert "parameters without a shape" in lazy["observation_error"]


def test_a_branch_on_known_numbers_is_followed() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * 2 if mask.all() else x[mask.bool()]

    x = torch.zeros(4, 3)
    ones = observed(Masked(), (x, torch.ones(4, dtype=torch.long)))
    assert ones["output_signature"]["shape"] == [4, 3]
    some = observed(Masked(), (x, torch.tensor([1, 0, 1, 0])))
    assert some["output_signature"] is None or some["output_signature"]["shape"] == [2, 3]


def test_known_values_that_are_overwritten_by_unknown_ones_are_not_trusted() -> None:
    class Stale(nn.Module):
        def forward(self, x: Tensor, flags: Tensor) -> Tensor:
            flags = flags.clone()
            flags[0] = x.sum().long()
            return x if flags[0] > 0 else x[:1]

    found = observed(Stale(), (torch.ones(3), torch.zeros(2, dtype=torch.long)))
    assert "DataDependent" in found["observation_error"]


def test_the_inputs_are_not_written_to() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            x.add_(1)
            ids.mul_(2)
            return x + ids

    x, ids = torch.zeros(3), torch.ones(3, dtype=torch.long)
    found = observed(InPlace(), (x, ids))
    assert found["observation_error"] is None
    assert x.tolist() == [0, 0, 0]
    assert ids.tolist() == [1, 1, 1]
    assert x._version == ids._version == 0


def test_modules_on_meta_are_observed() -> None:
    found = observed(nn.Sequential(nn.Linear(4, 8, device="meta"), nn.ReLU()), torch.zeros(2, 4))
    assert found["output_signature"]["shape"] == [2, 8]
    assert found["flops"] == 2 * 2 * 4 * 8


def test_encoder_layers_are_seen_in_evaluation_too() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    found = observed(encoder.eval(), torch.zeros(1, 3, 8))
    assert "layers.1.linear2" in found["observed_layers"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_layer_that_is_called_twice_is_summed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.line(self.line(x))

    found = observed(Twice(), torch.zeros(1, 4))
    assert found["observed_layers"]["line"]["calls"] == 2
    assert found["observed_layers"]["line"]["flops"] == found["flops"] == 2 * 2 * 16


def test_recurrent_layers_have_flops() -> None:
    found = observed(nn.LSTM(3, 5), torch.zeros(7, 2, 3))
    assert found["flops"] == 2 * 7 * 2 * (4 * 5 * 3 + 4 * 5 * 5)


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with resource")
def test_no_memory_is_needed_for_values() -> None:
    wide = nn.Sequential(*[nn.Linear(20_000, 20_000, device="meta") for _ in range(4)])
    observed(nn.Linear(2, 2), torch.zeros(1, 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = observed(wide, torch.zeros(1000, 20_000, device="meta"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found["activation_bytes"] == 4 * 4 * 1000 * 20_000
    assert grown * 1024 < 50e6


def test_products_in_place_and_into_a_given_tensor_are_counted() -> None:
    class InPlace(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            y = torch.zeros(2, 4).addmm_(a, b)
            return torch.mm(a, b, out=y)

    found = observed(InPlace(), (torch.zeros(2, 3), torch.zeros(3, 4)))
    assert found["flops"] == 2 * (2 * 2 * 3 * 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_layers_go_by_their_own_names_whatever_wraps_them() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    net[0] = nn.DataParallel(net[0])
    found = observed(net, torch.zeros(1, 2))
    assert list(found["observed_layers"]) == ["", "0", "1"]


def test_a_view_of_a_product_takes_no_memory_of_its_own() -> None:
    found = observed(nn.Linear(4, 8, bias=False), torch.zeros(2, 3, 4))
    assert found["activation_bytes"] == 4 * 2 * 3 * 8
    assert "aten._unsafe_view" not in found["operations_without_flops"]


def test_observing_leaves_no_trace_of_its_hooks_in_torch() -> None:
    before = dict(torch.nn.modules.module._global_forward_hooks_with_kwargs)
    Model.from_pytorch(torch.nn.Linear(2, 1), example_inputs=torch.ones(1, 2))
    assert dict(torch.nn.modules.module._global_forward_hooks_with_kwargs) == before
