"""What a crash or a full disk may leave of modules: whole versions, and nothing else.

torch writes weights from outside of Python, with errors of its own, so the promises are tried once
more on modules. Each scene runs in a new process that may be killed, or fill its disk.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import nn

from flowyml import Store
from flowyml.errors import StoreError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills processes")


class Scaled(nn.Module):
    """Weights, and a tensor that is none of the state dict's."""

    scale: torch.Tensor

    def __init__(self, number: int, size: int = 500) -> None:
        super().__init__()
        self.layer = nn.Linear(60, 60)
        self.register_buffer("scale", torch.empty(size), persistent=False)
        for tensor in (*self.parameters(), self.scale):
            nn.init.constant_(tensor, number)


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {name: torch.full((3015 + number,), float(number)) for name in ("a", "b")}


def numbers_in(store: Store, name: str = "n") -> list[int]:
    """Return the numbers that the versions of a name are full of: each intact, none left out."""
    store.verify()
    versions = store.versions(name)
    assert versions == [f"v{number + 1}" for number in range(len(versions))]
    return [number_in(store.load(f"{name}@{version}")) for version in versions]


def number_in(thing: Any) -> int:
    found = [*thing.parameters(), thing.scale] if isinstance(thing, Scaled) else thing.values()
    numbers = {value for tensor in found for value in tensor.detach().unique().tolist()}
    assert len(numbers) == 1, f"a mixture: {numbers}"
    return int(numbers.pop())


def check_collected(store: Store) -> None:
    """Collect, and see that nothing is left which no version refers to."""
    store.gc(grace=0)
    assert list((store.path / "staging").iterdir()) == []
    stored = [store.get(ref).stored for ref in store.refs()]
    assert store.stats().blobs == len({file.digest for s in stored if s for file in s.files})


def play(scene: Callable[[], None], folder: Path, *prefix: str) -> None:
    """Run a scene, a function of this module, in a new process; it has to succeed."""
    command = [*prefix, sys.executable, __file__, scene.__name__]
    done = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scene_killed() -> None:
    store = Store("store")
    delays = random.Random(0)
    for turn in range(20):
        process = os.fork()
        if process == 0:
            for number in itertools.count():
                # Every other one is so large that threads help to save it.
                store.save(Scaled(number, 300_000 if turn % 2 else 500), "n")
        time.sleep(delays.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    store.save(Scaled(0), "n")
    assert numbers_in(store)[-1] == 0
    check_collected(store)


def test_modules_whose_saver_is_killed_at_random_are_whole(tmp_path: Path) -> None:
    play(scene_killed, tmp_path)


def scene_earlier_deleted() -> None:
    store, other = Store("store"), Store("store")
    module = Scaled(0, 5000)
    wait = -1

    def hear(event: str, args: tuple[Any, ...]) -> None:
        nonlocal wait
        if wait >= 0 and (event == "open" or event.startswith("os.")):
            wait -= 1
            if wait < 0:
                other.delete(other.refs()[0])
                other.gc(grace=60)

    sys.addaudithook(hear)
    for moment in itertools.count():
        for ref in store.refs():
            store.delete(ref)
        nn.init.constant_(module.layer.bias, 1)
        store.save(module, "n")
        for path in store.path.rglob("*"):
            os.utime(path, (time.time() - 7200,) * 2)
        # Only a part changes, so that the next version may share the rest.
        nn.init.constant_(module.layer.bias, 2)
        wait = moment
        store.save(module, "n")
        over, wait = wait >= 0, -1
        assert set(store.load("n").layer.bias.tolist()) == {2}
        if over:
            break
    assert moment > 5, "hardly anything was watched"


def test_what_a_module_shares_with_a_version_that_is_deleted_meanwhile_stays(
    tmp_path: Path,
) -> None:
    play(scene_earlier_deleted, tmp_path)


def check_too_little(
    message: str, folder: str, limit: Callable[[int], None], stop: Callable[[], None]
) -> None:
    """Save with more and more room until it is enough."""
    for make in (Scaled, tensors):
        store = Store(f"{folder}/{make.__name__}")
        store.save(make(0), "n")
        for room in itertools.count():
            limit(room)
            try:
                store.save(make(1), "n")
                break
            except StoreError as error:
                assert message in str(error)  # noqa: PT017  (ends when it is not raised)
            assert numbers_in(store) == [0]
            check_collected(store)
        assert room > 4, "there was hardly too little"
        stop()
        store.save(make(2), "n")
        assert numbers_in(store) == [0, 1, 2]


def scene_full_disk() -> None:
    Path("disk").mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none", "disk"]
    subprocess.run([which("mount") or "mount", *options], check=True)
    ballast = Path("disk/ballast")

    def leave_pages(count: int) -> None:
        ballast.unlink(missing_ok=True)
        disk = os.statvfs("disk")
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (disk.f_bavail - count) * disk.f_frsize)

    check_too_little("No space left on device", "disk", leave_pages, ballast.unlink)


def test_a_disk_that_is_full_at_any_point_of_a_module_is_told(tmp_path: Path) -> None:
    play(scene_full_disk, tmp_path, *allowed_to_mount(tmp_path))


def allowed_to_mount(folder: Path) -> list[str]:
    """Return what runs a command in a namespace in which it may mount, as root or not."""
    reason = "unshare and mount are not installed"
    for options in (["--user", "--map-root-user", "--mount"], ["--mount"]):
        prefix = [which("unshare") or "unshare", *options]
        trial = [*prefix, which("mount") or "mount", "-t", "tmpfs", "none", str(folder)]
        with suppress(FileNotFoundError):
            tried = subprocess.run(trial, check=False, capture_output=True, text=True)
            if tried.returncode == 0:
                return prefix
            reason = tried.stderr.strip()
    pytest.skip(f"a small disk can't be mounted here: {reason}")


def scene_file_limit() -> None:
    import resource

    def limit(room: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * room, resource.RLIM_INFINITY))

    def stop() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    check_too_little("File too large", ".", limit, stop)


def test_a_file_of_a_module_that_may_not_grow_is_told(tmp_path: Path) -> None:
    play(scene_file_limit, tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]]()
