"""What is recorded of a call's arguments, and how they come back from the record."""

from __future__ import annotations

import enum
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest

from flowyml import arguments, encoding, rebuilding
from flowyml.arguments import looks_secret
from flowyml.rebuilding import NotRepeatableError


class Colour(enum.Enum):
    RED = 1


@dataclass
class Optimizer:
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    api_key: str = "hunter2"


@attrs.frozen
class Config:
    rate: float = 0.1
    optimizer: Optimizer = attrs.field(factory=Optimizer)
    where: Path = Path("data")


class Point(NamedTuple):
    x: int
    y: float


@dataclass
class Batch:
    images: Any
    scale: float = 2.0


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    __hash__ = None


def helper(x: int) -> int:
    return x


def described(function: Callable[..., Any], *args: Any, **kwargs: Any) -> arguments.Call:
    call = arguments.describe(inspect.signature(function).bind(*args, **kwargs))
    encoding.dumps([call.hyperparameters, call.form])  # a record holds it
    return call


def one(value: Any) -> arguments.Call:
    def function(x: Any) -> None: ...

    return described(function, value)


def again(call: arguments.Call, given: Mapping[str, Any] | None = None) -> Any:
    """Rebuild a call from what a record keeps of it: JSON, and the inputs by name."""
    form = encoding.loads(encoding.dumps(call.form))
    return rebuilding.rebuild(form, lambda name: call.inputs[name], given or {})


def test_defaults_and_every_kind_of_parameter_are_recorded() -> None:
    def function(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> None: ...

    call = described(function, 1, 2, 7, 8, d=4)
    assert call.hyperparameters == {"a": 1, "b": 2, "rest": [7, 8], "c": 3, "d": 4}
    assert again(call) == ([1, 2, 7, 8], {"c": 3, "d": 4})


def test_nested_settings_have_flat_names() -> None:
    call = one({"model": {"width": 8, "layers": [{"kind": "conv"}, {"kind": "head"}]}, "a b": 1})
    assert call.hyperparameters == {
        "x.model.width": 8,
        "x.model.layers[0].kind": "conv",
        "x.model.layers[1].kind": "head",
        "x['a b']": 1,
    }


def test_attrs_dataclasses_enums_and_paths_are_flattened_and_come_back() -> None:
    call = one(Config(optimizer=Optimizer(betas=(0.5, 0.6))))
    assert call.hyperparameters == {
        "x.rate": 0.1,
        "x.optimizer.name": "adam",
        "x.optimizer.betas": [0.5, 0.6],
        "x.optimizer.api_key": "***",
        "x.where": "data",
    }
    with pytest.raises(NotRepeatableError, match=re.escape("'x.optimizer.api_key' was masked")):
        again(call)
    (value,), _ = again(call, {"x.optimizer.api_key": "hunter2"})
    assert value == Config(optimizer=Optimizer(betas=(0.5, 0.6)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1,
        "text",
        [1, [2, 3]],
        (1, "a", None),
        {"a": 1, 2: (3,)},
        {1, 2},
        frozenset({"a"}),
        Path("a/b"),
        Colour.RED,
        Point(1, 2.5),
        date(2026, 1, 2),
        datetime(2026, 1, 2, 3, tzinfo=UTC),
        {"colour": Colour.RED, "path": Path("x")},
        [],
        {},
        helper,
        Point,
        math.sqrt,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_equal_and_of_their_type(value: Any) -> None:
    (found,), _ = again(one(value))
    assert found == value
    assert type(found) is type(value)


def test_numbers_that_are_none_come_back() -> None:
    call = one([math.nan, math.inf])
    assert str(call.hyperparameters) == "{'x': [nan, inf]}"
    (found,), _ = again(call)
    assert math.isnan(found[0])
    assert found[1] == math.inf


def test_library_numbers_are_settings_and_inputs() -> None:
    call = one(np.float32(0.5))
    assert call.hyperparameters == {"x": 0.5}
    assert call.inputs == {"x": np.float32(0.5)}
    (found,), _ = again(call)
    assert type(found) is np.float32


def test_arrays_are_inputs_wherever_they_are() -> None:
    images = np.ones(3)
    call = one({"batch": Batch(images), "rate": 0.1})
    assert list(call.inputs) == ["x.batch.images"]
    assert call.hyperparameters == {"x.batch.scale": 2.0, "x.rate": 0.1}
    (found,), _ = again(call)
    assert found["batch"].images is images


def test_much_is_data_and_not_a_setting() -> None:
    for value in ([1] * 20_000, {str(i): i for i in range(20_000)}, "x" * 20_000, [["y" * 20_000]]):
        call = one(value)
        assert call.hyperparameters == {}
        assert call.inputs == {"x": value}
        assert again(call) == ([value], {})


def test_secrets_are_masked_by_name_and_come_in_no_form() -> None:
    def function(api_key: str, login: dict[str, str], **more: str) -> None: ...

    call = described(
        function, "hunter2", {"user": "ada", "password": "hunter2"}, accessToken="hunter2"
    )
    assert call.hyperparameters == {
        "api_key": "***",
        "login.user": "ada",
        "login.password": "***",
        "accessToken": "***",
    }
    assert "hunter2" not in encoding.dumps([call.hyperparameters, call.form]).decode()
    assert call.inputs == {}


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "accessToken",
        "apikey",
        "hf-token",
        "DBPassword",
        "my password",
        "password1",
        "X-API-KEY",
        "Authorization",
        "ssh_key",
        "spark.secret.key",
    ],
)
def test_names_that_look_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["max_tokens", "token_count", "key", "author", "passes"])
def test_names_that_do_not(name: str) -> None:
    assert not looks_secret(name)


def test_large_data_with_a_secret_in_it_is_private() -> None:
    rows = [{"id": number} for number in range(20_000)]
    assert one([*rows, {"password": "x"}]).private == {"x"}
    assert one(rows).private == set()


def test_objects_whose_every_method_raises_are_inputs() -> None:
    call = one(Odd())
    assert list(call.inputs) == ["x"]
    with pytest.raises(NotRepeatableError, match=r"a .*Odd, was not recorded: it can't be looked"):
        again(call)


@pytest.mark.parametrize(
    "value",
    [open, iter([]), lambda: 1, object(), OrderedDict(a=1)],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_never_raises(value: Any) -> None:
    assert one(value).form["args"]


def test_a_container_that_contains_itself_is_lost() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotRepeatableError, match="contains itself"):
        again(one(value))


def test_deep_nesting_is_lost() -> None:
    value: Any = 1
    for _ in range(200):
        value = [value]
    assert one(value).form["args"]


def test_what_a_dataclass_computes_is_as_it_was() -> None:
    @dataclass
    class Counted:
        start: int
        total: int = field(init=False)

        def __post_init__(self) -> None:
            self.total = self.start + 1

    globals()["Counted"] = Counted
    Counted.__qualname__ = "Counted"
    value = Counted(1)
    value.total = 7
    (found,), _ = again(one(value))
    assert (found.start, found.total) == (1, 7)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"args": 3, "kwargs": {}},
        {"args": [["unknown", 1]], "kwargs": {}},
        {"args": [["name"]], "kwargs": {}},
        {"args": [["list", 3]], "kwargs": {}},
    ],
    ids=str,
)
def test_a_damaged_form_is_refused(form: Any) -> None:
    with pytest.raises(ValueError, match="recorded call"):
        rebuilding.rebuild(form, lambda name: name, {})


def test_nothing_is_imported_for_a_recorded_class() -> None:
    form = {"args": [["object", "antigravity", "Thing", []]], "kwargs": {}}
    with pytest.raises(NotRepeatableError, match="Import the module that defines it"):
        rebuilding.rebuild(form, lambda name: name, {})


class Marked(NamedTuple):
    x: int


class Odder(Marked):
    pass


def test_what_has_more_than_its_fields_is_lost() -> None:
    batch = Batch(1)
    batch.extra = 2  # type: ignore[attr-defined]
    odder = Odder(1)
    odder.extra = 2  # type: ignore[attr-defined]
    for value in (batch, odder):
        with pytest.raises(NotRepeatableError, match="attributes besides its fields"):
            again(one(value))


def test_names_that_would_be_the_same_are_kept_apart() -> None:
    def function(a: Any, /, b: Any, **more: Any) -> None: ...

    call = described(function, 1, {"c": np.ones(1)}, **{"a": 2, "b.c": np.ones(2)})
    assert call.hyperparameters == {"a": 1, "a#": 2}
    assert [len(value) for value in call.inputs.values()] == [1, 2]
    args, kwargs = again(call)
    assert (args[0], kwargs["a"], len(args[1]["c"]), len(kwargs["b.c"])) == (1, 2, 1, 2)
