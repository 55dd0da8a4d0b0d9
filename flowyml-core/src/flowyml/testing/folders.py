"""Whose files are whose: a materializer writes into its folder, and only reads what was stored."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from flowyml import Store
from flowyml.errors import StoreError
from flowyml.interfaces import SaveOptions
from flowyml.testing import watching
from flowyml.testing.checks import blaming, check, formats_of, materializer_of, saved
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.scene import NAME, QUIET, load_again, work_folder
from flowyml.testing.subject import ConformanceError, Subject


@check
def check_saving_writes_only_into_its_folder(subject: Subject) -> None:
    """A materializer's `save` changes nothing but the folder that it is given.

    Temporary files in the system's place for them are allowed.
    """
    _in_new_process(subject, _save)


@check
def check_loading_leaves_the_files_alone(subject: Subject) -> None:
    """A materializer's `load` writes nothing, and what it returns has no hold on the files.

    Changing the loaded object changes no stored file.
    """
    _in_new_process(subject, _load)


def _in_new_process(subject: Subject, function: Callable[[Subject, str], None]) -> None:
    with work_folder() as folder:
        for name in ("here", "temporary"):
            (folder / name).mkdir()
        environment = {**QUIET, "TMPDIR": str(folder / "temporary")}
        in_new_process(subject, function, str(folder), timeout=600, environment=environment)


def _save(subject: Subject, folder: str) -> None:
    """Watch the materializer save, once everything is imported and set up."""
    warnings.simplefilter("ignore")
    work = Path(folder)
    os.chdir(work / "here")
    model = subject.make_model()
    materializer = materializer_of(model)
    for format in formats_of(model):
        saved(Store(work / "rehearsal"), model, NAME, format)
        given = work / f"given-{format.replace(os.sep, '_')}"
        given.mkdir()
        heard: list[tuple[str, Path]] = []
        before = _around(work)
        with watching.changes(lambda event, path: heard.append((event, path))):  # noqa: B023
            materializer.save(model, given, SaveOptions(format))
        allowed = (given, work / "temporary", Path("/dev"), Path("/proc"))
        outside = [
            f"{event} of {path}" for event, path in heard if not _is_in(path, allowed)
        ] or sorted(_around(work) - before)
        if outside:
            raise ConformanceError(
                f"save() of {materializer.key!r} as {format!r} changed more than the folder that "
                f"it is given: {outside[0]}. Write only there, since nothing else is stored or "
                f"removed after a failure; temporary files belong into tempfile's folder."
            )


def _load(subject: Subject, folder: str) -> None:
    """Watch the materializer load; then change what it loaded."""
    warnings.simplefilter("ignore")
    work = Path(folder)
    os.chdir(work / "here")
    model = subject.make_model()
    expected = prediction(subject, model)
    key = materializer_of(model).key
    for format in formats_of(model):
        store = Store(work / "store")
        asset = saved(store, model, NAME, format)
        what = f"Loading {asset.ref}, saved as {format!r},"
        with blaming(what, "Mend load()."):
            load_again(subject, store, asset)
        heard: list[tuple[str, Path]] = []
        before = _around(work)
        with watching.changes(lambda event, path: heard.append((event, path))):  # noqa: B023
            found = load_again(subject, store, asset)
        allowed = (work / "temporary", Path("/dev"), Path("/proc"))
        written = [
            f"{event} of {path}" for event, path in heard if not _is_in(path, allowed)
        ] or sorted(_around(work) - before)
        if written:
            raise ConformanceError(
                f"load() of {key!r} changed a file or folder: {written[0]}. Stored files are "
                f"read-only and shared by versions: open them for reading, and write nothing."
            )
        prediction(subject, found)
        with blaming(f"change_model() of what load() of {key!r} returned", _LIVE):
            subject.change_model(found)
        advice = (
            "Copy what you read, or map files in a way that keeps changes in memory "
            "(mmap.ACCESS_COPY)."
        )
        try:
            store.verify(str(asset.ref))
        except StoreError as error:
            raise ConformanceError(
                f"Changing what load() of {key!r} returned changes the stored file: {error} "
                f"{advice}"
            ) from error
        again = prediction(subject, load_again(subject, store, asset))
        changed = difference(expected, again)
        if changed:
            raise ConformanceError(
                f"{what} gives something else after what was loaded before was changed: "
                f"{changed}. Return a new object each time."
            )


_LIVE = "A loaded model can be used and changed as the saved one could."


def _is_in(path: Path, folders: tuple[Path, ...]) -> bool:
    resolved = path.parent.resolve() / path.name
    return any(path.is_relative_to(folder) or resolved.is_relative_to(folder) for folder in folders)


def _around(work: Path) -> set[str]:
    """Return what lies where nobody should write: code below Python isn't heard."""
    return {str(path) for place in (work, work / "here") for path in place.iterdir()}
