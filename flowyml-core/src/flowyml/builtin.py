"""The adapter that comes with the core: JSON-able values, NumPy arrays, and their random sources.

It registers through the same hooks as any other adapter, and NumPy is only touched once somebody
else has imported it: whoever holds an array has.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flowyml import encoding
from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError
from flowyml.hookspecs import hookimpl
from flowyml.interfaces import (
    Change,
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)
from flowyml.properties import type_name


class JsonMaterializer(Materializer):
    """JSON-able values: None, bool, int, float, str, and list, tuple and dict of them."""

    key = "core.json"
    formats = ("json",)
    accepts = frozenset()
    types = ("None", "bool", "int", "float", "str", "list", "tuple", "dict")

    def detect(self, obj: object) -> bool:
        """Tell whether the value is made of exact builtin types all the way down."""
        return encoding.is_encodable(obj)

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``value.json``."""
        (folder / "value.json").write_bytes(encoding.dumps(obj))
        return SaveResult()

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Read the value back, equal in value and type."""
        try:
            return encoding.loads(saved.files["value.json"].read_bytes())
        except encoding.EncodingError as error:
            raise MaterializationError(f"{saved.ref}: value.json is unfit: {error}") from error

    def digests(self, obj: Any, format: str) -> Mapping[str, str]:
        """Return the digest of the text that `save` would write."""
        try:
            return {"value.json": digest_of_bytes(encoding.dumps(obj))}
        except encoding.EncodingError as error:
            raise MaterializationError(f"A {type_name(obj)} has no JSON form: {error}") from error

    def compare(self, before: Saved, after: Saved) -> Sequence[Change]:
        """Return how the values differ, leaf by leaf."""
        from flowyml import leaves

        nothing = LoadOptions()
        return leaves.compare(self.load(before, nothing), self.load(after, nothing))


class NumpyMaterializer(Materializer):
    """NumPy arrays and scalars, as ``.npy`` files. Arrays of Python objects are not handled."""

    modules = ("numpy",)
    key = "core.numpy"
    formats = ("npy",)
    accepts = frozenset()
    types = ("numpy.ndarray", "numpy.generic")

    def detect(self, obj: object) -> bool:
        """Tell whether it is a plain array or scalar without Python objects in it."""
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return False
        if type(obj) is numpy.ndarray or isinstance(obj, numpy.generic):
            return not obj.dtype.hasobject  # type: ignore[attr-defined]  # narrowed by NumPy's own types
        return False

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``array.npy``."""
        import numpy

        with (folder / "array.npy").open("wb") as file:
            # Into a real file, NumPy writes past Python, and overlooks that the end may not fit.
            numpy.save(SimpleNamespace(write=file.write), obj, allow_pickle=False)
        return SaveResult(details={"scalar": isinstance(obj, numpy.generic)})

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Map the array: changes stay in memory, the file keeps what was saved."""
        import numpy

        from flowyml import arrays

        path = saved.files["array.npy"]
        try:
            array = arrays.mapped(path, "c")
        except (ValueError, TypeError, KeyError, EOFError, OSError) as error:
            raise MaterializationError(f"{saved.ref}: array.npy is unfit: {error}") from error
        if saved.result.details.get("scalar"):
            return array[()]
        return numpy.asarray(array)

    def digests(self, obj: Any, format: str) -> Mapping[str, str] | None:
        """Return the digest of the file that `save` would write, copying as little as it can."""
        from flowyml import arrays

        digest = arrays.digest(obj)
        return None if digest is None else {"array.npy": digest}

    def compare(self, before: Saved, after: Saved) -> Sequence[Change]:
        """Return how the arrays differ, reading both piece by piece."""
        from flowyml import arrays

        try:
            return arrays.compare(before.files["array.npy"], after.files["array.npy"])
        except (ValueError, TypeError, KeyError, EOFError, OSError) as error:
            raise MaterializationError(
                f"{before.ref} and {after.ref} can't be compared: {error}"
            ) from error


class PythonRandomSource(RandomSource):
    """The global generator of Python's ``random``."""

    name = "python"

    def seed(self, seed: int) -> None:
        """Seed ``random``."""
        random.seed(seed)

    def state(self) -> Any:
        """Return ``random.getstate()``."""
        return random.getstate()

    def restore(self, state: Any) -> None:
        """Put ``random`` back."""
        random.setstate(state)

    def pack(self, state: Any) -> bytes | None:
        """Return a Mersenne Twister's words, its position and a normal number kept for later."""
        version, words, gauss = state
        if version != 3:
            return None
        return _PYTHON + _pack_twister(struct.pack("<624I", *words[:-1]), words[-1], gauss)

    def unpack(self, data: bytes) -> Any:
        """Return a state as of ``random.getstate()``."""
        words, position, gauss = _unpack_twister(data, _PYTHON)
        return 3, (*struct.unpack("<624I", words), position), gauss


class NumpyRandomSource(RandomSource):
    """The global generator of ``numpy.random``, which takes seeds of 32 bits."""

    name = "numpy"

    def seed(self, seed: int) -> None:
        """Seed ``numpy.random`` with the seed's lower 32 bits, if NumPy is imported."""
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed % 2**32)

    def state(self) -> Any:
        """Return the generator's state, or None when NumPy isn't imported."""
        numpy = sys.modules.get("numpy")
        return None if numpy is None else numpy.random.get_state(legacy=False)

    def restore(self, state: Any) -> None:
        """Put ``numpy.random`` back."""
        if state is not None:
            sys.modules["numpy"].random.set_state(state)

    def pack(self, state: Any) -> bytes | None:
        """Return what `PythonRandomSource` does; None for other generators than that of NumPy."""
        if state is None or state["bit_generator"] != "MT19937":
            return None
        words = state["state"]["key"].astype("<u4").tobytes()
        gauss = state["gauss"] if state["has_gauss"] else None
        return _NUMPY + _pack_twister(words, state["state"]["pos"], gauss)

    def unpack(self, data: bytes) -> Any:
        """Return a state as of ``numpy.random.get_state(legacy=False)``; imports NumPy."""
        import numpy

        words, position, gauss = _unpack_twister(data, _NUMPY)
        key = numpy.frombuffer(words, "<u4").astype(numpy.uint32)
        return {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": position},
            "has_gauss": int(gauss is not None),
            "gauss": 0.0 if gauss is None else gauss,
        }


_PYTHON = b"python MT19937\n"
_NUMPY = b"numpy MT19937\n"
_TWISTER = struct.Struct("<2496sI?d")
"""624 words, how many of them are used up, whether a normal number is kept for later, and it."""


def _pack_twister(words: bytes, position: int, gauss: float | None) -> bytes:
    return _TWISTER.pack(words, position, gauss is not None, 0.0 if gauss is None else gauss)


def _unpack_twister(data: bytes, head: bytes) -> tuple[bytes, int, float | None]:
    if not data.startswith(head) or len(data) != len(head) + _TWISTER.size:
        raise ValueError(f"it isn't a packed state of {head.decode().strip()}")
    words, position, has_gauss, gauss = _TWISTER.unpack_from(data, len(head))
    if position > 624 or not any(words):
        raise ValueError(f"it is no state that {head.decode().strip()} can have")
    return words, position, gauss if has_gauss else None


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register JSON and NumPy."""
    return [JsonMaterializer(), NumpyMaterializer()]


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    """Register Python's and NumPy's global generators."""
    return [PythonRandomSource(), NumpyRandomSource()]
