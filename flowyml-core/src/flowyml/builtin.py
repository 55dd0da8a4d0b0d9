"""The adapter that comes with the core: JSON-able values, NumPy arrays, and their random sources.

It registers through the same hooks as any other adapter, and NumPy is only touched once somebody
else has imported it: whoever holds an array has.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flowyml import encoding
from flowyml.errors import MaterializationError
from flowyml.hookspecs import hookimpl
from flowyml.interfaces import (
    LoadOptions,
    Materializer,
    RandomSource,
    Saved,
    SaveOptions,
    SaveResult,
)


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

        path = saved.files["array.npy"]
        try:
            with path.open("rb") as file:
                version = numpy.lib.format.read_magic(file)
                read = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}[version]
                shape, _, dtype = getattr(numpy.lib.format, read)(file)
            if 0 in shape and not dtype.hasobject:  # what has no elements can't be mapped
                array = numpy.empty(shape, dtype)
            else:
                array = numpy.load(path, mmap_mode="c", allow_pickle=False)
        except (ValueError, TypeError, KeyError, EOFError, OSError) as error:
            raise MaterializationError(f"{saved.ref}: array.npy is unfit: {error}") from error
        if saved.result.details.get("scalar"):
            return array[()]
        return numpy.asarray(array)


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
        return None if numpy is None else numpy.random.get_state()

    def restore(self, state: Any) -> None:
        """Put ``numpy.random`` back."""
        if state is not None:
            sys.modules["numpy"].random.set_state(state)


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register JSON and NumPy."""
    return [JsonMaterializer(), NumpyMaterializer()]


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    """Register Python's and NumPy's global generators."""
    return [PythonRandomSource(), NumpyRandomSource()]
