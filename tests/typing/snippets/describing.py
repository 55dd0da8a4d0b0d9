"""Models: whichever framework they are of, a type checker knows what comes back."""

from __future__ import annotations

from typing import Any, assert_type

from flowyml import Asset, Model


def from_any_framework(module: object) -> None:
    model = Model.from_pytorch(module, "digits", example_inputs=None, learning_rate=0.1)
    assert_type(model, Model)
    assert_type(Model.from_toy(module), Model)
    assert_type(Model.create(module, "digits", framework="toy", parent=["a@v1", model]), Model)


def properties(model: Model) -> None:
    assert_type(model.parameters, int | None)
    assert_type(model.trainable_parameters, int | None)
    assert_type(model.architecture, str | None)
    assert_type(model.layer_types, list[str] | None)
    assert_type(model.tensor_shapes_sample, dict[str, list[int]] | None)
    assert_type(model.training_mode, bool | None)
    assert_type(model.framework, str | None)
    assert_type(model.metadata.properties, dict[str, Any])
    assert_type(model.tags, dict[str, str])
    assert_type(model.summary(depth=None), str)
    # error: [operator] / reportOptionalOperand
    model.parameters + 1
    # error: [attr-defined] / reportAttributeAccessIssue, reportUnknownMemberType
    assert model.parametres


def history(model: Model) -> None:
    if model.training_history is not None:
        assert_type(model.training_history["loss"], list[int | float])
        assert_type(model.training_history.best("loss", mode="max"), dict[str, int | float])
    # error: [index] / reportOptionalSubscript
    model.training_history["loss"]


class Classifier(Model):
    """A user's own kind of model."""


def saving(model: Model, mine: Classifier, asset: Asset) -> None:
    assert_type(model.save("store"), Model)
    assert_type(mine.refresh(example_inputs=None).save(), Classifier)
    assert_type(asset.save(), Asset)
    assert_type(asset.version, str | None)
    assert_type(Model.load("digits@v1", trust=["mine.*"]), Model)


def mistakes(module: object) -> None:
    # error: [arg-type] / reportArgumentType
    Model.create(module, 5)
    # error: [arg-type] / reportArgumentType
    Model.create(module, parent=5)
    # error: [dict-item] / reportArgumentType
    Model.create(module, tags={"stage": 5})
    # error: [arg-type] / reportArgumentType
    Model.load(5)
