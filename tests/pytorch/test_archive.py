"""What a tensor's file may be, and what it may not: each is refused before torch reads it."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import math
import operator
import os
import pickle
import runpy
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml_pytorch.storing import archive
from flowyml_pytorch.storing.archive import TensorFile, damaged_ranges

REFUSED = (UntrustedDataError, MaterializationError)
WHAT = "net@v3, tensors/ab12.pt"

quietly_unstable = [  # torch warns of these kinds of tensors when they are made
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.filterwarnings("ignore:torch.quantize"),
    pytest.mark.filterwarnings("ignore:.*[Qq]uantiz"),
    pytest.mark.filterwarnings("ignore:ComplexHalf"),
    pytest.mark.filterwarnings("ignore:TypedStorage"),
]
pytestmark = quietly_unstable


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(path: Path) -> TensorFile:
    return archive.check(path, WHAT)


def saved(tensor: Any, path: Path) -> Path:
    torch.save(tensor, path)
    return path


def loaded(path: Path) -> Any:
    with torch.sparse.check_sparse_tensor_invariants():
        return torch.load(path, weights_only=True, mmap=True)


# --- What torch writes for a tensor


def plain() -> Tensor:
    return torch.arange(24.0).reshape(1, 2, 3, 4)


def quantized(dtype: torch.dtype) -> Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 1, dtype)


def per_channel(dtype: torch.dtype, zero: float = 0) -> Tensor:
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([zero, zero])
    return torch.quantize_per_channel(torch.ones(2, 5), scales, zeros, 0, dtype)


def short_indices() -> Tensor:
    starts, at = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0], dtype=torch.int32)
    return torch.sparse_csr_tensor(starts, at, [1.0])


TENSORS: dict[str, Callable[[], Tensor]] = {
    "plain": plain,
    "requires_grad": lambda: torch.ones(3, requires_grad=True),
    "0-dim": lambda: torch.tensor(3),
    "empty": lambda: torch.empty(0, 3),
    "empty and 1-dim": lambda: torch.empty(0),
    "channels_last": lambda: plain().to(memory_format=torch.channels_last),
    "transposed": lambda: torch.arange(6).reshape(2, 3).T,
    "a slice": lambda: torch.arange(10)[2:8:2],
    "large numbers": lambda: torch.zeros(70_000, 3),
    "64 dimensions": lambda: torch.ones((1,) * 64),
    "conjugated": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "negated": lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
    "coo": lambda: torch.eye(4).to_sparse(),
    "hybrid coo": lambda: torch.ones(2, 3, 4).to_sparse(1),
    "empty coo": lambda: torch.zeros(3, 3).to_sparse(),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "csr in batches": lambda: torch.stack([torch.eye(4), torch.eye(4)]).to_sparse_csr(),
    "csr of int32": short_indices,
    "qint8": lambda: quantized(torch.qint8),
    "qint32": lambda: quantized(torch.qint32),
    "per channel": lambda: per_channel(torch.quint8),
    "of 4 bits": lambda: per_channel(torch.quint4x2, 0.5),
    "of 2 bits": lambda: per_channel(torch.quint2x4, 0.5),
    "meta": lambda: torch.empty(2, 3, device="meta"),
    "huge meta": lambda: torch.empty(1 << 20, 1 << 20, 1 << 10, device="meta"),
    "meta of 4 bits": lambda: torch.empty(2, 3, dtype=torch.int4, device="meta"),
}


def same(found: TensorFile, tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided
    return (
        found.dtype == str(tensor.dtype)
        and found.shape == tuple(tensor.shape)
        and found.stride == (tuple(tensor.stride()) if strided else ())
        and found.device == str(tensor.device)
    )


@pytest.mark.parametrize("kind", TENSORS)
def test_every_kind_of_tensor_is_described_as_it_is(kind: str, tmp_path: Path) -> None:
    tensor = TENSORS[kind]()
    path = saved(tensor, tmp_path / "t.pt")
    found = check(path)
    assert same(found, tensor), found
    assert same(found, loaded(path)), found
    dense = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta)
    assert found.opaque is (not dense or tensor.is_conj() or tensor.is_neg())
    assert found.native
    assert damaged_ranges(path) == []
    if not found.opaque:
        storage = path.read_bytes()[found.data_offset : found.data_offset + found.data_size]
        elements = torch.frombuffer(bytearray(storage) or bytearray(8), dtype=tensor.dtype)
        view = elements.as_strided(found.shape, found.stride, found.offset)
        assert torch.equal(view, tensor)


def test_every_dtype_is_known(tmp_path: Path) -> None:
    known = set()
    for dtype in {item for item in vars(torch).values() if isinstance(item, torch.dtype)}:
        try:
            path = saved(torch.empty(6, dtype=dtype), tmp_path / "t.pt")
        except (KeyError, RuntimeError):  # torch can't save it, or it takes a scale
            continue
        found, tensor = check(path), loaded(path)
        assert same(found, tensor)
        assert found.data_size == tensor.nbytes
        assert found.dtype == str(dtype)
        known.add(dtype)
    assert len(known) > 25


def test_it_does_not_matter_where_torch_wrote_to(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.ones(2), buffer)
    (tmp_path / "named-by-its-digest").write_bytes(buffer.getvalue())
    assert check(tmp_path / "named-by-its-digest").shape == (2,)
    for name in ("ünïcode.pt", "with spaces.pt", "ab12", "a.b.c"):
        assert check(saved(torch.ones(2), tmp_path / name)).shape == (2,)


def test_another_alignment_and_missing_crcs_are_fine(tmp_path: Path) -> None:
    from torch.utils.serialization import config

    with config.patch("save.storage_alignment", 4096), config.patch("save.compute_crc32", False):
        path = saved(torch.ones(6), tmp_path / "t.pt")
    found = check(path)
    assert found.data_offset % 4096 == 0
    assert damaged_ranges(path) == [(found.data_offset, found.data_offset + 24)]


def test_the_check_does_not_import_torch(tmp_path: Path, run_script: Callable[..., str]) -> None:
    path = saved(torch.ones(3), tmp_path / "t.pt")
    code = """
import sys
from pathlib import Path
from flowyml_pytorch.storing.archive import check, damaged_ranges
path = Path(sys.argv[1])
print(check(path, "t").shape, damaged_ranges(path), "torch" in sys.modules)
"""
    assert run_script(code, str(path)) == "(3,) [] False\n"


def test_a_check_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    path = saved(torch.ones(3), tmp_path / "t.pt")
    fastest = math.inf
    for _ in range(100):
        started = perf_counter()
        check(path)
        fastest = min(fastest, perf_counter() - started)
    assert fastest < 1e-3


# --- Archives: written here as torch writes them, and then otherwise in one respect


@attrs.define
class Entry:
    """A record, and what is said of it falsely."""

    name: bytes
    data: bytes
    folder: bytes = b"archive"
    flags: int | None = None
    method: int = 0
    attributes: int = 0
    disk: int = 0
    comment: bytes = b""
    extra: bytes = b""
    before: bytes = b""
    hole: int = 0
    said_size: int | None = None
    said_packed: int | None = None
    said_offset: int | None = None
    said_crc: int | None = None
    local_name: bytes | None = None
    local_size: int = 0
    local_method: int | None = None
    descriptor: bytes | None = None
    padding: bytes = b"Z"
    aligned: int = 64


WIDE = 0xFFFFFFFF


def wide(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def write_archive(path: Path, entries: list[Entry], comment: bytes = b"", **end: int) -> Path:
    """Write an archive as torch does, save for what the entries say."""
    directory = b""
    with path.open("wb") as file:
        for entry in entries:
            file.write(entry.before)
            offset, size = file.tell(), len(entry.data) + entry.hole
            name = entry.folder + entry.name
            flags = entry.flags if entry.flags is not None else 0x808 if size else 0x800
            crc = zlib.crc32(entry.data) if entry.said_crc is None else entry.said_crc
            fields = struct.pack("<HHHI", 0, flags, entry.method, 0)
            inner = wide(*([size, 0] * (size >= WIDE)), *([offset] * (offset >= WIDE)))
            start = offset + 30 + len(name) + len(inner) + 4
            padded = -start % entry.aligned
            local = struct.pack("<HHHI", 0, flags, entry.local_method or entry.method, 0)
            sizes = 0, entry.local_size, entry.local_size
            file.write(b"PK\3\4" + local + struct.pack("<III", *sizes))
            file.write(struct.pack("<HH", len(name), len(inner) + 4 + padded))
            file.write((entry.local_name or name) + inner + struct.pack("<2sH", b"FB", padded))
            file.write(entry.padding * padded + entry.data)
            file.seek(entry.hole, os.SEEK_CUR)
            after = struct.pack(f"<4sI{'QQ' if inner else 'II'}", b"PK\7\10", crc, size, size)
            file.write((after if entry.descriptor is None else entry.descriptor) if size else b"")
            size = size if entry.said_size is None else entry.said_size
            packed = size if entry.said_packed is None else entry.said_packed
            offset = offset if entry.said_offset is None else entry.said_offset
            outer = wide(*([size, packed] * (size >= WIDE)), *([offset] * (offset >= WIDE)))
            directory += b"PK\1\2\0\0" + fields
            directory += struct.pack("<III", crc, min(packed, WIDE), min(size, WIDE))
            directory += struct.pack(
                "<HHH", len(name), len(outer + entry.extra), len(entry.comment)
            )
            directory += struct.pack("<HHII", entry.disk, 0, entry.attributes, min(offset, WIDE))
            directory += name + outer + entry.extra + entry.comment
        begin = file.tell()
        said = {"count": len(entries), "size": len(directory), "begin": begin, **end}
        last = begin + len(directory)
        count, size, begin = said["count"], said["size"], said["begin"]
        end64 = (44, 798, 45, 0, 0, count, count, size, begin)
        file.write(directory + struct.pack("<4sQHHIIQQQQ", b"PK\6\6", *end64))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, said.get("last", last), 1))
        short = min(size, WIDE), said.get("begin32", min(begin, WIDE))
        file.write(struct.pack("<4sHHHHII", b"PK\5\6", 0, 0, count, count, *short))
        file.write(struct.pack("<H", len(comment)) + comment)
    return path


def records_of(path: Path) -> list[Entry]:
    with zipfile.ZipFile(path) as file:
        return [
            Entry(b"/" + info.filename.partition("/")[2].encode(), file.read(info))
            for info in file.infolist()
        ]


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, Entry]:
    """The records of a file that torch wrote, in their order."""
    path = saved(torch.arange(6.0), tmp_path / "archive.pt")
    return {entry.name.decode()[1:]: entry for entry in records_of(path)}


def test_the_writer_of_these_tests_writes_what_torch_writes(
    tmp_path: Path, entries: dict[str, Entry]
) -> None:
    path = write_archive(tmp_path / "written.pt", list(entries.values()))
    assert path.read_bytes() == (tmp_path / "archive.pt").read_bytes()


ODD_ARCHIVES: dict[str, tuple[str, dict[str, Any], str]] = {
    # what is odd: (which record, what is said of it, part of the refusal)
    "deflated": ("data.pkl", {"method": 8, "said_packed": 20}, "compressed"),
    "deflated by its header alone": ("data.pkl", {"local_method": 8}, "contradicts"),
    "deflated without a gain": ("data/0", {"method": 8}, "compressed"),
    "a bomb": ("data/0", {"method": 8, "said_size": 1 << 40, "said_packed": 24}, "malformed|comp"),
    "bzip2": ("data.pkl", {"method": 12}, "compressed"),
    "encrypted": ("data.pkl", {"flags": 0x809}, "encrypted"),
    "strongly encrypted": ("data/0", {"flags": 0x848}, "encrypted"),
    "patched data": ("data/0", {"flags": 0x828}, "otherwise"),
    "no descriptor announced": ("data/0", {"flags": 0x800}, "otherwise"),
    "a size beyond the file": ("data/0", {"said_size": 1 << 30}, "overlaps"),
    "a size beyond 32 bits": ("data/0", {"said_size": 1 << 40}, "overlaps"),
    "a size beyond 63 bits": ("data/0", {"said_size": (1 << 64) - 1}, "overlaps"),
    "a size that is too small": ("data/0", {"said_size": 20}, "contradicts"),
    "two sizes": ("data/0", {"said_size": 24, "said_packed": 20}, "compressed"),
    "sizes of 64 bits without need": ("data/0", {"extra": wide(24, 24)}, "malformed"),
    "a foreign extra field": ("data/0", {"extra": b"up\4\0abcd"}, "malformed"),
    "a comment on a record": ("data/0", {"comment": b"hello"}, "malformed"),
    "another disk": ("data/0", {"disk": 1}, "malformed"),
    "a folder by its attributes": ("data.pkl", {"attributes": 0x10}, "malformed"),
    "overlapping the first": ("data/0", {"said_offset": 0}, "overlaps"),
    "an offset beyond the file": ("version", {"said_offset": 1 << 20}, "overlaps"),
    "an offset beyond 63 bits": ("version", {"said_offset": (1 << 64) - 1}, "overlaps"),
    "a gap before a record": ("version", {"before": b"hidden"}, "contradicts"),
    "something before the first": ("data.pkl", {"before": b"#!/bin/sh\n"}, "no zip archive"),
    "an archive before the first": ("data.pkl", {"before": b"PK\3\4"}, "overlaps"),
    "another name in its header": ("data.pkl", {"local_name": b"archive/DATA.PKL"}, "contradicts"),
    "sizes in its header": ("data/0", {"local_size": 24}, "contradicts"),
    "something in its padding": ("data/0", {"padding": b"X"}, "contradicts"),
    "another descriptor": ("data/0", {"descriptor": bytes(16)}, "contradicts"),
    "no descriptor": ("data/0", {"descriptor": b""}, "contradicts"),
    "another alignment than it says": ("data/0", {"aligned": 32}, "aligned"),
    "an alignment of 0": (".storage_alignment", {"data": b"0"}, "alignment"),
    "an alignment of many digits": (".storage_alignment", {"data": b"9" * 5000}, "alignment"),
    "another byte order": ("byteorder", {"data": b"middle"}, "byte order"),
    "a pickle of a MiB": ("data.pkl", {"data": b"0" * (1 << 20)}, "1048576 bytes"),
    "a byte order of a MiB": ("byteorder", {"data": b"l" * (1 << 20)}, "1048576 bytes"),
    "an absolute name": ("byteorder", {"name": b"//etc/passwd"}, "no record 'archive//etc/passwd'"),
    "a way out": ("byteorder", {"name": b"/../../x"}, "no record 'archive/../../x'"),
    "a way out below data": ("data/0", {"name": b"/data/../../x"}, "no record"),
    "a backslash": ("byteorder", {"name": b"\\byteorder"}, "no record"),
    "a second folder": ("byteorder", {"folder": b"other"}, "no record 'other/byteorder'"),
    "no folder": ("byteorder", {"folder": b"", "name": b"byteorder"}, "no record 'byteorder'"),
    "the same record twice": ("byteorder", {"name": b"/data.pkl"}, "twice"),
    "a name in capitals": ("byteorder", {"name": b"/BYTEORDER"}, "no record"),
    "a name with NUL": ("byteorder", {"name": b"/byteorder\0.txt"}, "no record"),
    "a nested archive": (
        "byteorder",
        {"name": b"/model.zip", "data": b"PK\3\4"},
        "'archive/model.zip'",
    ),
    "code of TorchScript": ("byteorder", {"name": b"/constants.pkl"}, "'archive/constants.pkl'"),
    "data of an odd number": ("data/0", {"name": b"/data/00"}, "no record"),
    "data of another number": ("data/0", {"name": b"/data/1"}, "storage is missing"),
    "a longer storage": ("data/0", {"data": bytes(28)}, "storage of 24 bytes has 28"),
    "a shorter storage": ("data/0", {"data": bytes(20)}, "storage of 24 bytes has 20"),
    "an empty storage": ("data/0", {"data": b""}, "storage of 24 bytes has 0"),
}


@pytest.mark.parametrize("odd", ODD_ARCHIVES)
def test_an_archive_that_torch_would_not_write_is_refused(
    odd: str, tmp_path: Path, entries: dict[str, Entry]
) -> None:
    name, changes, reason = ODD_ARCHIVES[odd]
    entries[name] = attrs.evolve(entries[name], **changes)
    path = write_archive(tmp_path / "odd.pt", list(entries.values()))
    with pytest.raises(MaterializationError, match=reason) as caught:
        check(path)
    assert str(caught.value).startswith(f"{WHAT}: {path} is no tensor as torch.save writes it")
    damaged_ranges(path)


@pytest.mark.parametrize("name", ["data.pkl", "byteorder", "version", "data/0"])
def test_no_record_may_be_missing(name: str, tmp_path: Path, entries: dict[str, Entry]) -> None:
    del entries[name]
    path = write_archive(tmp_path / "odd.pt", list(entries.values()))
    with pytest.raises(MaterializationError, match="missing|no proper"):
        check(path)


@pytest.mark.parametrize("folder", [b"", b".", b"..", b"C:", b"a\\b", b"a\nb"])
def test_the_folder_has_a_proper_name(
    folder: bytes, tmp_path: Path, entries: dict[str, Entry]
) -> None:
    for entry in entries.values():
        entry.folder = folder
    with pytest.raises(MaterializationError, match="in no proper folder"):
        check(write_archive(tmp_path / "odd.pt", list(entries.values())))


def test_data_that_no_tensor_uses_is_refused(tmp_path: Path, entries: dict[str, Entry]) -> None:
    hidden = Entry(b"/data/1", b"hidden")
    with pytest.raises(MaterializationError, match="data that its tensor doesn't use"):
        check(write_archive(tmp_path / "odd.pt", [*entries.values(), hidden]))


def test_many_records_are_refused(tmp_path: Path, entries: dict[str, Entry]) -> None:
    more = [Entry(b"/data/%d" % number, b"") for number in range(1, 20)]
    with pytest.raises(MaterializationError, match="it has 26 records"):
        check(write_archive(tmp_path / "odd.pt", [*entries.values(), *more]))


@pytest.mark.parametrize(
    "end",
    [
        {"comment": b"PK\5\6 a comment"},
        {"count": 6},
        {"count": 8},
        {"count": 0},
        {"size": 1 << 30},
        {"size": 1 << 63},
        {"begin": 0},
        {"begin": (1 << 64) - 1},
        {"begin32": 0},
        {"last": 0},
        {"last": 1 << 63},
    ],
    ids=str,
)
def test_the_end_has_to_be_that_of_this_archive(
    end: dict[str, Any], tmp_path: Path, entries: dict[str, Entry]
) -> None:
    path = write_archive(tmp_path / "odd.pt", list(entries.values()), **end)
    with pytest.raises(
        MaterializationError, match=r"cut off|misplaced|has \d records|breaks off|has more"
    ):
        check(path)
    assert damaged_ranges(path) is None


def test_nothing_may_follow_or_be_lacking(tmp_path: Path) -> None:
    path = saved(torch.ones(3), tmp_path / "t.pt")
    content = path.read_bytes()
    for other in (content + b"\0", content + content, content[:-1], content[1:], content[:100]):
        path.write_bytes(other)
        with pytest.raises(MaterializationError):
            check(path)
        assert damaged_ranges(path) is None


def test_a_storage_beyond_4_gib_is_checked_like_any_other(tmp_path: Path) -> None:
    size = WIDE + 10
    spelled = pickle_of(tensor_of(storage_of(size, torch.ByteStorage), (size,), (1,)))
    entries = {name: Entry(b"/" + name.encode(), data) for name, data in TEXTS.items()}
    data = Entry(b"/data/0", b"", hole=size, said_crc=0)
    rest = [entries["byteorder"], data, entries["version"]]
    path = write_archive(tmp_path / "large.pt", [Entry(b"/data.pkl", spelled), *rest])
    assert path.stat().st_size > 1 << 32
    found = check(path)
    assert (found.shape, found.data_size) == ((size,), size)
    assert loaded(path).shape == (size,)
    data.said_size = size + 1
    write_archive(path, [Entry(b"/data.pkl", spelled), *rest])
    with pytest.raises(MaterializationError, match="contradicts|misplaced"):
        check(path)


def test_the_other_byte_order_is_told(tmp_path: Path, entries: dict[str, Entry]) -> None:
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    entries["byteorder"].data = other
    path = write_archive(tmp_path / "other.pt", list(entries.values()))
    assert not check(path).native
    assert not torch.equal(loaded(path), torch.arange(6.0))


# --- Files that are something else


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    def legacy(path: Path) -> None:
        torch.save(torch.ones(3), path, _use_new_zipfile_serialization=False)

    def tar(path: Path) -> None:
        with tarfile.open(path, "w") as file:
            file.add(saved(torch.ones(3), tmp_path / "in.pt"), "in.pt")

    def zipped(path: Path, how: int = zipfile.ZIP_STORED) -> None:
        inner = saved(torch.ones(3), tmp_path / "in.pt")
        with zipfile.ZipFile(inner) as old, zipfile.ZipFile(path, "w", how) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))

    def bomb(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data/0", bytes(1 << 24))

    def nested(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.write(saved(torch.ones(3), tmp_path / "in.pt"), "archive/data.pkl")

    writers: dict[str, Callable[[Path], object]] = {
        "legacy": legacy,
        "tar": tar,
        "zip": zipped,
        "deflated": lambda path: zipped(path, zipfile.ZIP_DEFLATED),
        "bomb": bomb,
        "nested": nested,
        "empty zip": lambda path: zipfile.ZipFile(path, "w").close(),
        "pickle": lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]})),
        "a.npy": lambda path: np.save(path, np.ones(3)),
        "a.npz": lambda path: np.savez(path, np.ones(3)),
        "text": lambda path: path.write_text("class Foo:\n    pass\n"),
        "zeros": lambda path: path.write_bytes(bytes(4096)),
        "one byte": lambda path: path.write_bytes(b"P"),
        "header": lambda path: path.write_bytes(b"PK\3\4"),
        "empty": lambda path: path.touch(),
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
        "dangling link": lambda path: path.symlink_to("nowhere"),
        "missing": lambda path: None,
    }
    for name, write in writers.items():
        path = tmp_path / name.replace(" ", "-")
        write(path)
        with pytest.raises(MaterializationError, match="is no tensor as torch.save writes it"):
            check(path)
        assert damaged_ranges(path) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "scripted.pt"))
    with pytest.raises(MaterializationError, match="compressed|no record"):
        check(tmp_path / "scripted.pt")


@pytest.mark.parametrize(
    "value",
    [
        {"a": torch.ones(2)},
        [torch.ones(2)],
        (torch.ones(2),),
        (torch.ones(2), torch.ones(2)),
        torch.ones(2).untyped_storage(),
        torch.Size([2]),
        torch.float32,
        torch.device("cpu"),
        OrderedDict(),
        3,
        "text",
        b"bytes",
        None,
        True,
        torch.ones(1).expand(5),
        torch.arange(10).unfold(0, 4, 1),
    ],
    ids=lambda value: repr(value).replace("\n", "")[:30],
)
def test_what_is_no_tensor_of_its_own_storage_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(REFUSED):
        check(saved(value, tmp_path / "t.pt"))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_parameters_and_tensors_that_carry_more_are_refused(tmp_path: Path) -> None:
    marked = torch.ones(2)
    marked.mark = 1  # type: ignore[attr-defined]  # that is the point
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for tensor, needed in {
        nn.Parameter(torch.ones(2)): "torch._utils._rebuild_parameter",
        nn.Buffer(torch.ones(2)): "torch._tensor._rebuild_from_type_v2",
        marked: "torch._tensor._rebuild_from_type_v2",
        nested: "torch._utils._rebuild_nested_tensor",
    }.items():
        with pytest.raises(UntrustedDataError) as caught:
            check(saved(tensor, tmp_path / "t.pt"))
        assert needed in caught.value.required


# --- Pickles


TEXTS = {"byteorder": sys.byteorder.encode(), "version": b"3\n"}


def forged(path: Path, pickled: bytes, *storages: bytes) -> Path:
    """Write any pickle as torch would write it."""
    writer = torch._C.PyTorchFileWriter(str(path))
    data = {f"data/{number}": storage for number, storage in enumerate(storages)}
    texts = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": TEXTS["byteorder"]}
    for name, content in {"data.pkl": pickled, **texts, **data}.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return path


@attrs.frozen
class Call:
    function: Any
    arguments: tuple[Any, ...]

    def __reduce__(self) -> Any:
        return self.function, self.arguments

    def __call__(self) -> None:
        """To be called, pickle wants a callable."""


@attrs.frozen
class PersistentId:
    value: Any


class Pickler(pickle._Pickler):  # in Python, so that it may be told anything
    def persistent_id(self, item: Any) -> Any:
        return item.value if type(item) is PersistentId else None


def pickle_of(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def storage_of(
    count: Any, kind: Any = torch.FloatStorage, key: Any = "0", device: Any = "cpu"
) -> PersistentId:
    return PersistentId(("storage", kind, key, device, count))


def tensor_of(storage: Any, shape: Any, stride: Any, offset: Any = 0, *more: Any) -> Call:
    arguments = storage, offset, shape, stride, False, OrderedDict(), *more
    return Call(torch._utils._rebuild_tensor_v2, arguments)


def test_the_pickles_of_these_tests_are_those_of_torch(tmp_path: Path) -> None:
    spelled = pickle_of(tensor_of(storage_of(6), (2, 3), (3, 1)))
    path = saved(torch.ones(2, 3), tmp_path / "archive.pt")
    assert records_of(path)[0].data == spelled
    assert check(forged(tmp_path / "forged.pt", spelled, bytes(24))).shape == (2, 3)


HUGE = 1 << 62
ODD_TENSORS: dict[str, Any] = {
    "too large": tensor_of(storage_of(6), (7,), (1,)),
    "too large by its strides": tensor_of(storage_of(6), (2, 3), (4, 1)),
    "too large by its offset": tensor_of(storage_of(6), (6,), (1,), 1),
    "huge": tensor_of(storage_of(6), (HUGE,), (1,)),
    "huge by its dimensions": tensor_of(storage_of(6), (HUGE, HUGE, HUGE), (0, 0, 0)),
    "huge but empty": tensor_of(storage_of(6), (0, HUGE, HUGE), (1, 1, 1)),
    "beyond 63 bits": tensor_of(storage_of(6), (1 << 64,), (1,)),
    "beyond 63 bits in its strides": tensor_of(storage_of(6), (1,), (1 << 63,)),
    "of 2000 bits": tensor_of(storage_of(6), (1 << 2000,), (1,)),
    "a huge offset": tensor_of(storage_of(6), (1,), (1,), HUGE),
    "an empty one far away": tensor_of(storage_of(6), (0,), (1,), 7),
    "repeated": tensor_of(storage_of(6), (1000, 1000), (0, 0)),
    "overlapping itself": tensor_of(storage_of(6), (3, 3), (1, 1)),
    "a negative shape": tensor_of(storage_of(6), (-1, -6), (1, 1)),
    "a negative stride": tensor_of(storage_of(6), (6,), (-1,), 5),
    "a negative offset": tensor_of(storage_of(6), (6,), (1,), -1),
    "floats": tensor_of(storage_of(6), (6.0,), (1,)),
    "a bool": tensor_of(storage_of(6), (True,), (1,)),
    "text": tensor_of(storage_of(6), ("6",), (1,)),
    "a text as shape": tensor_of(storage_of(6), "6", (1,)),
    "a number as shape": tensor_of(storage_of(6), 6, (1,)),
    "a nested shape": tensor_of(storage_of(6), ((6,),), (1,)),
    "a shape of no tuple": tensor_of(storage_of(6), [6], (1,)),
    "another number of strides": tensor_of(storage_of(6), (2, 3), (1,)),
    "65 dimensions": tensor_of(storage_of(6), (1,) * 65, (1,) * 65),
    "a longer storage": tensor_of(storage_of(1 << 40), (6,), (1,)),
    "a negative storage": tensor_of(storage_of(-6), (6,), (1,)),
    "a storage of another dtype": tensor_of(storage_of(6, torch.DoubleStorage), (6,), (1,)),
    "an untyped storage": tensor_of(storage_of(24, torch.UntypedStorage), (6,), (1,)),
    "a quantized storage": tensor_of(storage_of(24, torch.QInt8Storage), (6,), (1,)),
    "a storage of a dtype": tensor_of(storage_of(6, torch.float32), (6,), (1,)),
    "a storage of a text": tensor_of(storage_of(6, "FloatStorage"), (6,), (1,)),
    "another key": tensor_of(storage_of(6, key="1"), (6,), (1,)),
    "a key that leads out": tensor_of(storage_of(6, key="../byteorder"), (6,), (1,)),
    "a key that is a number": tensor_of(storage_of(6, key=0), (6,), (1,)),
    "a device of none": tensor_of(storage_of(6, device="meta"), (6,), (1,)),
    "a device with a path": tensor_of(storage_of(6, device="../cpu"), (6,), (1,)),
    "a device that is no text": tensor_of(storage_of(6, device=0), (6,), (1,)),
    "a number as id": tensor_of(PersistentId(5), (6,), (1,)),
    "a text as id": tensor_of(PersistentId("storage"), (6,), (1,)),
    "a short id": tensor_of(PersistentId(("storage",)), (6,), (1,)),
    "an id of a module": tensor_of(
        PersistentId(("module", torch.FloatStorage, "0", "cpu", 6)), (6,), (1,)
    ),
    "an id of an id": tensor_of(PersistentId((storage_of(6), 1, 2, 3, 4)), (6,), (1,)),
    "no storage": tensor_of(None, (6,), (1,)),
    "a tensor as storage": tensor_of(tensor_of(storage_of(6), (6,), (1,)), (6,), (1,)),
    "metadata": tensor_of(storage_of(6), (6,), (1,), 0, {"evil": True}),
    "metadata of a deep key": tensor_of(storage_of(6), (6,), (1,), 0, {((),): True}),
    "metadata of another value": tensor_of(storage_of(6), (6,), (1,), 0, {"neg": "yes"}),
    "metadata that is no dict": tensor_of(storage_of(6), (6,), (1,), 0, (1,)),
    "a real conjugate": tensor_of(storage_of(6), (6,), (1,), 0, {"conj": True}),
    "more arguments": tensor_of(storage_of(6), (6,), (1,), 0, {}, {}),
    "fewer arguments": Call(torch._utils._rebuild_tensor_v2, (storage_of(6), 0, (6,))),
    "no arguments": Call(torch._utils._rebuild_tensor_v2, ()),
    "hooks": Call(
        torch._utils._rebuild_tensor_v2, (storage_of(6), 0, (6,), (1,), False, {"conj": True})
    ),
    "two dtypes": Call(
        torch._utils._rebuild_tensor_v3,
        (storage_of(6), 0, (6,), (1,), False, OrderedDict(), torch.uint16),
    ),
    "a dtype of old": Call(
        torch._utils._rebuild_tensor_v3,
        (storage_of(24, torch.UntypedStorage), 0, (6,), (1,), False, OrderedDict(), torch.float32),
    ),
    "a layout that torch lacks": Call(
        torch._utils._rebuild_sparse_tensor,
        (Call(torch.serialization._get_layout, ("torch.os",)), (storage_of(6), 1, 2, 3)),
    ),
    "two tensors": (tensor_of(storage_of(6), (6,), (1,)),) * 2,
    "a storage": storage_of(6),
}


@pytest.mark.parametrize("odd", ODD_TENSORS)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(odd: str, tmp_path: Path) -> None:
    path = forged(tmp_path / "odd.pt", pickle_of(ODD_TENSORS[odd]), bytes(24))
    with pytest.raises(MaterializationError):
        check(path)


def quantized_of(count: int, shape: tuple[int, ...], *scheme: Any) -> Call:
    view = 0, shape, (1,) * len(shape)
    return Call(
        torch._utils._rebuild_qtensor,
        (storage_of(count, torch.QInt8Storage), *view, scheme, False, OrderedDict()),
    )


def test_scales_that_do_not_fit_a_quantized_tensor_are_refused(tmp_path: Path) -> None:
    """Older releases of torch don't look and read beyond the tensor."""
    scales = tensor_of(storage_of(2, torch.DoubleStorage, "1"), (2,), (1,))
    zeros = tensor_of(storage_of(2, torch.LongStorage, "2"), (2,), (1,))
    affine = torch.per_channel_affine
    good = quantized_of(2, (2, 1), affine, scales, zeros, 0)
    assert check(forged(tmp_path / "q.pt", pickle_of(good), *map(bytes, (2, 16, 16)))).opaque
    for odd in (
        quantized_of(2, (2, 1), affine, scales, zeros, 1),
        quantized_of(2, (2, 1), affine, scales, zeros, 2),
        quantized_of(2, (2, 1), affine, scales, zeros, -2),
        quantized_of(2, (1, 2), affine, scales, zeros, 0),
        quantized_of(2, (2, 1), affine, zeros, 1.0, 0),
        quantized_of(2, (2, 1), affine, scales, zeros, 1 << 70),
        quantized_of(2, (2, 1), torch.per_tensor_affine, 0.1, 1 << 70),
        quantized_of(2, (2, 1), torch.per_tensor_affine, scales, zeros),
        quantized_of(2, (2, 1), torch.float32, 0.1, 0),
        quantized_of(2, (2, 1)),
    ):
        with pytest.raises(MaterializationError):
            check(forged(tmp_path / "q.pt", pickle_of(odd), *map(bytes, (2, 16, 16))))


def test_indices_that_do_not_fit_a_sparse_tensor_are_refused(tmp_path: Path) -> None:
    def sparse(layout: str, *parts: Any) -> Call:
        arguments = Call(torch.serialization._get_layout, (f"torch.sparse_{layout}",)), parts
        return Call(torch._utils._rebuild_sparse_tensor, arguments)

    def part(key: str, kind: Any, *shape: int) -> Call:
        size = math.prod(shape)
        stride = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
        return tensor_of(storage_of(size, kind, key), shape, stride)

    long, values = torch.LongStorage, part("1", torch.FloatStorage, 3)
    size = torch.Size([3, 3])
    good = sparse("coo", part("0", long, 2, 3), values, size, True)
    assert check(forged(tmp_path / "s.pt", pickle_of(good), bytes(48), bytes(12))).shape == (3, 3)
    nothing = part("1", torch.FloatStorage, 1, 0, 2)  # torch would divide by the blocks' size
    blocks = sparse("bsr", part("0", long, 2), part("2", long, 1), nothing, torch.Size([0, 2]))
    for odd, storages in (
        (blocks, (16, 0, 8)),
        (sparse("coo", part("0", long, 3, 2), values, size, True), (48, 12)),
        (sparse("coo", part("0", long, 6), values, size, True), (48, 12)),
        (sparse("coo", part("0", torch.IntStorage, 2, 3), values, size, True), (24, 12)),
        (sparse("coo", part("0", long, 2, 3), values, torch.Size([3]), True), (48, 12)),
        (sparse("coo", part("0", long, 2, 3), values, torch.Size([3, 3, 3]), True), (48, 12)),
        (sparse("coo", part("0", long, 2, 3), values, torch.Size([HUGE, HUGE]), True), (48, 12)),
        (sparse("coo", part("0", long, 2, 3), values, (3, 3), True), (48, 12)),
        (sparse("coo", part("0", long, 2, 3), values, size), (48, 12)),
        (sparse("csr", part("0", long, 4), part("2", long, 2), values, size), (32, 12, 16)),
        (sparse("csr", part("0", long, 1, 4), part("2", long, 3), values, size), (32, 12, 24)),
        (sparse("csr", part("0", long, 3), part("2", long, 3), values, size), (24, 12, 24)),
        (sparse("csr", part("0", long), part("2", long), values, size), (8, 12, 8)),
        (sparse("coo", part("0", long, 4), part("2", long, 3), values, size), (32, 12, 24)),
        (sparse("bsr", part("0", long, 4), part("2", long, 3), values, size), (32, 12, 24)),
    ):
        with pytest.raises(MaterializationError):
            check(forged(tmp_path / "s.pt", pickle_of(odd), *map(bytes, storages)))


def shell(marker: Path) -> str:
    return f"touch {marker}"


def code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def script(marker: Path) -> str:
    marker.with_suffix(".py").write_text(code(marker))
    return str(marker.with_suffix(".py"))


def system(marker: Path) -> Call:
    return Call(os.system, (shell(marker),))


def inner(marker: Path) -> str:
    marker.with_suffix(".pkl").write_bytes(pickle_of(system(marker)))
    return str(marker.with_suffix(".pkl"))


def imported(attribute: str) -> Call:
    return Call(getattr, (Call(__import__, ("os",)), attribute))


PAYLOADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what to unpickle, and a name that it can't do without
    "os.system": (system, "system"),
    "eval": (lambda marker: Call(builtins.eval, (code(marker),)), "eval"),
    "exec": (lambda marker: Call(builtins.exec, (code(marker),)), "exec"),
    "open": (lambda marker: Call(open, (str(marker), "w")), "open"),
    "subprocess": (lambda marker: Call(subprocess.run, (["touch", str(marker)],)), "run"),
    "getattr": (lambda marker: Call(imported("system"), (shell(marker),)), "getattr"),
    "import": (lambda marker: Call(imported("system"), (shell(marker),)), "__import__"),
    "attrgetter": (
        lambda marker: Call(
            Call(operator.attrgetter, ("system",)), (Call(__import__, ("os",)), shell(marker))
        ),
        "attrgetter",
    ),
    "methodcaller": (
        lambda marker: Call(
            Call(operator.methodcaller, ("system", shell(marker))), (Call(__import__, ("os",)),)
        ),
        "methodcaller",
    ),
    "runpy": (lambda marker: Call(runpy.run_path, (script(marker),)), "run_path"),
    "pickle in a pickle": (
        lambda marker: Call(pickle.loads, (pickle_of(system(marker)),)),
        "loads",
    ),
    "torch.load": (lambda marker: Call(torch.load, (inner(marker), None)), "load"),
    "partial": (
        lambda marker: Call(Call(functools.partial, (os.system, shell(marker))), ()),
        "partial",
    ),
    "after a tensor": (
        lambda marker: (tensor_of(storage_of(6), (6,), (1,)), system(marker)),
        "system",
    ),
    "as hooks": (
        lambda marker: Call(
            torch._utils._rebuild_tensor_v2,
            (storage_of(6), 0, (6,), (1,), False, system(marker)),
        ),
        "system",
    ),
    "as a storage": (lambda _: tensor_of(storage_of(6, os.system), (6,), (1,)), "system"),
    "as an id": (lambda marker: tensor_of(PersistentId(system(marker)), (6,), (1,)), "system"),
    "as a shape": (lambda marker: tensor_of(storage_of(6), system(marker), (1,)), "system"),
    "bytearray": (lambda _: Call(bytearray, (10**12,)), "bytearray"),
    "Counter": (lambda _: Call(collections.Counter, ({"a": 10**12},)), "Counter"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_pickle_that_runs_code_is_refused_and_told(
    name: str, protocol: int, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    if protocol == 0 and name in ("as a storage", "as an id"):
        return  # ids were texts once
    payload, needed = PAYLOADS[name]
    pickled = pickle_of(payload(marker), protocol)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickled)
    for path in (forged(tmp_path / "forged.pt", pickled, bytes(24)), plain):
        with pytest.raises(UntrustedDataError, match="nothing of it was run") as caught:
            check(path)
        assert needed in {name.rpartition(".")[2] for name in caught.value.required}
        assert str(caught.value).startswith(f"{WHAT}: {path} is no stored tensor")
    assert not marker.exists()


def test_payloads_do_run_when_nothing_refuses_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle_of(PAYLOADS["os.system"][0](marker)))  # noqa: S301  # that is the point
    assert marker.exists()


def test_a_model_pickled_whole_is_refused_in_both_formats(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save(nn.Linear(1, 1), tmp_path / "m.pt", _use_new_zipfile_serialization=new)
        with pytest.raises(UntrustedDataError, match="torch.nn.modules.linear.Linear"):
            check(tmp_path / "m.pt")


GOOD = pickle_of(tensor_of(storage_of(6), (6,), (1,)))
BODY = GOOD[2:-1]
TOUCH = b"(S'touch marker'\n"
ODD_PICKLES: dict[str, bytes] = {
    "INST": TOUCH + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + TOUCH[1:] + b"o.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n" + TOUCH + b"t\x81.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + TOUCH + b"t}\x92.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "EXT2": b"\x80\x02\x83\x01\x01)R.",
    "EXT4": b"\x80\x02\x84\x01\x01\x01\x01)R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",
    "a STACK_GLOBAL from memory": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\0h\1\x93.",
    "a protocol 0 of old": b"cos\nsystem\n" + TOUCH + b"tR.",
    "BUILD": b"\x80\x02" + BODY + b"}b.",
    "BUILD on hooks": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "POP": b"\x80\x02K\x010" + BODY + b".",
    "POP of a payload": b"\x80\x02cos\nsystem\n0" + BODY + b".",
    "DUP": b"\x80\x02" + BODY + b"2\x86.",
    "POP_MARK": b"\x80\x02(K\x011" + BODY + b".",
    "PERSID": b"\x80\x02Pstorage\n.",
    "a list": b"\x80\x02]" + BODY + b"a.",
    "a set": b"\x80\x02\x8f.",
    "a frozenset": b"\x80\x04(K\x01\x91.",
    "a frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "BINUNICODE8 beyond the file": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "BINUNICODE beyond the file": b"\x80\x02X\xff\xff\xff\xff.",
    "BYTEARRAY8": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "LONG4 of less than nothing": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "an INT of many digits": b"\x80\x02I" + b"9" * 50_000 + b"\n.",
    "a LONG of many digits": b"\x80\x02L" + b"9" * 50_000 + b"L\n.",
    "an odd escape": b"\x80\x02S'\\q'\n.",
    "protocol 1": GOOD[2:],
    "protocol 3": b"\x80\x03" + BODY + b".",
    "protocol 255": b"\x80\xff" + BODY + b".",
    "a second pickle": GOOD + GOOD,
    "something after it": GOOD + b"\0",
    "no end": GOOD[:-1],
    "empty": b"",
    "only an end": b".",
    "an unknown opcode": b"\x80\x02\xff.",
    "a reduction of nothing": b"\x80\x02R.",
    "a reduction of a number": b"\x80\x02K\x01)R.",
    "a reduction with a number": b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
    "a reduction with a tensor": b"\x80\x02ccollections\nOrderedDict\n" + BODY + b"R.",
    "a tuple across a mark": b"\x80\x02K\x01K\x02(\x86.",
    "a tuple without a mark": b"\x80\x02K\x01t.",
    "a mark left over": b"\x80\x02(" + BODY + b".",
    "an item left over": b"\x80\x02K\x01" + BODY + b".",
    "an empty memory": b"\x80\x02h\x07.",
    "an item of a tuple": b"\x80\x02)X\x04\0\0\0conj\x88s.",
    "an item of nothing": b"\x80\x02X\x04\0\0\0conj\x88s.",
    "an odd number of items": b"\x80\x02}(X\x04\0\0\0conju.",
    "a name with spaces": b"\x80\x02ctorch._utils _rebuild_tensor_v2\n\n)R.",
    "a name of other letters": b"\x80\x02ctorch\nFl\xc3\xb6atStorage\n.",
    "a name without an end": b"\x80\x02ctorch\nFloatStorage",
    "100,000 marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "60,000 marks": b"\x80\x02" + b"(" * 60_000 + b"t" * 5_000 + b".",
    "60,000 tuples in each other": b"\x80\x02)" + b"\x85" * 60_000 + b".",
    "60,000 tuples as arguments": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)" + b"\x85" * 60_000 + b"R."
    ),
    "60,000 calls in each other": (
        b"\x80\x02ctorch\nSize\nq\0)R" + b"\x85q\1h\0h\1R" * 6_000 + b"."
    ),
    "2 ** 20,000 items": b"\x80\x02)" + b"q\0h\0\x86" * 13_000 + b".",
    "2 ** 10,000 items as a shape": (
        GOOD[: GOOD.index(b"K\x06\x85")]
        + b")" + b"q\x7fh\x7f\x86" * 10_000
        + b"K\x01\x85\x89ccollections\nOrderedDict\n)RtR."
    ),
    "2 ** 10,000 items as a key": b"\x80\x02})" + b"q\0h\0\x86" * 10_000 + b"\x88s.",
    "60,000 tuples as a key": b"\x80\x02})" + b"\x85" * 60_000 + b"\x88s.",
    "2 ** 10,000 items as an id": b"\x80\x02)" + b"q\0h\0\x86" * 10_000 + b"Q.",
    "a text of 60 KB as a name": b"\x80\x02ctorch\n" + b"x" * 60_000 + b"\n.",
    "a text of 60 KB as a device": pickle_of(
        tensor_of(storage_of(6, device="c" * 60_000), (6,), (1,))
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD_PICKLES)
def test_any_other_pickle_is_refused_within_bounds(odd: str, tmp_path: Path) -> None:
    path = forged(tmp_path / "odd.pt", ODD_PICKLES[odd], bytes(24))
    with within_bounds(), pytest.raises(REFUSED) as caught:
        check(path)
    assert not (tmp_path / "marker").exists()
    if b"system" in ODD_PICKLES[odd]:
        assert isinstance(caught.value, UntrustedDataError)
        assert "os.system" in caught.value.required
    if odd.startswith("EXT"):
        assert isinstance(caught.value, UntrustedDataError)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(ODD_PICKLES[odd])
    with within_bounds(), pytest.raises(REFUSED):
        check(plain)


class within_bounds:  # noqa: N801  # reads as a statement
    """Refuses what takes long or much memory."""

    def __enter__(self) -> None:
        tracemalloc.start()
        self.started = perf_counter()

    def __exit__(self, *_: object) -> None:
        took = perf_counter() - self.started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert took < 5
        assert peak < 32 << 20


# --- Damage


def test_a_flipped_bit_is_blamed_on_the_tensor_only_in_the_tensor(tmp_path: Path) -> None:
    path = saved(torch.arange(6.0), tmp_path / "t.pt")
    found = check(path)
    data = found.data_offset, found.data_offset + found.data_size
    content = path.read_bytes()
    blamed = set()
    with path.open("r+b", buffering=0) as file:
        for index, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << index % 8]), index)
            ranges = damaged_ranges(path)
            if data[0] <= index < data[1]:
                assert ranges == [data]
            else:
                assert ranges in ([], None), index
            blamed.add(repr(ranges))
            os.pwrite(file.fileno(), bytes([byte]), index)
    assert blamed == {"[]", "None", repr([data])}


def test_of_several_storages_the_damaged_one_is_blamed(tmp_path: Path) -> None:
    path = saved(torch.eye(4).to_sparse(), tmp_path / "t.pt")
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<4f", 1, 1, 1, 1))
    content[at] ^= 1
    path.write_bytes(content)
    assert damaged_ranges(path) == [(at, at + 16)]


def test_a_truncated_file_is_no_archive(tmp_path: Path) -> None:
    path = saved(torch.arange(6.0), tmp_path / "t.pt")
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert damaged_ranges(path) is None
        with pytest.raises(MaterializationError):
            check(path)


# --- Files at random


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("originals") / "t.pt"
    kinds = ("plain", "channels_last", "conjugated", "coo", "bsr", "csr", "per channel", "meta")
    return [saved(TENSORS[kind](), path).read_bytes() for kind in kinds]


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes, list[bytes]], bytes]:
    """Flipped bytes, stretches cut out, repeated, or taken from another file."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "cut", "insert", "replace", "end"]),
                st.floats(0, 1, exclude_max=True),
                st.floats(0, 1, exclude_max=True),
                st.integers(0, 255) | st.sampled_from(b"\0\1\2\x7f\x80\xff()tRqKQ."),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes, sources: list[bytes]) -> bytes:
        for kind, where, whence, number in edits:
            at = int(where * len(content))
            source = sources[number % len(sources)]
            piece = source[int(whence * len(source)) :][: number + 1]
            if kind == "set":
                content = content[:at] + bytes([number]) + content[at + 1 :]
            elif kind == "cut":
                content = content[:at] + content[at + number :]
            elif kind == "insert":
                content = content[:at] + piece + content[at:]
            elif kind == "replace":
                content = content[:at] + piece + content[at + len(piece) :]
            elif number < 16:
                content = content[:at]
        return content

    return apply


def holds(path: Path) -> None:
    """Refused, or else a tensor of what it was said to be, or an error of torch's own."""
    tracemalloc.start()
    try:
        found = check(path)
    except REFUSED:
        return
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20
    try:
        tensor = loaded(path)
    except Exception:  # such as indices that don't fit: bytes of the tensor aren't checked
        return
    assert isinstance(tensor, Tensor)
    assert (str(tensor.dtype), tuple(tensor.shape)) == (found.dtype, found.shape)


FUZZ = settings(max_examples=150, deadline=timedelta(seconds=5), print_blob=True)


@FUZZ
@given(which=st.integers(0, 7), edit=damage())
def test_no_damaged_file_gets_through_to_do_harm(
    which: int,
    edit: Callable[[bytes, list[bytes]], bytes],
    originals: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(edit(originals[which], originals))
    holds(path)
    damaged_ranges(path)


@FUZZ
@given(which=st.integers(0, 7), edit=damage())
def test_no_damaged_pickle_gets_through_to_do_harm(
    which: int,
    edit: Callable[[bytes, list[bytes]], bytes],
    originals: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    pickles = []
    for content in originals:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            names = file.namelist()
            pickles.append(file.read(next(name for name in names if name.endswith("data.pkl"))))
            if content is originals[which]:
                storages = [file.read(name) for name in names if "/data/" in name]
    pickled = edit(pickles[which], pickles)
    holds(forged(path, pickled, *storages))


@FUZZ
@given(
    count=st.integers(0, 24),
    shape=st.lists(st.integers(-1, 7) | st.integers(), max_size=4),
    stride=st.lists(st.integers(-1, 7) | st.integers(), max_size=4),
    offset=st.integers(-1, 7) | st.integers(),
    kind=st.sampled_from(
        [torch.FloatStorage, torch.LongStorage, torch.BoolStorage, torch.UntypedStorage]
    ),
)
def test_a_tensor_that_is_let_through_lies_in_its_storage(
    count: int,
    shape: list[int],
    stride: list[int],
    offset: int,
    kind: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    spelled = pickle_of(tensor_of(storage_of(count, kind), tuple(shape), tuple(stride), offset))
    holds(forged(path, spelled, bytes(24)))
