"""Saves that come to an untimely end: the process is killed, or the disk is full.

Python announces what it is about to do to a file, so that a process can kill itself at any such
moment. Processes are forked from one that has everything imported; one that has threads can't be
forked safely, and then new processes are started, for fewer moments.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from flowyml import Store
from flowyml.errors import StoreError
from flowyml.testing import watching
from flowyml.testing.checks import blaming, changed, check, formats_of, saved
from flowyml.testing.damage import spread
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import ProcessError, in_new_process, start
from flowyml.testing.scene import NAME, QUIET, load_again, shortly, work_folder
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True

_FORKED = 24
_STARTED = 8
"""Moments of a save at which processes are killed, when they are forked, and when not."""

_PATIENCE = 120
"""Seconds that a forked process may take."""

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

_LIMITS = 10
"""Sizes at which no file can grow further."""

_FEWEST = 4
_SMALL = 1 << 22
"""How often each is done at the least, and the bytes from which on it is done less often."""


@check
def check_a_killed_save_leaves_nothing_half_written(subject: Subject) -> None:
    """A save that is killed, or that finds the disk full, leaves everything as it was.

    Earlier versions load; the new version is there whole or not at all; the next save works, and
    `Store.gc` leaves nothing behind. A full disk is a `StoreError`.
    """
    with work_folder() as folder:
        (folder / "here").mkdir()
        (folder / "temporary").mkdir()
        environment = {**QUIET, "TMPDIR": str(folder / "temporary")}
        formats = formats_of(subject.make_model())
        in_new_process(subject, _play, str(folder), formats, timeout=1200, environment=environment)


_ADVICE = (
    "save() has to write only into the folder that it is given, needs no file that an earlier "
    "save may have left, such as a lock, and leaves files of earlier versions alone."
)
_OVERLOOKED = (
    "save() returned as if nothing were wrong: your library doesn't notice that the disk is full. "
    "Let it give you bytes, and write them with Path.write_bytes()."
)


def _play(subject: Subject, folder: str, formats: list[str]) -> None:
    """Kill and starve saves in every format."""
    warnings.simplefilter("ignore")
    # The computer stays up, so that nothing has to reach its disk.
    os.fsync = lambda fd: None
    for number, format in enumerate(formats):
        work = Path(folder) / f"{number}"
        work.mkdir()
        os.chdir(work)
        scene = _Scene.of(subject, work, format)
        scene.kill(scene.affordable(_FORKED if number == 0 else _FORKED // 2))
        scene.starve()


@attrs.frozen
class _Scene:
    """A store with one version, and another model that is to be its second."""

    subject: Subject
    work: Path
    format: str
    other: Any
    predicted: tuple[Any, Any]

    @classmethod
    def of(cls, subject: Subject, work: Path, format: str) -> _Scene:
        """Save the first version."""
        model = subject.make_model()
        first = prediction(subject, model)
        saved(Store(work / "first"), model, NAME, format)
        other = changed(subject, model)
        return cls(subject, work, format, other, (first, prediction(subject, other)))

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Copy the store with its one version."""
        path = self.work / "store"
        shutil.copytree(self.work / "first", path)
        try:
            yield Store(path)
        finally:
            shutil.rmtree(path)

    def affordable(self, count: int) -> int:
        """Return how often something is done, fewer times for a large model."""
        files = (self.work / "first").rglob("*")
        size = sum(path.stat().st_size for path in files if path.is_file())
        return max(_FEWEST, count * _SMALL // max(size, _SMALL))

    def save(self, store: Store) -> None:
        """Save the second version."""
        store.save(self.other, NAME, format=self.format)

    # ---------------------------------------------------------------------- killing

    def kill(self, count: int) -> None:
        """Kill saves at some moments, within the materializer's part and in all."""
        moments = self._moments()
        opened = [i for i, (event, path) in enumerate(moments[:-1]) if _is_own(event, path)]
        die = self._killed_forked
        if not _can_fork():
            count, die = count * _STARTED // _FORKED, self._killed_started
        own = spread(sorted({*opened, *(i + 1 for i in opened)}), count - count // 3)
        chosen = {*own, *spread(range(len(moments)), count // 3)}
        for moment in sorted(chosen):
            event, path = moments[moment]
            with self.store() as store:
                die(store, moment)
                self._check_after(
                    store, f"A save as {self.format!r} was killed just before {event} of {path}"
                )

    def _moments(self) -> list[tuple[str, str]]:
        """Save without being killed; return what changes the disk, and where."""
        heard: list[tuple[str, str]] = []

        def hear(event: str, path: Path) -> None:
            inside = path.is_relative_to(self.work)
            heard.append((event, str(path.relative_to(self.work) if inside else path)))

        with self.store() as store, blaming(f"Saving it as {self.format!r}", "Mend save()."):
            self.save(store)  # so that nothing is imported or set up late
        with self.store() as store, watching.changes(hear):
            self.save(store)
        return heard

    def _killed_forked(self, store: Store, moment: int) -> None:
        process = os.fork()
        if process == 0:
            signal.alarm(_PATIENCE)  # ends this process
            status = 1
            try:
                with killed_at(moment):
                    self.save(store)
                status = 0
            except BaseException as error:
                (self.work / "failed").write_text(shortly(error))
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status not in (0, -_KILL):
            failed = self.work / "failed"
            why = failed.read_text() if failed.exists() else f"exit status {status}"
            raise ConformanceError(
                f"A save as {self.format!r} worked in one process, and ended with {why} in another "
                f"that was forked from it. {_ADVICE}"
            )

    def _killed_started(self, store: Store, moment: int) -> None:
        arguments = (str(store.path), self.format, moment)
        with start(self.subject, _save_and_be_killed, *arguments, environment=QUIET) as process:
            try:
                process.result()
            except ProcessError:
                if process.popen.returncode != -_KILL:
                    raise

    # ---------------------------------------------------------------------- starving

    def starve(self) -> None:
        """Save while no file can grow beyond some size, as on a disk that is full.

        There is room again once the store takes files in: it would notice, and it isn't meant.
        """
        try:
            import resource
        except ImportError:  # this system can't limit it
            return
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in self._limits():
            what = f"A save as {self.format!r} found the disk full at {limit:,} bytes of a file"
            with self.store() as store:
                before = resource.getrlimit(resource.RLIMIT_FSIZE)

                def lift(event: str, path: Path) -> None:
                    if path.is_relative_to(store.path / "blobs"):
                        resource.setrlimit(resource.RLIMIT_FSIZE, before)  # noqa: B023

                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
                try:
                    with watching.changes(lift):
                        self.save(store)
                    advice = _OVERLOOKED
                except StoreError:
                    advice = _ADVICE
                except Exception as error:
                    raise ConformanceError(
                        f"{what} and raised {shortly(error)}; it has to be an OSError, which the "
                        f"store turns into a StoreError. Your library may tell it by another "
                        f"error: raise OSError from it."
                    ) from error
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
                self._check_after(store, what, advice)

    def _limits(self) -> list[int]:
        """Return sizes that fall short of one of the files."""
        with self.store() as store:
            self.save(store)
            stored = store.get(NAME).stored
        assert stored is not None
        sizes = {0, 1}
        for file in stored.files:
            sizes |= {file.size // 2, file.size - 1}
        return spread(sorted(size for size in sizes if size >= 0), self.affordable(_LIMITS))

    # ---------------------------------------------------------------------- afterwards

    def _check_after(self, store: Store, what: str, advice: str = _ADVICE) -> None:
        """Make sure that a save which ended early did no harm."""
        with blaming(f"{what}. Verifying then", _ADVICE):
            versions = store.versions(NAME)
            store.verify()
        if versions[:1] != ["v1"] or len(versions) > 2:
            raise ConformanceError(f"{what}, and the store has {versions}. {_ADVICE}")
        self._check_loads(store, "v1", 0, what)
        if len(versions) == 2:
            self._check_loads(store, versions[1], 1, what, advice)
        with blaming(f"{what}. Saving again then", _ADVICE):
            self.save(store)
        self._check_loads(store, store.versions(NAME)[-1], 1, what)
        with blaming(f"{what}. Store.gc() then", _ADVICE):
            store.gc(grace=0)
        staging = store.path / "staging"
        left = [str(path) for path in staging.rglob("*")] if staging.exists() else []
        if left:
            raise ConformanceError(f"{what}, and Store.gc() can't remove {left[0]}. {_ADVICE}")

    def _check_loads(
        self, store: Store, version: str, which: int, what: str, advice: str = _ADVICE
    ) -> None:
        ref = f"{NAME}@{version}"
        with blaming(f"{what}. Loading {ref} then", advice):
            found = load_again(self.subject, store, store.get(ref))
        differs = difference(self.predicted[which], prediction(self.subject, found))
        if differs:
            raise ConformanceError(f"{what}, and {ref} isn't what was saved: {differs}. {advice}")


def _save_and_be_killed(subject: Subject, path: str, format: str, moment: int) -> None:
    """Save the second version in this process, which is killed meanwhile."""
    warnings.simplefilter("ignore")
    model = changed(subject, subject.make_model())
    saved(Store(f"{path}-rehearsal"), model, NAME, format)
    with killed_at(moment):
        Store(path).save(model, NAME, format=format)


@contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """Kill this process just before it changes the disk for the n-th time."""
    count = itertools.count()

    def hear(event: str, path: Path) -> None:
        if next(count) == moment:
            os.kill(os.getpid(), _KILL)

    with watching.changes(hear):
        yield


def _is_own(event: str, path: str) -> bool:
    """Tell whether it is a materializer that opens a file: after that, it writes."""
    return event == "open" and "staging" in Path(path).parts


def _can_fork() -> bool:
    """Tell whether this process can be forked: a thread that holds a lock would be missing."""
    try:
        threads = len([*Path("/proc/self/task").iterdir()])
    except OSError:
        threads = threading.active_count()
    return hasattr(os, "fork") and threads == 1
