"""What a crash, a full disk or a crowd of writers may leave: whole versions, and nothing else.

The scenes run in new processes that may be killed, fill their disk or lose their rights. Python
announces what it is about to do to a file (`sys.addaudithook`), so a scene can kill the process,
or let somebody else act, at every moment of an operation, and no test waits for a race to happen.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from flowyml import Store, adapters, hookimpl, runs, step
from flowyml import run as run_of_steps
from flowyml.errors import AssetNotFoundError, FlowymlError, StoreError
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills processes")

TWO_HOURS = 7200


# What is saved: things that are full of one number, so that a mixture would show.


class Table:
    """Numbers in two files, as a model's weights and structure are."""

    def __init__(self, number: int) -> None:
        self.column = np.full(3000, number, dtype=np.float32)
        self.notes = [number] * 300


class TableMaterializer(Materializer):
    key = "test.table"
    formats = ("table", "as old as what it copies")

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Table)

    def save(self, obj: Table, folder: Path, options: SaveOptions) -> SaveResult:
        (folder / "column.bin").write_bytes(obj.column.tobytes())
        (folder / "notes.txt").write_text(" ".join(map(str, obj.notes)))
        if options.format != "table":
            grow_old(folder / "column.bin", folder / "notes.txt")
        return SaveResult()

    def load(self, saved: Saved, options: LoadOptions) -> Table:
        table = Table(0)
        table.column = np.frombuffer(saved.files["column.bin"].read_bytes(), np.float32)
        table.notes = list(map(int, saved.files["notes.txt"].read_text().split()))
        return table


class TablePlugin:
    @hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [TableMaterializer()]


def number_in(thing: Any) -> int:
    """Return the number that a table or an array is full of, having looked at all of it."""
    if isinstance(thing, Table):
        assert (len(thing.column), len(thing.notes)) == (3000, 300)
        numbers = {*thing.column, *thing.notes}
    else:
        numbers = set(thing)
    assert len(numbers) == 1, f"a mixture: {numbers}"
    return int(numbers.pop())


def numbers_in(store: Store, name: str = "n") -> list[int]:
    """Return the numbers in all versions of a name: each intact, none left out or half visible."""
    store.verify()
    versions = store.versions(name)
    assert versions == [f"v{number + 1}" for number in range(len(versions))]
    return [number_in(store.load(f"{name}@{version}")) for version in versions]


def check_collected(store: Store) -> None:
    """Collect, and see that nothing is left which no version refers to."""
    store.gc(grace=0)
    assert list((store.path / "staging").iterdir()) == []
    stored = [store.get(ref).stored for ref in store.refs()]
    assert store.stats().blobs == len({file.digest for s in stored if s for file in s.files})


def grow_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - TWO_HOURS,) * 2)


def leave_garbage(store: Store) -> None:
    """Leave old blobs of Table(7) that nothing refers to, and the old folder of a killed save."""
    store.delete(str(store.save(Table(7), "garbage").ref))
    folder = store.path / "staging" / "killed"
    folder.mkdir(exist_ok=True)
    (folder / "part.bin").write_bytes(b"half of")
    grow_old(*store.path.rglob("*"))


def start_over(store: Store) -> None:
    """Let garbage be all that is left of Table(7)."""
    for ref in store.refs():
        store.delete(ref)
    leave_garbage(store)


# How a scene watches itself.

TOUCHES = frozenset(
    {
        "open", "os.chmod", "os.fsync", "os.link", "os.listdir", "os.mkdir", "os.remove",
        "os.rename", "os.rmdir", "os.scandir", "os.truncate", "os.utime",
    }
)  # fmt: skip

Heard = Callable[[str, tuple[Any, ...]], object]


class Watch:
    """Calls a function before this process touches a file, but not for what the function does."""

    heard: Heard | None = None

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        heard = self.heard
        if event in TOUCHES and heard is not None:
            self.heard = None
            try:
                heard(event, args)
            finally:
                self.heard = heard

    @contextmanager
    def calling(self, heard: Heard) -> Iterator[None]:
        self.heard = heard
        try:
            yield
        finally:
            self.heard = None


watch = Watch()


def acts_at(acts: Mapping[int, Callable[[], object]], operation: Callable[[], object]) -> int:
    """Run an operation, acting just before its n-th touch; return the number of its touches."""
    count = itertools.count()

    def heard(event: str, args: tuple[Any, ...]) -> None:
        acts.get(next(count), lambda: None)()

    with watch.calling(heard):
        operation()
    return next(count)


def interrupted(act: Callable[[int], object], operation: Callable[[int], object]) -> Iterator[int]:
    """Run an operation again and again, and something else once at every moment of it.

    Yields the moment before each.
    """
    for moment in itertools.count():
        yield moment
        touches = acts_at({moment: lambda: act(moment)}, lambda: operation(moment))  # noqa: B023
        if moment >= touches:
            assert moment > 2, "hardly anything was watched"
            return


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def status_of(act: Callable[[], object]) -> int:
    """Let a forked process act; return its status, 0 when it went well."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    try:
        act()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def killed(
    operation: Callable[[int], object], prepare: Callable[[], object] = lambda: None
) -> Iterator[int]:
    """Kill processes that run an operation, at every moment of it; yields the moment after each."""
    for moment in itertools.count():
        prepare()
        status = status_of(lambda: acts_at({moment: kill}, lambda: operation(moment)))  # noqa: B023
        assert status in (0, signal.SIGKILL)
        yield moment
        if status == 0:
            assert moment > 2, "hardly anything was watched"
            return


def begin() -> None:
    """Use all that a store can do once, so that what is imported late is not seen afterwards."""
    adapters.register(TablePlugin(), name="table")
    # Told, not done: the computer stays up, so that nothing has to reach its disk.
    os.fsync = partial(sys.audit, "os.fsync")
    store = Store("rehearsal")
    for thing in (Table(0), np.zeros(3)):
        store.save(thing, "n")
        store.load("n")
    store.import_(store.export("n", "rehearsed"), name="m")
    leave_garbage(store)
    store.gc(grace=0)
    store.verify()
    sys.addaudithook(watch.hear)


Scene = Callable[[], None]
SCENES: dict[str, Scene] = {}


def in_new_process(scene: Scene) -> Callable[[Path], None]:
    """Make a test of a scene: it runs in a process and a folder of its own, and has to succeed."""
    SCENES[scene.__name__] = scene

    def test(tmp_path: Path) -> None:
        run(scene.__name__, tmp_path)

    return test


def on_a_small_disk(scene: Scene) -> Callable[[Path], None]:
    """Make a test of a scene in a new process, with a disk of 4 MiB mounted at ``disk``."""

    def mounted() -> None:
        Path("disk").mkdir()
        mount("-t", "tmpfs", "-o", "size=4m,nr_inodes=1000", "none")
        scene()

    SCENES[scene.__name__] = mounted

    def test(tmp_path: Path) -> None:
        run(scene.__name__, tmp_path, *allowed_to_mount(tmp_path))

    return test


def run(name: str, folder: Path, *prefix: str) -> None:
    command = [*prefix, sys.executable, __file__, name]
    done = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def mount(*options: str) -> None:
    subprocess.run([which("mount") or "mount", *options, "disk"], check=True)


# Processes that are killed.


@in_new_process
def test_a_run_that_is_killed_at_any_moment_says_what_was_done() -> None:
    store = Store("store")

    @step(store=store)
    def double(number: int) -> list[int]:
        return [number, number]

    def work(moment: int) -> None:
        with run_of_steps("pair", store=store):
            double(0)
            double(0)

    for moment in killed(work):
        records = runs(store)
        assert len(records) <= moment + 1
        for record in records:
            outputs = [output for each in record.steps for output in each.outputs]
            assert all(store.get(output.ref).digest == output.digest for output in outputs)
            done = [each.status for each in record.steps]
            assert done in ([], ["running"], ["completed"], ["completed", "running"], PAIR)
    assert records[-1].status == "completed"
    assert len(records[-1].outputs) == 2
    assert {len(record.steps) for record in records} == {0, 1, 2}


PAIR = ["completed", "completed"]


@in_new_process
def test_a_save_that_is_killed_at_any_moment_leaves_all_or_nothing() -> None:
    store = Store("store")
    store.save(Table(0), "n")
    found = []
    for moment in killed(lambda moment: store.save(Table(moment + 1), "n")):
        found = numbers_in(store)
        assert found == sorted(set(found)), "a version is there twice"
        assert set(found) <= set(range(moment + 2))
    assert found[-1] == moment + 1
    assert list((store.path / "staging").iterdir())
    store.gc()
    assert list((store.path / "staging").iterdir()), "so young, it may be somebody's"
    grow_old(*store.path.rglob("*"))
    store.gc()
    check_collected(store)
    assert numbers_in(store) == found


@in_new_process
def test_a_store_that_was_half_made_is_made_by_the_next_save() -> None:
    for moment in killed(lambda moment: Store(f"stores/{moment}").save(Table(7), "n")):
        store = Store(f"stores/{moment}")
        assert numbers_in(store) in ([], [7])
        store.save(Table(7), "n")
        assert set(numbers_in(store)) == {7}
        check_collected(store)


@in_new_process
def test_a_delete_that_is_killed_leaves_the_version_or_takes_it() -> None:
    store = Store("store")
    store.save(Table(0), "n")
    for moment in killed(
        lambda moment: store.delete(f"n@v{moment + 2}"), lambda: store.save(Table(1), "n")
    ):
        ref = f"n@v{moment + 2}"
        store.verify()
        if ref in store.refs():
            assert number_in(store.load(ref)) == 1
            store.delete(ref)
        with pytest.raises(AssetNotFoundError):
            store.load(ref)
        assert numbers_in(store) == [0]
    assert store.save(Table(0), "n").version == f"v{moment + 3}", "a number was used again"
    check_collected(store)


@in_new_process
def test_collecting_that_is_killed_is_finished_by_the_next() -> None:
    store = Store("store")
    store.save(Table(0), "n")
    for _ in killed(lambda moment: store.gc(grace=60), lambda: leave_garbage(store)):
        assert numbers_in(store) == [0]
    check_collected(store)


@in_new_process
def test_what_is_saved_while_a_collector_works_or_is_killed_can_be_loaded() -> None:
    store, other = Store("store"), Store("store")
    leave_garbage(store)
    touches = acts_at({}, lambda: store.gc(grace=60))
    for moment, further, then in itertools.product(
        range(touches), (1, 2), (kill, lambda: number_in(other.load("n")))
    ):
        start_over(store)
        acts = {moment: lambda: other.save(Table(7), "n"), moment + further: then}
        status = status_of(lambda: acts_at(acts, lambda: store.gc(grace=60)))  # noqa: B023
        assert status in (0, signal.SIGKILL)
        assert number_in(store.load("n")) == 7
        store.gc(grace=0)
        assert number_in(store.load("n")) == 7


@in_new_process
def test_savers_killed_at_random_lose_nothing() -> None:
    store = Store("store")
    delays = random.Random(0)
    for _ in range(20):
        process = os.fork()
        if process == 0:
            for number in itertools.count():
                store.save(Table(number), "n")
        time.sleep(delays.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        store.verify()
    assert numbers_in(store)
    check_collected(store)


@in_new_process
def test_an_export_that_is_killed_leaves_a_whole_folder_or_none() -> None:
    store, other = Store("store"), Store("other")
    store.save(Table(7), "n")
    for moment in killed(lambda moment: store.export("n", f"out/{moment}")):
        folder = Path(f"out/{moment}")
        if not folder.exists():
            store.export("n", folder)
        other.import_(folder)
    assert numbers_in(other) == [7]


@in_new_process
def test_an_import_that_is_killed_takes_in_all_or_nothing() -> None:
    store, other = Store("store"), Store("other")
    store.save(Table(7), "n")
    folder = store.export("n", "folder")
    for moment in killed(lambda moment: other.import_(folder, name=f"n{moment}")):
        assert numbers_in(other, f"n{moment}") in ([], [7])
        other.import_(folder, name=f"n{moment}")
        assert numbers_in(other, f"n{moment}") == [7]
    check_collected(other)


# Power that fails.


@in_new_process
def test_everything_is_on_the_disk_before_the_manifest_names_it() -> None:
    store = Store("store")
    synced: dict[int, tuple[int, int]] = {}
    appeared: dict[Path, int] = {}
    count = itertools.count()

    def heard(event: str, args: tuple[Any, ...]) -> None:
        now = next(count)
        if event == "os.fsync":
            found = os.fstat(args[0])
            synced[found.st_ino] = (now, found.st_size)
        elif event in ("os.link", "os.rename"):
            appeared[Path(args[1])] = now
        elif event == "os.mkdir" and "staging" not in Path(args[0]).parts:
            appeared[Path(args[0])] = now

    def when_synced(path: Path) -> int:
        found = path.stat()
        when, size = synced[found.st_ino]
        assert stat.S_ISDIR(found.st_mode) or size == found.st_size, f"{path} was not whole"
        return when

    with watch.calling(heard):
        store.save(Table(1), "n")
    manifest = store.path / "assets" / "n" / "v1.json"
    committed = appeared.pop(manifest)
    assert when_synced(manifest) < committed < when_synced(manifest.parent)
    blobs = {path: when for path, when in appeared.items() if "blobs" in path.parts}
    assert sum(path.is_file() for path in blobs) == 2
    for path, when in blobs.items():
        assert when < when_synced(path.parent) < committed
        assert path.is_dir() or when_synced(path) < when
    for path, when in appeared.items():
        assert path.is_relative_to(store.path.parent)
        assert when < when_synced(path.parent)


# Others at the same time.


@in_new_process
def test_a_save_at_any_moment_of_another_takes_its_own_version() -> None:
    store, other = Store("store"), Store("store")
    rounds = list(
        interrupted(
            lambda moment: other.save(Table(-1), "n"), lambda moment: store.save(Table(1), "n")
        )
    )
    assert sorted(numbers_in(store)) == [-1] * (len(rounds) - 1) + [1] * len(rounds)


@in_new_process
def test_two_make_one_store_at_any_moment_of_each_other() -> None:
    *moments, _ = interrupted(
        lambda moment: Store(f"stores/{moment}").save(Table(-1), "n"),
        lambda moment: Store(f"stores/{moment}").save(Table(1), "n"),
    )
    for moment in moments:
        assert sorted(numbers_in(Store(f"stores/{moment}"))) == [-1, 1]


@in_new_process
def test_collecting_at_any_moment_of_a_save_or_import_takes_nothing_from_it() -> None:
    store, other = Store("store"), Store("store")
    store.save(Table(7), "elsewhere")
    folder = store.export("elsewhere", "folder")
    store.delete("elsewhere@v1")
    operations: list[Callable[[int], object]] = [
        lambda moment: store.save(Table(7), f"saved{moment}"),
        lambda moment: store.import_(folder, name=f"taken-in{moment}"),
    ]
    for operation in operations:
        for _ in interrupted(lambda moment: other.gc(grace=60), operation):
            store.verify()
            start_over(store)
        assert [number_in(store.load(ref)) for ref in store.refs()] == [7]


@in_new_process
def test_what_a_save_brings_is_not_collected_for_the_age_of_its_files() -> None:
    store, other = Store("store"), Store("store")
    old = TableMaterializer.formats[1]
    moments = interrupted(
        lambda moment: other.gc(), lambda moment: store.save(Table(moment), "n", format=old)
    )
    assert list(moments) == numbers_in(store)


@in_new_process
def test_what_is_deleted_while_it_is_loaded_comes_whole_or_not_at_all() -> None:
    store, other = Store("store"), Store("store")

    def take_away(moment: int) -> None:
        other.delete(f"n@v{moment + 1}")
        other.gc(grace=0)

    def load(moment: int) -> None:
        ref = f"n@v{moment + 1}"
        try:
            assert number_in(store.load(ref)) == moment
        except FlowymlError as error:
            assert ref in str(error)  # noqa: PT017  (it may be raised, and need not)

    for moment in interrupted(take_away, load):
        store.save(Table(moment), "n")
    store.save(Table(0), "n")


@in_new_process
def test_reading_the_whole_store_is_not_disturbed_by_a_delete() -> None:
    store, other = Store("store"), Store("store")
    store.save(Table(1), "stays")

    def take_away(moment: int) -> None:
        other.delete(other.refs()[0])
        other.gc(grace=0)

    for read in (store.verify, store.stats, store.refs, lambda: store.gc(grace=60)):
        for _ in interrupted(take_away, lambda moment: read()):  # noqa: B023
            store.save(Table(7), "goes")


@in_new_process
def test_eight_processes_save_one_name_while_a_ninth_collects() -> None:
    store = Store("store")
    leave_garbage(store)

    def save(number: int) -> None:
        for turn in range(10):
            store.save(Table(100 * number + turn if turn % 2 else 7), "n")

    collector = os.fork()
    if collector == 0:
        while True:
            store.gc(grace=60)
    savers = []
    for number in range(8):
        savers.append(os.fork())
        if not savers[-1]:
            os._exit(status_of(lambda: save(number)))  # noqa: B023
    assert [os.waitpid(saver, 0)[1] for saver in savers] == [0] * 8
    assert os.waitpid(collector, os.WNOHANG) == (0, 0), "collecting failed"
    os.kill(collector, signal.SIGKILL)
    os.waitpid(collector, 0)
    wanted = [7] * 40 + [100 * number + turn for number in range(8) for turn in range(1, 10, 2)]
    assert sorted(numbers_in(store)) == sorted(wanted)
    check_collected(store)


@in_new_process
def test_a_process_that_is_forked_after_a_large_save_loads_and_saves() -> None:
    store = Store("store")
    array = np.arange(1_000_000)
    store.save(array, "n")

    def go_on() -> None:
        signal.alarm(10)
        assert np.array_equal(store.load("n"), array)
        store.save(array + 1, "n")

    assert status_of(go_on) == 0, "the forked process failed, or waited forever"
    assert store.versions("n") == ["v1", "v2"]


# Disks that are full, and folders that may not be written.


def leave_pages(count: int) -> None:
    """Fill the disk but for a number of pages."""
    make_room()
    disk = os.statvfs("disk")
    with Path("disk/ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail - count) * disk.f_frsize)


def leave_inodes(count: int) -> None:
    """Fill the disk but for a number of names of files."""
    make_room()
    Path("disk/crowd").mkdir()
    for number in range(os.statvfs("disk").f_favail - count):
        Path(f"disk/crowd/{number}").touch()


def make_room() -> None:
    Path("disk/ballast").unlink(missing_ok=True)
    for path in Path("disk/crowd").glob("*"):
        path.unlink()
    with suppress(FileNotFoundError):
        Path("disk/crowd").rmdir()


THINGS: tuple[Callable[[int], Any], ...] = (
    Table,
    # NumPy keeps the end of a file for the last write, which here crosses into another page.
    lambda number: np.full(1000, number, dtype=np.float32),
    lambda number: np.full(3062, number, dtype=np.float32),
)


def check_full(store: Store, make: Callable[[int], Any], leave: Callable[[int], None]) -> None:
    """Save with more and more room until it is enough."""
    store.save(make(0), "n")
    for room in itertools.count():
        leave(room)
        try:
            store.save(make(1), "n")
            break
        except StoreError as error:
            assert "No space left on device" in str(error)  # noqa: PT017  (ends when it is not raised)
        assert numbers_in(store) == [0]
        check_collected(store)
    assert room > 2, "the disk was hardly full"
    make_room()
    store.save(make(2), "n")
    assert numbers_in(store) == [0, 1, 2]


@on_a_small_disk
def test_a_disk_that_is_full_at_any_point_is_told_and_loses_nothing() -> None:
    for number, make in enumerate(THINGS):
        check_full(Store(f"disk/{number}"), make, leave_pages)


@on_a_small_disk
def test_a_disk_without_room_for_names_is_told_and_loses_nothing() -> None:
    check_full(Store("disk/store"), Table, leave_inodes)


@on_a_small_disk
def test_collecting_and_deleting_make_room_on_a_full_disk() -> None:
    store = Store("disk/store")
    for leave in (leave_pages, leave_inodes):
        store.save(Table(0), "n")
        leave_garbage(store)
        leave(0)
        assert store.gc(grace=60).blobs == 2
        assert os.statvfs("disk").f_bavail > 2
        store.delete(store.refs()[-1])
        make_room()
    assert store.refs() == []


@on_a_small_disk
def test_a_disk_that_is_full_when_a_step_ends_takes_no_result() -> None:
    elsewhere = Store("elsewhere")
    for room in itertools.count():
        make_room()
        store = Store(f"disk/{room}")

        def train(room: int) -> Any:
            leave_pages(room)
            return np.arange(5000 + room)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = step(store=store)(train)(room)
        assert np.array_equal(result, np.arange(5000 + room))
        assert elsewhere.save(result, "rescued").version == f"v{room + 1}"
        make_room()
        records = runs(store)
        assert [record.name for record in records] == ["train"]
        shutil.rmtree(store.path)
        if not caught:
            break
        told = " ".join(str(warning.message) for warning in caught)
        assert "No space left on device" in told
        assert "could not be written" in told or "was not stored" in told
    assert room > 2, "the disk was hardly full"


@on_a_small_disk
def test_a_disk_that_is_full_before_a_step_is_told_before_anything_is_computed() -> None:
    leave_pages(0)
    computed = []
    with pytest.raises(StoreError, match="No space left on device"):
        step(store=Store("disk/store"))(lambda: computed.append(1))()
    assert computed == []


@on_a_small_disk
def test_an_export_to_a_full_disk_leaves_no_folder() -> None:
    store = Store("store")
    store.save(Table(0), "n")
    for room in itertools.count():
        leave_pages(room)
        try:
            store.export("n", "disk/out")
            break
        except StoreError as error:
            assert "No space left on device" in str(error)  # noqa: PT017  (ends when it is not raised)
        assert [path.name for path in Path("disk").iterdir()] == ["ballast"]
    assert room > 2
    Store("other").import_("disk/out")


@in_new_process
def test_a_file_that_may_not_grow_is_told_and_loses_nothing() -> None:
    import resource

    def leave_bytes(count: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.RLIM_INFINITY))

    for number, make in enumerate(THINGS):
        store = Store(f"stores/{number}")
        leave_bytes(resource.RLIM_INFINITY)
        store.save(make(0), "n")
        for room in itertools.count(0, 400):
            leave_bytes(room)
            try:
                store.save(make(1), "n")
                break
            except StoreError as error:
                assert "File too large" in str(error)  # noqa: PT017  (ends when it is not raised)
            assert numbers_in(store) == [0]
            check_collected(store)
        assert numbers_in(store) == [0, 1]
        assert room > 4000


def check_read_only(store: Store) -> None:
    """See that a store can be read, and that all that would write is refused, and said why."""
    assert numbers_in(store) == [0]
    assert store.names() == ["n"]
    folder = store.export("n", "out")
    Store("other").import_(folder)
    writes: list[Callable[[], object]] = [
        lambda: store.save(Table(1), "n"),
        lambda: store.save(Table(1), "m"),
        lambda: store.delete("n@v1"),
        lambda: store.import_(folder, name="m"),
        lambda: store.export("n", store.path / "out"),
        lambda: Store(store.path / "inner").save(Table(1), "n"),
        lambda: store.gc(grace=0),
    ]
    for write in writes:
        with pytest.raises(StoreError, match="Permission denied|Read-only file system") as caught:
            write()
        assert store.path.name in str(caught.value)
    assert numbers_in(store) == [0]


@pytest.mark.skipif(
    sys.platform != "linux" and os.geteuid() == 0, reason="permissions do not bind root here"
)
@in_new_process
def test_a_store_without_write_permission_is_read_and_says_why_it_is_not_written() -> None:
    store = Store("store")
    store.save(Table(0), "n")
    leave_garbage(store)
    folders = [store.path, *(path for path in store.path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    give_up_capabilities()
    try:
        check_read_only(store)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def give_up_capabilities() -> None:
    """Make permissions bind root too: Linux's capset, in its version 3, with nothing set."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


@on_a_small_disk
def test_a_store_on_a_read_only_disk_is_read_and_says_why_it_is_not_written() -> None:
    store = Store("disk/store")
    store.save(Table(0), "n")
    leave_garbage(store)
    mount("-o", "remount,bind,ro")
    check_read_only(store)


# Folders that were exported.


def test_an_exported_folder_is_exported_again_bit_for_bit(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.save(np.full(100, number), "n")
    other = Store(tmp_path / "other")
    for version in ("v3", "v1", "v2"):
        first = store.export(f"n@{version}", tmp_path / version)
        other.import_(first)
        again = other.export(f"n@{version}", tmp_path / f"{version}-again")
        for path in first.rglob("*"):
            assert path.read_bytes() == (again / path.relative_to(first)).read_bytes()
    assert numbers_in(other) == [0, 1, 2]
    assert other.get("n@v2").stored == store.get("n@v2").stored


def test_nothing_of_a_damaged_folder_is_taken_in(store: Store, toy: Any, tmp_path: Path) -> None:
    store.save(toy([1.0, 2.0]), "n")
    folder = store.export("n", tmp_path / "folder")
    other = Store(tmp_path / "other")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:], content[:-1] + bytes([content[-1] ^ 1])
        for text in (*flipped, content[:-1], content + b"\n", b""):
            path.write_bytes(text)
            with pytest.raises(StoreError, match=path.stem):
                other.import_(folder)
        path.unlink()
        with pytest.raises(StoreError, match=path.stem):
            other.import_(folder)
        path.write_bytes(content)
        assert other.names() == []
    other.gc(grace=0)
    assert other.stats().blobs == 0
    other.import_(folder)


if __name__ == "__main__":
    begin()
    SCENES[sys.argv[1]]()
