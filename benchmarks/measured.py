"""One operation in a process of its own: how long it takes, and the most memory it has on the way.

The memory is read from outside, because a thread in the same process would wait for the
interpreter lock just when memory is taken. Resident memory counts the pages of mapped files too,
which are the page cache's and given back under pressure; anonymous memory is what a process has
to itself. Both are told, above what they were just before the operation.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PAUSE = 0.0005  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Figures:
    """Seconds of an operation; the most MB above what was there, where /proc tells; what follows.

    Attributes:
        seconds: of the operation.
        after: what the process found out about the result.
        anonymous: MB that belong to the process alone.
        resident: MB with the pages of mapped files.
    """

    seconds: float
    after: Any
    anonymous: float | None = None
    resident: float | None = None


@dataclass(frozen=True)
class Memory:
    """A process's memory in MB: at this moment, and the most resident memory it had."""

    anonymous: float
    resident: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> Memory:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        anonymous, resident, peak = (
            int(fields[name].split()[0]) * 1024e-6 for name in ("RssAnon", "VmRSS", "VmHWM")
        )
        return cls(anonymous, resident, peak)


class Watch:
    """The most memory that another process has while the context is open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._most = 0.0
        self.anonymous: float | None = None
        self.resident: float | None = None

    def __enter__(self) -> Watch:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # forget the peak so far: proc(5)
        self._before = Memory.of(self._pid)
        self._thread.start()
        return self

    def _look(self) -> None:
        with contextlib.suppress(OSError, KeyError):  # it has ended, and says why itself
            while not self._stop.wait(PAUSE):
                self._most = max(self._most, Memory.of(self._pid).anonymous)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if error == (None, None, None):
            last = Memory.of(self._pid)
            self.anonymous = max(self._most, last.anonymous) - self._before.anonymous
            self.resident = last.peak - self._before.resident


@contextlib.contextmanager
def process(
    python: str, arguments: Sequence[str], folder: Path
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], Any]]]:
    """Start this program in a new process, which keeps its files below a folder.

    Yields:
        The process, and a function that waits for its next answer.

    Raises:
        RuntimeError: with what the process had to say, when it fails.
    """
    options = [] if python == sys.executable else ["-E"]  # what PYTHONPATH leads to is ours
    command = [python, *options, str(Path(sys.argv[0]).absolute()), "work", *arguments]
    quiet = {"HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **quiet},
        ) as started,
    ):

        def answer() -> Any:
            line = started.stdout.readline() if started.stdout else ""
            if line:
                return json.loads(line)
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{errors.read().strip()}")

        try:
            yield started, answer
        finally:
            if started.stdin:
                with contextlib.suppress(BrokenPipeError):
                    started.stdin.close()  # a process that still waits for a word ends with this


def answer_of(python: str, arguments: Sequence[str], folder: Path) -> Any:
    """Run this program in a new process, and return its only answer."""
    with process(python, arguments, folder) as (_, answer):
        return answer()


def measured(python: str, arguments: Sequence[str], folder: Path, *, memory: bool) -> Figures:
    """Let a new process do one operation, and measure either its time or its memory.

    What looks at the memory takes some of the processor, so the time is no good then.
    """
    memory = memory and Path("/proc/self/clear_refs").exists()
    with process(python, arguments, folder) as (started, answer):
        answer()
        watch = Watch(started.pid)
        with watch if memory else contextlib.nullcontext():
            _tell(started.stdin)
            seconds = answer()
        _tell(started.stdin)
        return Figures(seconds, answer(), watch.anonymous, watch.resident)


def _tell(stream: IO[str] | None) -> None:
    if stream:
        stream.write("\n")
        stream.flush()


def _wait() -> None:
    """Wait for a word from the process that started this one, and end with it."""
    if not sys.stdin.readline():
        sys.exit(1)


class Answers:
    """The other end: a process that answers on its standard output, whoever else prints there."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def give(self, answer: object) -> None:
        """Answer."""
        print(json.dumps(answer), file=self._out, flush=True)

    def serve(self, operation: Callable[[], Any], after: Callable[[Any], Any]) -> None:
        """Do an operation when told to, answer its seconds, and when told to, what follows."""
        os.sync()  # nobody's earlier files are to be written in our time
        self.give("ready")
        _wait()
        started = time.perf_counter()
        result = operation()
        self.give(time.perf_counter() - started)
        _wait()
        self.give(after(result))
