"""Files from a stranger: refused with a clear error, within bounds of time and memory.

Each forgery changes what an honest save wrote in one way; all digests would match in a store.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.preprocessing import StandardScaler

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.interfaces import SaveResult

FILE, SCHEMA = "model.skops", "schema.json"
Entries = dict[str, bytes]


def unpacked(data: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: Entries, compression: int = zipfile.ZIP_STORED) -> dict[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return {FILE: buffer.getvalue()}


@pytest.fixture
def entries(files) -> Entries:
    scaler = StandardScaler().fit(np.arange(12.0).reshape(4, 3))
    return unpacked(files.save(scaler)[0][FILE])


def members(schema: Any) -> dict[str, Any]:
    """The attributes of the estimator in a schema."""
    found: dict[str, Any] = schema["content"]["content"]
    return found


def forged(entries: Entries, change: Callable[[Any], None]) -> dict[str, bytes]:
    schema = json.loads(entries[SCHEMA])
    change(schema)
    return packed({**entries, SCHEMA: json.dumps(schema).encode()})


def node(loader: str, module: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, **rest}


def row(items: list[Any], **rest: Any) -> dict[str, Any]:
    return node("ListNode", "builtins", "list", content=items, **rest)


def laughs(schema: Any) -> None:
    inner = row([], __id__=1001)
    for number in range(1002, 1040):
        inner = row([inner, {"__id__": number - 1}], __id__=number)
    members(schema)["copy"] = inner


def deep(schema: Any) -> None:
    inner = row([])
    for _ in range(200):
        inner = row([inner])
    members(schema)["copy"] = inner


def put(value: Any) -> Callable[[Any], None]:
    def change(schema: Any) -> None:
        members(schema)["copy"] = value

    return change


def protocol(value: Any) -> Callable[[Any], None]:
    def change(schema: Any) -> None:
        schema["protocol"] = value

    return change


def one_key_less(schema: Any) -> None:
    schema["content"]["key_types"]["content"].pop()


BAD_SCHEMAS: dict[str, tuple[Callable[[Any], None], str]] = {
    "it refers to itself": (put(row([{"__id__": 77}], __id__=77)), "before its end"),
    "it refers to nothing": (put({"__id__": 78}), "before its end"),
    "two nodes have one number": (put(row([row([], __id__=9)], __id__=9)), "unfit number 9"),
    "few nodes stand for many": (laughs, "nodes that stands for"),
    "it is nested deeply": (deep, "nested deeper than 150"),
    "an old protocol": (protocol(0), "older than 2"),
    "the protocol before": (protocol(1), "older than 2"),
    "a protocol of the future": (protocol(99), "can't audit"),
    "a protocol that is none": (protocol(True), "without a protocol"),
    "an unknown rule": (put(node("EvilNode", "builtins", "str")), "EvilNode"),
    "a rule that nobody writes": (put(node("CachedNode", "builtins", "str")), "CachedNode"),
    "a name with a line break": (put(node("TypeNode", "a\nb", "c")), "a schema with a node"),
    "names that are none": (put(node("TypeNode", "builtins", "")), "a schema with a node"),
    "a value that is a container": (
        put(node("JsonNode", "builtins", "str", content="[1]")),
        "container",
    ),
    "a value that isn't JSON": (
        put(node("JsonNode", "builtins", "str", content="{")),
        "unfit node",
    ),
    "a number of a million digits": (
        put(node("JsonNode", "builtins", "str", content="9" * 1_000_000)),
        "unfit node",
    ),
    "no node at all": (put("text"), "unfit node"),
    "a list where a node belongs": (put([1]), "unfit node"),
    "keys without types": (one_key_less, "don't match"),
    "a slice of text": (
        put(node("SliceNode", "builtins", "slice", content={"start": "", "stop": 1, "step": 1})),
        "whole numbers",
    ),
    "a file that isn't there": (
        put(node("NdArrayNode", "numpy", "ndarray", type="numpy", file="99.npy")),
        "isn't there",
    ),
    "a file of another kind": (
        put(node("BytesNode", "builtins", "bytes", file="0.npy")),
        "isn't there",
    ),
}


@pytest.mark.parametrize("case", BAD_SCHEMAS)
def test_a_bad_schema_is_refused(case, files, entries):
    change, told = BAD_SCHEMAS[case]

    with pytest.raises(MaterializationError, match=told) as refused:
        files.load(forged(entries, change), "sklearn.*")
    assert "model@v1" in str(refused.value)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(text: str) -> bytes:
    content = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


HUGE = "{'descr': '%s', 'fortran_order': False, 'shape': (1000000000000,), }"
BAD_ARRAYS = {
    "the header asks for terabytes": header(HUGE % "<f8"),
    "items of no size": header(HUGE % "<U0"),
    "pickled objects": npy(np.array([{}], dtype=object), allow_pickle=True),
    "objects of the right size": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")
    + bytes(8),
    "a pickle": pickle.dumps([1]),
    "an archive": packed({"a.npy": npy(np.zeros(3))})[FILE],
    "a negative size": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 0), }"),
    "a header that calls": header("__import__('os').system('touch harm')"),
    "a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "fewer items than told": npy(np.zeros(3))[:-1],
    "more items than told": npy(np.zeros(3)) + b"0",
    "nothing": b"",
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_refused(case, files, entries):
    name = next(name for name in entries if name.endswith(".npy"))

    with pytest.raises(MaterializationError, match="it has an array"):
        files.load(packed({**entries, name: BAD_ARRAYS[case]}))


def test_a_bad_archive_is_refused(files, entries):
    duplicate = io.BytesIO(packed(entries)[FILE])
    with zipfile.ZipFile(duplicate, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(SCHEMA, b"{}")

    for bad, told in (
        (packed(entries, zipfile.ZIP_DEFLATED), "compressed entry"),
        ({FILE: duplicate.getvalue()}, "two entries of one name"),
        (packed({**entries, "../x.npy": b""}), "an entry '../x.npy'"),
        (packed({**entries, "x.npy": npy(np.zeros(3))}), "'x.npy' that the schema doesn't name"),
        (packed({SCHEMA: b"[" * 100_000}), "isn't JSON"),
        (packed({SCHEMA: b"[]"}), "without a protocol"),
        (packed({}), "isn't JSON"),
        ({FILE: b"no archive"}, "no archive"),
        ({FILE: packed(entries)[FILE][:-30]}, "no archive"),
        ({}, "no file 'model.skops'"),
        ({**packed(entries), "arrays/9.npy": b""}, "doesn't name"),
        ({**packed(entries), "0.npy": b""}, "two files '0.npy'"),
    ):
        with pytest.raises(MaterializationError, match=told):
            files.load(bad)


def test_entries_that_overlap_are_refused(files, entries):
    """One stretch of the file, as thousands of entries, would take up thousands of its size."""
    inner = packed({"1.npy": npy(np.zeros(100))})[FILE]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0.bin", inner[: inner.index(b"PK\x01\x02")])
        (other,) = zipfile.ZipFile(io.BytesIO(inner)).infolist()
        other.header_offset = buffer.getvalue().index(b"PK\x03\x04", 4)
        archive.filelist.append(other)

    assert zipfile.ZipFile(buffer).namelist() == ["0.bin", "1.npy"]
    with pytest.raises(MaterializationError, match=r"overlap|Overlap"):
        files.load({FILE: buffer.getvalue()})


CRASH = """
import numpy
generator = numpy.random.RandomState(0)
state = generator.get_state(legacy=False)
state["state"]["pos"] = 10**9
generator.set_state(state)
generator.random_sample()
"""


def generators() -> dict[str, Any]:
    return {
        "pos": np.random.RandomState(0),
        "buffer_pos": np.random.Generator(np.random.Philox(0)),
        "pool_size": np.random.default_rng(0),
    }


@pytest.mark.parametrize("key", generators())
@pytest.mark.parametrize("value", ["1000000000", "-1", '"7"', "null", "1.5"])
def test_a_random_generator_out_of_bounds_is_refused(key, value, files):
    estimator = DummyClassifier(random_state=generators()[key])
    honest = unpacked(files.save(estimator)[0][FILE])
    schema = honest[SCHEMA].decode()
    start = schema.index(f'"{key}":')
    before = schema.index('"content":"', start) + len('"content":"')
    end = schema.index('"', before)
    escaped = value.replace('"', '\\"')
    bad = schema[:before] + escaped + schema[end:]

    assert files.load(packed(honest)).random_state is not None
    with pytest.raises(MaterializationError, match=f"{key} is out of range"):
        files.load(packed({**honest, SCHEMA: bad.encode()}))


def test_numpy_itself_does_not_check_a_generators_position():
    """The reason why it is checked here; when this fails, NumPy does."""
    done = subprocess.run([sys.executable, "-c", CRASH], check=False, capture_output=True)

    assert done.returncode < 0


def test_a_random_generators_name_is_no_way_to_call_something(files):
    honest = unpacked(files.save(DummyClassifier(random_state=np.random.default_rng(0)))[0][FILE])
    bad = honest[SCHEMA].replace(b'\\"PCG64\\"', b'\\"seed\\"')
    worse = honest[SCHEMA].replace(b'\\"PCG64\\"', b'\\"a.b c\\"')

    with pytest.raises(UntrustedDataError) as refused:
        files.load(packed({**honest, SCHEMA: bad}))
    assert refused.value.required == ("numpy.random.seed",)
    with pytest.raises(MaterializationError, match="without a name"):
        files.load(packed({**honest, SCHEMA: worse}))


def test_a_sparse_matrix_that_points_outside_is_refused(files):
    matrix = sparse.csr_matrix(np.eye(4))
    estimator = DummyClassifier(constant=matrix)
    trust = "scipy.sparse._csr.csr_matrix"
    honest = unpacked(files.save(estimator)[0][FILE])
    (name,) = (name for name in honest if name.endswith(".npz"))
    parts = unpacked(honest[name])

    assert (files.load(packed(honest), trust).constant != matrix).nnz == 0
    for part, content in (
        ("indices.npy", np.array([0, 1, 2, 10**6], dtype="int32")),
        ("indices.npy", np.array([0, 1, 2, -7], dtype="int32")),
        ("indptr.npy", np.array([0, 1, 2, 3, 10**6], dtype="int32")),
        ("format.npy", np.array(b"evil")),
        ("shape.npy", np.array([4, 2])),
    ):
        bad = packed({**parts, part: npy(content)})[FILE]
        with pytest.raises(MaterializationError, match="unfit sparse matrix"):
            files.load(packed({**honest, name: bad}), trust)
    bad = packed(parts, zipfile.ZIP_DEFLATED)[FILE]
    with pytest.raises(MaterializationError, match="compressed"):
        files.load(packed({**honest, name: bad}), trust)


def test_what_is_no_estimator_is_refused(files):
    bad = {"protocol": 2, **row([])}

    with pytest.raises(MaterializationError, match="no scikit-learn estimator but a list"):
        files.load(packed({SCHEMA: json.dumps(bad).encode()}))


def test_a_state_that_does_not_fit_its_class_is_told(files):
    entries = unpacked(files.save(StandardScaler())[0][FILE])

    def change(schema: Any) -> None:
        schema["content"] = row([])

    bad = forged(entries, change)
    details = {"skops": "0.1", "sklearn": "0.2"}
    with pytest.raises(MaterializationError, match=r"can't be rebuilt.*-learn 0\.2 and skops 0\.1"):
        files.load(bad, result=SaveResult(details=details))
