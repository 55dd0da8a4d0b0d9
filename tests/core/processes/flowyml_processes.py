"""A launcher as a third party may write one: plain processes that talk by files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from flowyml.errors import LaunchError
from flowyml.hookspecs import hookimpl
from flowyml.interfaces import Group, Job, Launcher

api_version = 3

_TIMEOUT = 60.0


class FileGroup(Group):
    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self.rank = self.local_rank = rank
        self.world_size = size
        self.device = f"place:{rank}"
        self.id = folder.name
        self.restarts = int(os.environ.get("PROCESSES_RESTARTS", "0"))
        self._folder = folder
        self._count: Counter[str] = Counter()

    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        self._count[channel] += 1
        stem = f"{channel.replace('/', '_')}-{self._count[channel]}-{self.restarts}"
        staged = self._folder / f"{stem}-{self.rank}.tmp"
        staged.write_bytes(data)
        staged.rename(self._folder / f"{stem}-{self.rank}")
        end = time.monotonic() + _TIMEOUT
        found = []
        for rank in range(self.world_size):
            path = self._folder / f"{stem}-{rank}"
            while not path.exists():
                if time.monotonic() > end:
                    raise LaunchError(f"rank {rank} didn't come within {_TIMEOUT} s")
                time.sleep(0.002)
            found.append(path.read_bytes())
        return found


_joined: list[FileGroup] = []


@attrs.frozen
class Processes(Launcher):
    name = "processes"
    number: int = 2
    restarts: int = 0
    leading: bool = True

    def launch(self, job: Job) -> None:
        for attempt in range(self.restarts + 1):
            dead = self._run(job, attempt)
            if dead is None:
                return
        rank, code = dead
        told = None if code > 0 else rank
        raise LaunchError(f"rank {rank} ended with {code}", told)

    def _run(self, job: Job, attempt: int) -> tuple[int, int] | None:
        talk = job.folder / f"talk-{attempt}"
        talk.mkdir()
        ranks = [
            subprocess.Popen(
                job.command,
                env={
                    **os.environ,
                    **job.environment,
                    "PROCESSES": f"{talk}|{rank}|{self.number}",
                    "PROCESSES_RESTARTS": str(attempt),
                },
            )
            for rank in range(self.number)
        ]
        dead = None
        while dead is None and None in [process.poll() for process in ranks]:
            time.sleep(0.01)
            dead = next(((n, p.returncode) for n, p in enumerate(ranks) if p.returncode), None)
        dead = dead or next(((n, p.returncode) for n, p in enumerate(ranks) if p.returncode), None)
        if dead is not None:
            time.sleep(0.3)  # others may have something to say
        for process in ranks:
            process.kill()
            process.wait()
        return dead

    def is_launched(self) -> bool:
        return "PROCESSES" in os.environ

    @contextmanager
    def join(self) -> Iterator[Group]:
        if not _joined:
            folder, rank, size = os.environ["PROCESSES"].split("|")
            _joined.append(FileGroup(Path(folder), int(rank), int(size)))
        yield _joined[0]

    def group(self) -> Group | None:
        return _joined[0] if _joined else None

    def leads(self) -> bool:
        return self.leading

    def settings(self) -> Mapping[str, Any]:
        return {"number": self.number}


@hookimpl
def flowyml_register_launchers() -> list[Launcher]:
    return [Processes()]


def start_together(number: int, folder: Path, arguments: list[str]) -> list[tuple[int, str, str]]:
    """Start a program in several processes, as a cluster's own command does."""
    folder.mkdir()
    ranks = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PROCESSES": f"{folder}|{rank}|{number}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    told = [process.communicate(timeout=120) for process in ranks]
    return [(p.returncode, *texts) for p, texts in zip(ranks, told, strict=True)]
