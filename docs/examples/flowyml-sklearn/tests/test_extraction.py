"""What `Model.from_sklearn` says about estimators."""

from __future__ import annotations

import functools
import json
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from flowyml import Model
from flowyml.errors import UnsupportedObjectError

PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS, DIGITS = PIXELS[:200], DIGITS[:200]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def described(estimator: Any) -> dict[str, Any]:
    return Model.from_sklearn(estimator).metadata.properties


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    columns = ColumnTransformer(
        [("scale", StandardScaler(), slice(0, 32)), ("squeeze", MinMaxScaler(), [40, 41])],
        remainder="drop",
    )
    steps = [("columns", columns), ("classify", LogisticRegression(C=0.5, max_iter=50))]
    return Pipeline(steps).fit(PIXELS, DIGITS)


def test_steps_are_named_as_set_params_names_them(pipeline):
    found = described(pipeline)

    assert found["steps"] == {
        "columns": "sklearn.compose.ColumnTransformer",
        "columns__scale": "sklearn.preprocessing.StandardScaler",
        "columns__squeeze": "sklearn.preprocessing.MinMaxScaler",
        "columns__remainder": "drop",
        "classify": "sklearn.linear_model.LogisticRegression",
    }
    assert found["num_layers"] == 5
    assert found["layer_types"] == [
        "ColumnTransformer",
        "StandardScaler",
        "MinMaxScaler",
        "LogisticRegression",
    ]


def test_hyperparameters_are_those_of_get_params(pipeline):
    found = described(pipeline)["hyperparameters"]

    assert found.keys() == pipeline.get_params(deep=True).keys()
    assert found["classify__C"] == 0.5
    assert found["classify"] == "sklearn.linear_model.LogisticRegression"
    assert found["columns__transformers"][0][2] == "slice(0, 32, None)"


def test_fitted_attributes_are_described_by_type_and_shape(pipeline):
    found = described(pipeline)["fitted_attributes"]

    assert found["classify__coef_"] == {
        "type": "numpy.ndarray",
        "shape": [10, 34],
        "dtype": "float64",
    }
    assert found["columns__scale__n_samples_seen_"] == 200


def test_features_and_classes_are_named(pipeline):
    found = described(pipeline)

    assert found["fitted"] is True
    assert found["estimator_type"] == "classifier"
    assert found["n_features_in_"] == 64
    assert found["classes_"] == [*range(10)]
    assert found["feature_names_in_"] is None


def test_an_estimator_without_a_fit_has_learned_nothing():
    found = described(make_pipeline(StandardScaler(), LogisticRegression()))

    assert found["fitted"] is False
    assert found["parameters"] == found["num_tensors"] == 0
    assert found["fitted_attributes"] == {}
    assert found["classes_"] is found["n_features_in_"] is found["dtype"] is None
    assert list(found["steps"]) == ["standardscaler", "logisticregression"]


def test_coefficients_and_intercepts_count():
    linear = LinearRegression().fit(PIXELS, DIGITS)
    logistic = LogisticRegression(max_iter=5).fit(PIXELS.astype("float32"), DIGITS)

    assert described(linear)["parameters"] == 64 + 1
    assert described(logistic)["parameters"] == 10 * 64 + 10
    assert described(logistic)["tensor_shapes_sample"] == {"coef_": [10, 64], "intercept_": [10]}


def test_the_nodes_of_trees_count():
    forest = RandomForestClassifier(3, random_state=0).fit(PIXELS, DIGITS)
    boosting = HistGradientBoostingClassifier(max_iter=2).fit(PIXELS, DIGITS % 3)
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)

    assert described(forest)["tree_nodes"] == described(forest)["parameters"] == nodes
    assert described(forest)["trees"] == 3
    assert described(boosting)["trees"] == 2 * 3
    assert described(boosting)["tree_nodes"] > 6


def test_what_is_reached_twice_counts_once():
    alone = LogisticRegression(max_iter=5).fit(PIXELS, DIGITS)
    voting = VotingClassifier([("a", alone), ("b", alone)]).fit(PIXELS, DIGITS)
    shared = FeatureUnion([("a", scaler := StandardScaler().fit(PIXELS)), ("b", scaler)])

    assert described(voting)["parameters"] == 2 * 650  # it has fitted two copies
    assert described(shared)["parameters"] == described(scaler)["parameters"] == 3 * 64


def test_of_a_search_the_best_is_shown():
    steps = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5))
    search = GridSearchCV(steps, {"logisticregression__C": [0.1, 1.0]}, cv=2)
    search.fit(PIXELS, DIGITS)
    found = described(search)

    assert found["steps"]["estimator__logisticregression"].endswith("LogisticRegression")
    assert found["parameters"] == 650 + 3 * 64
    assert found["tensor_shapes_sample"]["estimator__logisticregression__coef_"] == [10, 64]
    assert found["fitted_attributes"]["best_params_"] == search.best_params_
    assert found["fitted_attributes"]["best_score_"] == search.best_score_
    assert found["fitted_attributes"]["cv_results_"]["type"] == "dict"


def test_the_outline_is_the_tree_of_steps(pipeline):
    text = Model.from_sklearn(pipeline, "digits").summary()

    assert "\nPipeline " in text
    assert "scale (StandardScaler)" in text
    assert "(columns 40, 41)" in text
    assert f"parameters  {10 * 34 + 10 + 3 * 32 + 5 * 2:,}" in text


def test_the_outline_tells_what_an_ensemble_is_made_of():
    forest = RandomForestClassifier(3, random_state=0)
    stack = StackingClassifier([("forest", forest)], LogisticRegression(max_iter=5), cv=2)
    text = Model.from_sklearn(stack.fit(PIXELS, DIGITS)).summary()

    assert "forest (RandomForestClassifier)" in text
    assert "(3 × DecisionTreeClassifier)" in text
    assert "final_estimator (LogisticRegression)" in text


def test_no_training_data_is_in_the_description():
    samples = np.full((40, 3), 12345.678) + np.arange(40)[:, None]
    texts = [f"secret{number}" for number in range(40)]
    for estimator in (
        KNeighborsClassifier().fit(samples, samples[:, 0] > 12365),
        SVC().fit(samples, samples[:, 0] > 12365),
        GaussianProcessRegressor(RBF()).fit(samples, samples[:, 0]),
        TfidfVectorizer().fit(texts),
    ):
        text = json.dumps(described(estimator))
        assert "123" not in text
        assert "secret" not in text


class Everything(BaseEstimator):
    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return self.settings

    def fit(self, x: Any, y: Any = None) -> Everything:
        return self


@pytest.mark.parametrize(
    ("value", "described_as"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.log1p, "numpy.log1p"),
        (special.expit, "scipy.special.expit"),
        (np.mean, "numpy.mean"),
        (len, "len"),
        (StandardScaler, "sklearn.preprocessing.StandardScaler"),
        (functools.partial(np.mean, axis=1), "functools.partial(numpy.mean)"),
        (np.zeros((2, 3)), {"type": "numpy.ndarray", "shape": [2, 3], "dtype": "float64"}),
        (np.random.RandomState(0), "numpy.random.RandomState"),
        (np.random.default_rng(0), "numpy.random.Generator"),
        (RBF(), "sklearn.gaussian_process.kernels.RBF"),
        ({"b", "a"}, ["a", "b"]),
        ({1: 0.5, "x": None}, {"1": 0.5, "x": None}),
        ((1, "two", StandardScaler()), [1, "two", "sklearn.preprocessing.StandardScaler"]),
        ([0.0] * 101, {"type": "list", "length": 101}),
        ("x" * 300, "x" * 199 + "…"),
        (slice(1, 5), "slice(1, 5, None)"),
        (object(), "object"),
        (lambda x: x, f"{__name__}.<lambda>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_hyperparameter_is_described_readably(value, described_as):
    found = described(Everything(value=value))["hyperparameters"]["value"]

    assert found == described_as
    assert type(found) is type(described_as)


class Sullen(ClassifierMixin, BaseEstimator):
    @property
    def classes_(self) -> Any:
        raise RuntimeError("not now")

    n_features_in_ = feature_names_in_ = classes_

    def fit(self, x: Any, y: Any = None) -> Sullen:
        return self


@pytest.mark.filterwarnings("error")
def test_a_property_that_raises_is_none():
    assert described(Sullen())["classes_"] is None


def test_names_of_features_are_kept(files):
    scaler = StandardScaler().fit(PIXELS[:, :2])
    scaler.feature_names_in_ = np.array(["width", "height"], dtype=object)

    assert described(scaler)["feature_names_in_"] == ["width", "height"]
    assert list(files.load(files.save(scaler)[0]).feature_names_in_) == ["width", "height"]


def test_very_many_labels_are_described_by_their_shape():
    labels = np.repeat(np.arange(1001), 2)
    found = described(KNeighborsClassifier().fit(labels[:, None], labels))

    assert found["classes_"]["shape"] == [1001]


def test_describing_changes_nothing(pipeline):
    before = joblib.hash(pipeline)

    described(pipeline)

    assert joblib.hash(pipeline) == before


@pytest.mark.parametrize("obj", [StandardScaler, np.zeros(3), None, FunctionTransformer.fit])
def test_what_is_no_estimator_is_refused(obj):
    with pytest.raises(UnsupportedObjectError, match="a scikit-learn estimator"):
        Model.from_sklearn(obj)
