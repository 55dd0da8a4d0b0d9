"""What belongs together is saved together: models with what trains them, in every format."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from flowyml import Model, Store, step
from flowyml.errors import IntegrityError, MaterializationError, MaterializationWarning


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(x)))


def training() -> dict[str, Any]:
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = TensorDataset(torch.arange(40) % 5, (torch.arange(40) + 1) % 5)
    seen, held = random_split(data, [30, 10], torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
        "loader": DataLoader(seen, 4, shuffle=True, generator=generator),
        "held": DataLoader(held, 5),
        "generator": generator,
        "losses": [0.5],
        "seen": torch.zeros(3),
    }


def epoch(t: dict[str, Any]) -> list[float]:
    losses = []
    for x, y in t["loader"]:
        t["optimizer"].zero_grad()
        loss = F.cross_entropy(t["model"](x), y)
        t["scaler"].scale(loss).backward()
        t["scaler"].step(t["optimizer"])
        t["scaler"].update()
        t["scheduler"].step()
        losses.append(loss.item())
    return losses


def test_training_goes_on_bit_for_bit_from_what_was_saved(store: Store) -> None:
    t = training()
    for _ in range(2):
        epoch(t)
    asset = store.save(t, "training")
    assert asset.required_trust == ()
    state = torch.get_rng_state()
    expected = [epoch(t) for _ in range(3)]
    back = store.load("training")
    torch.set_rng_state(state)
    assert [epoch(back) for _ in range(3)] == expected
    assert back["model"].head.weight is back["model"].embed.weight
    assert back["optimizer"].param_groups[0]["params"][0] is back["model"].embed.weight
    assert back["scheduler"].optimizer is back["optimizer"]
    assert back["loader"].generator is back["generator"]
    assert back["loader"].dataset.dataset is back["held"].dataset.dataset
    for one, two in zip(
        t["model"].state_dict().values(), back["model"].state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def test_an_optimizer_costs_no_second_copy_of_the_parameters(store: Store) -> None:
    model = nn.Linear(500, 500)
    store.save(model, "model")
    before = store.stats().stored
    store.save(torch.optim.SGD(model.parameters(), lr=0.1), "optimizer")
    assert store.stats().stored - before < 10_000


def test_a_state_goes_into_what_the_caller_built(store: Store) -> None:
    t = training()
    epoch(t)
    for name in ("optimizer", "scheduler", "scaler", "generator"):
        store.save(t[name], name)
    fresh = training()
    for name in ("optimizer", "scheduler", "scaler", "generator"):
        assert store.load(name, into=fresh[name]) is fresh[name]
    assert fresh["scheduler"].state_dict() == t["scheduler"].state_dict()
    other = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1)
    with pytest.raises(MaterializationError, match="optimizer@v1 doesn't fit"):
        store.load("optimizer", into=other)


def test_a_scheduler_with_a_lambda_is_saved_with_its_state(store: Store) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    optimizer.step()
    scheduler.step()
    with pytest.warns(MaterializationWarning, match=r"state only, because of lr_lambdas\[0\]"):
        store.save(scheduler, "s")
    with pytest.raises(MaterializationError, match="pass it as into="):
        store.load("s")
    fresh = torch.optim.lr_scheduler.LambdaLR(
        torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1), lambda epoch: 0.5**epoch
    )
    assert store.load("s", into=fresh).last_epoch == 1


@step(format="state_dict")
def train() -> tuple[nn.Module, DataLoader[Any], float]:
    t = training()
    return t["model"], t["loader"], 0.5


def test_what_a_step_returns_is_stored_part_by_part(store: Store) -> None:
    train.store = store
    _, loader, _ = train()
    assert store.names() == ["train.0", "train.1", "train.2"]
    model = store.get("train.0")
    assert isinstance(model, Model)
    assert model.stored.format == "state_dict"
    assert [len(batch) for batch in store.load("train.1")] == [2] * len(loader)


@pytest.mark.parametrize("format", ["module", "state_dict", "safetensors"])
def test_every_format_keeps_ties_and_fills_a_module(store: Store, format: str) -> None:
    model = Tied()
    store.save(model, "m", format=format)
    into = store.load("m", into=Tied())
    assert into.head.weight is into.embed.weight
    assert torch.equal(into.embed.weight, model.embed.weight)
    bare = store.load("m", into=_on_meta(Tied))
    assert bare.head.weight is bare.embed.weight
    assert torch.equal(bare.body[0].weight, model.body[0].weight)
    state = store.load("m", format="state_dict")
    assert list(state) == list(model.state_dict())
    assert torch.equal(state["head.weight"], model.embed.weight)


def _on_meta(cls: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return cls()


LOAD = """
import torch
from flowyml import Store
program = Store("s").load("m")
x = torch.arange(12) % 5
print(program(x).double().sum().item(), program(x[:3]).shape[0])
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exported_model_runs_where_its_class_does_not_exist(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", format=["exported"])
    model = Tied().eval()
    x = torch.arange(12) % 5
    asset = store.save(Model.from_pytorch(model, "m", example_inputs=x[:4]))
    assert (asset.stored.format, asset.stored.restore) == ("exported", "exact")
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    total, rows = done.stdout.split()
    assert float(total) == model(x).double().sum().item()
    assert rows == "3"
    with pytest.raises(MaterializationError, match="example_inputs="):
        store.save(model, "n", format="exported")
    program = torch.export.export(model, (x,))
    store.save(program, "p")
    assert torch.equal(store.load("p").module()(x), model(x))


def test_a_format_that_needs_a_package_says_which(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MaterializationError, match=r"Install flowyml-pytorch\[safetensors\]"):
        store.save(nn.Linear(1, 1), "m", format="safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_a_quantized_model_comes_back(store: Store) -> None:
    from torch.ao.quantization import quantize_dynamic

    def build() -> nn.Module:
        return quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 3)))

    model = build()
    asset = store.save(model, "q")
    assert asset.required_trust == ()
    assert asset.stored.restore == "exact"
    back = store.load("q")
    x = torch.randn(2, 3, 4)
    assert torch.equal(back(x)[0], model(x)[0])
    assert torch.equal(store.load("q", into=build())(x)[0], model(x)[0])


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.seen = {"steps": 3, "mean": torch.ones(2)}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def test_extra_state_comes_back_both_ways(store: Store) -> None:
    model = Extra()
    model.seen = {"steps": 7, "mean": torch.zeros(2)}
    store.save(model, "m")
    for back in (store.load("m"), store.load("m", into=Extra())):
        assert back.seen["steps"] == 7
        assert torch.equal(back.seen["mean"], torch.zeros(2))
    assert store.load("m", format="state_dict")["_extra_state"]["steps"] == 7


def test_what_old_reparametrizations_hang_in_comes_back(store: Store) -> None:
    with pytest.warns(FutureWarning):
        model = nn.utils.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(model, nn.utils.spectral_norm(nn.Linear(3, 3)))
    store.save(model, "m")
    back = store.load("m")
    assert store.get("m").required_trust == ()
    x = torch.randn(2, 3)
    model.eval(), back.eval()
    assert torch.equal(back(x), model(x))
    with torch.no_grad():
        back[0].weight_g.mul_(2)
    assert not torch.equal(back(x), model(x))


def loader_of(weight: Any) -> None:
    """A function that a weight refers to, as some libraries have it."""


def test_weights_alone_need_no_trust_whatever_tensors_were_given(store: Store) -> None:
    net = nn.Linear(2, 2)
    net.weight.loader = net.bias.loader = loader_of
    net.weight.shared = net.bias.shared = {"a": 1}
    asset = store.save(net, "m")
    assert asset.required_trust == (f"{__name__}.loader_of",)
    assert list(store.load("m", format="state_dict")) == ["weight", "bias"]
    assert torch.equal(store.load("m", into=nn.Linear(2, 2)).weight, net.weight)
    back = store.load("m", trust=asset.required_trust)
    assert back.weight.loader is loader_of
    assert back.weight.shared is back.bias.shared


def test_what_makes_the_values_of_a_defaultdict_is_a_class(store: Store) -> None:
    net = nn.Linear(1, 1)
    net.seen = defaultdict(list, a=[1])
    store.save(net, "m")
    assert store.load("m").seen["b"] == []
    net.seen = defaultdict(loader_of)
    with pytest.warns(MaterializationWarning, match="seen: a defaultdict whose values are made by"):
        store.save(net, "m")


def test_torchs_own_generator_is_saved_with_its_state_and_referred_to_by_a_loader(
    store: Store,
) -> None:
    store.save({"rng": torch.default_generator, "x": torch.ones(1)}, "g")
    expected = torch.rand(3)
    assert torch.equal(torch.rand(3, generator=store.load("g")["rng"]), expected)
    store.save(DataLoader(range(4), generator=torch.default_generator), "l")
    assert store.load("l").generator is torch.default_generator


def test_a_state_dict_keeps_the_versions_of_its_modules(store: Store) -> None:
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    store.save(state, "s")
    assert store.load("s")._metadata == state._metadata


def test_a_missing_file_names_the_tensors_too(store: Store) -> None:
    store.save(nn.Linear(200, 200), "m")
    largest = max(store.get("m").stored.files, key=lambda file: file.size)
    (store.path / "blobs" / largest.digest[:2] / largest.digest[2:]).unlink()
    with pytest.raises(IntegrityError, match=r"is missing .* Damaged in it: the tensor weight\."):
        store.load("m")


def test_a_preferred_format_that_is_not_possible_gives_way(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", format=["exported", "state_dict"])
    assert store.save(nn.Linear(1, 1), "m").stored.format == "state_dict"
