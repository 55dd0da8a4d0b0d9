"""What is stored comes back as it was or not at all, and whatever goes wrong is said clearly."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flowyml import Store
from flowyml.assets import Asset
from flowyml.errors import (
    AssetNotFoundError,
    FlowymlError,
    IntegrityError,
    MaterializationError,
    StoreError,
)
from flowyml.interfaces import SaveOptions
from flowyml.stored import StoredFile
from flowyml.testing import forging
from flowyml.testing.checks import (
    blaming,
    changed,
    check,
    formats_of,
    materializer_of,
    saved,
    temporary_store,
)
from flowyml.testing.damage import flips, spread
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import start
from flowyml.testing.scene import NAME, is_weights, load_again, shortly, work_folder
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True

_FLIPS = 120
_FEWEST = 24
"""Bytes in which a bit is flipped, in all files of a format together: in small and large ones."""

_READ = 1 << 29
"""Bytes that may be read for it, as far as there are more than the fewest flips."""

_ROUNDS = 6
"""Versions that each of two processes saves."""

_PATIENCE = 120.0
"""Seconds that two processes wait for each other at the most."""


# ------------------------------------------------------------------------------ damage


@check
def check_flipped_bytes_are_refused(subject: Subject) -> None:
    """A bit that flips anywhere in a stored file is told, and the file mended loads again.

    `Store.load` and `Store.verify` raise `IntegrityError` that names version and file, whatever
    the adapter makes of a file that is missing or damaged; loading changes no file.
    """
    model = subject.make_model()
    expected = prediction(subject, model)
    for format in formats_of(model):
        with temporary_store() as store:
            asset = saved(store, model, NAME, format)
            _check_flips(subject, store, asset)
            with blaming(f"Loading {asset.ref} ({format}), mended,", "Mend load()."):
                found = load_again(subject, store, asset)
            differs = difference(expected, prediction(subject, found))
            if differs:
                raise ConformanceError(
                    f"{asset.ref}, saved as {format!r}, was damaged and mended, and predicts "
                    f"something else now: {differs}. load() has to read everything anew from the "
                    f"files that it is given, and leave them as they are."
                )


def _check_flips(subject: Subject, store: Store, asset: Asset) -> None:
    assert asset.stored is not None
    files = [file for file in asset.stored.files if file.size]
    count = min(_FLIPS, max(_FEWEST, _READ // (1 + sum(file.size for file in files))))
    chosen = spread(files, count // 4)
    into = subject.make_model() if is_weights(asset) else None

    def load() -> Any:
        return store.load(str(asset.ref), trust=asset.required_trust, into=into)

    for file in chosen:
        path = forging.blob(store, file)
        content = path.read_bytes()
        for offset, damaged in flips(content, count // len(chosen)):
            _rewrite(path, damaged)
            where = f"{asset.ref} ({asset.stored.format}), with the byte at offset {offset:,} of "
            where += f"{file.path!r} damaged,"
            _check_refused(f"Loading {where}", file, load)
            _check_refused(f"Verifying {where}", file, lambda: store.verify(str(asset.ref)))
        _rewrite(path, content)


def _check_refused(what: str, file: StoredFile, act: Callable[[], object]) -> None:
    advice = (
        "The store compares every byte with its digest: don't get in its way by ending the "
        "process, by catching its errors, or by reading anything but saved.files."
    )
    try:
        act()
    except IntegrityError as error:
        if NAME in str(error) and file.path in str(error):
            return
        found = shortly(error)
    except BaseException as error:  # SystemExit too, which would end the caller
        if isinstance(error, KeyboardInterrupt):
            raise
        found = shortly(error)
    else:
        found = "no error"
    raise ConformanceError(
        f"{what} ended with {found}; it has to be an IntegrityError that names version and file. "
        f"{advice}"
    )


def _rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


# ------------------------------------------------------------------------------ a crowd


@check
def check_concurrent_savers_lose_nothing(subject: Subject) -> None:
    """Two processes that save under one name at once each get versions of their own, all intact.

    Every version loads to what its process saved.
    """
    original = prediction(subject, subject.make_model())
    other = prediction(subject, changed(subject, subject.make_model()))
    with work_folder() as folder, ExitStack() as stack:
        both = [
            stack.enter_context(start(subject, _save_some, str(folder), which, _ROUNDS))
            for which in (0, 1)
        ]
        saved_by = [process.result(2 * _PATIENCE) for process in both]
        store = Store(folder / "store")
        _check_complete(store, saved_by)
        for expected, versions in zip((original, other), saved_by, strict=True):
            for version in versions:
                ref = f"{NAME}@{version}"
                with blaming(f"Loading {ref}, saved by one of two processes,", _APART):
                    found = load_again(subject, store, store.get(ref))
                differs = difference(expected, prediction(subject, found))
                if differs:
                    raise ConformanceError(
                        f"Two processes saved at once, and {ref} isn't what its process saved: "
                        f"{differs}. {_APART}"
                    )


def _check_complete(store: Store, saved_by: list[list[str]]) -> None:
    there, known = store.versions(NAME), [version for each in saved_by for version in each]
    if sorted(there) != sorted(known):
        raise ConformanceError(
            f"Two processes saved {len(known)} versions at once: {sorted(known)}. The store has "
            f"{there}. {_APART}"
        )
    with blaming("Verifying what two processes saved at once", _APART):
        store.verify()


_APART = (
    "save() has to write only into the folder that it is given, which no other process has: use "
    "no fixed path for anything, temporary files included."
)


def _save_some(subject: Subject, folder: str, which: int, rounds: int) -> list[str]:
    """Save a few versions while another process does; return them."""
    work, model = Path(folder), subject.make_model()
    if which:
        model = changed(subject, model)
    saved(Store(work / f"rehearsal-{which}"), model, NAME)
    (work / f"ready-{which}").touch()
    until = time.monotonic() + _PATIENCE
    while not (work / f"ready-{1 - which}").exists() and time.monotonic() < until:
        time.sleep(0.002)
    store = Store(work / "store")
    return [str(saved(store, model, NAME).version) for _ in range(rounds)]


# ------------------------------------------------------------------------------ errors


@check
def check_errors_are_clear(subject: Subject) -> None:
    """What can't be done is said by an error of flowyml that names what is wrong.

    An unknown format is a `MaterializationError` that lists the formats; a store that can't be
    written, a `StoreError` that names its path; an unknown asset, an `AssetNotFoundError`. A
    materializer whose folder can't be written raises `OSError` or an error of flowyml.
    """
    model = subject.make_model()
    materializer = materializer_of(model)
    with work_folder() as folder:
        store = Store(folder / "store")
        _check_error(
            "Saving in an unknown format",
            MaterializationError,
            (*map(repr, materializer.formats), "'no such format'"),
            lambda: store.save(model, NAME, format="no such format"),
            "Name every format in `formats`, and leave refusing others to the store.",
        )
        _check_error(
            "Loading an unknown asset",
            AssetNotFoundError,
            ("no-such-asset", str(store.path)),
            lambda: store.load("no-such-asset"),
            "Leave finding assets to the store.",
        )
        (folder / "file").write_text("in the way")
        unwritable = Store(folder / "file" / "store")
        for format in formats_of(model):
            _check_error(
                f"Saving as {format!r} into a store that can't be written",
                StoreError,
                (str(folder / "file"),),
                lambda: unwritable.save(model, NAME, format=format),  # noqa: B023
                "Leave errors of type OSError alone: the store tells where they come from.",
            )
            _check_unwritable_folder(model, folder / "file", format)


def _check_error(
    what: str,
    kind: type[FlowymlError],
    words: tuple[str, ...],
    act: Callable[[], Any],
    advice: str,
) -> None:
    try:
        act()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        if not missing:
            return
        raise ConformanceError(
            f"{what} has to be told with {', '.join(missing)}; the error is: {shortly(error)}. "
            f"{advice}"
        ) from error
    except Exception as error:
        raise ConformanceError(
            f"{what} has to raise {kind.__name__}; it raised {shortly(error)}. {advice}"
        ) from error
    raise ConformanceError(f"{what} has to raise {kind.__name__}; nothing was raised. {advice}")


def _check_unwritable_folder(model: Any, path: Path, format: str) -> None:
    """Let the materializer itself write where it can't: the store only passes its error on."""
    materializer = materializer_of(model)
    what = f"save() of {materializer.key!r} as {format!r}, in a folder that can't be written,"
    advice = (
        "Raise OSError: a library that tells a full disk or a missing folder by an error of its "
        "own needs an except clause around it. The store turns OSError into a StoreError."
    )
    try:
        materializer.save(model, path, SaveOptions(format))
    except (OSError, FlowymlError):
        return
    except Exception as error:
        raise ConformanceError(f"{what} raised {shortly(error)}. {advice}") from error
    raise ConformanceError(f"{what} raised nothing. {advice}")
