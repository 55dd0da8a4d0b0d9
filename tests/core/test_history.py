import math
from typing import Any

import numpy as np
import pytest

from flowyml import Model, Store
from flowyml.history import TrainingHistory


def test_the_lists_are_copies() -> None:
    losses = [0.5]
    history = TrainingHistory.of({"epochs": [1], "loss": losses})
    losses.append(0.3)
    assert history == {"epochs": [1], "loss": [0.5]}


def test_numpy_numbers_become_python_numbers() -> None:
    history = TrainingHistory.of({"epochs": np.arange(2), "loss": [np.float32(0.5), np.array(1)]})
    assert history == {"epochs": [0, 1], "loss": [0.5, 1]}
    assert {type(item) for series in history.values() for item in series} == {int, float}


def test_missing_epochs_are_filled_in() -> None:
    assert TrainingHistory.of({"loss": [3.0, 2.0]}) == {"epochs": [1, 2], "loss": [3.0, 2.0]}


def test_an_empty_history_is_fine() -> None:
    assert TrainingHistory.of({"epochs": [], "loss": []}).final == {}
    assert TrainingHistory.of({}) == {}


@pytest.mark.parametrize(
    ("history", "error", "told"),
    [
        ([0.5], TypeError, "has to be a dict"),
        ({1: [0.5]}, TypeError, "strings as keys; got 1"),
        ({"loss": 0.5}, TypeError, r"\['loss'\] has to be a sequence"),
        ({"loss": "0.5"}, TypeError, r"\['loss'\] has to be a sequence"),
        ({"loss": [0.5, "x"]}, TypeError, r"\['loss'\]\[1\] has to be a number; got a str"),
        ({"loss": [True]}, TypeError, r"\['loss'\]\[0\] has to be a number; got a bool"),
        ({"loss": [np.zeros(2)]}, TypeError, r"\['loss'\]\[0\] has to be a number"),
        ({"epochs": [1], "loss": [1.0, 2.0]}, ValueError, "'epochs' has 1, 'loss' has 2"),
    ],
)
def test_what_is_no_history_is_refused(history: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        TrainingHistory.of(history)


def test_final_and_best() -> None:
    history = TrainingHistory.of({"val_loss": [0.3, 0.1, math.nan, 0.2], "acc": [1, 2, 3, 4]})
    assert history.final == {"epochs": 4, "val_loss": 0.2, "acc": 4}
    assert history.best("val_loss") == {"epochs": 2, "val_loss": 0.1, "acc": 2}
    assert history.best("acc", mode="max")["epochs"] == 4
    with pytest.raises(KeyError, match="'loss' isn't in the training history"):
        history.best("loss")
    with pytest.raises(ValueError, match="no value"):
        TrainingHistory.of({"loss": [math.nan]}).best("loss")


def test_nan_and_infinity_survive_save_and_load(store: Store, toy: Any) -> None:
    model = Model.create(
        toy([1.0]), "m", training_history={"loss": [math.nan, math.inf, -math.inf]}
    )
    store.save(model)
    back = store.get("m")
    assert isinstance(back, Model)
    assert back.training_history is not None
    assert math.isnan(back.training_history["loss"][0])
    assert back.training_history["loss"][1:] == [math.inf, -math.inf]
    assert back.training_history.final["epochs"] == 3
