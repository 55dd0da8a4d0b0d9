"""Files from a stranger: whatever stands in them, loading them does no harm."""

from __future__ import annotations

import json
from pathlib import Path

from flowyml.testing import harms
from flowyml.testing.checks import check
from flowyml.testing.harms import Harm
from flowyml.testing.processes import ProcessError, in_new_process
from flowyml.testing.scene import QUIET, work_folder
from flowyml.testing.subject import ConformanceError, Subject
from flowyml.testing.trials import TRYING, try_all

__tracebackhide__ = True

LONGEST = 60.0
"""Seconds that loading one artifact may take."""

_CRASHES = 8
"""How many artifacts may crash a process before no other one goes on with the rest."""

_HANGS = 2
"""How many may take too long: each of them takes that long."""


@check
def check_hostile_files_are_refused(subject: Subject) -> None:
    """Loading a version that a stranger made, with all digests right, does no harm.

    In place of each file that the adapter writes come pickles and other files that run code,
    damaged ones, zip bombs, and whatever `Subject.hostile_files` makes of them; JSON in files and
    in the manifest's details is deep, names callables, paths and addresses, holds other numbers,
    lacks members and has more; files are missing. Both models are forged, the one that needs trust
    with what it needs. Loading ends with an error of flowyml, or with an object where the change
    may be harmless, which can be used. It runs and imports no code of the files, keeps nothing
    that they name, opens nothing else, starts no program, writes no file, and takes neither long
    nor much memory.
    """
    found: list[Harm] = []
    with work_folder() as folder:
        tried = _try_all(subject, folder, found)
    if found:
        raise ConformanceError(harms.listed(found, tried))


def _try_all(subject: Subject, folder: Path, found: list[Harm]) -> int:
    """Try all artifacts, and return how many there were.

    A new process goes on after one that an artifact has ended.
    """
    tried = crashes = hangs = 0
    while crashes < _CRASHES and hangs < _HANGS:
        own = folder / f"{crashes + hangs}"
        for name in ("here", "modules", "temporary"):
            (own / name).mkdir(parents=True)
        environment = {**QUIET, "TMPDIR": str(own / "temporary")}
        try:
            answer: tuple[list[list[str]], int] = in_new_process(
                subject, try_all, f"{own}", LONGEST, tried, timeout=1800, environment=environment
            )
        except ProcessError as error:
            known, tried = _known_of(own, error)
            found += known
            hangs += known[-1].kind == harms.HUNG
            crashes += known[-1].kind == harms.CRASHED
            continue
        found += [Harm(*each) for each in answer[0]]
        return answer[1]
    found.append(Harm("whatever else there is", harms.UNTRIED))
    return tried


def _known_of(folder: Path, error: ProcessError) -> tuple[list[Harm], int]:
    """Return what is known of a process that ended on its own, as `try_all` would have.

    Raises:
        ConformanceError: when it didn't come to loading artifacts.
    """
    try:
        known = json.loads((folder / TRYING).read_text())
    except FileNotFoundError:
        raise ConformanceError(f"The model can't be saved and loaded. {error}") from error
    text = str(error)
    late = any(sign in text for sign in ("Timeout (", "took longer"))
    last = Harm(known["what"], harms.HUNG if late else harms.CRASHED, _told(text))
    return [*(Harm(*each) for each in known["harms"]), last], known["tried"]


def _told(text: str) -> str:
    """Return of what a process said the part that tells where it ended."""
    starts = [text.find(sign) for sign in ("Fatal Python error", "Timeout (") if sign in text]
    if not starts:
        return f"the process said {text[-2000:]}"
    text = text[min(starts) :].partition("Extension modules:")[0]
    return f"the process said {text[:2000].rstrip()}"
