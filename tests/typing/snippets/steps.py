"""Steps and runs keep the signatures of what they decorate."""

from __future__ import annotations

from typing import Any, assert_type

from flowyml import Model, run, runs, seed_everything, step


@step
def plain(rate: float, *, epochs: int = 1) -> Model:
    return Model.create(rate + epochs)


@step("named", seed=0, tags={"stage": "test"})
def named(rate: float) -> dict[str, float]:
    return {"loss": rate}


@step(format=("safetensors", "state_dict"))
def with_options(model: Model) -> None:
    del model


@run("train", seed=1)
def train(rate: float) -> Model:
    return plain(rate)


def calls() -> None:
    assert_type(plain(0.1, epochs=2), Model)
    assert_type(named(0.1), dict[str, float])
    assert_type(train(0.1), Model)
    with_options(plain(0.1))
    # error: [arg-type] / reportArgumentType
    plain("0.1")
    # error: [call-arg] / reportCallIssue
    plain(0.1, 2)
    # error: [call-arg] / reportCallIssue
    plain(0.1, epoch=2)
    # error: [arg-type] / reportArgumentType
    named(rate=None)
    # error: [call-arg] / reportCallIssue
    train()
    # error: [call-overload] / reportCallIssue, reportArgumentType
    step(5)
    # error: [arg-type] / reportArgumentType
    seed_everything("0")


def in_a_block() -> None:
    with run("train", seed=1, tags={"stage": "test"}) as r:
        model = plain(0.1)
    assert_type(model, Model)
    assert_type(r.id, str)
    assert_type(r.seed, int | None)
    assert_type(r.outputs, list[str])
    assert_type(r.environment, dict[str, Any])
    assert_type([each.name for each in r.steps], list[str])
    assert_type([record.id for record in runs()], list[str])
    assert_type(seed_everything(0), int)
    # error: [arg-type] / reportArgumentType
    with run(name=5):
        pass
