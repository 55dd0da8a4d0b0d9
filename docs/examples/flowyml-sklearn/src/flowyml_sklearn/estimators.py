"""Estimators as files and back, through skops.

``model.skops`` is an archive as skops writes it, brought into one form; an array of more than
64 KiB lies beside it under ``arrays/`` instead. Put into the archive, they make up what
``skops.io.load`` reads.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn  # type: ignore[import-untyped]
import skops  # type: ignore[import-untyped]
import skops.io  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult
from flowyml_sklearn.archive import UnfitError, any_unpack, pack, unpack
from flowyml_sklearn.checking import check, parse
from flowyml_sklearn.schema import Node, children, dotted, is_reference, loader
from flowyml_sklearn.values import class_name
from flowyml_sklearn.writing import Writer, difference

FILE = "model.skops"
SCHEMA = "schema.json"
_UFUNCS = ("numpy", "scipy.special")


def save(estimator: Any, folder: Path, options: SaveOptions) -> SaveResult:
    """Write an estimator into a folder.

    Raises:
        MaterializationError: when skops can't save it, or wouldn't give the same back.
    """
    try:
        writer, schema = _written(estimator)
        check(schema, writer.entries)
        archive = _archive(schema, writer.entries)
        required = _required(schema, archive)
        _check_comes_back(schema, writer, archive, required)
    except (MaterializationError, Warning):
        raise
    except Exception as error:  # skops raises whatever an object's own methods lead to
        told = str(error).rstrip(".") or type(error).__name__
        raise MaterializationError(
            f"A {class_name(type(estimator))} can't be saved in the format 'skops': {told}. "
            f"Replace that part of it, or save the other parts without it."
        ) from error
    _write(folder, schema, writer, options)
    return SaveResult(
        required_trust=tuple(required),
        details={
            "skops": skops.__version__,
            "sklearn": sklearn.__version__,
            "arrays": writer.places,
        },
    )


def load(saved: Saved, options: LoadOptions) -> Any:
    """Read an estimator.

    Raises:
        UntrustedDataError: when it is made of what skops doesn't trust, nor the caller.
        MaterializationError: when the files aren't what `save` wrote, or don't fit what is
            installed.
    """
    try:
        schema, entries = _read(saved.files)
        archive = _archive(schema, entries)
        required = _required(schema, archive)
    except UnfitError as error:
        raise MaterializationError(
            f"{saved.ref} can't be loaded, it has {error}. Nothing of it was imported or run. "
            f"Restore it from a copy, or save the estimator again."
        ) from error
    _check_trust(saved.ref, required, options)
    try:
        estimator = skops.io.loads(archive, trusted=[*required, *_ufuncs(schema)])
    except Warning:  # an error where the user wants warnings to be
        raise
    except Exception as error:  # classes of other versions raise whatever the state leads to
        raise MaterializationError(_told(saved, error)) from error
    if not issubclass(type(estimator), BaseEstimator):
        raise MaterializationError(
            f"{saved.ref} holds no scikit-learn estimator but a {class_name(type(estimator))}."
        )
    return estimator


def _written(estimator: Any) -> tuple[Writer, Node]:
    writer = Writer(any_unpack(skops.io.dumps(estimator)))
    return writer, writer.schema()


def _read(files: Mapping[str, Path]) -> tuple[Node, dict[str, bytes]]:
    """Return the checked schema, and the files that it names."""
    if FILE not in files:
        raise UnfitError(f"no file {FILE!r}")
    entries = unpack(files[FILE].read_bytes())
    schema = parse(entries.pop(SCHEMA, b""))
    for name in sorted(set(files) - {FILE}):
        if name in entries:
            raise UnfitError(f"two files {name!r}")
        entries[name] = files[name].read_bytes()
    check(schema, entries)
    return schema, entries


def _archive(schema: Node, entries: Mapping[str, bytes]) -> bytes:
    text = json.dumps(schema, separators=(",", ":")).encode()
    return pack({SCHEMA: text, **entries})


def _write(folder: Path, schema: Node, writer: Writer, options: SaveOptions) -> None:
    small = {name: data for name, data in writer.entries.items() if name not in writer.places}
    files = {name: writer.entries[name] for name in writer.places}
    files[FILE] = _archive(schema, small)
    options.expect(sum(map(len, files.values())))
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        options.done(path)


def _required(schema: Node, archive: bytes) -> list[str]:
    """Return the dotted names that skops doesn't trust; it imports nothing to find out."""
    try:
        untrusted = skops.io.get_untrusted_types(data=archive)
    except Exception as error:  # what `check` doesn't foresee
        raise UnfitError(f"what skops can't audit: {error}") from error
    return sorted(set(untrusted) - set(_ufuncs(schema)))


def _ufuncs(schema: Node) -> list[str]:
    """Return the names of the universal functions of NumPy and SciPy in a schema.

    skops trusts them too, but by the private names that the installed SciPy has for them.
    """
    found, todo = set(), [schema]
    while todo:
        node = todo.pop()
        if is_reference(node):
            continue
        todo += children(node)
        if loader(node) == "FunctionNode" and node["__module__"] in _UFUNCS:
            module = importlib.import_module(node["__module__"])
            if isinstance(vars(module).get(node["__class__"]), np.ufunc):
                found.add(dotted(node))
    return sorted(found)


def _check_comes_back(schema: Node, writer: Writer, archive: bytes, required: list[str]) -> None:
    """Check that what would be loaded is what is saved: skops changes some things silently."""
    again, schema_again = _written(skops.io.loads(archive, trusted=[*required, *_ufuncs(schema)]))
    where = difference(schema, schema_again)
    if where is None and again.entries == writer.entries:
        return
    raise UnfitError(f"skops wouldn't give back the same: {where or 'an array'} would differ")


def _check_trust(ref: str, required: list[str], options: LoadOptions) -> None:
    missing = [name for name in required if not options.trust.allows(name)]
    if missing:
        raise UntrustedDataError(
            f"{ref} can't be loaded without trusting {', '.join(missing)}: nothing was imported "
            f"or run. If you know where the model comes from, list them: "
            f"trust=[{', '.join(map(repr, missing))}].",
            missing,
        )


def _told(saved: Saved, error: Exception) -> str:
    details = saved.result.details
    return (
        f"{saved.ref} can't be rebuilt: {type(error).__name__}: {error}. It was saved with "
        f"scikit-learn {details.get('sklearn')} and skops {details.get('skops')}; here are "
        f"scikit-learn {sklearn.__version__} and skops {skops.__version__}."
    )
