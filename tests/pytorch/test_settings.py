"""What a record says of optimizers, schedulers, losses, loaders and torch itself."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from flowyml import Model, Store, adapters, encoding
from flowyml.errors import AdapterWarning, UnsupportedObjectError
from flowyml_pytorch import DatasetRef
from flowyml_pytorch.plugin import ModuleExtractor, ModuleMaterializer, ValueMaterializer


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def described(model: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    properties = Model.from_pytorch(model or net(), **options).metadata.properties
    return {name: properties[name] for name in options}


def settings(obj: Any) -> dict[str, Any]:
    materializer = adapters.materializer_of(obj)
    assert isinstance(materializer, (ModuleMaterializer, ValueMaterializer))
    found = dict(materializer.settings(obj))
    encoding.dumps(found)
    return found


# -------------------------------------------------------------------------------- optimizers


def test_an_optimizer_is_described_by_class_and_settings() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.2)
    assert described(model, optimizer=optimizer)["optimizer"] == {
        "class": "torch.optim.adamw.AdamW",
        "lr": 0.01,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.2,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": True,
        "tensors": 4,
        "parameters": 23,
    }


def test_what_differs_between_parameter_groups_is_told_for_each() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.5}]
    found = described(model, optimizer=torch.optim.SGD(groups, lr=0.1, momentum=0.9))["optimizer"]
    assert found["momentum"] == 0.9
    assert (found["tensors"], found["parameters"]) == (4, 23)
    assert found["param_groups"] == [
        {"lr": 0.1, "tensors": 2, "parameters": 15},
        {"lr": 0.5, "tensors": 2, "parameters": 8},
    ]
    assert "lr" not in found


def test_groups_with_the_same_settings_are_told_as_one() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    groups = [{"params": part.parameters(), "weight_decay": math.nan} for part in model]
    found = described(model, optimizer=torch.optim.SGD(groups, lr=0.1))["optimizer"]
    assert found["lr"] == 0.1
    assert "param_groups" not in found


def test_a_setting_of_only_one_group_is_told_with_it() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD([{"params": part.parameters()} for part in model])
    optimizer.param_groups[1]["layer"] = "head"
    first, second = described(model, optimizer=optimizer)["optimizer"]["param_groups"]
    assert ("layer" in first, second["layer"]) == (False, "head")


def test_a_learning_rate_in_a_tensor_is_a_number() -> None:
    model = net()
    for rate in (torch.tensor(0.5), torch.tensor([0.5])):
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, capturable=True, foreach=True)
        found = described(model, optimizer=optimizer)["optimizer"]
        assert (found["lr"], found["capturable"], found["foreach"]) == (0.5, True, True)


def test_no_values_of_the_parameters_are_told() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    loss = model(torch.ones(1, 4)).sum()
    loss.backward()
    optimizer.step(loss.item)
    found = described(model, optimizer=optimizer)["optimizer"]
    assert not {"params", "param_names", "state"} & found.keys()
    assert len(json.dumps(found)) < 400


def test_the_optimizers_of_a_gan_are_described_by_name() -> None:
    generator, critic = net(), net()
    found = described(
        generator,
        optimizer={
            "generator": torch.optim.Adam(generator.parameters(), lr=0.1),
            "critic": torch.optim.RMSprop(critic.parameters(), lr=0.2),
        },
    )["optimizer"]
    assert found["generator"]["class"] == "torch.optim.adam.Adam"
    assert (found["critic"]["class"], found["critic"]["lr"]) == ("torch.optim.rmsprop.RMSprop", 0.2)


@pytest.mark.parametrize("container", [list, tuple])
def test_several_optimizers_are_described_one_by_one(container: type) -> None:
    many = container([torch.optim.SGD(net().parameters(), lr=rate) for rate in (0.1, 0.2)])
    assert [found["lr"] for found in described(optimizer=many)["optimizer"]] == [0.1, 0.2]


class Theirs:
    """An optimizer of another library, which wraps one of torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


class Unready:
    """One that has no groups before it is set up."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        raise RuntimeError("call prepare() first")


def test_an_optimizer_of_another_library_is_described_by_what_it_has() -> None:
    found = described(optimizer=Theirs(torch.optim.SGD(net().parameters(), lr=0.3)))["optimizer"]
    assert found["class"] == f"{__name__}.Theirs"
    assert found["wraps"] == "torch.optim.sgd.SGD"
    assert found["lr"] == 0.3


def test_one_that_raises_costs_its_own_description_only() -> None:
    with pytest.warns(AdapterWarning, match="optimizer= is described by its class alone: .*Unrea"):
        model = Model.from_pytorch(net(), optimizer=Unready(), loss=nn.MSELoss())
    found = model.metadata.properties
    assert found["optimizer"] == {"class": f"{__name__}.Unready"}
    assert found["loss"]["reduction"] == "mean"
    assert found["parameters"] == 23


# -------------------------------------------------------------------------------- schedulers


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9)


def double(epoch: int) -> float:
    return 2.0 * epoch


class Warmup:
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, epoch: int) -> float:
        return min(1.0, (epoch + 1) / self.steps)


def scheduled(scheduler: Any) -> Any:
    return described(scheduler=scheduler)["scheduler"]


def test_a_scheduler_is_described_by_class_settings_and_where_it_stands() -> None:
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10, eta_min=0.01)
    scheduler.optimizer.step()
    scheduler.step()
    found = scheduled(scheduler)
    assert found.pop("last_lr") == scheduler.get_last_lr()
    assert found == {
        "class": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "T_max": 10,
        "eta_min": 0.01,
        "base_lrs": [0.1],
        "last_epoch": 1,
    }


def test_milestones_are_a_list_in_order() -> None:
    found = scheduled(lr_scheduler.MultiStepLR(optimizer(), [30, 5, 5], gamma=0.3))
    assert (found["milestones"], found["gamma"]) == ([5, 5, 30], 0.3)


def test_functions_of_a_scheduler_are_told_by_name_and_settings() -> None:
    scheduler = lr_scheduler.LambdaLR(optimizer(), functools.partial(double))
    assert scheduled(scheduler)["lr_lambdas"] == [f"{__name__}.double"]
    scheduler = lr_scheduler.LambdaLR(optimizer(), Warmup(4))
    assert scheduled(scheduler)["lr_lambdas"] == [{"class": f"{__name__}.Warmup", "steps": 4}]


def test_schedulers_in_a_scheduler_are_described() -> None:
    steps = optimizer()
    first, second = lr_scheduler.ConstantLR(steps, 0.5), lr_scheduler.ExponentialLR(steps, 0.9)
    found = scheduled(lr_scheduler.SequentialLR(steps, [first, second], milestones=[7]))
    assert found["milestones"] == [7]
    assert [each["class"].rpartition(".")[2] for each in found["schedulers"]] == [
        "ConstantLR",
        "ExponentialLR",
    ]
    assert [found["schedulers"][0]["factor"], found["schedulers"][1]["gamma"]] == [0.5, 0.9]
    chained = scheduled(lr_scheduler.ChainedScheduler([first, second]))
    assert chained["schedulers"][1]["gamma"] == 0.9


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=9), "anneal_strategy", "cos"),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, scale_fn=double), "max_lrs", [0.5]),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=3), "patience", 3),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5), "T_0", 5),
        (lambda o: lr_scheduler.PolynomialLR(o, power=2.0), "power", 2.0),
        (lambda o: torch.optim.swa_utils.SWALR(o, 0.05), "anneal_epochs", 10),
    ],
)
def test_every_scheduler_of_torch_is_described(make: Any, name: str, value: Any) -> None:
    found = scheduled(make(optimizer()))
    assert found[name] == value
    assert not [key for key in found if key.startswith("_")]


class TheirScheduler:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.warmup_t = 5
        self._count = 0

    def step(self) -> None:
        self._count += 1


def test_a_scheduler_of_another_library_is_described_by_what_it_has() -> None:
    found = scheduled(TheirScheduler(optimizer()))
    assert found == {"class": f"{__name__}.TheirScheduler", "warmup_t": 5}


# ------------------------------------------------------------------------------------ losses


def loss_of(loss: Any) -> Any:
    return described(loss=loss)["loss"]


def test_a_loss_is_described_by_class_and_settings() -> None:
    assert loss_of(nn.HuberLoss(reduction="sum", delta=0.5)) == {
        "class": "torch.nn.modules.loss.HuberLoss",
        "reduction": "sum",
        "delta": 0.5,
    }


def test_weights_of_a_loss_are_told_by_their_digest() -> None:
    found = loss_of(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), label_smoothing=0.1))
    assert found["label_smoothing"] == 0.1
    assert (found["weight"]["shape"], found["weight"]["dtype"]) == ([2], "torch.float32")
    same = loss_of(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0])))["weight"]
    other = loss_of(nn.CrossEntropyLoss(torch.tensor([1.0, 2.5])))["weight"]
    assert same == found["weight"] != other
    assert loss_of(nn.CrossEntropyLoss())["weight"] is None


def test_a_function_is_described_by_its_name_and_what_is_bound_to_it() -> None:
    assert loss_of(F.mse_loss) == {"class": "torch.nn.functional.mse_loss"}
    bound = functools.partial(F.cross_entropy, label_smoothing=0.1, weight=torch.ones(3))
    found = loss_of(bound)
    assert (found["class"], found["label_smoothing"]) == ("torch.nn.functional.cross_entropy", 0.1)
    assert found["weight"]["shape"] == [3]
    assert loss_of(double) == {"class": f"{__name__}.double"}


class Focal(nn.Module):
    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.base = nn.CrossEntropyLoss(label_smoothing=0.2)
        self.features = nn.Linear(3, 3)


class Contrastive:
    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().sum() - self.margin


def test_losses_of_ones_own_are_described_by_what_they_hold() -> None:
    found = loss_of(Focal(gamma=2.0))
    assert (found["class"], found["gamma"]) == (f"{__name__}.Focal", 2.0)
    assert found["base"]["label_smoothing"] == 0.2
    assert found["features"] == {"class": "torch.nn.modules.linear.Linear"}
    assert loss_of(Contrastive(0.5)) == {"class": f"{__name__}.Contrastive", "margin": 0.5}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_loss_is_described_as_the_loss() -> None:
    found = loss_of(torch.compile(nn.SmoothL1Loss(beta=0.7)))
    assert (found["class"], found["beta"]) == ("torch.nn.modules.loss.SmoothL1Loss", 0.7)
    assert found["wrapper"] == "OptimizedModule"


@pytest.mark.parametrize(
    "number",
    [0.25, np.float32(0.25), torch.tensor(0.25, requires_grad=True), np.array(0.25)],
)
def test_a_number_is_kept_as_the_loss(number: Any) -> None:
    assert loss_of(number) == 0.25
    assert type(loss_of(number)) is float


def test_several_losses_are_described_one_by_one() -> None:
    found = loss_of({"pixels": nn.L1Loss(), "total": 0.5, "none": None})
    assert (found["pixels"]["reduction"], found["total"], found["none"]) == ("mean", 0.5, None)


def test_a_name_is_kept_as_it_is() -> None:
    assert described(optimizer="adam", loss="mse") == {"optimizer": "adam", "loss": "mse"}


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (lambda: {"optimizer": 0.1}, r"optimizer= takes a torch.optim.Optimizer.* got a float"),
        (lambda: {"optimizer": torch.ones(2)}, r"got a torch.Tensor"),
        (lambda: {"optimizer": [optimizer(), 3]}, r"optimizer= takes .* got a int"),
        (lambda: {"optimizer": nn.MSELoss()}, r"Pass it as loss="),
        (lambda: {"optimizer": torch.optim.Adam}, r"the class Adam. Pass an instance: Adam\(...\)"),
        (lambda: {"scheduler": optimizer()}, r"Pass it as optimizer="),
        (lambda: {"scheduler": torch.amp.GradScaler("cpu", enabled=False)}, r"scheduler= takes"),
        (lambda: {"loss": optimizer()}, r"loss= takes a loss module.* Pass it as optimizer="),
        (lambda: {"loss": True}, r"got a bool. To note it: properties=\{'loss': ...\}"),
        (lambda: {"loss": torch.ones(2)}, r"got a torch.Tensor"),
        (lambda: {"loss": nn.MSELoss}, r"Pass an instance: MSELoss\(...\)"),
        (lambda: {"loss": lr_scheduler.StepLR(optimizer(), 3)}, r"Pass it as scheduler="),
    ],
)
def test_what_is_something_else_is_refused(options: Any, told: str) -> None:
    with pytest.raises(UnsupportedObjectError, match=told):
        ModuleExtractor().extract(net(), options())


@pytest.mark.parametrize(("option", "value"), [("optimizer", 0.1), ("loss", optimizer())])
def test_an_unfit_option_is_refused_where_it_is_given(option: str, value: Any) -> None:
    with pytest.raises(UnsupportedObjectError, match=f"{option}= takes"):
        Model.from_pytorch(net(), **{option: value})
    model = Model.from_pytorch(net(), loss=0.5)
    with pytest.raises(TypeError, match=f"{option}= takes"):
        model.refresh(**{option: value})
    assert model.refresh().metadata.properties["loss"] == 0.5


def test_an_option_that_has_become_unfit_costs_the_description_and_not_the_model(
    store: Store,
) -> None:
    options: dict[str, Any] = {"first": optimizer()}
    model = Model.from_pytorch(net(), "net", optimizer=options)
    options["first"] = 0.1
    with pytest.warns(AdapterWarning, match="is not described: .* optimizer= takes"):
        model.save(store)
    assert isinstance(store.load("net"), nn.Module)


# --------------------------------------------------------------------------- models over time


def test_an_option_that_is_not_given_is_no_property() -> None:
    found = Model.from_pytorch(net(), optimizer=None).metadata.properties
    assert not {"optimizer", "scheduler", "loss"} & found.keys()
    noted = Model.from_pytorch(net(), properties={"loss": 0.5, "optimizer": ["sgd"]})
    assert noted.metadata.properties["loss"] == 0.5
    assert noted.metadata.properties["optimizer"] == ["sgd"]


def test_what_was_given_is_described_again_when_the_model_is_saved(store: Store) -> None:
    module = net()
    steps = torch.optim.SGD(module.parameters(), lr=0.1)
    model = Model.from_pytorch(module, "net", optimizer=steps)
    steps.param_groups[0]["lr"] = 0.01
    model.save(store)
    assert model.metadata.properties["optimizer"]["lr"] == 0.01
    assert store.get("net").metadata.properties["optimizer"]["lr"] == 0.01


def test_what_was_given_survives_loading_and_saving(store: Store) -> None:
    steps = torch.optim.SGD(net().parameters(), lr=0.1)
    Model.from_pytorch(net(), "net", optimizer=steps, loss=nn.L1Loss()).save(store)
    again = Model.load("net", store=store)
    again.save(store)
    assert again.version == "v2"
    found = store.get("net@v2").metadata.properties
    assert (found["optimizer"]["lr"], found["loss"]["reduction"]) == (0.1, "mean")


def test_refreshing_with_inputs_keeps_the_optimizer_and_takes_a_new_one(store: Store) -> None:
    steps = torch.optim.SGD(net().parameters(), lr=0.1)
    Model.from_pytorch(net(), "net", optimizer=steps).save(store)
    model = Model.load("net", store=store).refresh(example_inputs=torch.ones(1, 4))
    assert model.metadata.properties["optimizer"]["lr"] == 0.1
    assert model.metadata.properties["flops"] > 0
    model.refresh(optimizer=torch.optim.Adam(net().parameters(), lr=0.2))
    assert model.metadata.properties["optimizer"]["class"] == "torch.optim.adam.Adam"


# ------------------------------------------------------------------------- settings of inputs


class Watched(Dataset[int]):
    """A dataset that must not be read."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        raise AssertionError("it was read")


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        raise AssertionError("it was read")


class Broken(Watched):
    def __len__(self) -> int:
        raise RuntimeError("not downloaded")


def collated(items: list[int]) -> list[int]:
    return items


def prepared(worker: int) -> None:
    raise AssertionError("a worker was started")


def test_a_loader_is_told_by_its_settings_and_nothing_is_read() -> None:
    loader = DataLoader(
        Watched(),
        batch_size=3,
        shuffle=True,
        num_workers=2,
        prefetch_factor=4,
        drop_last=True,
        collate_fn=collated,
        worker_init_fn=prepared,
        generator=torch.Generator().manual_seed(7),
    )
    before = torch.get_rng_state()
    found = settings(loader)
    assert found["class"] == "torch.utils.data.dataloader.DataLoader"
    assert found["dataset"] == {"class": f"{__name__}.Watched", "length": 12}
    chosen = ("batch_size", "num_workers", "prefetch_factor", "drop_last", "shuffle", "pin_memory")
    assert [found[name] for name in chosen] == [3, 2, 4, True, True, False]
    assert found["generator"] == {"device": "cpu", "initial_seed": 7}
    assert found["collate_fn"] == f"{__name__}.collated"
    assert found["worker_init_fn"] == f"{__name__}.prepared"
    assert torch.equal(torch.get_rng_state(), before)
    assert loader._iterator is None


def test_samplers_are_told_by_their_settings() -> None:
    plain = settings(DataLoader(Watched()))
    assert (plain["shuffle"], plain["generator"]) == (False, None)
    assert not {"sampler", "collate_fn"} & plain.keys()
    weighted = WeightedRandomSampler([0.1, 0.9], 5, replacement=True)
    found = settings(DataLoader(Watched(), sampler=weighted))
    assert found["shuffle"] is None
    assert found["sampler"]["num_samples"] == 5
    assert found["sampler"]["weights"]["shape"] == [2]
    batches = torch.utils.data.BatchSampler(weighted, 4, drop_last=True)
    found = settings(DataLoader(Watched(), batch_sampler=batches))["batch_sampler"]
    assert (found["batch_size"], found["sampler"]["num_samples"]) == (4, 5)


def test_datasets_are_told_by_type_and_length() -> None:
    tensors = TensorDataset(torch.zeros(6, 2), torch.zeros(6, dtype=torch.int64))
    found = settings(ConcatDataset([Subset(tensors, [0, 1]), Watched()]))
    assert found["length"] == 14
    part = found["datasets"][0]
    assert (part["length"], part["dataset"]["length"]) == (2, 6)
    assert part["dataset"]["tensors"] == [
        {"shape": [6, 2], "dtype": "torch.float32"},
        {"shape": [6], "dtype": "torch.int64"},
    ]
    for dataset in (Endless(), Broken()):
        assert settings(dataset) == {"class": f"{__name__}.{type(dataset).__name__}"}
        assert settings(DataLoader(Endless()))["shuffle"] is None


def made(length: int) -> list[int]:
    raise AssertionError("the dataset was made")


def test_a_reference_to_a_dataset_is_told_without_making_the_dataset() -> None:
    assert settings(DatasetRef(made, 5)) == {
        "class": "flowyml_pytorch.DatasetRef",
        "target": f"{__name__}.made",
        "args": [5],
        "kwargs": {},
    }


def test_a_module_is_told_by_class_size_place_and_mode() -> None:
    module = net().to(torch.bfloat16).eval()
    module[0].requires_grad_(False)
    assert settings(module) == {
        "class": "torch.nn.modules.container.Sequential",
        "parameters": 23,
        "trainable_parameters": 8,
        "device": "cpu",
        "dtype": "torch.bfloat16",
        "training_mode": False,
    }


def test_a_loss_among_the_arguments_is_told_by_its_settings() -> None:
    assert settings(nn.HuberLoss(delta=3.0))["delta"] == 3.0
    assert settings(nn.Dropout(0.3))["p"] == 0.3


def test_values_are_told_by_their_settings() -> None:
    assert settings(torch.zeros(2, 3, dtype=torch.int8)) == {
        "dtype": "torch.int8",
        "shape": [2, 3],
        "device": "cpu",
    }
    steps = optimizer()
    assert settings(steps)["lr"] == 0.1
    assert settings(lr_scheduler.StepLR(steps, 4))["step_size"] == 4
    generator = torch.Generator().manual_seed(3)
    assert (settings(generator)["device"], settings(generator)["initial_seed"]) == ("cpu", 3)
    scaler = settings(torch.amp.GradScaler("cpu", init_scale=8.0))
    assert (scaler["scale"], scaler["growth_interval"], scaler["enabled"]) == (8.0, 2000, True)
    assert settings(torch.amp.GradScaler("cpu", enabled=False))["enabled"] is False


def test_the_items_of_a_container_are_told_one_by_one() -> None:
    found = settings({"weights": torch.zeros(2), "steps": [optimizer()], "rate": 0.5})
    assert found["items"]["weights"]["shape"] == [2]
    assert found["items"]["steps"]["items"]["0"]["momentum"] == 0.9
    assert found["items"]["rate"] == 0.5
    many = settings([torch.zeros(1)] * 1000)
    assert (many["length"], len(many["items"])) == (1000, 20)


class Deceitful(torch.optim.SGD):
    @property
    def param_groups(self) -> Any:
        raise SystemError("not today")

    @param_groups.setter
    def param_groups(self, value: Any) -> None:
        pass

    def add_param_group(self, group: Any) -> None:
        pass


def test_settings_never_raise() -> None:
    assert dict(ValueMaterializer().settings(Deceitful([torch.ones(1)], lr=0.1))) == {}
    assert dict(ModuleMaterializer().settings(object.__new__(nn.Linear))) == {}


def test_settings_that_have_no_plain_form_are_named_by_their_type() -> None:
    steps = optimizer()
    steps.param_groups[0].update(
        odd=object(), huge=1 << 9000, long="x" * 9000, half="\ud800", deep=[[[[[[[[[1]]]]]]]]]
    )
    found = settings(steps)
    assert found["odd"] == "<object>"
    assert found["huge"] == "<int>"
    assert len(found["long"]) < 600
    assert found["lr"] == 0.1


# -------------------------------------------------------------------------------- environment


def test_the_environment_has_versions_threads_and_modes() -> None:
    found = dict(ModuleExtractor().environment())
    encoding.dumps(found)
    assert found["version"] == torch.__version__
    assert found["git_version"] == torch.version.git_version
    assert found["num_threads"] == torch.get_num_threads()
    assert (found["default_dtype"], found["default_device"]) == ("torch.float32", "cpu")
    assert found["cuda"] == torch.version.cuda
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    if not torch.cuda.is_initialized():
        assert found["devices"] == []
        assert found["cuda_driver"] is None


def changes() -> Iterator[tuple[str, Any, Any]]:
    flags = torch.backends.cudnn
    yield "cudnn_benchmark", lambda: setattr(flags, "benchmark", True), True
    yield "cudnn_deterministic", lambda: setattr(flags, "deterministic", True), True
    yield "deterministic_algorithms", lambda: torch.use_deterministic_algorithms(True), True
    yield "default_dtype", lambda: torch.set_default_dtype(torch.float64), "torch.float64"
    yield "default_device", lambda: torch.set_default_device("meta"), "meta"
    yield "float32_matmul_precision", lambda: torch.set_float32_matmul_precision("high"), "high"
    yield "mha_fastpath", lambda: torch.backends.mha.set_fastpath_enabled(False), False
    yield "num_threads", lambda: torch.set_num_threads(3), 3


@pytest.fixture
def modes() -> Iterator[None]:
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic, torch.get_num_threads()
    yield
    flags.benchmark, flags.deterministic = before[:2]
    torch.set_num_threads(before[2])
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize(("name", "change", "value"), [*changes()])
@pytest.mark.usefixtures("modes")
def test_a_changed_mode_is_told(name: str, change: Any, value: Any) -> None:
    assert ModuleExtractor().environment()[name] != value
    change()
    assert ModuleExtractor().environment()[name] == value


def test_asking_for_the_environment_warns_of_nothing_and_initialises_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = ModuleExtractor().environment()
        assert ModuleExtractor().environment() == first
    code = """
import torch
from flowyml_pytorch.plugin import ModuleExtractor
ModuleExtractor().environment()
assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_whether_cuda_is_available_is_not_asked_before_it_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def woken(*_: object) -> Any:
        raise AssertionError("the driver was woken")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", woken)
    monkeypatch.setattr(torch.cuda, "_lazy_init", woken)
    found = ModuleExtractor().environment()
    assert (found["cuda_available"], found["cuda_driver"], found["devices"]) == (None, None, [])


class InUse:
    """What torch.cuda tells of a device in use."""

    name, major, minor = "Device 9000", 9, 1
    total_memory, multi_processor_count = 80 << 30, 132


def test_devices_in_use_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: InUse)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 12080, raising=False)
    found = ModuleExtractor().environment()
    assert (found["cuda_available"], found["cuda_driver"]) == (True, "12.8")
    assert found["devices"] == [
        {
            "device": "cuda:0",
            "name": "Device 9000",
            "memory": 80 << 30,
            "processors": 132,
            "capability": "9.1",
        }
    ]


def test_there_is_no_environment_where_torch_is_not_imported() -> None:
    code = """
import sys
from flowyml_pytorch.plugin import ModuleExtractor
assert ModuleExtractor().environment() == {}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path.cwd())
