"""Contents value by value: digests without a file, and how two saved values differ."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyml import Store, adapters, arrays, leaves
from flowyml.comparing import compare_assets
from flowyml.digests import digest_of
from flowyml.errors import AdapterWarning, AssetNotFoundError, IntegrityError, MaterializationError
from flowyml.interfaces import Change, SaveOptions
from flowyml.store import manifest as manifests
from flowyml.stored import StoredFile

TABLE = np.dtype([("id", "<i4"), ("score", ">f8"), ("tag", "U5"), ("pair", "i2", (2,))])

ARRAYS = {
    "contiguous": np.arange(12.0).reshape(3, 4),
    "of Fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "every second": np.arange(20, dtype="f4")[::2],
    "backwards": np.arange(6)[::-1],
    "broadcast": np.broadcast_to(np.float32(3), (4, 5)),
    "big-endian": np.arange(5, dtype=">i2"),
    "of no dimension": np.array(3.5),
    "a scalar": np.float16(1.5),
    "empty": np.empty((0, 3)),
    "empty transposed": np.empty((3, 0, 2)).T,
    "bool": np.array([[True, False]]),
    "complex": np.array([1 + 2j, math.nan]),
    "long double": np.array([1.5], "longdouble"),
    "dates": np.array(["2024-01-01", "NaT"], "datetime64[D]"),
    "durations": np.array([5], "timedelta64[ms]"),
    "text": np.array(["a", "bcd", ""]),
    "bytes": np.array([b"ab", b"c"]),
    "text of no length": np.array(["", ""], "U0"),
    "raw": np.array([b"\x00\x01"], "V2"),
    "a table": np.array([(1, 2.5, "x", (3, 4)), (2, math.nan, "yz", (5, 6))], TABLE),
    "part of a table": np.zeros(6, TABLE)[::2],
    "a row of a table": np.zeros(2, TABLE)[0],
    "many columns": np.zeros(2, [(f"column_{i}", "f4") for i in range(400)]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_has_the_digest_of_the_file_that_it_is_saved_as(
    array: Any, tmp_path: Path
) -> None:
    materializer = adapters.materializer("core.numpy")
    materializer.save(array, tmp_path, SaveOptions("npy"))
    found = materializer.digests(array, "npy")
    assert found == {"array.npy": digest_of(tmp_path / "array.npy")}


@pytest.mark.filterwarnings("ignore:Stored array in format 2.0")  # NumPy tells, when it saves
def test_a_header_that_needs_the_second_format_is_digested_too(tmp_path: Path) -> None:
    array = np.zeros(2, [(f"column_{i}", "f4") for i in range(5000)])
    materializer = adapters.materializer("core.numpy")
    materializer.save(array, tmp_path, SaveOptions("npy"))
    assert materializer.digests(array, "npy") == {"array.npy": digest_of(tmp_path / "array.npy")}


def test_names_that_need_the_third_format_have_no_digest_without_a_file() -> None:
    assert (
        adapters.materializer("core.numpy").digests(np.zeros(2, [("größe→", "f4")]), "npy") is None
    )


def test_an_array_of_many_pieces_has_the_digest_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_PIECE", 1000)
    array = np.arange(60_000).reshape(50, 40, 30).transpose(1, 2, 0)[::3]
    np.save(tmp_path / "array.npy", array)
    assert arrays.digest(array) == digest_of(tmp_path / "array.npy")


@pytest.mark.parametrize("layout", [lambda a: a, np.transpose], ids=["C", "Fortran"])
def test_a_large_array_is_digested_without_a_copy(layout: Any) -> None:
    array = layout(np.ones((2000, 2000)))
    arrays.digest(array)
    tracemalloc.start()
    arrays.digest(array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 100


def test_a_large_array_in_no_order_is_digested_in_pieces() -> None:
    array = np.ones((4000, 4000), "f4").T[::2]
    tracemalloc.start()
    arrays.digest(array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * arrays._PIECE


def test_one_element_changes_the_digest() -> None:
    array = np.zeros((30, 30))
    before = arrays.digest(array)
    array[20, 20] = 1e-300
    assert arrays.digest(array) != before
    assert arrays.digest(array.astype("f4")) != arrays.digest(array)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=VALUES)
def test_a_value_has_the_digest_of_what_it_is_saved_as(value: Any, tmp_path_factory: Any) -> None:
    materializer = adapters.materializer("core.json")
    if not materializer.detect(value):
        with pytest.raises(MaterializationError, match="has no JSON form"):
            materializer.digests(value, "json")
        return
    folder = tmp_path_factory.mktemp("value")
    materializer.save(value, folder, SaveOptions("json"))
    assert materializer.digests(value, "json") == {"value.json": digest_of(folder / "value.json")}


@pytest.mark.parametrize("obj", [{"a": [1, math.nan]}, np.arange(5)])
def test_digests_come_to_what_the_store_says(store: Store, obj: Any) -> None:
    saved = store.save(obj, "it")
    materializer = adapters.materializer_of(obj)
    assert materializer is not None
    found = materializer.digests(obj, materializer.formats[0])
    assert isinstance(found, Mapping)
    files = tuple(StoredFile(path, digest, 0) for path, digest in found.items())
    key, format = materializer.key, materializer.formats[0]
    assert manifests.content_digest(key, format, files, None) == saved.digest


def changes(store: Store, before: Any, after: Any) -> list[Change]:
    first, second = store.save(before, "it"), store.save(after, "it")
    found = compare_assets(store, str(first.ref), store, str(second.ref))
    assert found is not None
    return found


def test_equal_contents_have_no_changes(store: Store) -> None:
    assert changes(store, np.arange(3), np.arange(3)) == []
    assert changes(store, [1, math.nan], [1, math.nan]) == []


def test_arrays_differ_by_elements(store: Store) -> None:
    before = np.array([[1.0, 2.0, math.nan], [4.0, 0.0, math.inf]])
    after = np.array([[1.0, 2.5, math.nan], [1.0, 0.0, math.inf]])
    (change,) = changes(store, before, after)
    assert change == Change(
        "array",
        "float64 (2, 3)",
        "float64 (2, 3)",
        elements=6,
        different=2,
        first=(0, 1),
        first_before="2.0",
        first_after="2.5",
        max_absolute=3.0,
        max_relative=0.75,
        norm=pytest.approx(math.hypot(0.5, 3.0)),
        norm_before=math.inf,
    )


def test_a_number_where_there_was_none_is_infinitely_far(store: Store) -> None:
    (change,) = changes(store, np.array([math.nan, 1.0]), np.array([2.0, 1.0]))
    assert (change.max_absolute, change.max_relative) == (math.inf, math.inf)
    assert (change.different, change.norm_before) == (1, 1.0)


def test_what_was_zero_changes_infinitely_in_relation(store: Store) -> None:
    (change,) = changes(store, np.array([0.0, 2.0]), np.array([1.0, 3.0]))
    assert (change.max_absolute, change.max_relative) == (1.0, math.inf)


@pytest.mark.parametrize(
    ("before", "after", "largest"),
    [
        (np.array([-(2**63), 5]), np.array([2**63 - 1, 5]), 2.0**64),
        (np.array([0, 5], "u1"), np.array([255, 5], "u1"), 255.0),
        (np.array([2**53, 5]), np.array([2**53 + 1, 5]), 1.0),
        (np.array([True, True]), np.array([False, True]), 1.0),
        (np.array([3j, 1]), np.array([4 + 0j, 1]), 5.0),
        (np.array([1e308, 1]), np.array([-0.5e308, 1]), 1.5e308),
        (np.array([1.0, 1], "f2"), np.array([1.5, 1], "f2"), 0.5),
        (np.array([1.0, 1], ">f4"), np.array([3.0, 1], ">f4"), 2.0),
    ],
)
def test_the_largest_difference_is_exact(
    store: Store, before: Any, after: Any, largest: float
) -> None:
    (change,) = changes(store, before, after)
    assert (change.max_absolute, change.different, change.first) == (largest, 1, (0,))
    assert change.norm == largest


def test_what_is_no_number_differs_by_count(store: Store) -> None:
    for before, after in [
        (np.array(["a", "b"]), np.array(["a", "c"])),
        (np.array([b"a", b"b"]), np.array([b"a", b"c"])),
        (np.array([b"a\x00", b"b\x00"], "V2"), np.array([b"a\x00", b"\x00b"], "V2")),
        (
            np.array(["NaT", "2024-01-01"], "datetime64[D]"),
            np.array(["NaT", "2024-01-02"], "datetime64[D]"),
        ),
    ]:
        (change,) = changes(store, before, after)
        assert (change.elements, change.different, change.first) == (2, 1, (1,))
        assert (change.max_absolute, change.norm) == (None, None)


def test_a_table_differs_by_column(store: Store) -> None:
    before = np.array([(1, 2.5, "x", (3, 4)), (2, math.nan, "yz", (5, 6))], TABLE)
    after = before.copy()
    after["pair"][1, 0] = 7
    after["tag"][0] = "w"
    found = changes(store, before, after)
    assert [(c.name, c.first, c.first_before, c.first_after) for c in found] == [
        ("array.tag", (0,), "x", "w"),
        ("array.pair", (1, 0), "5", "7"),
    ]
    fewer = np.zeros(2, [("id", "<i4"), ("new", "f4")])
    assert [(c.name, c.before, c.after) for c in changes(store, before[["id"]], fewer)] == [
        ("array.id", "int32 (2,)", "int32 (2,)"),
        ("array.new", None, "float32 (2,)"),
    ]


def test_another_shape_or_kind_is_described(store: Store) -> None:
    (change,) = changes(store, np.zeros((3, 4)), np.zeros((4, 3)))
    assert change == Change("array", "float64 (3, 4)", "float64 (4, 3)")
    (change,) = changes(store, np.zeros(3), np.array(["0", "0", "0"]))
    assert change == Change("array", "float64 (3,)", "<U1 (3,)")
    (change,) = changes(store, np.zeros(2, "datetime64[D]"), np.zeros(2, "datetime64[s]"))
    assert (change.before, change.elements) == ("datetime64[D] (2,)", None)


def test_another_type_of_number_is_compared_as_numbers(store: Store) -> None:
    (change,) = changes(store, np.array([1.0, 0.1]), np.array([1.0, 0.1], "f4"))
    assert (change.before, change.after) == ("float64 (2,)", "float32 (2,)")
    assert (change.different, change.max_absolute) == (1, abs(0.1 - float(np.float32(0.1))))
    (change,) = changes(store, np.array([1, 2]), np.array([1.0, 2.0]))
    assert (change.different, change.norm) == (0, 0.0)


def test_equal_elements_in_other_bytes_are_said_to_be_equal(store: Store) -> None:
    (change,) = changes(store, np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    assert (change.elements, change.different) == (2, 0)
    (change,) = changes(store, np.ones((2, 3)), np.asfortranarray(np.ones((2, 3))))
    assert (change.after, change.different) == ("float64 (2, 3), order of Fortran", 0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_come_to_the_same(order: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    before = np.array(random.normal(size=(17, 13, 5)), order=order)
    after = np.array(before)
    after[3, 4, 1:] += 1
    after[2, 12, 4] += 0.5
    (whole,) = changes(store, before, after)
    monkeypatch.setattr(arrays, "_ELEMENTS", 7)
    (pieces,) = changes(store, before, after)
    assert pieces.first == whole.first == (2, 12, 4)
    assert pieces.different == whole.different == 5
    assert pieces.norm == pytest.approx(float(np.linalg.norm(after - before)))
    assert pieces.norm_before == pytest.approx(float(np.linalg.norm(before)))


def test_large_arrays_are_compared_in_bounded_memory(store: Store) -> None:
    before = np.ones((3000, 3000))
    after = before.copy()
    after[2999, 2999] = 2
    paths = [store.path / name for name in ("before.npy", "after.npy")]
    store.path.mkdir()
    for path, array in zip(paths, (before, after), strict=True):
        np.save(path, array)
    tracemalloc.start()
    (change,) = arrays.compare(*paths)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert change.first == (2999, 2999)
    assert peak < 64 << 20


def test_empty_arrays_and_single_numbers_are_compared(store: Store) -> None:
    (change,) = changes(store, np.empty((0, 3)), np.empty((0, 3), "f4"))
    assert (change.elements, change.different, change.first) == (0, 0, None)
    (change,) = changes(store, np.float64(1), np.float64(2))
    assert (change.first, change.first_before, change.first_after) == ((), "1.0", "2.0")


def paths_of(found: Sequence[Change]) -> list[tuple[str, str | None, str | None]]:
    return [(change.name, change.before, change.after) for change in found]


def test_values_differ_leaf_by_leaf(store: Store) -> None:
    before = {"config": {"lr": 0.1, "old": None}, "loss": [1.0, 0.5], "a b": (1, {2: "x"})}
    after = {"config": {"lr": 0.2, "new": True}, "loss": [1.0, 0.25, 0.1], "a b": (1, {2: "y"})}
    assert paths_of(changes(store, before, after)) == [
        ("config.lr", "0.1", "0.2"),
        ("config.old", "None", None),
        ("config.new", None, "True"),
        ("loss[1]", "0.5", "0.25"),
        ("loss[2]", None, "0.1"),
        ("['a b'][1][2]", "'x'", "'y'"),
    ]


def test_a_number_says_how_far_it_moved(store: Store) -> None:
    (change,) = changes(store, {"loss": 0.5}, {"loss": 0.25})
    assert change == Change(
        "loss",
        "0.5",
        "0.25",
        elements=1,
        different=1,
        first=(),
        first_before="0.5",
        first_after="0.25",
        max_absolute=0.25,
        max_relative=0.5,
        norm=0.25,
        norm_before=0.5,
    )
    (change,) = changes(store, 10**400, -(10**400))
    assert (change.name, change.max_absolute, change.max_relative) == ("value", math.inf, 2.0)
    (change,) = changes(store, math.nan, 1.0)
    assert (change.max_absolute, change.norm_before) == (math.inf, 0.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 1.0), (1, True), (0.0, -0.0), ([1], (1,)), ({1: 2}, {True: 2}), ({}, []), ("1", 1)],
)
def test_another_type_is_a_change(store: Store, before: Any, after: Any) -> None:
    assert len(changes(store, before, after)) == 1


def test_another_order_of_keys_is_told(store: Store) -> None:
    assert paths_of(changes(store, {"a": 1, "b": 2}, {"b": 2, "a": 1})) == [
        ("value", "keys in the order 'a', 'b'", "keys in the order 'b', 'a'")
    ]


def test_many_numbers_are_one_value(store: Store) -> None:
    before = [float(i) for i in range(1000)]
    after = [*before[:500], -1.0, *before[501:]]
    (change,) = changes(store, {"scores": before}, {"scores": after})
    assert (change.name, change.before) == ("scores", "list of 1,000 numbers")
    assert (change.elements, change.different, change.first) == (1000, 1, (500,))
    assert (change.first_before, change.first_after, change.norm) == ("500.0", "-1.0", 501.0)
    (change,) = changes(store, before, before[:400])
    assert (change.before, change.after) == ("list of 1,000 numbers", "list of 400 numbers")


def test_long_texts_are_shortened() -> None:
    (change,) = leaves.compare("a" * 5000, "b")
    assert change.before is not None
    assert len(change.before) < 300
    assert change.before.endswith("(5,002 characters)")


@given(value=VALUES)
def test_a_value_equals_itself_and_comparing_never_fails(value: Any) -> None:
    assert leaves.compare(value, value) == []
    assert leaves.compare(value, [value]) != [] or value == [value]


def test_versions_of_two_stores_are_compared(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    store.save(np.zeros(2), "it")
    other.save(np.ones(2), "it")
    found = compare_assets(store, "it@v1", other, "it@v1")
    assert found is not None
    assert found[0].norm == math.sqrt(2)


def test_what_was_saved_in_two_ways_or_has_no_comparison_is_not_compared(
    store: Store, toy: Any
) -> None:
    store.save(np.zeros(2), "it")
    store.save([0.0, 0.0], "it")
    assert compare_assets(store, "it@v1", store, "it@v2") is None
    store.save(toy([1.0]), "toy")
    store.save(toy([2.0]), "toy")
    assert compare_assets(store, "toy@v1", store, "toy@v2") is None


def test_damaged_files_are_not_compared(store: Store) -> None:
    for value in (1.0, 2.0):
        store.save(np.full(10, value), "it")
    blob = store.get("it@v2").stored.files[0].digest  # type: ignore[union-attr]
    path = store.path / "blobs" / blob[:2] / blob[2:]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="it@v2, file 'array.npy', is damaged"):
        compare_assets(store, "it@v1", store, "it@v2")


def test_nothing_of_damaged_files_is_handed_out(
    store: Store, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 1 << 18):  # a large file is checked while others go on
        saved = [store.save(toy([float(i)] * size), f"toy{size}") for i in range(2)]
        path = _blob(store, saved[1], "parts/weights.json")
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
        materializer = adapters.materializer("toy.model")
        handed_out: list[str] = []
        monkeypatch.setattr(materializer, "compare", lambda *saved: handed_out.append("both"))  # noqa: B023
        with pytest.raises(IntegrityError, match="damaged"):
            compare_assets(store, f"toy{size}@v1", store, f"toy{size}@v2")
        assert handed_out == []


def test_a_missing_version_is_told(store: Store) -> None:
    store.save(1, "it")
    with pytest.raises(AssetNotFoundError, match="it@v7"):
        compare_assets(store, "it@v1", store, "it@v7")


@pytest.mark.parametrize(
    "compare",
    [
        lambda before, after: 1 / 0,
        lambda before, after: [1],
        lambda before, after: sys.exit("no"),
        lambda before, after: 5,
    ],
)
def test_an_adapter_that_cannot_compare_costs_a_warning(
    store: Store, toy: Any, compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(toy([1.0]), "toy")
    store.save(toy([2.0]), "toy")
    monkeypatch.setattr(adapters.materializer("toy.model"), "compare", compare)
    with pytest.warns(AdapterWarning, match="'toy.model' can't compare them"):
        found = compare_assets(store, "toy@v1", store, "toy@v2")
    assert found is not None
    assert [change.name for change in found] == ["file parts/weights.json"]
    assert str(found[0].before).startswith("5 bytes, ")


def test_an_adapter_that_is_not_installed_leaves_the_files(
    store: Store, toy: Any, run_python: Any
) -> None:
    store.save(toy([1.0]), "toy")
    store.save(toy([2.0]), "toy")
    told = run_python(
        "from flowyml import Store; from flowyml.comparing import compare_assets\n"
        f"store = Store({str(store.path)!r})\n"
        "print(*(c.name for c in compare_assets(store, 'toy@v1', store, 'toy@v2')))"
    )
    assert "file parts/weights.json" in told
    assert "AdapterWarning" in told


def test_equal_contents_import_nothing_to_be_compared(store: Store) -> None:
    for _ in range(2):
        store.save(np.zeros(2), "it")
    code = (
        "import sys; from flowyml import Store; from flowyml.comparing import compare_assets\n"
        f"store = Store({str(store.path)!r})\n"
        "print(compare_assets(store, 'it@v1', store, 'it@v2'), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_a_file_that_is_no_array_is_told(store: Store, tmp_path: Path) -> None:
    store.save(np.zeros(2), "it")
    saved = store.save(np.ones(2), "it")
    materializer = adapters.materializer("core.numpy")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "good.npy").write_bytes(b"")
    shutil.copy(_blob(store, saved), tmp_path / "good.npy")
    from flowyml.interfaces import Saved, SaveResult

    bad, good = (
        Saved(f"{name}@v1", "npy", {"array.npy": tmp_path / f"{name}.npy"}, SaveResult())
        for name in ("bad", "good")
    )
    with pytest.raises(MaterializationError, match="bad@v1 and good@v1 can't be compared"):
        materializer.compare(bad, good)


def _blob(store: Store, asset: Any, path: str = "array.npy") -> Path:
    (digest,) = (file.digest for file in asset.stored.files if file.path == path)
    return store.path / "blobs" / digest[:2] / digest[2:]
