"""Files from a stranger: whatever stands in them, loading them does no harm.

A process loads one forged version after the other, within limits of time and memory. What it is
trying stands in a file, so that one that crashes or hangs it can be named.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from flowyml import Store
from flowyml.encoding import EncodingError
from flowyml.errors import FlowymlError
from flowyml.properties import type_name
from flowyml.store import loading
from flowyml.testing import forging, watching
from flowyml.testing.artifacts import Artifact, artifacts
from flowyml.testing.checks import blaming, check, formats_of, saved
from flowyml.testing.forging import Honest
from flowyml.testing.payloads import KNOWN, STRANGE, write_canaries
from flowyml.testing.processes import ProcessError, in_new_process
from flowyml.testing.scene import NAME, QUIET, is_weights, load_again, shortly, work_folder
from flowyml.testing.subject import ConformanceError, Subject

LONGEST = 60.0
"""Seconds that loading one artifact may take."""

ROOM = 1 << 30
"""Bytes of memory that loading one artifact may take, where the system can limit them."""

_SHOWN = 8
"""How many bad artifacts a message lists."""


@check
def check_hostile_files_are_refused(subject: Subject) -> None:
    """Loading a version that a stranger made, with all digests right, does no harm.

    In place of each file that the adapter writes come pickles and other files that run code,
    damaged ones, JSON that is deep or names callables, zip bombs, and whatever
    `Subject.hostile_files` makes of them; files are missing, and the manifest's details differ.
    Loading ends with an error of flowyml, or with an object where the change may be harmless. It
    runs no code of the files, starts no program, writes no file, and takes neither long nor much
    memory.
    """
    with work_folder() as folder:
        for name in ("here", "modules", "temporary"):
            (folder / name).mkdir()
        environment = {**QUIET, "TMPDIR": str(folder / "temporary")}
        try:
            bad, tried = in_new_process(
                subject, _try_all, str(folder), LONGEST, timeout=1800, environment=environment
            )
        except ProcessError as error:
            bad, tried = _known_of(folder, error)
    if bad:
        raise ConformanceError(_listed(bad, tried))


def _listed(bad: list[str], tried: int) -> str:
    more = [f"... and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return "\n - ".join(
        [
            f"Of {tried} forged versions, {len(bad)} did harm or were taken for a model. Their "
            f"digests are right, as anybody can compute them, so load() has to expect anything in "
            f"its files and in saved.result.details:",
            *bad[:_SHOWN],
            *more,
        ]
    )


# ------------------------------------------------------------------------------ the process


def _try_all(subject: Subject, folder: str, longest: float) -> tuple[list[str], int]:
    """Load every artifact in this process; return what was bad, and how many there were."""
    warnings.simplefilter("ignore")
    trials = _Trials(Path(folder), longest)
    os.chdir(trials.folder / "here")
    write_canaries(trials.folder / "modules", trials.mark)
    sys.path.insert(0, str(trials.folder / "modules"))
    importlib.import_module(KNOWN)
    faulthandler.enable()
    model = subject.make_model()
    for format in formats_of(model):
        store = Store(trials.folder / "store")
        asset = saved(store, model, NAME, format)
        with blaming(f"Loading {asset.ref}, saved as {format!r},", "Mend load()."):
            load_again(subject, store, asset)  # so that nothing is imported late
        honest = forging.read(store, asset)
        into = subject.make_model() if is_weights(asset) else None
        gc.collect()
        gc.freeze()
        for artifact in _of_version(subject, honest, trials.mark):
            trials.run(store, honest, artifact, into)
    return trials.bad, trials.tried


def _of_version(subject: Subject, honest: Honest, mark: Path) -> Iterator[Artifact]:
    yield from artifacts(honest.files, honest.details, mark)
    for number, files in enumerate(subject.hostile_files(dict(honest.files))):
        yield Artifact(
            f"number {number} of hostile_files()", dict(files), honest.details, refused=True
        )


@attrs.define
class _Trials:
    """What was tried in this process, and what was bad."""

    folder: Path
    longest: float
    bad: list[str] = attrs.field(factory=list)
    tried: int = 0

    @property
    def mark(self) -> Path:
        """The folder that is made by whatever runs code."""
        return self.folder / "mark"

    def run(self, store: Store, honest: Honest, artifact: Artifact, into: Any) -> None:
        """Load one artifact."""
        assert honest.asset.stored is not None
        what = f"{honest.asset.stored.format}: {artifact.what}"
        self.tried += 1
        _note(self.folder, {"what": what, "bad": self.bad, "tried": self.tried})
        try:
            with forging.forged(store, honest, artifact.files, artifact.details) as ref:
                reason = self._harm(store, ref, honest, artifact, into)
        except EncodingError:  # no manifest could hold such details
            return
        if reason is not None:
            self.bad.append(f"{what}. {reason}")

    def _harm(
        self, store: Store, ref: str, honest: Honest, artifact: Artifact, into: Any
    ) -> str | None:
        """Load a forged version; say what is wrong with what happened, if anything is."""
        ran: list[str] = []
        before, peak = self._files(), _peak_memory()
        _limit_memory()
        faulthandler.dump_traceback_later(self.longest, exit=True)
        try:
            with watching.programs(ran.append):
                reason = _end(store, ref, honest.asset.required_trust, into, artifact.refused)
        finally:
            faulthandler.cancel_dump_traceback_later()
            _limit_memory(lift=True)
        if self.mark.exists():
            ran.append("the mark")
            shutil.rmtree(self.mark)
            sys.modules.pop(STRANGE, None)
        if ran:
            return f"Code that it names or holds was run ({ran[0]}). {_CODE}"
        written = sorted(self._files() - before)
        if written:
            return f"Loading it wrote {written[0]!r}. Write nothing on loading."
        if _peak_memory() - peak > ROOM // 2:  # whoever catches a MemoryError has tried
            return f"Loading it took {_peak_memory() - peak:,} bytes of memory. {_MEMORY}"
        return reason

    def _files(self) -> set[str]:
        """Return what is in this folder and directly above it, where nobody should write."""
        places = (self.folder, self.folder / "here")
        found = {str(path.relative_to(self.folder)) for each in places for path in each.iterdir()}
        return found - {self.mark.name}


_CODE = (
    "Don't unpickle, evaluate, import or call what a file says: let through what is on a list of "
    "yours, refuse the rest with UntrustedDataError unless options.trust allows it."
)
_MEMORY = (
    "Compare sizes that a file claims with the size that it has before making room, and raise "
    "MaterializationError."
)
_BASE = "Raise MaterializationError, or UntrustedDataError, naming the file and what is wrong."


def _end(store: Store, ref: str, trust: tuple[str, ...], into: Any, refused: bool) -> str | None:
    """Load; say what is wrong with how that ends, if anything is."""
    try:
        found = store.load(ref, trust=trust, into=into)
    except FlowymlError as error:
        return _unfit(error.__cause__) if _is_made_by_the_store(error) else None
    except BaseException as error:  # whatever it is, it isn't the store's
        return _unfit(error) or f"load() ended with {shortly(error)}. {_BASE}"
    if refused:
        return (
            f"load() gave back a {type_name(found)}, as if nothing were wrong. {_BASE} Check the "
            f"bytes of each file before using any, and don't write files that load() ignores."
        )
    return None


def _unfit(error: BaseException | None) -> str | None:
    """Say what is wrong with an error that an adapter let out; most are clear enough."""
    for kind, advice in ((MemoryError, _MEMORY), (RecursionError, _DEPTH), (SystemExit, _BASE)):
        if isinstance(error, kind):
            return f"load() ended with {shortly(error)}. {advice}"
    return None


_DEPTH = (
    "Catch RecursionError where you parse or walk what a file nests, and raise "
    "MaterializationError."
)


def _is_made_by_the_store(error: BaseException) -> bool:
    """Tell whether the store made the error of one that the adapter let out."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is loading.loaded.__code__


def _limit_memory(*, lift: bool = False) -> None:
    """Allow this process so much more memory than it has; where the system can't, do nothing."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + ROOM
    if lift or (most != resource.RLIM_INFINITY and limit > most):
        limit = most
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _peak_memory() -> int:
    """Return the most bytes that this process ever had; 0 where the system can't tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ------------------------------------------------------------------------------ its end


def _note(folder: Path, data: Mapping[str, Any]) -> None:
    (folder / "trying.json").write_text(json.dumps(data))


def _known_of(folder: Path, error: ProcessError) -> tuple[list[str], int]:
    """Return what is known of a process that ended on its own, as `_try_all` would have.

    Raises:
        ConformanceError: when it didn't come to loading artifacts.
    """
    try:
        known = json.loads((folder / "trying.json").read_text())
    except FileNotFoundError:
        raise ConformanceError(f"The model can't be saved and loaded. {error}") from error
    text = str(error)
    late = any(sign in text for sign in ("Timeout (", "took longer"))
    how = "took too long or never ended" if late else "crashed the process"
    reason = (
        f"Loading it {how}, and nothing further was tried. {_BASE} Don't hand a file to code that "
        f"trusts it before you have checked it. The process said: {text[-2000:]}"
    )
    return [*known["bad"], f"{known['what']}. {reason}"], known["tried"]
