"""Two adapters in one process: each describes, saves and loads its own, and in one run both do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import flowyml
from flowyml import Model, Store, adapters, step
from flowyml.errors import AmbiguousFrameworkError, UntrustedDataError

PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS, DIGITS = PIXELS[:100], DIGITS[:100]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FLOWYML_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@step(seed=1)
def prepared() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)).fit(PIXELS, DIGITS)


@step(seed=1)
def distilled(teacher: Pipeline) -> torch.nn.Module:
    student = torch.nn.Linear(64, 10)
    weights = torch.from_numpy(teacher[-1].coef_).float()
    with torch.no_grad():
        student.weight.mul_(0.01).add_(weights)
    return student


def test_one_run_holds_a_model_of_each(store):
    with flowyml.run("both") as run:
        distilled(prepared())

    made = {asset.framework: asset for asset in map(store.get, store.names())}
    assert made.keys() == {"pytorch", "sklearn"}
    assert {asset.stored.run for asset in made.values()} == {run.id}
    assert made["sklearn"].architecture == "Pipeline"
    assert made["pytorch"].architecture == "Linear"
    assert made["sklearn"].stored.adapter.startswith("flowyml-sklearn ")
    assert made["pytorch"].stored.adapter.startswith("flowyml-pytorch ")

    teacher = store.load(f"{made['sklearn'].ref}")
    student = store.load(f"{made['pytorch'].ref}")
    np.testing.assert_array_equal(teacher.predict(PIXELS), prepared().predict(PIXELS))
    torch.testing.assert_close(student.weight, distilled(teacher).weight)


def test_seeds_reach_both(store):
    first, again = (store.save(distilled(prepared()), "student") for _ in range(2))

    assert first.stored.digest == again.stored.digest


def test_a_parent_is_of_another_framework(store):
    teacher = Model.from_sklearn(prepared(), "teacher").save(store)
    Model.from_pytorch(torch.nn.Linear(2, 1), "student", parent=teacher).save(store)

    (parent,) = store.get("student").parents
    assert parent.ref == "teacher@v1"
    assert parent.digest == teacher.stored.digest


def test_each_recognises_its_own_and_nothing_else():
    pipeline, module = StandardScaler(), torch.nn.ReLU()

    assert Model.create(pipeline).framework == "sklearn"
    assert Model.create(module).framework == "pytorch"
    with pytest.raises(TypeError, match="a scikit-learn estimator"):
        Model.from_sklearn(module)
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module"):
        Model.from_pytorch(pipeline)


class Both(torch.nn.Module, BaseEstimator):
    """As wrappers of PyTorch for scikit-learn could be."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width

    def fit(self, x: object, y: object = None) -> Both:
        return self


def test_what_both_claim_has_a_way_out():
    with pytest.raises(AmbiguousFrameworkError, match="'pytorch' .* and 'sklearn' .* framework="):
        Model.create(Both())

    assert Model.create(Both(), framework="pytorch").framework == "pytorch"
    assert Model.from_sklearn(Both()).framework == "sklearn"


def test_what_an_estimator_takes_from_the_other_framework_needs_trust(store):
    store.save(FunctionTransformer(torch.relu), "relu")

    with pytest.raises(UntrustedDataError) as refused:
        store.load("relu")
    assert [name.rpartition(".")[2] for name in refused.value.required] == ["relu"]
    assert store.load("relu", trust=refused.value.required).func is torch.relu


DISABLED = """
from flowyml import Model, adapters
print([(info.name, info.state) for info in adapters.load()])
from sklearn.preprocessing import StandardScaler
try:
    Model.from_sklearn(StandardScaler())
except AttributeError as error:
    print(error)
"""


def test_one_can_be_switched_off(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DISABLED],
        check=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "FLOWYML_DISABLE_ADAPTERS": "sklearn"},
        capture_output=True,
        text=True,
    )
    states, told = done.stdout.splitlines()

    assert "('pytorch', 'loaded'), ('sklearn', 'disabled')" in states
    assert "switches 'sklearn' (flowyml-sklearn" in told


def test_both_are_listed_with_their_distributions():
    found = {info.name: info for info in adapters.load()}

    assert found["sklearn"].distribution == "flowyml-sklearn"
    assert found["sklearn"].state == found["pytorch"].state == "loaded"
