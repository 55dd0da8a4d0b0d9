"""Saving what several processes hold parts of: one folder, one manifest, all of it or nothing.

The processes write into rank 0's staging folder at the same time, and rank 0 commits. In between
they tell each other, with every step, that all went well so far. Who fails says so in place of what
the others wait for, so that all of them stop at the same point and none waits in vain.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowyml.errors import FlowymlError, LaunchError, MaterializationError, StoreError, told
from flowyml.interfaces import Group
from flowyml.store.backend import Backend
from flowyml.store.blobs import Blobs
from flowyml.stored import StoredFile

_FINE, _FAILED = b"+", b"-"


class Talk(Group):
    """The group of a save: it exchanges data about one name, and every failure; a context.

    This is what a materializer is given as `SaveOptions.group`.
    """

    def __init__(self, group: Group, name: str) -> None:
        self.rank, self.local_rank = group.rank, group.local_rank
        self.world_size, self.device = group.world_size, group.device
        self.restarts, self.id = group.restarts, group.id
        self.name = name
        self._group = group
        self._over = False

    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        """Give everybody's data to everybody.

        Raises:
            StoreError: naming the process that has failed meanwhile.
            LaunchError: naming the processes that didn't come in time.
        """
        answers = self._send(_FINE + data, channel)
        for rank, answer in enumerate(answers):
            if not answer.startswith(_FINE):
                self._over = True
                raise StoreError(
                    f"{self.name!r} isn't saved, since rank {rank} failed: "
                    f"{answer[1:].decode(errors='replace')} Nothing of it became visible."
                )
        return [answer[1:] for answer in answers]

    def tell(self, data: Callable[[], Any]) -> Any:
        """Return what rank 0 has to say, as JSON carries it; only there is it asked."""
        said = json.dumps(data()).encode() if self.rank == 0 else b""
        return json.loads(self.exchange(said)[0])

    def ask(self, data: Any) -> list[Any]:
        """Return what everybody has to say, in the order of ranks."""
        return [json.loads(answer) for answer in self.exchange(json.dumps(data).encode())]

    def agree(self, facts: Mapping[str, str]) -> None:
        """Make sure that all processes mean the same.

        Raises:
            StoreError: naming one that doesn't.
        """
        said = self.ask(dict(facts))
        for rank, other in enumerate(said):
            for key, value in other.items():
                if value != said[0].get(key):
                    raise StoreError(
                        f"{self.name!r} isn't saved: its {key} is {said[0].get(key)!r} on rank 0 "
                        f"and {value!r} on rank {rank}. All processes have to save the same."
                    )

    def _send(self, data: bytes, channel: str = "") -> list[bytes]:
        name = f"save {self.name} {channel}".rstrip()
        try:
            return self._group.exchange(data, name)
        except LaunchError as error:
            self._over = True
            raise LaunchError(
                f"{self.name!r} isn't saved: {error} An object of which every process holds a part "
                f"has to be saved by all of them, in the same order and under the same name."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell the others what went wrong here, unless it is what they told."""
        if error is None or self._over:
            return
        self._over = True
        text = f"{error}" if isinstance(error, FlowymlError) else told(error)
        if isinstance(error, Exception):
            self._say_last(text)
        else:  # this process is about to end, so it doesn't wait for the others
            threading.Thread(target=self._say_last, args=(text,), daemon=True).start()

    def _say_last(self, text: str) -> None:
        with suppress(Exception):  # what went wrong here counts
            self._send(_FAILED + text.encode(errors="replace"))


@contextmanager
def common_folder(talk: Talk, backend: Backend, store: Path) -> Iterator[Path | None]:
    """Open rank 0's staging folder for all; None where each process has a store of its own.

    Raises:
        StoreError: when some processes don't see the folder of what is the same store by its path.
    """
    with ExitStack() as stack:
        own = stack.enter_context(backend.staging()) if talk.rank == 0 else None
        stack.push(talk)  # all of them know of a failure before the folder goes
        folder = store / "staging" / talk.tell(lambda: Path(str(own)).name)
        found = talk.ask([folder.is_dir(), str(store)])
        blind = [rank for rank, (sees, _) in enumerate(found) if not sees]
        apart = {rank for rank in blind if found[rank][1] != found[0][1]}
        if blind and apart == set(range(1, talk.world_size)):
            yield None
            return
        if blind:
            raise StoreError(
                f"{talk.name!r} isn't saved: rank {blind[0]} doesn't find {folder}, in which "
                f"rank 0 began. The store's folder has to be on a file system that all processes "
                f"see; that of rank {blind[0]} is {found[blind[0]][1]}."
            )
        yield folder


def take_in(
    talk: Talk, folder: Path, blobs: Blobs, kept: Mapping[str, StoredFile]
) -> tuple[StoredFile, ...]:
    """Take the files in among the blobs, each process some of them; return them sorted by path.

    Args:
        talk: between the processes.
        folder: where all of them have written.
        blobs: where the files go.
        kept: files of the new version that are there already; those of rank 0 count.

    Raises:
        MaterializationError: when a file is both written and kept.
        StoreError: when another process fails.
    """
    talk.exchange(b"")  # until then some still write
    listed = talk.tell(lambda: _listed(folder))
    files = {}
    for name in shared_out(listed, talk.world_size)[talk.rank]:
        files[name] = [name, *blobs.add(folder / name)]
    taken = {name: file for said in talk.ask(files) for name, file in said.items()}
    doubled = sorted(set(taken) & set(kept))
    if doubled:
        raise MaterializationError(f"{doubled[0]} is both written and kept.")
    found = {**{name: StoredFile(*file) for name, file in taken.items()}, **kept}
    if talk.rank == 0:
        for file in found.values():
            blobs.mark(file)
    return tuple(found[name] for name in sorted(found))


def _listed(folder: Path) -> dict[str, int]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def shared_out(sizes: Mapping[str, int], parts: int) -> Sequence[Sequence[str]]:
    """Divide names among so many, each getting about as much; the same on every process."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += sizes[name] + 1
    return shares
