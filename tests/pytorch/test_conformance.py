"""The PyTorch adapter keeps every promise: the whole kit, as a third party runs it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.testing import AdapterConformance

torch.set_num_threads(1)  # in the new processes too, which import this: sums depend on it

PAGE = (
    "framework",
    "parameters",
    "trainable_parameters",
    "frozen_parameters",
    "architecture",
    "model_class",
    "num_layers",
    "layer_types",
    "num_tensors",
    "tensor_shapes_sample",
    "training_mode",
    "device",
    "dtype",
)
"""The properties that the page of the integration promises."""


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('code_was_run', 'w').close()",)


def saved(obj: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


class TestPyTorch(AdapterConformance):
    framework = "pytorch"
    properties = PAGE

    def make_model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
            )
            model(torch.randn(16, 4)).sum().backward()
            torch.optim.SGD(model.parameters(), 0.1).step()
        model.zero_grad()
        model[0].weight.requires_grad_(False)
        return model.eval()

    def change_model(self, model: nn.Module) -> nn.Module:
        bias = model[-1].bias.data
        bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
        return model

    @torch.no_grad()
    def predict(self, model: nn.Module) -> Tensor:
        return copy.deepcopy(model).eval()(torch.linspace(-1, 1, 12).view(3, 4))

    def variants(self) -> Iterator[nn.Module]:
        dropping, leaky, training, frozen, momentum, kept, double, named, further = (
            self.make_model() for _ in range(9)
        )
        dropping[3].p = 0.25
        leaky[2] = nn.LeakyReLU(0.0)
        training.train()
        frozen[4].bias.requires_grad_(False)
        momentum[1].momentum = 0.2
        kept[1].track_running_stats = False
        named.add_module("last", nn.Identity())
        further.append(nn.Identity())
        yield from (dropping, leaky, training, frozen, momentum, kept, double.double(), named)
        yield further

    def make_model_that_needs_trust(self) -> nn.Module:
        import their_layers

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(their_layers.Gate(), nn.Linear(4, 2)).eval()

    def other_objects(self) -> list[object]:
        layer = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        return [
            torch.ones(2), layer.weight, layer.state_dict(), optimizer, nn.Linear, nn.functional,
            torch, torch.float32, nn.functional.relu, layer.forward, [layer], torch.Generator(),
        ]  # fmt: skip

    def draw(self) -> Tensor:
        return torch.rand(4)

    def hostile_files(self, files: Mapping[str, bytes]) -> Iterator[Mapping[str, bytes]]:
        for path, content in files.items():
            if path.endswith(".pt"):
                for obj in (Runs(), {"0.weight": Runs()}, nn.Linear(4, 8), torch.ones(1)):
                    for zipped in (True, False):
                        yield {**files, path: saved(obj, zipped)}
            for name in (b"os:system", b"builtins:exec", b"torch.hub:load", b"torch.nn:Nothing"):
                named = content.replace(b"torch.nn.modules.linear:Linear", name)
                if named != content:
                    yield {**files, path: named}
            if path.endswith(".safetensors"):
                yield {**files, path: content.replace(b'"F32"', b'"F64"')}
                yield {**files, path: b"\xff" * 8 + content[8:]}
