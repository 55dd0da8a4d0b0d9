"""Quantized layers come back with their weights packed again, and compute the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from typing import Any

import apart
import pytest
import torch
import torch.ao.nn.intrinsic.quantized as fused
import torch.ao.nn.intrinsic.quantized.dynamic as fused_dynamic
import torch.ao.nn.quantized as static
import torch.ao.nn.quantized.dynamic as dynamic
import torch.ao.nn.quantized.reference as reference
import torch.ao.nn.sparse.quantized as sparse
import torch.ao.nn.sparse.quantized.dynamic as sparse_dynamic
from torch import Tensor, nn
from torch.ao import quantization

from flowyml_pytorch.quantizing import packed
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError

# What torch says of its own: quantized tensors, how they are saved, and what quantizes layers.
TOLD = (
    "quantization is deprecated",
    "other quantized tensor creation functions",
    "will be removed in a future PyTorch release",
    "TypedStorage is deprecated",
    "poor numerical accuracy",
    "reduce_range will be deprecated",
    "must run observer before",
)
pytestmark = [pytest.mark.filterwarnings(f"ignore:(?s).*{text}") for text in TOLD]

PACKED, QCONFIG, MAKER = packed.KINDS
ENGINES = [name for name in torch.backends.quantized.supported_engines if name != "none"]


@pytest.fixture(autouse=True)
def one_thread_and_one_engine() -> Iterator[None]:
    before = torch.get_num_threads(), torch.backends.quantized.engine
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    torch.backends.quantized.engine = before[1]


@pytest.fixture
def round_trip() -> Callable[[Any], Any]:
    return apart.round_trip


def by_tensor(*shape: int, dtype: torch.dtype = torch.qint8) -> Tensor:
    zero = 7 if dtype == torch.quint8 else 0
    return torch.quantize_per_tensor(torch.randn(shape), 0.03, zero, dtype)


def by_channel(*shape: int) -> Tensor:
    scales, zeros = torch.rand(shape[0]) * 0.05 + 0.01, torch.zeros(shape[0], dtype=torch.long)
    return torch.quantize_per_channel(torch.randn(shape), scales, zeros, 0, torch.qint8)


def by_row(*shape: int, dtype: torch.dtype = torch.quint8) -> Tensor:
    scales, zeros = torch.rand(shape[0]) * 0.05 + 0.01, torch.rand(shape[0])
    return torch.quantize_per_channel(torch.randn(shape), scales, zeros, 0, dtype)


def whole(*shape: int) -> Tensor:
    return by_tensor(*shape, dtype=torch.quint8)


def filled(layer: Any) -> Any:
    """Give a layer weights of all kinds that it takes, and an output of some scale."""
    weight, bias = layer.weight(), layer.bias()
    blocks = (1, 4) if "sparse" in type(layer).__module__ else ()
    fresh = by_tensor if "Transpose" in type(layer).__name__ else by_channel
    new = fresh(*weight.shape) if weight.is_quantized else torch.randn(weight.shape)
    layer.set_weight_bias(new, None if bias is None else torch.randn(bias.shape), *blocks)
    if hasattr(layer, "scale"):
        layer.scale, layer.zero_point = 0.2, 5
    return layer


Example = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What makes a layer, and what runs one."""


def on_onednn(make: Callable[[], Any]) -> Callable[[], Any]:
    """Use the one engine that has such a layer."""

    def made() -> Any:
        if "onednn" not in ENGINES:
            pytest.skip("onednn isn't here")
        torch.backends.quantized.engine = "onednn"
        return filled(make())

    return made


def example(make: Callable[[], Any], take: Callable[..., Tensor], *shape: int) -> Example:
    return make, lambda layer: layer(take(*shape))


def convolutions(package: Any, take: Callable[..., Tensor]) -> dict[str, list[Example]]:
    """Return examples of the convolutions of a package, over one to three dimensions."""
    found: dict[str, list[Example]] = {}
    for dims in (1, 2, 3):
        choices: dict[str, list[dict[str, Any]]] = {
            f"Conv{dims}d": [{"stride": 2, "padding": 1, "groups": 2}, {"dilation": 2}],
            f"ConvTranspose{dims}d": [
                {"stride": 2, "padding": 1},
                {"output_padding": 0, "bias": False},
            ],
            f"ConvReLU{dims}d": [{"padding": 1, "bias": False}],
        }
        for name, options in choices.items():
            cls = getattr(package, name, None)
            if cls is not None:
                found[name] = [
                    example(
                        lambda c=cls, o=each: filled(c(4, 6, 2, **o)), take, 2, 4, *(6, 5, 4)[:dims]
                    )  # type: ignore[misc]
                    for each in options
                ]
    return found


def embedding(cls: Any, dtype: torch.dtype) -> Example:
    def make() -> Any:
        layer = cls(10, 6, dtype=dtype)
        layer.set_weight(by_row(10, 6, dtype=dtype))
        return layer

    offsets = (torch.tensor([0, 2]),) if cls is static.EmbeddingBag else ()
    return make, lambda layer: layer(torch.tensor([1, 4, 9, 0]), *offsets)


def converted(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Quantize a model by the numbers that go through it."""
    model.eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(model)
    prepared(torch.randn(shape))
    return quantization.convert(prepared)


class Attending(nn.Module):
    """Attention by itself, between quantized and other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize = quantization.QuantStub()
        self.attention = nn.MultiheadAttention(4, 2)
        self.dequantize = quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize(x)
        return self.dequantize(self.attention(x, x, x)[0])  # type: ignore[no-any-return]


class Recurrent(Attending):
    """An LSTM, between quantized and other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.LSTM(4, 3)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.dequantize(self.attention(self.quantize(x))[0])  # type: ignore[no-any-return]


HALF = {"dtype": torch.float16}
ONES: Any = (nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4)), 0.2, 5)

STATIC: dict[str, list[Example]] = {
    **convolutions(static, whole),
    "BatchNorm2d": [example(lambda: static.BatchNorm2d(4).eval(), whole, 2, 4, 3, 3)],
    "BatchNorm3d": [example(lambda: static.BatchNorm3d(4).eval(), whole, 2, 4, 3, 3, 3)],
    "DeQuantize": [example(static.DeQuantize, whole, 2, 4)],
    "Dropout": [example(lambda: static.Dropout(0.3).eval(), whole, 2, 4)],
    "ELU": [example(lambda: static.ELU(0.2, 5, 0.7), whole, 2, 4)],
    "Embedding": [
        embedding(static.Embedding, torch.quint8),
        embedding(static.Embedding, torch.quint4x2),
    ],
    "EmbeddingBag": [
        embedding(static.EmbeddingBag, torch.quint8),
        embedding(static.EmbeddingBag, torch.quint4x2),
    ],
    "FXFloatFunctional": [
        (static.FXFloatFunctional, lambda f: f.add(torch.ones(2), torch.ones(2)))
    ],
    "FloatFunctional": [(static.FloatFunctional, lambda f: f.add(torch.ones(2), torch.ones(2)))],
    "GroupNorm": [example(lambda: static.GroupNorm(2, 4, *ONES), whole, 2, 4, 3)],
    "Hardswish": [example(lambda: static.Hardswish(0.2, 5), whole, 2, 4)],
    "InstanceNorm1d": [example(lambda: static.InstanceNorm1d(4, *ONES), whole, 2, 4, 3)],
    "InstanceNorm2d": [example(lambda: static.InstanceNorm2d(4, *ONES), whole, 2, 4, 3, 3)],
    "InstanceNorm3d": [example(lambda: static.InstanceNorm3d(4, *ONES), whole, 2, 4, 3, 3, 3)],
    "LSTM": [example(lambda: converted(Recurrent(), (5, 2, 4)), torch.randn, 5, 2, 4)],
    "LayerNorm": [example(lambda: static.LayerNorm([4], *ONES), whole, 2, 4)],
    "LeakyReLU": [example(lambda: static.LeakyReLU(0.2, 5), whole, 2, 4)],
    "Linear": [
        example(lambda: filled(static.Linear(4, 3)), whole, 2, 4),
        example(lambda: filled(static.Linear(4, 3, bias_=False)), whole, 2, 4),
    ],
    "MaxPool2d": [example(lambda: static.MaxPool2d(2), whole, 2, 4, 4, 4)],
    "MultiheadAttention": [
        example(lambda: converted(Attending(), (5, 2, 4)), torch.randn, 5, 2, 4)
    ],
    "PReLU": [example(lambda: static.PReLU(0.2, 5), whole, 2, 4)],
    "QFunctional": [(static.QFunctional, lambda f: f.add(whole(2, 4), whole(2, 4)))],
    "Quantize": [example(lambda: static.Quantize(0.2, 5, torch.quint8), torch.randn, 2, 4)],
    "ReLU6": [example(static.ReLU6, whole, 2, 4)],
    "Sigmoid": [example(lambda: static.Sigmoid(0.01, 0), whole, 2, 4)],
    "Softmax": [example(lambda: static.Softmax(1, 0.01, 0), whole, 2, 4)],
}

DYNAMIC: dict[str, list[Example]] = {
    **convolutions(dynamic, torch.randn),
    "GRU": [example(lambda: dynamic.GRU(4, 3, num_layers=2), torch.randn, 5, 2, 4)],
    "GRUCell": [example(lambda: dynamic.GRUCell(4, 3), torch.randn, 2, 4)],
    "LSTM": [
        example(lambda: dynamic.LSTM(4, 3, num_layers=2, bidirectional=True), torch.randn, 5, 2, 4),
        example(lambda: dynamic.LSTM(4, 3, **HALF), torch.randn, 5, 2, 4),
    ],
    "LSTMCell": [example(lambda: dynamic.LSTMCell(4, 3), torch.randn, 2, 4)],
    "Linear": [
        example(lambda: filled(dynamic.Linear(4, 3)), torch.randn, 2, 4),
        example(lambda: filled(dynamic.Linear(4, 3, **HALF)), torch.randn, 2, 4),
    ],
    "RNNCell": [example(lambda: dynamic.RNNCell(4, 3), torch.randn, 2, 4)],
}

FUSED: dict[str, list[Example]] = {
    **convolutions(fused, whole),
    "BNReLU2d": [example(lambda: fused.BNReLU2d(4).eval(), whole, 2, 4, 3, 3)],
    "BNReLU3d": [example(lambda: fused.BNReLU3d(4).eval(), whole, 2, 4, 3, 3, 3)],
    "ConvAdd2d": [
        (
            on_onednn(lambda: fused.ConvAdd2d(4, 4, 1)),
            lambda m: m(whole(2, 4, 3, 3), whole(2, 4, 3, 3)),
        )
    ],
    "ConvAddReLU2d": [
        (
            on_onednn(lambda: fused.ConvAddReLU2d(4, 4, 1)),
            lambda m: m(whole(2, 4, 3, 3), whole(2, 4, 3, 3)),
        )
    ],
    "LinearLeakyReLU": [example(on_onednn(lambda: fused.LinearLeakyReLU(4, 3, 0.1)), whole, 2, 4)],
    "LinearReLU": [example(lambda: filled(fused.LinearReLU(4, 3)), whole, 2, 4)],
    "LinearTanh": [example(on_onednn(lambda: fused.LinearTanh(4, 3)), whole, 2, 4)],
}

FUSED_DYNAMIC: dict[str, list[Example]] = {
    "LinearReLU": [example(lambda: filled(fused_dynamic.LinearReLU(4, 3)), torch.randn, 2, 4)],
}

REFERENCE: dict[str, list[Example]] = {
    **{
        f"Conv{kind}{dims}d": [
            example(
                lambda n=f"Conv{kind}{dims}d": getattr(reference, n)(4, 6, 2),  # type: ignore[misc]
                torch.randn,
                *(2, 4, 6, 5, 4)[: dims + 2],
            )
        ]
        for kind in ("", "Transpose")
        for dims in (1, 2, 3)
    },
    "Embedding": [(lambda: reference.Embedding(9, 4), lambda m: m(torch.tensor([1, 4])))],
    "EmbeddingBag": [(lambda: reference.EmbeddingBag(9, 4), lambda m: m(torch.tensor([[1, 4]])))],
    "GRU": [example(lambda: reference.GRU(4, 3), torch.randn, 5, 2, 4)],
    "GRUCell": [example(lambda: reference.GRUCell(4, 3), torch.randn, 2, 4)],
    "LSTM": [example(lambda: reference.LSTM(4, 3), torch.randn, 5, 2, 4)],
    "LSTMCell": [example(lambda: reference.LSTMCell(4, 3), torch.randn, 2, 4)],
    "Linear": [example(lambda: reference.Linear(4, 3), torch.randn, 2, 4)],
    "RNNCell": [example(lambda: reference.RNNCell(4, 3), torch.randn, 2, 4)],
}

PACKAGES: Mapping[Any, dict[str, list[Example]]] = {
    static: STATIC,
    dynamic: DYNAMIC,
    fused: FUSED,
    fused_dynamic: FUSED_DYNAMIC,
    reference: REFERENCE,
}

CASES = [
    pytest.param(*one, id=f"{package.__name__.removeprefix('torch.ao.nn.')}.{name}-{number}")
    for package, examples in PACKAGES.items()
    for name, choices in examples.items()
    for number, one in enumerate(choices)
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_quantized_layer_of_torch_has_an_example(package: Any) -> None:
    there = {
        name
        for name, item in vars(package).items()
        if isinstance(item, type) and issubclass(item, nn.Module)
    }
    assert there == PACKAGES[package].keys(), "add the layers of this torch to the examples"


def same(left: Any, right: Any) -> bool:
    """Compare values bit for bit, and how tensors are quantized."""
    if isinstance(left, (tuple, list)):
        return type(left) is type(right) and all(starmap(same, zip(left, right, strict=True)))
    if not isinstance(left, Tensor):
        return type(left) is type(right) and left == right
    if (left.dtype, left.shape, left.is_quantized) != (
        right.dtype,
        right.shape,
        right.is_quantized,
    ):
        return False
    if left.is_quantized:
        assert left.qscheme() == right.qscheme()
        return torch.equal(left.int_repr(), right.int_repr()) and same(scales(left), scales(right))
    return torch.equal(left, right)


def scales(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.qscheme() == torch.per_tensor_affine:
        return tensor.q_scale(), tensor.q_zero_point()
    return tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()


def assert_same(layer: nn.Module, again: nn.Module, run: Callable[[Any], Any]) -> None:
    """Check that layers are the same, and compute the same."""
    for one, other in zip(layer.modules(), again.modules(), strict=True):
        assert type(one) is type(other)
        assert vars(one).keys() == vars(other).keys()
    assert repr(again) == repr(layer)
    results = []
    for each in (layer, again):
        torch.manual_seed(1)
        results.append(run(each))
    assert same(*results)


@pytest.mark.parametrize(("make", "run"), CASES)
def test_a_quantized_layer_computes_the_same_bits(
    make: Callable[[], Any], run: Callable[[Any], Any], round_trip: Callable[[Any], Any]
) -> None:
    layer = make()
    assert_same(layer, round_trip(layer), run)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [lambda: static.Linear(4, 3), lambda: static.Conv2d(4, 3, 1)])
def test_weights_are_packed_by_the_engine_that_was_in_use(
    engine: str, make: Callable[[], Any]
) -> None:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    layer = filled(make())
    inner = getattr(layer._packed_params, "_packed_params", layer._packed_params)
    parts = dict(PACKED.parts(inner))
    torch.backends.quantized.engine = before
    assert parts["engine"] == engine
    packed = PACKED.build(torch.ScriptObject, parts)
    assert torch.backends.quantized.engine == before
    x = whole(*(2, 4, 3, 3)[: layer.weight().dim()])
    result = layer(x)
    if isinstance(layer, static.Linear):
        layer._packed_params._packed_params = packed
    else:
        layer._packed_params = packed
    assert same(layer(x), result)


def test_an_engine_that_does_not_pack_such_weights_leaves_it_to_others() -> None:
    layer = filled(static.Conv3d(4, 3, 1))
    parts = {**PACKED.parts(layer._packed_params), "engine": "qnnpack"}
    packed: Any = PACKED.build(torch.ScriptObject, parts)
    assert same(packed.unpack()[0], layer.weight())
    packed = PACKED.build(torch.ScriptObject, {**parts, "engine": "of another machine"})
    assert same(packed.unpack()[1], layer.bias())


def test_weights_are_packed_again_a_second_time(round_trip: Callable[[Any], Any]) -> None:
    layer = filled(static.Conv1d(4, 6, 2, padding=1))
    assert_same(layer, round_trip(round_trip(layer)), lambda m: m(whole(2, 4, 5)))


def test_packed_weights_in_two_layers_stay_shared(round_trip: Callable[[Any], Any]) -> None:
    layers = nn.ModuleList([filled(dynamic.Linear(4, 4)), dynamic.Linear(4, 4)])
    first, second = (layer._packed_params for layer in layers)
    second._packed_params = first._packed_params  # type: ignore[union-attr]
    first, second = (layer._packed_params for layer in round_trip(layers))
    assert first._packed_params is second._packed_params  # type: ignore[union-attr]


def test_a_bias_that_is_a_parameter_stays_one(round_trip: Callable[[Any], Any]) -> None:
    layer = quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)))[0]
    assert type(layer.bias()) is nn.Parameter
    again = round_trip(layer)
    assert type(again.bias()) is nn.Parameter
    assert torch.equal(again.bias(), layer.bias())


class Mixed(nn.Module):
    """Several layers that are quantized while they run."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(4, 5, num_layers=2)
        self.cell = nn.GRUCell(5, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.recurrent(x)[0][-1]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_a_model_that_is_quantized_while_it_runs_comes_back(
    dtype: torch.dtype, round_trip: Callable[[Any], Any]
) -> None:
    model = quantization.quantize_dynamic(Mixed(), dtype=dtype)
    assert_same(model, round_trip(model), lambda m: m(torch.randn(3, 2, 4)))


class Convolving(nn.Module):
    """Layers that are fused and quantized by the numbers that go through them."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize = quantization.QuantStub()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.sum = static.FloatFunctional()
        self.head = nn.Linear(4 * 16, 2)
        self.dequantize = quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.quantize(x))
        x = self.sum.add(x, x).flatten(1)
        return self.dequantize(self.head(x))  # type: ignore[no-any-return]


def test_a_model_that_was_fused_and_quantized_comes_back(round_trip: Callable[[Any], Any]) -> None:
    model = Convolving().eval()
    quantization.fuse_modules(model, [["layers.0", "layers.1", "layers.2"]], inplace=True)
    model = converted(model, (2, 3, 5, 5))  # type: ignore[assignment]
    assert type(model.layers[0]) is fused.ConvReLU2d
    assert_same(model, round_trip(model), lambda m: m(torch.randn(2, 3, 5, 5)))


def prepared() -> Any:
    model = Convolving().train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    return quantization.prepare_qat(model)


def learn(model: nn.Module, steps: range) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in steps:
        torch.manual_seed(number)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 5, 5)).square().mean().backward()
        optimizer.step()
    return model


def test_a_model_that_learns_to_be_quantized_goes_on(round_trip: Callable[[Any], Any]) -> None:
    model = learn(prepared(), range(3))
    again = round_trip(model)
    layer = again.layers[0]
    assert layer.qconfig.weight.callable_args["factory_kwargs"]() == {"device": torch.device("cpu")}
    assert layer.qconfig.weight.callable_args["factory_kwargs"].module is layer
    for each in (model, again, second := round_trip(again)):
        learn(each, range(3, 6)).eval()
    results = [quantization.convert(each) for each in (model, again, second)]
    for result in results[1:]:
        assert_same(results[0], result, lambda m: m(torch.randn(2, 3, 5, 5)))


OBSERVERS = [
    item
    for name, item in vars(quantization).items()
    if isinstance(item, type)
    and issubclass(item, quantization.ObserverBase)
    and not getattr(item, "__abstractmethods__", None)
    and not name.startswith("_")
]


def observer(cls: Any) -> Any:
    if cls is quantization.FixedQParamsObserver:
        return cls(0.1, 3)
    return cls()


@pytest.mark.parametrize("cls", OBSERVERS)
def test_an_observer_goes_on_observing(cls: Any, round_trip: Callable[[Any], Any]) -> None:
    watching = observer(cls)
    watching(torch.randn(3, 4))
    again = round_trip(watching)
    assert type(again) is cls
    for each in (watching, again):
        torch.manual_seed(1)
        each(torch.randn(3, 4) * 2)
    assert repr(again) == repr(watching)
    assert vars(again).keys() == vars(watching).keys()
    assert all(starmap(same, zip(again.buffers(), watching.buffers(), strict=True)))


@pytest.mark.parametrize(
    ("engine", "cls", "take"),
    [("fbgemm", sparse.Linear, whole), ("qnnpack", sparse_dynamic.Linear, torch.randn)],
)
def test_sparse_weights_come_back(
    engine: str, cls: Any, take: Callable[..., Tensor], round_trip: Callable[[Any], Any]
) -> None:
    if engine not in ENGINES:
        pytest.skip(f"{engine} isn't here")
    torch.backends.quantized.engine = engine
    layer = filled(cls(8, 4, 1, 4))
    assert_same(layer, round_trip(layer), lambda m: m(take(2, 8)))


def test_other_objects_of_torchs_code_are_refused_by_their_class(
    round_trip: Callable[[Any], Any],
) -> None:
    with pytest.raises(NotRestorableError, match=r"timer.* C\+\+ class profiler._RecordFunct"):
        round_trip({"timer": torch.ops.profiler._record_function_enter_new("x")})
    cell = torch.ops.quantized.make_quantized_cell_params
    packed = cell(torch.randn(4, 4), torch.randn(4, 4), torch.randn(4), torch.randn(4))
    with pytest.raises(NotRestorableError, match="recurrent weights of the kind 'quantized'"):
        round_trip(packed)


def linear_parts(**changes: Any) -> dict[str, Any]:
    layer = filled(static.Linear(4, 3))
    return {**PACKED.parts(layer._packed_params._packed_params), **changes}


def convolution_parts(cls: Any = static.Conv2d, **changes: Any) -> dict[str, Any]:
    return {**PACKED.parts(filled(cls(4, 6, 2, groups=2))._packed_params), **changes}


def cell_parts(dtype: torch.dtype = torch.qint8, **changes: Any) -> dict[str, Any]:
    layer = dynamic.LSTM(4, 3, dtype=dtype)
    return {**PACKED.parts(layer._all_weight_values[0].param), **changes}


def embedding_parts(**changes: Any) -> dict[str, Any]:
    layer = static.Embedding(10, 6)
    return {**PACKED.parts(layer._packed_params._packed_weight), **changes}


def sparse_parts(**changes: Any) -> dict[str, Any]:
    parts = {"packs": "sparse.LinearPackedParamsBase", "engine": "qnnpack"}
    return {**parts, "weight": by_tensor(4, 8), "bias": None, "block": [1, 4], **changes}


def along_columns() -> Tensor:
    zeros = torch.zeros(4, dtype=torch.long)
    return torch.quantize_per_channel(torch.randn(3, 4), torch.ones(4), zeros, 1, torch.qint8)


# Some of these end the process when they reach torch.
UNFIT: list[Callable[[], dict[str, Any]]] = [
    lambda: linear_parts(packs="profiler._RecordFunction"),
    lambda: linear_parts(packs=3),
    lambda: linear_parts(weight=None),
    lambda: linear_parts(weight=torch.randn(3)),
    lambda: linear_parts(weight=torch.randn(3, 4).half()),
    lambda: linear_parts(weight=torch.randn(3, 4).to_sparse()),
    lambda: linear_parts(weight=by_tensor(3, 4, dtype=torch.quint8)),
    lambda: linear_parts(weight=by_tensor(0, 4), bias=None),
    lambda: linear_parts(weight=by_row(3, 4)),
    lambda: linear_parts(weight=along_columns()),
    lambda: linear_parts(bias=torch.randn(3).half()),
    lambda: linear_parts(bias=torch.randn(2)),
    lambda: linear_parts(bias=[1.0, 2.0, 3.0]),
    lambda: linear_parts(more=1),
    lambda: {"packs": "quantized.LinearPackedParamsBase"},
    lambda: convolution_parts(groups=0),
    lambda: convolution_parts(groups=-1),
    lambda: convolution_parts(groups=5),
    lambda: convolution_parts(groups=True),
    lambda: convolution_parts(stride=[0, 0]),
    lambda: convolution_parts(stride=[1 << 32, 1]),
    lambda: convolution_parts(stride=[1]),
    lambda: convolution_parts(stride=(1, 1)),
    lambda: convolution_parts(padding=[-1, 0]),
    lambda: convolution_parts(dilation=[0, 1]),
    lambda: convolution_parts(output_padding=[1.5, 0]),
    lambda: convolution_parts(transposed=1),
    lambda: convolution_parts(weight=by_tensor(6, 2, 2)),
    lambda: convolution_parts(weight=by_tensor(6, 0, 2, 2)),
    lambda: convolution_parts(bias=torch.randn(4)),
    lambda: convolution_parts(packs="quantized.Conv3dPackedParamsBase"),
    lambda: convolution_parts(static.ConvTranspose2d, bias=torch.randn(4)),
    lambda: convolution_parts(static.ConvTranspose2d, weight=by_channel(4, 3, 2, 2)),
    lambda: cell_parts(w_ih=None),
    lambda: cell_parts(w_hh=torch.ops.quantized.embedding_bag_prepack(by_row(4, 3))),
    lambda: cell_parts(b_ih=torch.randn(3)),
    lambda: cell_parts(b_hh=None),
    lambda: cell_parts(reduce_range=1),
    lambda: cell_parts(torch.float16, b_ih=torch.randn(12), b_hh=torch.randn(12)),
    lambda: cell_parts(w_ih=cell_parts(torch.float16)["w_ih"]),
    lambda: embedding_parts(weight=by_tensor(4, 4, dtype=torch.quint8)),
    lambda: embedding_parts(weight=by_channel(4, 4)),
    lambda: embedding_parts(weight=torch.randn(4, 4)),
    lambda: sparse_parts(block=[0, 4]),
    lambda: sparse_parts(block=[1 << 40, 4]),
    lambda: sparse_parts(weight=by_tensor(4)),
]


@pytest.mark.parametrize("parts", UNFIT)
@pytest.mark.parametrize("engine", ENGINES)
def test_unfit_weights_are_refused(engine: str, parts: Callable[[], dict[str, Any]]) -> None:
    made = parts()
    torch.backends.quantized.engine = engine
    if "engine" in made:
        made["engine"] = engine
    with pytest.raises((TypeError, ValueError, KeyError)):
        PACKED.build(torch.ScriptObject, made)


def test_no_other_class_is_built() -> None:
    with pytest.raises(TypeError, match="Linear is no object of torch's C"):
        PACKED.build(nn.Linear, linear_parts())


def qconfig_parts(**changes: Any) -> dict[str, Any]:
    makers = quantization.QConfig(quantization.MinMaxObserver, quantization.default_weight_observer)
    return {**QCONFIG.parts(makers), **changes}


def maker_parts(**changes: Any) -> dict[str, Any]:
    return {**MAKER.parts(quantization.default_weight_observer), **changes}


@pytest.mark.parametrize(
    ("kind", "cls", "parts"),
    [
        (QCONFIG, tuple, qconfig_parts),
        (QCONFIG, quantization.QConfig, lambda: qconfig_parts(weight=3)),
        (QCONFIG, quantization.QConfig, lambda: qconfig_parts(weight=nn.ReLU())),
        (QCONFIG, quantization.QConfig, dict),
        (MAKER, nn.Linear, maker_parts),
        (MAKER, type(quantization.default_weight_observer), lambda: maker_parts(p=3)),
        (
            MAKER,
            type(quantization.default_weight_observer),
            lambda: maker_parts(callable_args={"eps": 3}),
        ),
        (
            MAKER,
            type(quantization.default_weight_observer),
            lambda: maker_parts(device_of={"factory_kwargs": len}),
        ),
    ],
)
def test_unfit_ways_to_quantize_are_refused(
    kind: Kind, cls: type, parts: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        kind.build(cls, parts())
