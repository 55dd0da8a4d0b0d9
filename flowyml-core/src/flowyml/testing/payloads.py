"""What does harm where it is read carelessly: whole files, parts of files, and texts in them.

Those that run code leave a mark: they make a folder.
"""

from __future__ import annotations

import base64
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

from flowyml.testing.canaries import KNOWN, STRANGE, TRUSTED, bait

__tracebackhide__ = True


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


def names(between: str) -> list[str]:
    """Return dotted names of what must not be imported, called or kept.

    Args:
        between: what stands between a module and a name in it.
    """
    pairs = (
        ("os", "system"), ("builtins", "eval"), (STRANGE, "run"), (f"{STRANGE}.inner", "run"),
        (KNOWN, "run"), (KNOWN, "Made"), (TRUSTED, "run"), (TRUSTED, f"{KNOWN}.run"),
    )  # fmt: skip
    return [*map(between.join, pairs), STRANGE]


def texts(mark: Path) -> dict[str, str]:
    """Return texts that must not be evaluated, unpacked or followed, by what they are."""
    # Who takes eval() for safe leaves the builtins out: this reaches os without them.
    found = "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    path = bait(mark)
    expression = f"{found}.__init__.__globals__['mkdir']({str(mark)!r})"
    return {
        "an expression that calls os.mkdir": expression,
        "a pickle in base64 that calls os.mkdir": base64.b64encode(pickled(0, mark)).decode(),
        "a pickle in hexadecimal that calls os.mkdir": pickled(0, mark).hex(),
        "the path of another file": str(path),
        "the path of another file, with dots": f"{'../' * 40}{path.relative_to(path.anchor)}",
        "the address of another file": path.as_uri(),
        "the address of a server": "http://127.0.0.1:9/",
    }


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
