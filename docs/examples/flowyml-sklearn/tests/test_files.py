"""The files: one form for one content, shared where they are large, and readable without us."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from scipy import sparse, special
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flowyml import Store
from flowyml.errors import IntegrityError, MaterializationError

PIXELS, DIGITS = load_digits(return_X_y=True)


def schema_of(files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(io.BytesIO(files["model.skops"])) as archive:
        return archive.read("schema.json").decode()


SAVED_ELSEWHERE = """
import numpy, scipy.special
from flowyml import Store
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
words = {{"the", "a", "an", "of", "to", "in"}}
model = make_pipeline(
    CountVectorizer(stop_words=frozenset(words), vocabulary={{"cat": 0, "mouse": 1}}),
    FunctionTransformer(numpy.log1p),
    FunctionTransformer(scipy.special.expit, kw_args={{"a": words, "b": numpy.float64(0.5)}}),
)
print(Store("store{seed}").save(model, "model").stored.digest)
"""


def test_the_same_content_gives_the_same_bytes_in_any_process(run_python):
    first, second = (
        run_python(SAVED_ELSEWHERE.format(seed=seed), PYTHONHASHSEED=f"{seed}") for seed in (1, 2)
    )

    assert first == second


def test_a_universal_function_has_its_public_name(files):
    """The private one differs between versions of SciPy."""
    assert '"scipy.special"' in schema_of(files.save(FunctionTransformer(special.expit))[0])
    assert '"__module__":"numpy"' in schema_of(files.save(FunctionTransformer(np.abs))[0])


def test_the_gaps_in_records_are_zeros(files):
    forest = RandomForestClassifier(1, random_state=0).fit(PIXELS[:50], DIGITS[:50])
    state = forest.estimators_[0].tree_.__getstate__()
    dirty = state["nodes"].copy()
    gap = dirty.dtype.itemsize - 1
    dirty.view(np.uint8).reshape(len(dirty), -1)[:, gap] = 7
    written = files.save(forest)[0]

    forest.estimators_[0].tree_.__setstate__({**state, "nodes": dirty})

    assert files.save(forest)[0] == written


def test_a_large_array_is_a_file_that_versions_share(store):
    neighbours = KNeighborsClassifier(3, algorithm="brute").fit(PIXELS, DIGITS)
    first = store.save(neighbours, "digits").stored
    second = store.save(neighbours.set_params(n_neighbors=4), "digits").stored

    assert [file.path for file in first.files] == ["arrays/2.npy", "model.skops"]
    assert first.files[0] == second.files[0]
    assert first.files[1] != second.files[1]
    assert first.digest != second.digest


def test_a_damaged_array_is_named(store):
    asset = store.save(KNeighborsClassifier(algorithm="brute").fit(PIXELS, DIGITS), "digits")
    digest = asset.stored.files[0].digest
    blob = next(path for path in store.path.rglob("*") if path.name == digest[2:])
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")

    with pytest.raises(IntegrityError, match="the array _fit_X"):
        store.load("digits")


def test_skops_reads_what_is_exported(store, tmp_path):
    """No lock-in: the archive with the large arrays in it is a file of skops."""
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(algorithm="brute"))
    store.save(model.fit(PIXELS, DIGITS), "digits")
    folder = tmp_path / "exported"
    store.export("digits", folder)

    (archive,) = folder.rglob("model.skops")
    archive.chmod(0o644)
    with zipfile.ZipFile(archive, "a") as file:
        for array in archive.parent.glob("arrays/*"):
            file.write(array, array.relative_to(archive.parent))

    loaded = skops.io.load(archive)
    np.testing.assert_array_equal(loaded.predict(PIXELS[:9]), model.predict(PIXELS[:9]))


def test_what_is_shared_within_an_estimator_stays_shared(files):
    inner = StandardScaler().fit(PIXELS)
    written = files.save(make_pipeline(inner, FunctionTransformer(), inner))[0]
    loaded = files.load(written)

    assert loaded[0] is loaded[2]
    assert schema_of(written).count('"StandardScaler"') == 1


def test_equal_arrays_are_written_once(files):
    scaler = StandardScaler().fit(PIXELS)
    scaler.mean_, scaler.var_ = np.arange(64.0), np.arange(64.0)
    loaded = files.load(files.save(scaler)[0])

    loaded.mean_[0] = 1.0

    assert loaded.var_[0] == 0.0


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_keeps_the_order_of_its_axes(files, order):
    scaler = StandardScaler().fit(PIXELS)
    scaler.mean_ = np.ones((3, 64), order=order)

    assert files.load(files.save(scaler)[0]).mean_.flags[f"{order}_CONTIGUOUS"]


def test_an_array_that_is_mapped_from_a_file_comes_back_as_one_in_memory(files, tmp_path):
    scaler = StandardScaler().fit(PIXELS)
    joblib.dump(scaler, tmp_path / "scaler.joblib")
    mapped = joblib.load(tmp_path / "scaler.joblib", mmap_mode="r")
    assert type(mapped.mean_) is np.memmap

    assert files.save(mapped)[0] == files.save(scaler)[0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        0.1,
        float("inf"),
        "text ü",
        2**80,
        b"bytes",
        bytearray(b"bytes"),
        slice(1, None, 2),
        {"a": 1, 2: [3, (4, {5})], np.int64(7): None, 0.5: 1},
        np.float32(0.1),
        np.array(["a", "bc"]),
        np.array([None, "a", 1.5], dtype=object),
        np.ma.masked_array([1, 2], [True, False]),
        np.dtype("float32"),
        sparse.csr_array(np.eye(3)),
        sparse.coo_matrix(np.eye(3)),
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_as_it_was(files, value):
    written, result = files.save(FunctionTransformer(kw_args={"value": value}))
    loaded = files.load(written, result.required_trust).kw_args["value"]

    assert type(loaded) is type(value)
    if sparse.issparse(value):
        assert (loaded != value).nnz == 0
    else:
        np.testing.assert_equal(loaded, value)


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    return value


def local_function() -> Any:
    def load_digits() -> None:
        """Not the one that is at the top of the module."""

    return load_digits


class Outer:
    class Inner(BaseEstimator):
        pass


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda x: x, "<lambda> can't be found again by its name.*top level of a module"),
        (local_function(), "load_digits can't be found again"),
        (Outer.Inner(), "Inner can't be found again"),
        ({True: 1, False: 2}, "keys of type builtins.bool"),
        ({None: 1}, "NoneType can't be found again"),
        ({(1, 2): 3}, "keys must be str"),
        ({1: 2, "1": 3}, "keys and their types don't match"),
        (itself(), "recursion"),
        (deep(), "nested deeper than 150|recursion"),
        (np.random, "module"),
    ],
)
def test_what_would_not_come_back_is_refused_when_it_is_saved(store, value, told):
    with pytest.raises(MaterializationError, match=told) as refused:
        store.save(FunctionTransformer(kw_args={"value": value}), "model")

    assert "FunctionTransformer can't be saved in the format 'skops'" in str(refused.value)
    assert store.names() == []


class Forgetful(BaseEstimator):
    def fit(self, x: Any, y: Any = None) -> Forgetful:
        self.seen_ = 0
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.seen_ = state.get("seen_", 0) + 1


def test_what_comes_back_as_another_is_refused_when_it_is_saved(files):
    with pytest.raises(MaterializationError, match="wouldn't give back the same: seen_ would"):
        files.save(Forgetful().fit(None))


def test_saving_changes_nothing(files):
    model = make_pipeline(CountVectorizer(), LogisticRegression())
    model.fit(["a cat", "a mouse", "two mice"], [0, 1, 1])
    before = joblib.hash(model)

    files.save(model)

    assert joblib.hash(model) == before


def test_details_say_what_saved_it(store):
    asset = store.save(StandardScaler(), "scaler")
    manifest = json.loads((store.path / "assets" / "scaler" / "v1.json").read_text())

    assert asset.stored.format == "skops"
    assert manifest["details"]["skops"] == skops.__version__
    assert "sklearn" in manifest["details"]


def test_into_and_device_have_no_meaning(tmp_path):
    store = Store(tmp_path / "other")
    store.save(StandardScaler(), "scaler")

    for arguments in ({"into": StandardScaler()}, {"device": "cpu"}):
        with pytest.raises(MaterializationError, match="has no meaning"):
            store.load("scaler", **arguments)


def test_the_archive_has_no_date(files):
    written = files.save(StandardScaler().fit(PIXELS))[0]["model.skops"]
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        assert "_skops_version" not in archive.read("schema.json").decode()
