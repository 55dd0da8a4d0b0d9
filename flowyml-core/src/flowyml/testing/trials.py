"""A process that loads one forged version after the other, and notices what harm each does.

What it is trying stands in a file, so that one that crashes or hangs it can be named.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from flowyml import Store
from flowyml.encoding import EncodingError
from flowyml.errors import FlowymlError
from flowyml.properties import type_name
from flowyml.store import loading
from flowyml.testing import canaries, forging, harms, memory, watching
from flowyml.testing.artifacts import Artifact, artifacts
from flowyml.testing.checks import blaming, formats_of, saved
from flowyml.testing.forging import Honest
from flowyml.testing.harms import Harm
from flowyml.testing.scene import NAME, is_weights, load_again, shortly
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True

TRYING = "trying.json"
"""The file with what is being tried, what did harm before, and how many were tried so far."""


def try_all(
    subject: Subject, folder: str, longest: float, tried: int
) -> tuple[list[tuple[str, ...]], int]:
    """Load every artifact in this process.

    Args:
        subject: whose models are forged.
        folder: for this process alone, with the empty folders "here" and "modules".
        longest: seconds that one artifact may take.
        tried: how many to pass over, as other processes have tried them.

    Returns:
        The harms that they did, and how many were tried so far.
    """
    warnings.simplefilter("ignore")
    trials = _Trials(subject, Path(folder), longest, tried)
    os.chdir(trials.folder / "here")
    canaries.set_up(trials.folder / "modules", trials.mark)
    faulthandler.enable()
    honest = [*_saved(subject, Store(trials.folder / "store"))]
    gc.collect()
    gc.freeze()
    every = ((item, artifact) for item in honest for artifact in _of_version(subject, item, trials))
    for item, artifact in islice(every, tried, None):
        trials.run(item, artifact)
    return [attrs.astuple(harm) for harm in trials.harms], trials.tried


@attrs.frozen
class _Version:
    """A version that was saved, to be forged.

    Attributes:
        store: which has it.
        honest: what is known of it.
        into: what its weights are loaded into; None where loading needs no model.
        is_first: whether it is a model of `Subject.make_model`.
    """

    store: Store
    honest: Honest
    into: Any
    is_first: bool


def _saved(subject: Subject, store: Store) -> Iterator[_Version]:
    """Save each model in each format; of the one that needs trust, in those where it does."""
    for make in (subject.make_model, subject.make_model_that_needs_trust):
        model, is_first = make(), make == subject.make_model
        for format in formats_of(model) if model is not None else ():
            asset = saved(store, model, NAME, format)
            if not is_first and not asset.required_trust:
                continue
            with blaming(f"Loading {asset.ref}, saved as {format!r},", "Mend load()."):
                subject.predict(load_again(subject, store, asset))  # nothing is imported late
            into = make() if is_weights(asset) else None
            yield _Version(store, forging.read(store, asset), into, is_first)


def _of_version(subject: Subject, version: _Version, trials: _Trials) -> Iterator[Artifact]:
    honest = version.honest
    yield from artifacts(honest.files, honest.details, trials.mark, first=version.is_first)
    if not version.is_first:
        return
    with blaming("hostile_files()", "It gets {path: bytes}, and yields such mappings."):
        for number, files in enumerate(subject.hostile_files(dict(honest.files))):
            _check_are_files(files, number)
            paths = sorted({*files} | {*honest.files})
            differing = [path for path in paths if files.get(path) != honest.files.get(path)]
            where = ", ".join(map(repr, differing)) or "nothing"
            what = f"number {number} of hostile_files(), which differs in {where}"
            yield Artifact(what, dict(files), honest.details, refused=True)


def _check_are_files(files: Any, number: int) -> None:
    pairs = files.items() if isinstance(files, Mapping) else [(None, files)]
    for path, content in pairs:
        if not isinstance(path, str) or not isinstance(content, bytes):
            raise ConformanceError(
                f"Number {number} of hostile_files() has {path!r}: {type_name(content)}, where "
                f"{{path: bytes}} is due. Encode texts, as in json.dumps(...).encode()."
            )


@attrs.define
class _Trials:
    """What was tried in this process, and what did harm."""

    subject: Subject
    folder: Path
    longest: float
    tried: int
    harms: list[Harm] = attrs.field(factory=list)

    @property
    def mark(self) -> Path:
        """The folder that is made by whatever runs code."""
        return self.folder / "mark"

    def run(self, version: _Version, artifact: Artifact) -> None:
        """Load one artifact."""
        honest = version.honest
        assert honest.asset.stored is not None
        what = f"{honest.asset.stored.format}: {artifact.what}"
        self.tried += 1
        noted = {"what": what, "harms": [*map(attrs.astuple, self.harms)], "tried": self.tried}
        (self.folder / TRYING).write_text(json.dumps(noted))
        try:
            with forging.forged(version.store, honest, artifact.files, artifact.details) as ref:
                harm = self._watched(version, ref, artifact.refused)
        except EncodingError:  # no manifest could hold such details
            return
        if harm is not None:
            self.harms.append(Harm(what, *harm))

    def _watched(self, version: _Version, ref: str, refused: bool) -> tuple[str, str] | None:
        """Load a forged version; tell the kind of harm and how it was noticed, if it did any."""
        ran: list[str] = []
        opened: list[str] = []
        files, peak = self._files(), memory.peak()
        bait = canaries.bait(self.mark)
        faulthandler.dump_traceback_later(self.longest, exit=True)
        try:
            with (
                memory.limited(),
                watching.programs(ran.append),
                watching.opening(bait, opened.append),
            ):
                harm = self._end(version, ref, refused)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if self.mark.exists():
            ran.extend(sorted(path.name for path in self.mark.iterdir()) or ["os.mkdir"])
            shutil.rmtree(self.mark)
            canaries.forget()
        if opened or "socket.connect" in ran:
            return harms.FOLLOWED, (opened or ran)[0]
        if ran:
            return harms.RAN, ran[0]
        if written := sorted(self._files() - files):
            return harms.WROTE, repr(written[0])
        taken = memory.peak() - peak
        if taken > memory.ROOM // 2:  # whoever catches a MemoryError has tried
            return harms.FILLED, f"{taken:,} bytes"
        return harm

    def _end(self, version: _Version, ref: str, refused: bool) -> tuple[str, str] | None:
        """Load, and use what comes back; tell what is wrong with how that ends, if anything is."""
        before = canaries.references()
        trust = (*version.honest.asset.required_trust, f"{canaries.TRUSTED}.*")
        try:
            found = version.store.load(ref, trust=trust, into=version.into)
        except FlowymlError as error:
            return _unfit(error.__cause__) if _is_made_by_the_store(error) else None
        except BaseException as error:  # whatever it is, it isn't the store's
            return _unfit(error) or (harms.ENDED, shortly(error))
        if canaries.references() > before:
            gc.collect()  # what refused a name may be waiting for it
            if canaries.references() > before:
                return harms.HELD, f"a {type_name(found)}"
        if refused:
            return harms.TAKEN, f"a {type_name(found)}"
        if canaries.UNASKED in getattr(found, "__dict__", ()):
            return harms.NAMED, canaries.UNASKED
        try:
            self.subject.predict(found if version.into is None else version.into)
        except BaseException as error:  # a model that was changed may fail, in an orderly way
            return _unfit(error)
        return None

    def _files(self) -> set[str]:
        """Return what is in this folder and directly above it, where nobody should write."""
        places = (self.folder, self.folder / "here")
        found = {str(path.relative_to(self.folder)) for each in places for path in each.iterdir()}
        return found - {self.mark.name}


def _unfit(error: BaseException | None) -> tuple[str, str] | None:
    """Say what is wrong with an error that an adapter let out; most are clear enough."""
    for kind, harm in _UNFIT.items():
        if isinstance(error, kind):
            return harm, shortly(error)
    return None


_UNFIT: Mapping[type[BaseException], str] = {
    MemoryError: harms.FILLED,
    RecursionError: harms.RECURSED,
    SystemExit: harms.EXITED,
}


def _is_made_by_the_store(error: BaseException) -> bool:
    """Tell whether the store made the error of one that the adapter let out."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is loading.loaded.__code__
