"""Every kind of module that people have, with the exact values expected of it."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from flowyml import Model, Store
from flowyml.errors import AdapterWarning

torch_is_deprecated = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
"""Importing torch's compiler warns of parts of torch itself."""


class MyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 64)
        self.fc2 = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def properties(module: Any, **options: Any) -> dict[str, Any]:
    return Model.from_pytorch(module, **options).metadata.properties


MYNET = {
    "parameters": 769,
    "model_class": "MyNet",
    "num_layers": 2,
    "layer_types": ["Linear", "ReLU"],
    "num_tensors": 4,
    "tensor_shapes_sample": {
        "fc1.weight": [64, 10], "fc1.bias": [64], "fc2.weight": [1, 64], "fc2.bias": [1],
    },
    "functional_ops": ["relu"],
}  # fmt: skip


def assert_described_as_mynet(found: dict[str, Any], **but: Any) -> None:
    assert {key: found[key] for key in MYNET} == {**MYNET, **but}


def test_an_empty_module() -> None:
    found = properties(nn.Module())
    assert found["parameters"] == found["num_tensors"] == found["size_bytes"] == 0
    assert found["device"] is found["dtype"] is None
    assert (found["num_layers"], found["layer_types"]) == (1, ["Module"])


def test_device_and_dtype_come_from_buffers_when_there_are_no_parameters() -> None:
    module = nn.Module()
    module.register_buffer("table", torch.zeros(3, dtype=torch.int16))
    found = properties(module)
    assert (found["device"], found["dtype"]) == ("cpu", "torch.int16")
    assert (found["buffers"], found["size_bytes"]) == (3, 6)


def test_mixed_devices_and_dtypes() -> None:
    net = nn.Sequential(
        nn.Linear(3, 3), nn.Linear(2, 2, dtype=torch.bfloat16), nn.Linear(4, 4, device="meta")
    )
    found = properties(net)
    assert found["devices"] == {"cpu": 18, "meta": 20}
    assert found["dtypes"] == {"torch.float32": 32, "torch.bfloat16": 6}
    assert (found["device"], found["dtype"]) == ("meta", "torch.float32")
    assert found["size_bytes"] == 4 * 32 + 2 * 6


def test_ties_and_shared_modules_count_once_and_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.block = nn.Linear(3, 3)
            self.again = self.block
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    net = Net()
    found = properties(net)
    assert found["parameters"] == 15 + 12
    assert found["num_tensors"] == len(net.state_dict()) == 6
    assert list(found["tensor_shapes_sample"]) == list(net.state_dict())
    assert found["tied_parameters"] == [
        ["embed.weight", "head.weight"],
        ["block.weight", "again.weight"],
        ["block.bias", "again.bias"],
    ]
    assert found["layers"]["Linear"] == {"count": 2, "parameters": 12}
    assert found["num_layers"] == 3


def test_a_module_that_contains_itself_is_described() -> None:
    net = MyNet()
    net.fc1.root = [net]
    net.fc1.add_module("loop", net)
    assert properties(net)["parameters"] == 769


def test_lazy_parameters_are_listed_and_the_rest_is_counted() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2), nn.LazyBatchNorm1d())
    found = properties(net)
    assert found["parameters"] == 10
    assert found["uninitialized_parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert found["num_tensors"] == len(net.state_dict())
    assert found["layer_types"] == ["LazyLinear", "Linear", "LazyBatchNorm1d"]


def test_buffers_of_both_kinds() -> None:
    net = nn.BatchNorm1d(4)
    net.register_buffer("scratch", torch.zeros(7), persistent=False)
    found = properties(net)
    assert found["buffers"] == 4 + 4 + 1 + 7
    assert found["non_persistent_buffers"] == ["scratch"]
    assert found["num_tensors"] == 5


def test_containers_are_no_layers() -> None:
    net = nn.Sequential(
        nn.ModuleList([nn.Linear(1, 1)]),
        nn.ModuleDict({"a": nn.ReLU()}),
        nn.ParameterList([nn.Parameter(torch.ones(3))]),
        nn.Sequential(nn.Dropout()),
    )
    found = properties(net)
    assert found["layer_types"] == ["Linear", "ReLU", "Dropout"]
    assert found["num_layers"] == 7
    assert found["parameters"] == 5


@torch_is_deprecated
@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (nn.DataParallel, "DataParallel"),
        (AveragedModel, "AveragedModel"),
        (torch.compile, "OptimizedModule"),
        (lambda m: torch.compile(nn.DataParallel(m)), "OptimizedModule(DataParallel)"),
    ],
)
def test_wrappers_are_looked_through(wrap: Any, wrapper: str) -> None:
    found = properties(wrap(MyNet()))
    assert_described_as_mynet(found)
    assert found["wrapper"] == wrapper
    assert properties(MyNet())["wrapper"] is None


@torch_is_deprecated
def test_a_wrapper_inside_is_looked_through() -> None:
    net = MyNet()
    net.fc1 = torch.compile(net.fc1)
    found = properties(net)
    assert_described_as_mynet(found)


def test_parametrized_modules_count_as_their_class() -> None:
    net = MyNet()
    parametrizations.weight_norm(net.fc1)
    parametrizations.orthogonal(net.fc2, "weight")
    found = properties(net)
    assert found["layer_types"] == ["Linear", "ReLU"]
    assert (found["model_class"], found["num_layers"]) == ("MyNet", 2)
    assert found["parameters"] == sum(p.numel() for p in net.parameters())
    assert found["num_tensors"] == len(net.state_dict())
    assert found["parametrizations"] == {
        "fc1.weight": ["_WeightNorm"],
        "fc2.weight": ["_Orthogonal"],
    }
    assert found["layers"]["Linear"]["parameters"] == found["parameters"]
    root = parametrizations.weight_norm(nn.Linear(2, 2))
    assert (properties(root)["model_class"], properties(root)["num_layers"]) == ("Linear", 1)
    assert parametrize.is_parametrized(root)


def test_scripted_modules_go_by_their_original_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and people have such modules
        scripted = torch.jit.script(MyNet())
        traced = torch.jit.trace(MyNet(), torch.zeros(1, 10))
    for module in (scripted, traced):
        found = properties(module)
        assert_described_as_mynet(found, layer_types=["Linear"], functional_ops=[])


def test_traced_graphs_are_read() -> None:
    found = properties(torch.fx.symbolic_trace(MyNet()))
    assert_described_as_mynet(found)


def test_exported_programs_are_described() -> None:
    net = MyNet().eval()
    program = torch.export.export(net, (torch.zeros(2, 10),))
    found = properties(program)
    assert_described_as_mynet(found)
    assert found["trainable_parameters"] == 769
    assert (found["device"], found["dtype"]) == ("cpu", "torch.float32")
    assert Model.create(program).framework == "pytorch"


def test_quantized_weights_are_counted_from_their_packed_form() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eager quantization is deprecated, and still in use
        quantized = torch.ao.quantization.quantize_dynamic(MyNet(), {nn.Linear}, dtype=torch.qint8)
        found = properties(quantized)
    assert found["quantized"] is True
    assert found["parameters"] == 769
    assert found["dtypes"] == {"torch.qint8": 704, "torch.float32": 65}
    assert found["layer_types"] == ["Linear", "ReLU"]
    assert found["num_layers"] == 2
    assert properties(MyNet())["quantized"] is False


def test_a_state_dict_that_raises_costs_two_fields_and_is_named() -> None:
    class Broken(MyNet):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no state")

    with pytest.warns(AdapterWarning, match=r"num_tensors .* of a Broken .*state_dict\(\) raised"):
        found = properties(Broken())
    assert found["num_tensors"] is found["tensor_shapes_sample"] is None
    assert found["parameters"] == 769


def test_a_state_dict_of_ones_own_is_asked() -> None:
    class Extended(MyNet):
        def get_extra_state(self) -> Tensor:
            return torch.zeros(2)

    assert properties(Extended())["num_tensors"] == 5


def test_properties_that_raise_are_not_touched() -> None:
    class Hostile(MyNet):
        @property
        def device(self) -> str:
            raise RuntimeError

        @property
        def parameters_(self) -> int:
            raise RuntimeError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert properties(Hostile())["parameters"] == 769


def test_a_module_without_its_parents_init_is_described() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            pass

    assert properties(Careless())["parameters"] == 0


def test_counts_are_exact_where_torchinfo_counts_ties_twice() -> None:
    transformers = pytest.importorskip("transformers", reason="the zoo's library")
    config = transformers.GPT2Config()
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    model.tie_weights()
    assert properties(model)["parameters"] == 124_439_808


def test_llama_70b_on_meta_is_counted_exactly() -> None:
    transformers = pytest.importorskip("transformers", reason="the zoo's library")
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    found = properties(model)
    layer = 8192 * 8192 * 2 + 8192 * 1024 * 2 + 3 * 8192 * 28672 + 2 * 8192
    assert found["parameters"] == 80 * layer + 2 * 128256 * 8192 + 8192 == 70_553_706_496
    assert found["device"] == "meta"
    assert found["layers"]["LlamaDecoderLayer"]["count"] == 80


def state_of(module: nn.Module) -> list[Any]:
    return [
        [(id(p), p._version, p.requires_grad, id(p.grad)) for p in module.parameters()],
        [(name, id(b), b._version) for name, b in module.named_buffers()],
        [
            (m.training, list(vars(m)), [len(v) for v in vars(m).values() if isinstance(v, dict)])
            for m in module.modules()
        ],
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # type: ignore[union-attr, index]
    ]  # fmt: skip


def test_nothing_changes() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.LSTM(4, 4))
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones(4)
    net[0].register_forward_hook(lambda *_: None)
    values = copy.deepcopy(net.state_dict())
    before = state_of(net)
    properties(net)
    properties(net, example_inputs=torch.ones(3, 4))
    assert state_of(net) == before
    assert all(torch.equal(values[key], item) for key, item in net.state_dict().items())
    assert torch.equal(net[0].bias.grad, torch.ones(4))


def test_refresh_describes_again_and_keeps_what_the_user_added() -> None:
    net = MyNet()
    model = Model.from_pytorch(net, note="mine", example_inputs=torch.ones(1, 10))
    net.fc3 = nn.Linear(3, 3)
    net.eval()
    net.fc1.requires_grad_(False)
    assert model.refresh() is model
    assert model.parameters == 769 + 12
    assert model.frozen_parameters == 704
    assert model.training_mode is False
    assert model.metadata.properties["note"] == "mine"
    assert model.metadata.properties["input_signature"]["shape"] == [1, 10]
    model.refresh(example_inputs=torch.ones(5, 10))
    assert model.metadata.properties["output_signature"]["shape"] == [5, 1]
    with pytest.raises(TypeError, match="epochs: not an option of 'pytorch'"):
        model.refresh(epochs=3)


def test_a_description_is_deterministic_and_survives_the_store(store: Store) -> None:
    descriptions = [properties(MyNet(), example_inputs=torch.ones(2, 10)) for _ in range(2)]
    assert descriptions[0] == descriptions[1]
    store.save(Model.from_pytorch(MyNet(), "m", example_inputs=torch.ones(2, 10)))
    assert store.get("m").metadata.properties == descriptions[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_recurrent_layers_are_counted() -> None:
    net = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.LSTM}, dtype=torch.qint8)
    found = properties(quantized)
    assert found["parameters"] == sum(p.numel() for p in net.parameters())
    assert found["quantized"] is True
