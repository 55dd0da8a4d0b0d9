"""Datasets by reference: how to get the data again, and a fingerprint that tells it is the same.

Data that is too big to copy stays where it is. Only an import path, arguments and the fingerprint
are stored; loading calls what the path leads to, so the caller has to trust it, and compares.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, final

from torch import nn
from torch.utils.data import Dataset, IterableDataset

from flowyml.errors import IntegrityError, MaterializationError
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training.fingerprints import fingerprint_of, same_random_numbers

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

_NO_TARGETS = {"torch", "torchdata", "flowyml", "flowyml_pytorch", *sys.stdlib_module_names}
"""Packages of which nothing is the source of data, and much would serve a file that means harm."""

Fingerprint = str | Callable[[Any], str] | None


@final
class DatasetRef(Dataset[Any]):
    """A map-style dataset that is stored by reference: an import path, arguments, a fingerprint.

    It stands in a DataLoader as the dataset itself would. The dataset is made when it is first
    needed, and kept; making it leaves the global random numbers as they were.

    Loading needs trust in the target, calls it with the stored arguments there and then, and
    compares the fingerprint: data that changed is an `flowyml.errors.IntegrityError`. To trust a
    name is to let a file call it with arguments of the file's choice, so trust one name rather
    than all of a package.

    Args:
        target: ``"pkg.module:Name"``, or the class or function itself, which gives a dataset
            with a length and items by number.
        args: JSON-able arguments for it, or paths.
        fingerprint: None is `training.fingerprints.fingerprint_of`, which takes items of
            tensors, arrays and JSON-able values. A function with an import path is given the
            dataset and returns a string. A string is the caller's word for the version of the
            data: it is compared with the dataset's own attribute ``fingerprint`` if that is a
            string, and only noted otherwise.
        kwargs: keyword arguments for the target; ``fingerprint`` can't be one of them.

    Raises:
        TypeError: when the target is neither, or an argument isn't JSON-able.
        ValueError: when a string is no import path.
    """

    def __init__(
        self,
        target: str | Callable[..., Any],
        /,
        *args: Any,
        fingerprint: Fingerprint = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, str):
            if not _PATH.fullmatch(target):
                raise ValueError(
                    f"a DatasetRef takes a path like 'pkg.module:Name'; got {target!r}"
                )
        else:
            _check_target(target)
        _check_arguments(args, "arguments")
        _check_arguments(kwargs, "keyword arguments")
        if fingerprint is not None and not isinstance(fingerprint, str):
            _check_function(fingerprint, "fingerprint=")
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._fingerprint = fingerprint
        self._dataset: Any = None

    @property
    def target(self) -> Callable[..., Any]:
        """The class or function that makes the dataset; its module is imported if need be."""
        if isinstance(self._target, str):
            module, _, names = self._target.partition(":")
            found: Any = importlib.import_module(module)
            for name in names.split("."):
                found = getattr(found, name)
            _check_target(found)
            self._target = found
        return self._target  # type: ignore[return-value]  # no string any more

    @property
    def dataset(self) -> Any:
        """The dataset itself."""
        if self._dataset is None:
            with same_random_numbers():
                made = self.target(*self._args, **self._kwargs)
            if isinstance(made, IterableDataset) or not (
                hasattr(made, "__len__") and hasattr(made, "__getitem__")
            ):
                raise TypeError(
                    f"{self!r} makes a {type(made).__qualname__}; a DatasetRef stands for a "
                    f"dataset with a length and items by number."
                )
            self._dataset = made
        return self._dataset

    def fingerprint(self) -> str:
        """Return the fingerprint of the dataset as it is now.

        Raises:
            TypeError: when it can't be computed.
        """
        dataset = self.dataset
        if isinstance(self._fingerprint, str):
            own = getattr(dataset, "fingerprint", None)
            return own if isinstance(own, str) else self._fingerprint
        if self._fingerprint is None:
            return fingerprint_of(dataset)
        with same_random_numbers():
            found = self._fingerprint(dataset)
        if not isinstance(found, str):
            raise TypeError(
                f"fingerprint= returned a {type(found).__qualname__} instead of a string"
            )
        return found

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Any]:
        """The dataset's own way to fetch a batch; an AttributeError when it has none."""
        return self.dataset.__getitems__  # type: ignore[no-any-return]  # the dataset may be anything

    def __repr__(self) -> str:
        target = self._target
        path = target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
        keywords = [f"{name}={value!r}" for name, value in self._kwargs.items()]
        return f"DatasetRef({', '.join([repr(path), *map(repr, self._args), *keywords])})"


def _check_function(item: Any, what: str) -> None:
    if not isinstance(item, (type, types.FunctionType)):
        raise TypeError(f"{what} has to be a class or function; got a {type(item).__qualname__}")
    package = str(item.__module__).partition(".")[0]
    if package in _NO_TARGETS or (isinstance(item, type) and issubclass(item, nn.Module)):
        raise TypeError(f"{what} can't be {item.__module__}.{item.__qualname__}: no source of data")


def _check_target(item: Any) -> None:
    _check_function(item, "the target of a DatasetRef")
    if isinstance(item, type) and not hasattr(item, "__getitem__"):
        raise TypeError(f"{item.__module__}.{item.__qualname__} is no class of map-style datasets")


def _told(key: object) -> str:
    return repr(key) if type(key) in (int, float, bool, type(None)) else type(key).__qualname__


def _check_arguments(value: Any, where: str) -> None:
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_arguments(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"a DatasetRef takes JSON-able arguments; {where} has key {_told(key)}"
                )
            _check_arguments(item, f"{where}[{key!r}]")
    elif value is not None and not isinstance(value, (bool, int, float, str, PurePath)):
        kind = type(value).__qualname__
        raise TypeError(f"a DatasetRef takes JSON-able arguments; {where} is a {kind}")


def _parts(ref: DatasetRef) -> dict[str, Any]:
    try:
        target, dataset = ref.target, ref.dataset
    except Exception as error:
        raise NotRestorableError("target", f"{ref!r} gives no dataset: {_what(error)}") from error
    how = ref._fingerprint
    try:
        found = ref.fingerprint()
        again = fingerprint_of(dataset) if how is None else found
    except Exception as error:
        raise NotRestorableError("fingerprint", _what(error)) from error
    if again != found:
        raise NotRestorableError(
            "fingerprint",
            "the items differ each time they are read; pass fingerprint=, a string or a function",
        )
    if isinstance(how, str) and how != found:
        raise NotRestorableError("fingerprint", f"{how!r} was given; the dataset's is {found!r}")
    return {
        "target": target,
        "args": list(ref._args),
        "kwargs": ref._kwargs,
        "fingerprint": found,
        "fingerprint_by": "items" if how is None else "word" if isinstance(how, str) else how,
    }


def _build(cls: type, parts: dict[str, Any]) -> DatasetRef:
    target, saved, how = parts["target"], parts["fingerprint"], parts["fingerprint_by"]
    args, kwargs = parts["args"], parts["kwargs"]
    if cls is not DatasetRef or isinstance(target, str) or not isinstance(saved, str):
        raise TypeError("no reference to a dataset")
    if type(args) is not list or type(kwargs) is not dict or "fingerprint" in kwargs:
        raise TypeError("no arguments of a reference to a dataset")
    if isinstance(how, str):
        how = {"items": None, "word": saved}[how]
    ref = DatasetRef(target, *args, fingerprint=how, **kwargs)
    _check_unchanged(ref, saved)
    return ref


def _check_unchanged(ref: DatasetRef, saved: str) -> None:
    """Make the dataset and compare its fingerprint.

    Raises:
        MaterializationError: when it can't be made.
        IntegrityError: when it isn't the one that was saved.
    """
    try:
        _ = ref.dataset
    except Exception as error:
        raise MaterializationError(f"{ref!r} gives no dataset here: {_what(error)}") from error
    try:
        found = ref.fingerprint()
    except Exception as error:
        raise IntegrityError(
            f"{ref!r} isn't the dataset that was saved, whose fingerprint is {saved}: here it has "
            f"none, since {_what(error)}. Put the data back as it was."
        ) from error
    if found != saved:
        raise IntegrityError(
            f"{ref!r} isn't the dataset that was saved: its fingerprint is {found}, the saved one "
            f"is {saved}. Put the data back as it was, or make a new loader over the data as it is."
        )


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


REFERENCE = Kind(
    "dataset_ref",
    lambda obj: type(obj) is DatasetRef,
    _parts,
    _build,
    ("flowyml_pytorch.DatasetRef",),
    calls=("target", "fingerprint_by"),
)

# Files name it as users do, wherever it is defined.
DatasetRef.__module__ = "flowyml_pytorch"
vars(sys.modules["flowyml_pytorch"])["DatasetRef"] = DatasetRef
