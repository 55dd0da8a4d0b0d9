"""Optimizers, schedulers, scalers and generators come back and go on exactly as the originals."""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import apart
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler, swa_utils
from torch.optim.lr_scheduler import LRScheduler

from flowyml.errors import MaterializationError, UnsupportedObjectError
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training import optimizers
from flowyml_pytorch.training.optimizers import load_into, state_of

BY_NAME: dict[str, Kind] = {kind.name: kind for kind in optimizers.KINDS}
OPTIMIZER, SCHEDULER = BY_NAME["optimizer"], BY_NAME["lr_scheduler"]
SCALER, GENERATOR = BY_NAME["grad_scaler"], BY_NAME["generator"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def round_trip() -> Callable[[Any], Any]:
    return apart.round_trip


OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "ASGD": [{}, {"t0": 3, "weight_decay": 0.1}],
    "Adadelta": [{}, {"foreach": True}],
    "Adafactor": [{}, {"weight_decay": 0.1}],
    "Adagrad": [{"lr_decay": 0.1}, {"fused": True}],
    "Adam": [
        {},
        {"amsgrad": True, "weight_decay": 0.1},
        {"foreach": True},
        {"fused": True},
        {"lr": torch.tensor(0.01)},
        {"maximize": True},
    ],
    "AdamW": [{}, {"amsgrad": True}, {"fused": True}],
    "Adamax": [{}],
    "LBFGS": [{"max_iter": 3}, {"history_size": 3, "line_search_fn": "strong_wolfe"}],
    "Muon": [{}, {"adjust_lr_fn": "match_rms_adamw"}],
    "NAdam": [{}, {"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "RAdam": [{}, {"foreach": True}],
    "RMSprop": [{"momentum": 0.9, "centered": True}],
    "Rprop": [{}],
    "SGD": [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "fused": True}],
    "SparseAdam": [{}],
}
"""Options of every optimizer of torch, by class."""

OPTIMIZER_CASES = [
    pytest.param(name, options, id=f"{name}-{number}")
    for name, choices in OPTIMIZERS.items()
    for number, options in enumerate(choices)
]


def test_every_optimizer_of_torch_has_an_example() -> None:
    classes = [item for item in vars(torch.optim).values() if isinstance(item, type)]
    there = {cls.__name__ for cls in classes if issubclass(cls, Optimizer)} - {"Optimizer"}
    assert there == OPTIMIZERS.keys(), "add the optimizers of this torch to OPTIMIZERS"


class Net(nn.Module):
    """Two layers; with matrices alone, or with gradients that are sparse, for who needs that."""

    def __init__(self, *, only_matrices: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6, sparse=sparse)
        self.head: nn.Module = nn.Linear(6, 3, bias=not only_matrices)
        if sparse:
            self.head = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.head(self.embed(tokens)))


def made(name: str = "Adam", **options: Any) -> tuple[Net, Optimizer]:
    """Return a model and its optimizer, with two groups of parameters where it takes them."""
    model = Net(only_matrices=name == "Muon", sparse=name == "SparseAdam")
    params: Any = list(model.parameters())
    if len(params) > 1 and name != "LBFGS":
        params = [{"params": params[:1]}, {"params": params[1:], "lr": 0.003}]
    return model, getattr(torch.optim, name)(params, **options)


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    """Take steps; equal numbers mean equal batches."""
    for number in steps:
        tokens = torch.randint(12, (7,), generator=torch.Generator().manual_seed(number))

        def closure(tokens: Tensor = tokens) -> Tensor:
            optimizer.zero_grad()
            loss = (model(tokens) - 0.5).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]


def same(left: Any, right: Any) -> bool:
    """Compare values bit for bit, and by their types."""
    if isinstance(left, Tensor):
        return (left.dtype, left.device) == (right.dtype, right.device) and torch.equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(map(str, left)) == list(map(str, right)) and all(
            map(same, left.values(), right.values())
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def same_parameters(left: nn.Module, right: nn.Module) -> bool:
    return same(dict(left.named_parameters()), dict(right.named_parameters()))


@pytest.mark.parametrize(("name", "options"), OPTIMIZER_CASES)
def test_an_optimizer_goes_on_bit_for_bit(
    name: str, options: dict[str, Any], round_trip: Callable[[Any], Any]
) -> None:
    model, optimizer = made(name, **options)
    train(model, optimizer, range(5))
    again = round_trip({"model": model, "optimizer": optimizer})
    copy, other = again["model"], again["optimizer"]
    assert type(other) is type(optimizer)
    assert same(other.state_dict(), optimizer.state_dict())
    assert same(other.defaults, optimizer.defaults)
    assert vars(other).keys() == vars(optimizer).keys()
    assert type(other.state) is defaultdict
    assert other.state.default_factory is dict
    train(model, optimizer, range(5, 15))
    train(copy, other, range(5, 15))
    assert same_parameters(model, copy)
    assert same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(("name", "options"), OPTIMIZER_CASES)
def test_an_optimizer_that_has_not_begun_comes_back(
    name: str, options: dict[str, Any], round_trip: Callable[[Any], Any]
) -> None:
    model, optimizer = made(name, **options)
    copy, other = round_trip((model, optimizer))
    train(model, optimizer, range(3))
    train(copy, other, range(3))
    assert same_parameters(model, copy)


def test_an_optimizer_holds_the_parameters_of_the_model_beside_it(
    round_trip: Callable[[Any], Any],
) -> None:
    model, optimizer = made()
    train(model, optimizer, range(2))
    copy, other = round_trip([model, optimizer])
    held = [param for group in other.param_groups for param in group["params"]]
    assert all(map(lambda a, b: a is b, held, copy.parameters()))
    assert all(map(lambda a, b: a is b, other.state, copy.parameters()))
    assert len(held) == len(list(copy.parameters()))


def test_an_optimizer_alone_has_parameters_of_its_own(round_trip: Callable[[Any], Any]) -> None:
    model, optimizer = made()
    model.embed.weight.requires_grad_(False)
    train(model, optimizer, range(2))
    other = round_trip(optimizer)
    held = [param for group in other.param_groups for param in group["params"]]
    assert all(type(param) is nn.Parameter for param in held)
    assert [param.requires_grad for param in held] == [False, True, True]
    assert all(map(same, held, model.parameters()))


def test_lists_and_numbers_that_an_optimizer_shares_stay_shared(
    round_trip: Callable[[Any], Any],
) -> None:
    other = round_trip(made("LBFGS")[1])
    assert other._params is other.param_groups[0]["params"]
    other = round_trip(made("Adam", lr=torch.tensor(0.01))[1])
    assert other.defaults["lr"] is other.param_groups[0]["lr"]


def test_capturable_is_kept(round_trip: Callable[[Any], Any]) -> None:
    other = round_trip(made("Adam", capturable=True)[1])
    assert all(group["capturable"] for group in other.param_groups)


def test_a_group_that_was_added_later_comes_back(round_trip: Callable[[Any], Any]) -> None:
    _, optimizer = made("SGD", momentum=0.9)
    lr_scheduler.StepLR(optimizer, 3)
    late = nn.Linear(2, 2)
    optimizer.add_param_group({"params": late.parameters(), "lr": 0.5, "name": "late"})
    other = round_trip(optimizer)
    assert same(other.state_dict(), optimizer.state_dict())
    assert "initial_lr" not in other.param_groups[2]


class Lion(Optimizer):
    """A user's own optimizer, after Chen et al. 2023, https://arxiv.org/abs/2302.06675."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99)})
        self.steps = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("the user's own code ran")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        self.steps += 1
        for group in self.param_groups:
            first, second = group["betas"]
            for param in group["params"]:
                momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
                update = momentum * first + param.grad * (1 - first)
                param.sub_(update.sign(), alpha=group["lr"])
                momentum.mul_(second).add_(param.grad, alpha=1 - second)
        return loss


class Tagged(AdamW):
    """A user's subclass of one of torch's."""

    tag = "none"


class Averaging(Optimizer):
    """Wraps another optimizer, whose groups and state are its own."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.param_groups = inner.param_groups
        self.state = inner.state

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_a_users_own_optimizer_goes_on(round_trip: Callable[[Any], Any]) -> None:
    model = Net()
    optimizer = Lion(model.parameters())
    train(model, optimizer, range(3))
    copy, other = round_trip((model, optimizer))
    train(model, optimizer, range(3, 13))
    train(copy, other, range(3, 13))
    assert same_parameters(model, copy)
    assert other.steps == 13


def test_a_users_subclass_keeps_its_attributes_and_any_state(
    round_trip: Callable[[Any], Any],
) -> None:
    model = Net()
    optimizer = Tagged(model.parameters())
    optimizer.tag = "mine"
    optimizer.state[model.embed.weight]["mine"] = torch.ones(2)
    optimizer.state["all"] = 3  # type: ignore[index]
    other = round_trip(optimizer)
    assert other.tag == "mine"
    assert same(list(other.state.values()), list(optimizer.state.values()))


def test_optimizers_that_share_groups_and_state_share_them_again(
    round_trip: Callable[[Any], Any],
) -> None:
    model, inner = made()
    outer = Averaging(inner)
    train(model, outer, range(2))
    copy, other = round_trip((model, outer))
    assert other.param_groups is other.inner.param_groups
    assert other.state is other.inner.state
    train(model, outer, range(2, 5))
    train(copy, other, range(2, 5))
    assert same_parameters(model, copy)


class Slotted(SGD):
    """Keeps something where no __dict__ has it."""

    __slots__ = ("hidden",)


def test_a_class_with_slots_is_refused(round_trip: Callable[[Any], Any]) -> None:
    with pytest.raises(NotRestorableError, match="Slotted keeps its state outside __dict__"):
        round_trip(Slotted(Net().parameters()))


class NeverMade(SGD):
    """No object of it is made in this process but by what is tested."""

    def step(self, closure: Any = None) -> Any:
        return None


def test_hooks_run_in_a_process_where_no_optimizer_of_the_class_was_made() -> None:
    other = OPTIMIZER.build(NeverMade, dict(OPTIMIZER.parts(made("SGD")[1])))
    called: list[Any] = []
    other.register_step_post_hook(lambda *_: called.append(1))
    other.step()
    assert called == [1]


def halve(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"] /= 2


def test_hooks_come_back_by_name(round_trip: Callable[[Any], Any]) -> None:
    _, optimizer = made("SGD", lr=1.0)
    optimizer.register_step_pre_hook(halve)
    optimizer.register_step_post_hook(halve)
    other = round_trip(optimizer)
    other.step()
    assert other.param_groups[0]["lr"] == 0.25


def test_hooks_that_come_back_are_not_overwritten(
    round_trip: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, optimizer = made("SGD", lr=1.0)
    optimizer.register_step_pre_hook(halve)
    monkeypatch.setattr("torch.utils.hooks.RemovableHandle.next_id", 0)  # as in a new process
    other = round_trip(optimizer)
    for _ in range(20):
        other.register_step_pre_hook(halve)
    assert len(other._optimizer_step_pre_hooks) == 21


def test_a_hook_without_a_name_is_named(round_trip: Callable[[Any], Any]) -> None:
    model, optimizer = made()
    optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(NotRestorableError, match=r"_optimizer_step_pre_hooks\[\d+\]: function"):
        round_trip(optimizer)
    with pytest.raises(NotRestorableError, match=r"optimizer\W+_optimizer_step_pre_hooks\["):
        round_trip({"model": model, "optimizer": optimizer})


def test_a_step_that_somebody_replaced_is_refused(round_trip: Callable[[Any], Any]) -> None:
    _, optimizer = made()
    optimizer.step = lambda: None  # type: ignore[method-assign]
    with pytest.raises(NotRestorableError, match="step: the method is replaced on this one Adam"):
        round_trip(optimizer)


def test_a_step_that_is_wrapped_around_that_of_a_scheduler_is_refused(
    round_trip: Callable[[Any], Any],
) -> None:
    _, optimizer = made()
    lr_scheduler.StepLR(optimizer, 3)
    wrapped = optimizer.step

    @functools.wraps(wrapped)
    def step(*args: Any) -> Any:
        return wrapped(*args)

    optimizer.step = step  # type: ignore[method-assign]
    with pytest.raises(NotRestorableError, match="step: the method is replaced"):
        round_trip(optimizer)


def test_a_step_that_a_scheduler_wrapped_around_a_replaced_one_is_refused(
    round_trip: Callable[[Any], Any],
) -> None:
    _, optimizer = made()
    optimizer.step = halve.__get__(optimizer)  # type: ignore[method-assign]
    lr_scheduler.StepLR(optimizer, 3)
    with pytest.raises(NotRestorableError, match="step: the method is replaced"):
        round_trip(optimizer)


def tenth(epoch: int) -> float:
    return 0.9**epoch


class Warmup:
    """A function with a state, as LambdaLR may have one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, epoch: int) -> float:
        return min(1.0, (epoch + 1) / self.steps)


def power(base: float, epoch: float) -> float:
    return base**epoch


SCHEDULERS: dict[str, list[Callable[[Optimizer], LRScheduler]]] = {
    "ChainedScheduler": [
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)], o
        )
    ],
    "ConstantLR": [lambda o: lr_scheduler.ConstantLR(o, total_iters=8)],
    "CosineAnnealingLR": [lambda o: lr_scheduler.CosineAnnealingLR(o, 7, eta_min=0.001)],
    "CosineAnnealingWarmRestarts": [
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, T_mult=2)
    ],
    "CyclicLR": [
        lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=4),
        lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=4, mode="triangular2"),
        lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=4, mode="exp_range", gamma=0.9),
        lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=4, scale_fn=tenth),
    ],
    "ExponentialLR": [lambda o: lr_scheduler.ExponentialLR(o, 0.9)],
    "LambdaLR": [
        lambda o: lr_scheduler.LambdaLR(o, tenth),
        lambda o: lr_scheduler.LambdaLR(o, [Warmup(9), functools.partial(power, 0.9)]),
    ],
    "LinearLR": [lambda o: lr_scheduler.LinearLR(o, total_iters=12)],
    "MultiStepLR": [
        lambda o: lr_scheduler.MultiStepLR(o, [3, 8, 8, 12]),
        lambda o: lr_scheduler.MultiStepLR(o, np.arange(2, 14, 3)),
    ],
    "MultiplicativeLR": [lambda o: lr_scheduler.MultiplicativeLR(o, tenth)],
    "OneCycleLR": [
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
        lambda o: lr_scheduler.OneCycleLR(
            o, [0.1, 0.2], epochs=4, steps_per_epoch=10, anneal_strategy="linear", three_phase=True
        ),
    ],
    "PolynomialLR": [lambda o: lr_scheduler.PolynomialLR(o, total_iters=15, power=2.0)],
    "ReduceLROnPlateau": [
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, cooldown=1, min_lr=[0.001, 0.0]),
        lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, 2, threshold_mode="abs"),
    ],
    "SWALR": [
        lambda o: swa_utils.SWALR(o, 0.05, anneal_epochs=6),
        lambda o: swa_utils.SWALR(o, 0.05, anneal_epochs=6, anneal_strategy="linear"),
    ],
    "SequentialLR": [
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, total_iters=4),
                lr_scheduler.CosineAnnealingLR(o, 9),
                lr_scheduler.LambdaLR(o, tenth),
            ],
            [4, 13],
        )
    ],
    "StepLR": [lambda o: lr_scheduler.StepLR(o, 4, gamma=0.5)],
}
"""Examples of every scheduler of torch, by class."""

SCHEDULER_CASES = [
    pytest.param(make, id=f"{name}-{number}")
    for name, choices in SCHEDULERS.items()
    for number, make in enumerate(choices)
]


def test_every_scheduler_of_torch_has_an_example() -> None:
    items = [*vars(lr_scheduler).values(), *vars(swa_utils).values()]
    classes = {item for item in items if isinstance(item, type) and issubclass(item, LRScheduler)}
    there = {cls.__name__ for cls in classes if not cls.__name__.endswith("LRScheduler")}
    assert there == SCHEDULERS.keys(), "add the schedulers of this torch to SCHEDULERS"


def go_on(
    model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, steps: range
) -> list[list[float]]:
    """Train, and return the learning rates of each step."""
    rates = []
    for number in steps:
        train(model, optimizer, range(number, number + 1))
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(float(number % 3))
        else:
            scheduler.step()
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        assert [float(rate) for rate in scheduler.get_last_lr()] == rates[-1]
    return rates


@pytest.mark.parametrize(
    ("steps", "options"),
    [(0, {}), (5, {}), (5, {"lr": torch.tensor(0.01)})],
    ids=["new", "begun", "with a tensor"],
)
@pytest.mark.parametrize("make", SCHEDULER_CASES)
def test_a_scheduler_goes_on_exactly_and_quietly(
    make: Callable[[Optimizer], LRScheduler],
    steps: int,
    options: dict[str, Any],
    round_trip: Callable[[Any], Any],
) -> None:
    model, optimizer = made("Adam", **options)
    scheduler = make(optimizer)
    go_on(model, optimizer, scheduler, range(steps))
    copy, other, again = round_trip((model, optimizer, scheduler))
    assert type(again) is type(scheduler)
    assert again.optimizer is other
    assert vars(again).keys() == vars(scheduler).keys()
    assert vars(other).keys() == vars(optimizer).keys()
    assert same(other.state_dict(), optimizer.state_dict())
    further = range(steps, steps + 20)
    assert go_on(copy, other, again, further) == go_on(model, optimizer, scheduler, further)
    assert same_parameters(model, copy)


@pytest.mark.parametrize("make", SCHEDULER_CASES)
def test_a_scheduler_brings_its_optimizer_along(
    make: Callable[[Optimizer], LRScheduler], round_trip: Callable[[Any], Any]
) -> None:
    _, optimizer = made("SGD", momentum=0.9)
    again = round_trip(make(optimizer))
    assert same(again.optimizer.state_dict(), optimizer.state_dict())
    for part in getattr(again, "_schedulers", ()):
        assert part.optimizer is again.optimizer


def test_what_counts_milestones_counts_again(round_trip: Callable[[Any], Any]) -> None:
    again = round_trip(lr_scheduler.MultiStepLR(made()[1], [3, 8, 8]))
    assert type(again.milestones) is Counter
    assert again.milestones == Counter({8: 2, 3: 1})


def test_the_warning_of_a_scheduler_before_its_optimizer_is_not_lost(
    round_trip: Callable[[Any], Any],
) -> None:
    _, optimizer = made()
    again = round_trip(lr_scheduler.StepLR(optimizer, 3))
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        again.step()


def test_an_optimizer_goes_through_a_second_round_trip(round_trip: Callable[[Any], Any]) -> None:
    model, optimizer = made()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    copy, other, again = round_trip(round_trip((model, optimizer, scheduler)))
    further = range(5)
    assert go_on(copy, other, again, further) == go_on(model, optimizer, scheduler, further)


def test_an_optimizer_without_its_scheduler_takes_a_new_one(
    round_trip: Callable[[Any], Any],
) -> None:
    _, optimizer = made()
    lr_scheduler.StepLR(optimizer, 3)
    other = round_trip(optimizer)
    scheduler = lr_scheduler.StepLR(other, 3)
    other.step()
    scheduler.step()


def test_a_lambda_of_a_scheduler_is_named(round_trip: Callable[[Any], Any]) -> None:
    _, optimizer = made()
    with pytest.raises(NotRestorableError, match=r"^lr_lambdas\[0\]: function .*<lambda>"):
        round_trip(lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch))
    with pytest.raises(NotRestorableError, match=r"scheduler\W+lr_lambdas\[1\]: function"):
        round_trip(
            {"scheduler": lr_scheduler.MultiplicativeLR(optimizer, [tenth, lambda epoch: 1.0])}
        )
    with pytest.raises(NotRestorableError, match=r"^_scale_fn_custom: function"):
        round_trip(lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, scale_fn=lambda x: 1.0))


class Sawtooth(LRScheduler):
    """A user's own scheduler."""

    def __init__(self, optimizer: Optimizer, period: int) -> None:
        self.period = period
        self.milestones = [period]
        super().__init__(optimizer)

    def get_lr(self) -> Any:
        return [base * (1 - self.last_epoch % self.period / self.period) for base in self.base_lrs]


def test_a_users_own_scheduler_goes_on(round_trip: Callable[[Any], Any]) -> None:
    model, optimizer = made()
    scheduler = Sawtooth(optimizer, 4)
    copy, other, again = round_trip((model, optimizer, scheduler))
    further = range(20)
    assert go_on(copy, other, again, further) == go_on(model, optimizer, scheduler, further)


def scaled(scaler: Any, model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    """Train with a scaler, where every third step overflows; return the scales."""
    scales = []
    for number in steps:
        tokens = torch.randint(12, (7,), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        loss = (model(tokens) - 0.5).square().mean()
        scaler.scale(loss * (float("inf") if number % 3 == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["plain", "fused"])
def test_a_gradient_scaler_goes_on(
    steps: int, options: dict[str, Any], round_trip: Callable[[Any], Any]
) -> None:
    model, optimizer = made("Adam", **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=32.0, growth_interval=2)
    scaled(scaler, model, optimizer, range(steps))
    again, copy, other = round_trip((scaler, model, optimizer))
    assert type(again) is torch.amp.GradScaler
    assert vars(again).keys() == vars(scaler).keys()
    assert again.state_dict() == scaler.state_dict()
    further = range(steps, steps + 10)
    assert scaled(again, copy, other, further) == scaled(scaler, model, optimizer, further)
    assert same_parameters(model, copy)


def test_a_gradient_scaler_that_is_disabled_stays_so(round_trip: Callable[[Any], Any]) -> None:
    again = round_trip(torch.amp.GradScaler("cpu", enabled=False))
    assert not again.is_enabled()
    assert again.scale(torch.ones(1)).item() == 1.0


@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning", "ignore:.*CUDA is not available")
def test_the_scalers_of_single_devices_come_back_as_their_classes(
    round_trip: Callable[[Any], Any],
) -> None:
    for module in (torch.cuda.amp, torch.cpu.amp):
        scaler = module.GradScaler()
        again = round_trip(scaler)
        assert type(again) is module.GradScaler
        assert again.state_dict() == scaler.state_dict()


def test_a_gradient_scaler_in_the_middle_of_a_step_is_refused(
    round_trip: Callable[[Any], Any],
) -> None:
    model, optimizer = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=32.0)
    scaler.scale(model(torch.tensor([1])).sum()).backward()
    round_trip(scaler)  # nothing of the optimizer is in it yet
    scaler.unscale_(optimizer)
    with pytest.raises(NotRestorableError, match=r"in the middle of a step; .*scaler\.update\(\)"):
        round_trip(scaler)


@pytest.mark.parametrize("drawn", [0, 7])
def test_a_generator_goes_on_where_it_was(drawn: int, round_trip: Callable[[Any], Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    torch.randn(drawn, generator=generator)
    again = round_trip(generator)
    assert again.initial_seed() == 5
    assert torch.equal(torch.randn(9, generator=again), torch.randn(9, generator=generator))


def test_a_default_generator_that_is_taken_apart_makes_one_of_its_own() -> None:
    again = GENERATOR.build(torch.Generator, dict(GENERATOR.parts(torch.default_generator)))
    before = torch.get_rng_state()
    drawn = torch.randn(3, generator=again)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.randn(3), drawn)


def test_a_generator_of_a_device_that_is_not_here_is_refused() -> None:
    parts = {"device": torch.device("xpu"), "state": torch.zeros(16, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="of the device xpu can't be made where there is no such"):
        GENERATOR.build(torch.Generator, parts)


def optimizer_parts(**changes: Any) -> dict[str, Any]:
    return {**OPTIMIZER.parts(made()[1]), **changes}


def scheduler_parts(name: str, **changes: Any) -> dict[str, Any]:
    return {**SCHEDULER.parts(SCHEDULERS[name][0](made()[1])), **changes}


def scaler_parts(**changes: Any) -> dict[str, Any]:
    return {**SCALER.parts(torch.amp.GradScaler("cpu")), **changes}


def generator_parts(**changes: Any) -> dict[str, Any]:
    return {**GENERATOR.parts(torch.Generator()), **changes}


UNFIT: list[tuple[Kind, type, Callable[[], dict[str, Any]]]] = [
    (OPTIMIZER, nn.Linear, optimizer_parts),
    (OPTIMIZER, Adam, lambda: optimizer_parts(param_groups=3)),
    (OPTIMIZER, Adam, lambda: optimizer_parts(param_groups=[[]])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(param_groups=[{}])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(param_groups=[{"params": "all"}])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(param_groups=[{"params": [1]}])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(state=[])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(defaults=None)),
    (OPTIMIZER, Adam, lambda: optimizer_parts(_optimizer_step_pre_hooks=[])),
    (OPTIMIZER, Adam, lambda: optimizer_parts(_optimizer_step_pre_hooks=OrderedDict({1: "run"}))),
    (SCHEDULER, Adam, lambda: scheduler_parts("StepLR")),
    (SCHEDULER, lr_scheduler.StepLR, lambda: scheduler_parts("StepLR", optimizer=None)),
    (SCHEDULER, lr_scheduler.StepLR, lambda: {}),
    (SCHEDULER, lr_scheduler.LambdaLR, lambda: scheduler_parts("StepLR")),
    (SCHEDULER, lr_scheduler.LambdaLR, lambda: scheduler_parts("LambdaLR", lr_lambdas=["run"])),
    (SCHEDULER, lr_scheduler.LambdaLR, lambda: scheduler_parts("LambdaLR", lr_lambdas=None)),
    (
        SCHEDULER,
        lr_scheduler.MultiStepLR,
        lambda: scheduler_parts("MultiStepLR", milestones={3: "9"}),
    ),
    (SCHEDULER, lr_scheduler.MultiStepLR, lambda: scheduler_parts("MultiStepLR", milestones=[3])),
    (SCHEDULER, lr_scheduler.CyclicLR, lambda: scheduler_parts("CyclicLR", _scale_fn_custom=1)),
    (
        SCHEDULER,
        lr_scheduler.SequentialLR,
        lambda: scheduler_parts("SequentialLR", _schedulers=[1]),
    ),
    (SCALER, nn.Linear, scaler_parts),
    (SCALER, torch.amp.GradScaler, lambda: {}),
    (SCALER, torch.amp.GradScaler, lambda: scaler_parts(_device=3)),
    (SCALER, torch.amp.GradScaler, lambda: scaler_parts(_init_scale="9")),
    (SCALER, torch.amp.GradScaler, lambda: scaler_parts(_scale=torch.ones(3))),
    (GENERATOR, nn.Linear, generator_parts),
    (GENERATOR, torch.Generator, lambda: generator_parts(device="cpu")),
    (GENERATOR, torch.Generator, lambda: generator_parts(state=[1])),
    (GENERATOR, torch.Generator, lambda: generator_parts(state=torch.zeros(3, dtype=torch.uint8))),
    (GENERATOR, torch.Generator, lambda: generator_parts(state=torch.zeros(5056))),
]


@pytest.mark.parametrize(("kind", "cls", "parts"), UNFIT)
def test_unfit_parts_are_refused(
    kind: Kind, cls: type, parts: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        kind.build(cls, parts())


def test_options_that_an_older_torch_did_not_know_are_supplied() -> None:
    parts = optimizer_parts()
    for group in parts["param_groups"]:
        del group["decoupled_weight_decay"]
    model = Net()
    parts["param_groups"][0]["params"] = list(model.parameters())
    other = OPTIMIZER.build(Adam, parts)
    train(model, other, range(2))
    assert other.param_groups[0]["decoupled_weight_decay"] is False


def saved_state(obj: Any) -> Any:
    return apart.round_trip(state_of(obj))


@pytest.mark.parametrize(("name", "options"), OPTIMIZER_CASES)
def test_the_state_of_an_optimizer_goes_into_another(name: str, options: dict[str, Any]) -> None:
    model, optimizer = made(name, **options)
    train(model, optimizer, range(5))
    copy, other = made(name, **options)
    copy.load_state_dict(model.state_dict())
    load_into(other, saved_state(optimizer), "opt@v1")
    train(model, optimizer, range(5, 15))
    train(copy, other, range(5, 15))
    assert same_parameters(model, copy)


@pytest.mark.parametrize("make", SCHEDULER_CASES)
def test_the_state_of_a_scheduler_goes_into_another(
    make: Callable[[Optimizer], LRScheduler],
) -> None:
    model, optimizer = made()
    scheduler = make(optimizer)
    go_on(model, optimizer, scheduler, range(5))
    copy, other = made()
    copy.load_state_dict(model.state_dict())
    again = make(other)
    load_into(again, saved_state(scheduler), "sched@v1")
    load_into(other, saved_state(optimizer), "opt@v1")
    assert vars(again).keys() == vars(scheduler).keys()
    assert {k: type(v) for k, v in vars(again).items()} == {
        k: type(v) for k, v in vars(scheduler).items()
    }
    further = range(5, 25)
    assert go_on(copy, other, again, further) == go_on(model, optimizer, scheduler, further)
    assert same_parameters(model, copy)


def test_the_state_of_a_scaler_and_a_generator_go_into_others() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=32.0, growth_interval=2)
    scaled(scaler, *made(), range(4))
    again = torch.amp.GradScaler("cpu")
    load_into(again, saved_state(scaler), "s@v1")
    assert again.state_dict() == scaler.state_dict()
    generator, other = torch.Generator().manual_seed(3), torch.Generator()
    torch.randn(5, generator=generator)
    load_into(other, saved_state(generator), "g@v1")
    assert torch.equal(torch.randn(4, generator=other), torch.randn(4, generator=generator))


def refused(obj: Any, state: Any) -> str:
    """Return why a state is refused, having made sure that nothing was changed."""
    before = state_of(obj)
    kept = apart.round_trip(before)
    with pytest.raises(MaterializationError) as caught:
        load_into(obj, state, "opt@v2")
    assert same(state_of(obj), kept)
    text = str(caught.value)
    assert text.startswith("opt@v2 doesn't fit into the ")
    assert f"{type(obj).__name__} that into= holds, and nothing was changed. " in text
    return text


def test_everything_that_does_not_fit_an_optimizer_is_listed() -> None:
    model, optimizer = made("SGD", momentum=0.9)
    train(model, optimizer, range(2))
    other = SGD(
        [{"params": list(model.parameters())[:1]}, {"params": [nn.Parameter(torch.ones(4))]}]
    )
    other.param_groups[0]["mine"] = 1
    text = refused(other, {**saved_state(optimizer), "extra": 1})
    assert "into= has no 'extra'" in text
    assert "parameter group 0: the saved state lacks 'mine'" in text
    assert "parameter group 1: saved 2 parameters, into= has 1" in text
    assert "state[1]['momentum_buffer'] has shape [3, 6], the parameter in into= [4]" in text
    assert "state[2] belongs to none of the parameters" not in text


def test_another_number_of_groups_is_refused() -> None:
    text = refused(SGD(Net().parameters()), saved_state(made("SGD")[1]))
    assert "parameter groups: saved 2, into= has 1" in text


def test_the_state_of_another_optimizer_is_refused() -> None:
    text = refused(made("SGD")[1], saved_state(made("Adam")[1]))
    assert "parameter group 0: the saved state lacks 'momentum', 'dampening'" in text
    assert "parameter group 0: into= has no 'betas', 'eps', 'amsgrad'" in text


@pytest.mark.parametrize(
    ("name", "options"), [case for case in OPTIMIZER_CASES if case.id != "SGD-0"]
)
def test_state_of_other_shapes_is_refused(name: str, options: dict[str, Any]) -> None:
    model, optimizer = made(name, **options)
    train(model, optimizer, range(4))
    shapes = [[*param.shape[:-1], param.shape[-1] + 1] for param in model.parameters()]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    groups = [params] if len(optimizer.param_groups) == 1 else [params[:1], params[1:]]
    other = type(optimizer)([{"params": group} for group in groups], **options)  # type: ignore[call-arg]
    assert "has shape" in refused(other, saved_state(optimizer))


def test_state_of_a_parameter_that_is_nowhere_is_refused() -> None:
    model, optimizer = made()
    train(model, optimizer, range(2))
    state = saved_state(optimizer)
    state["state"][7] = state["state"].pop(2)
    assert "state[7] belongs to none of the parameters" in refused(made()[1], state)


def test_parameters_in_another_order_are_refused_by_their_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = SGD(model.named_parameters())
    other = SGD(list(model.named_parameters())[::-1])
    text = refused(other, saved_state(optimizer))
    assert "the parameters were saved in another order: 0.weight, 0.bias, 1.weight" in text
    load_into(SGD(model.parameters()), saved_state(optimizer), "opt@v1")
    load_into(optimizer, saved_state(SGD(model.parameters())), "opt@v1")


def test_state_with_a_scheduler_goes_into_an_optimizer_without_one_but_not_the_other_way() -> None:
    scheduled, bare = made()[1], made()[1]
    lr_scheduler.OneCycleLR(scheduled, 0.1, total_steps=9)
    state = saved_state(bare)
    load_into(bare, saved_state(scheduled), "opt@v1")
    assert "max_lr" in bare.param_groups[0]
    text = refused(scheduled, state)
    assert "'initial_lr', 'max_lr', 'min_lr', 'base_momentum', 'max_momentum' belongs to a" in text


def test_the_state_of_an_older_torch_is_taken() -> None:
    _, optimizer = made()
    state = saved_state(optimizer)
    for group in state["param_groups"]:
        del group["decoupled_weight_decay"]
    load_into(optimizer, state, "opt@v1")
    assert optimizer.param_groups[1]["decoupled_weight_decay"] is False


def test_a_users_own_optimizer_takes_its_state() -> None:
    model = Net()
    optimizer, other = Lion(model.parameters()), Lion(model.parameters())
    train(model, optimizer, range(2))
    with pytest.raises(MaterializationError, match="the user's own code ran"):
        load_into(other, saved_state(optimizer), "opt@v1")
    tagged, another = Tagged(model.parameters()), Tagged(model.parameters())
    train(model, tagged, range(2))
    state = saved_state(tagged)
    load_into(another, state, "opt@v1")
    assert same(another.state_dict(), tagged.state_dict())
    state["state"][0]["exp_avg"] = torch.ones(4)
    assert "state[0]['exp_avg'] has shape [4]" in refused(another, state)


def test_hooks_of_the_user_take_part_in_loading() -> None:
    _, optimizer = made()
    state = saved_state(optimizer)
    state["renamed"] = state.pop("state")

    def rename(_: Any, state: dict[str, Any]) -> None:
        state["state"] = state.pop("renamed")

    def fail(_: Any, state: dict[str, Any]) -> None:
        raise LookupError("no such run")

    optimizer.register_state_dict_post_hook(
        lambda _, s: {"renamed": s["state"], "param_groups": s["param_groups"]}
    )
    optimizer.register_load_state_dict_pre_hook(rename)
    load_into(optimizer, state, "opt@v1")
    optimizer.register_load_state_dict_pre_hook(fail)
    with pytest.raises(MaterializationError, match="opt@v1 can't be loaded .*: no such run"):
        load_into(optimizer, state, "opt@v1")


def test_everything_that_does_not_fit_a_scheduler_is_listed() -> None:
    _, optimizer = made()
    step, cosine = lr_scheduler.StepLR(optimizer, 3), lr_scheduler.CosineAnnealingLR(optimizer, 3)
    text = refused(cosine, saved_state(step))
    assert "the saved state lacks 'T_max', 'eta_min'" in text
    assert "into= has no 'step_size', 'gamma'" in text
    single = lr_scheduler.StepLR(SGD(Net().parameters()), 3)
    text = refused(single, saved_state(step))
    assert "base_lrs has 2 values, in into= 1; _last_lr has 2 values, in into= 1" in text


def test_what_does_not_fit_in_a_sequence_of_schedulers_is_told_apart() -> None:
    def sequence(*parts: Any) -> LRScheduler:
        _, optimizer = made()
        schedulers = [part(optimizer) for part in parts]
        return lr_scheduler.SequentialLR(optimizer, schedulers, [2] * (len(parts) - 1))

    step = functools.partial(lr_scheduler.StepLR, step_size=2)
    linear = lr_scheduler.LinearLR
    text = refused(sequence(step, linear), saved_state(sequence(step, step)))
    assert "scheduler 1: the saved state lacks 'start_factor', 'end_factor', 'total_iters'" in text
    text = refused(sequence(step), saved_state(sequence(step, step)))
    assert "_schedulers has 2 values, in into= 1" in text


def test_functions_with_a_state_are_told_from_those_without() -> None:
    _, optimizer = made()
    plain = lr_scheduler.LambdaLR(optimizer, tenth)
    stateful = lr_scheduler.LambdaLR(optimizer, Warmup(3))
    assert "lr_lambdas holds other functions" in refused(plain, saved_state(stateful))
    cyclic = lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, scale_fn=tenth)
    other = lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, scale_fn=Warmup(3))
    assert "_scale_fn_custom holds other functions" in refused(cyclic, saved_state(other))


def test_scalers_and_generators_that_do_not_fit_are_refused() -> None:
    enabled, disabled = torch.amp.GradScaler("cpu"), torch.amp.GradScaler("cpu", enabled=False)
    text = refused(enabled, saved_state(disabled))
    assert "the scaler that was saved is disabled, that of into= is enabled" in text
    assert "was saved is enabled, that of into= is disabled" in refused(
        disabled, saved_state(enabled)
    )
    assert "'scale' is 'a', and no number" in refused(enabled, {**state_of(enabled), "scale": "a"})
    generator = torch.Generator()
    cuda = {"device": "cuda:1", "state": torch.zeros(16, dtype=torch.uint8)}
    assert "a generator on cuda, that of into= is on cpu" in refused(generator, cuda)
    assert "'state' isn't the 5056 bytes of a generator on cpu" in refused(
        generator, {**cuda, "device": "cpu"}
    )
    assert "it isn't the state of a" in refused(generator, {**cuda, "device": "nowhere"})
    assert "the saved state lacks 'state'" in refused(generator, {"device": "cpu"})


@pytest.mark.parametrize(
    "state",
    [
        {"state": 3, "param_groups": 4},
        {"state": {}, "param_groups": [{}, {}]},
        {"state": {0: 1}, "param_groups": "groups"},
    ],
)
def test_what_is_no_state_at_all_is_refused(state: Any) -> None:
    refused(made()[1], state)


def test_what_takes_no_state_is_refused() -> None:
    with pytest.raises(UnsupportedObjectError, match=r"into= takes an optimizer, .* for a@v1; got"):
        load_into(nn.Linear(1, 1), {}, "a@v1")
    with pytest.raises(MaterializationError, match="a@v1 holds a list, and no state to load"):
        load_into(made()[1], [], "a@v1")


def test_numbers_of_numpy_become_plain_ones() -> None:
    _, optimizer = made("SGD", lr=np.float32(0.25))
    assert type(state_of(optimizer)["param_groups"][0]["lr"]) is float


def test_a_state_that_is_no_plain_data_is_refused() -> None:
    _, optimizer = made()
    optimizer.param_groups[1]["schedule"] = Warmup(3)
    with pytest.raises(NotRestorableError, match=r"param_groups'\]\[1\]\['schedule'\]: its state"):
        state_of(optimizer)
