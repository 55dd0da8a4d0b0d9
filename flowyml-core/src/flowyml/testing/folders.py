"""Whose files are whose: a materializer writes into its folder, and only reads what was stored."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from flowyml import Store
from flowyml.errors import StoreError
from flowyml.interfaces import SaveOptions
from flowyml.testing.checks import blaming, changed, check, formats_of, materializer_of, saved
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.scene import NAME, QUIET, load_again, work_folder
from flowyml.testing.subject import ConformanceError, Subject
from flowyml.testing.surroundings import no_changes, quiet, unmoved

__tracebackhide__ = True


@check
def check_saving_writes_only_into_its_folder(subject: Subject) -> None:
    """A materializer's `save` changes nothing but the folder that it is given.

    Temporary files in the system's place for them are allowed, as long as it runs. It prints
    nothing, warns of nothing but what flowyml has warnings for, draws no random numbers, and
    leaves a file alone that it has called complete.
    """
    _in_new_process(subject, _save)


@check
def check_loading_leaves_the_files_alone(subject: Subject) -> None:
    """A materializer's `load` writes nothing, and what it returns has no hold on the files.

    Changing the loaded object changes no stored file, and it works without them. Temporary files
    are allowed; for the rest, it is as quiet as `save`.
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
        what = f"save() of {materializer.key!r} as {format!r}"
        with _harmless(what, work, "changed more than the folder that it is given", _OWN, given):
            done = _Done()
            materializer.save(model, given, SaveOptions(format, done=done.take))
        done.check(what)


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
        with _harmless(f"load() of {key!r}", work, "changed a file or folder", _READ_ONLY):
            found = load_again(subject, store, asset)
        prediction(subject, found)
        with blaming(f"change_model() of what load() of {key!r} returned", _LIVE):
            changed(subject, found)
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
        found = load_again(subject, store, asset)
        differs = difference(expected, prediction(subject, found))
        if differs:
            raise ConformanceError(
                f"{what} gives something else after what was loaded before was changed: "
                f"{differs}. Return a new object each time."
            )
        found = load_again(subject, store, asset)
        shutil.rmtree(store.path)
        gone = f"Predicting with what load() of {key!r} returned, the store being gone,"
        try:
            differs = difference(expected, prediction(subject, found))
        except ConformanceError as error:
            raise ConformanceError(f"{gone} fails: {error} {_ALL}") from error
        if differs:
            raise ConformanceError(f"{gone} gives something else: {differs}. {_ALL}")


_LIVE = "A loaded model can be used and changed as the saved one could."
_ALL = "load() has to read everything before it returns."
_OWN = (
    "Write only there, since nothing else is stored or removed after a failure; temporary files "
    "belong into tempfile's folder."
)
_READ_ONLY = (
    "Stored files are read-only and shared by versions: open them for reading, and write nothing."
)


@contextmanager
def _harmless(what: str, work: Path, did: str, advice: str, *allowed: Path) -> Iterator[None]:
    """Make sure that a block changes only what is allowed, and nothing else of this process."""
    before, temporary = _around(work), work / "temporary"
    known = {*temporary.rglob("*")}
    with (
        quiet(what),
        unmoved(what),
        no_changes(f"{what} {did}", advice, *allowed, temporary),
    ):
        yield
    made = sorted(_around(work) - before)
    if made:
        raise ConformanceError(f"{what} {did}: {made[0]}. {advice}")
    left = sorted({*temporary.rglob("*")} - known)
    if left and allowed:  # what was loaded may need one as long as it lives
        raise ConformanceError(
            f"{what} leaves the temporary file {left[0].name!r} behind. Remove it, as "
            f"tempfile.TemporaryDirectory() does by itself."
        )


@attrs.frozen
class _Done:
    """Files that a materializer has called complete, with what was in them then."""

    files: dict[Path, bytes] = attrs.field(factory=dict)

    def take(self, path: Path) -> None:
        """Be told of one."""
        self.files[path] = path.read_bytes()

    def check(self, what: str) -> None:
        """Make sure that they are still the same."""
        for path, content in self.files.items():
            if not path.exists() or path.read_bytes() != content:
                raise ConformanceError(
                    f"{what} changes {path.name!r} after it has called options.done() for it, "
                    f"when the store may have taken it in. Call that once the file is closed."
                )


def _around(work: Path) -> set[str]:
    """Return what lies where nobody should write: code below Python isn't heard."""
    return {str(path) for place in (work, work / "here") for path in place.iterdir()}
