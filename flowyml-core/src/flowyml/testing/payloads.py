"""Bytes that run code where they are read carelessly: what a stranger puts in place of a file.

Each of them leaves a mark: it makes a folder. Two modules do too: `STRANGE` when it is imported,
and `KNOWN`, which is imported already, when anything of it is called.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

STRANGE = "flowyml_strange_module"
"""A module that can be imported and isn't, unless a file makes somebody do it."""

KNOWN = "flowyml_known_module"
"""A module that is imported: who finds its names in a file still may not call them."""

_CANARY = """
import os
def mark(what):
    os.makedirs(os.path.join({mark!r}, what), exist_ok=True)
def run(*args, **kwargs):
    mark("called")
class Made:
    def __new__(cls, *args, **kwargs):
        mark("made")
        return object.__new__(cls)
    def __setstate__(self, state):
        mark("made")
if __name__ == {strange!r}:
    mark("imported")
"""


@attrs.frozen
class Payload:
    """Something in the place of honest bytes.

    Attributes:
        what: what it is, as in "<the file> ...".
        content: its bytes.
        refused: whether loading has to refuse it, as nobody could take it for what was saved.
    """

    what: str
    content: bytes
    refused: bool = False


def write_canaries(folder: Path, mark: Path) -> None:
    """Write the two modules."""
    for name in (STRANGE, KNOWN):
        (folder / f"{name}.py").write_text(_CANARY.format(mark=str(mark), strange=STRANGE))


def code(mark: Path) -> Iterator[Payload]:
    """Yield whole files that make a folder where they are read carelessly."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for name, call in (("os.mkdir", _Mkdir), ("builtins.exec", _Exec)):
            content = pickle.dumps(call(str(mark)), protocol)
            yield Payload(_pickle_that(protocol, name), content, refused=True)
    for kind, compress in (
        ("zlib", zlib.compress),
        ("gzip", functools.partial(gzip.compress, mtime=0)),
        ("bz2", bz2.compress),
        ("lzma", lzma.compress),
    ):
        what = f"is a pickle, compressed by {kind}, that calls os.mkdir"
        yield Payload(what, compress(pickled(2, mark)), refused=True)
    yield attrs.evolve(_array(mark), refused=True)
    yield Payload(
        "is YAML that calls os.mkdir",
        f"!!python/object/apply:os.mkdir\n- {json.dumps(str(mark))}\n".encode(),
    )
    yield Payload(
        "is Python code that calls os.mkdir", f"__import__('os').mkdir({str(mark)!r})".encode()
    )


def code_in_parts(mark: Path) -> Iterator[Payload]:
    """Yield parts of files, such as members of archives, that do so."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield Payload(_pickle_that(protocol, "os.mkdir"), pickled(protocol, mark))
    yield _array(mark)


def pickled(protocol: int, mark: Path) -> bytes:
    """Return a pickle that makes a folder."""
    return pickle.dumps(_Mkdir(str(mark)), protocol)


def _pickle_that(protocol: int, name: str) -> str:
    return f"is a pickle of protocol {protocol} that calls {name}"


class _Mkdir:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class _Exec(_Mkdir):
    """Runs code that makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os; os.mkdir({self.path!r})",)


def _array(mark: Path) -> Payload:
    """Return an array as NumPy writes it (NEP 1), the element of which is a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    what = "is an array of NumPy with a pickle in it that calls os.mkdir"
    return Payload(what, start + header + pickled(3, mark))
