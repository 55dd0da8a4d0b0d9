"""The conformance kit: whole for a pipeline, and what concerns them for trees, which need trust."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from flowyml.testing import (
    AdapterConformance,
    Subject,
    check_a_changed_model_has_another_digest,
    check_a_saved_model_comes_back,
    check_an_unchanged_model_keeps_its_digest,
    check_the_description_is_complete,
)

PIXELS, DIGITS = load_digits(return_X_y=True)
FEW = slice(0, 200)
PROPERTIES = (
    "architecture",
    "model_class",
    "parameters",
    "num_layers",
    "layer_types",
    "num_tensors",
    "tensor_shapes_sample",
    "dtype",
    "hyperparameters",
    "fitted_attributes",
    "fitted",
    "n_features_in_",
    "classes_",
)


class Estimators(Subject):
    framework = "sklearn"
    properties = PROPERTIES
    # skops imports all of scikit-learn by itself, whatever a file names.
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "skops.io")

    def predict(self, model: Any) -> Any:
        return model.predict_proba(PIXELS[:50])


class Forest(Estimators):
    def make_model(self) -> RandomForestClassifier:
        return RandomForestClassifier(5, random_state=0).fit(PIXELS[FEW], DIGITS[FEW])

    make_model_that_needs_trust = make_model

    def change_model(self, model: RandomForestClassifier) -> RandomForestClassifier:
        model.estimators_[0].tree_.threshold[0] += 0.5
        return model


class Boosting(Estimators):
    def make_model(self) -> HistGradientBoostingClassifier:
        boosting = HistGradientBoostingClassifier(max_iter=3, random_state=0)
        return boosting.fit(PIXELS[FEW], DIGITS[FEW] % 3)

    make_model_that_needs_trust = make_model

    def change_model(self, model: HistGradientBoostingClassifier) -> HistGradientBoostingClassifier:
        model.learning_rate += 1e-6
        return model


class TestPipeline(Estimators, AdapterConformance):
    def make_model(self) -> Pipeline:
        steps = [("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=50, C=0.1))]
        return Pipeline(steps).fit(PIXELS[FEW], DIGITS[FEW])

    def make_model_that_needs_trust(self) -> Pipeline:
        members = [("forest", Forest().make_model()), ("linear", LogisticRegression(max_iter=50))]
        steps = [("scale", StandardScaler()), ("vote", VotingClassifier(members, voting="soft"))]
        return Pipeline(steps).fit(PIXELS[FEW], DIGITS[FEW])

    def change_model(self, model: Pipeline) -> Pipeline:
        model[-1].coef_[0, 0] += 1e-6
        return model

    def variants(self) -> Any:
        for step, setting in (
            ("classify", {"C": 0.2}),
            ("classify", {"fit_intercept": False}),
            ("classify", {"class_weight": "balanced"}),
            ("scale", {"with_mean": False}),
        ):
            model = self.make_model()
            model.named_steps[step].set_params(**setting)
            yield model
        model = self.make_model()
        model[-1].coef_ = model[-1].coef_.astype(np.float32)
        yield model
        yield Pipeline([("scaling", model[0]), ("classify", model[1])])

    def other_objects(self) -> Any:
        return StandardScaler, StratifiedKFold(), PIXELS, np.random.RandomState(0)

    def draw(self) -> Any:
        return np.random.rand(4)


@pytest.mark.parametrize("subject", [Forest(), Boosting()], ids=lambda item: type(item).__name__)
@pytest.mark.parametrize(
    "check",
    [
        check_the_description_is_complete,
        check_a_saved_model_comes_back,
        check_an_unchanged_model_keeps_its_digest,
        check_a_changed_model_has_another_digest,
    ],
    ids=lambda item: item.__name__,
)
def test_trees_pass_too(check, subject):
    check(subject)
