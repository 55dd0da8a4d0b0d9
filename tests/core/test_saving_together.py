"""Objects of which every process holds a part: one version of all of it, or none.

Threads are the processes here, with a group that talks as any other does. Real processes save
sharded models in ``tests/pytorch/test_together_sharded.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowyml import Store, adapters, groups, hookimpl, origins
from flowyml.errors import FlowymlError, LaunchError, MaterializationError, StoreError
from flowyml.interfaces import Group, LoadOptions, Materializer, Saved, SaveOptions, SaveResult

SIZE = 3


class Half:
    """What one process holds of a text, how long it hesitates, and what it does while saving."""

    def __init__(
        self,
        text: str,
        act: Callable[[SaveOptions, Path], Any] | None = None,
        hesitates: float = 0.0,
    ) -> None:
        self.text = text
        self.act = act
        self.hesitates = hesitates


class HalfMaterializer(Materializer):
    """Writes a file for each process, and rank 0 says how many there are."""

    key = "test.half"
    formats = ("parts", "other")

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Half)

    def is_spread(self, obj: Half) -> bool:
        if obj.text == "unsure":
            raise RuntimeError("can't tell")
        return True

    def save(self, obj: Half, folder: Path, options: SaveOptions) -> SaveResult:
        time.sleep(obj.hesitates)
        rank, count = (options.group.rank, SIZE) if options.group is not None else (0, 1)
        before = options.earlier()
        kept = f"part{rank}" in (before.files() if before else ()) and obj.text == "as before"
        if kept and rank == 0 and before is not None:
            assert before.keep("part0")
        else:
            (folder / f"part{rank}").write_text(obj.text)
        if obj.act is not None:
            obj.act(options, folder)
        if options.group is not None:
            said = options.group.exchange(obj.text.encode())
            assert len(said) == SIZE
        return SaveResult(details={"count": count, "by": rank})

    def load(self, saved: Saved, options: LoadOptions) -> str:
        return "".join(saved.files[name].read_text() for name in sorted(saved.files))


class Plugin:
    @hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [HalfMaterializer()]


class Table:
    """What the threads of a group say, by channel and number."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, int], dict[int, bytes]] = defaultdict(dict)
        self.changed = threading.Condition()


class Threads(Group):
    """A thread's place in a group of threads."""

    def __init__(self, table: Table, rank: int, timeout: float) -> None:
        self.rank = self.local_rank = rank
        self.world_size, self.device = SIZE, "cpu"
        self._table, self._timeout = table, timeout
        self._calls: dict[str, int] = defaultdict(int)

    def exchange(self, data: bytes, channel: str = "") -> list[bytes]:
        here = self._table.said[channel, self._calls[channel]]
        self._calls[channel] += 1
        with self._table.changed:
            here[self.rank] = data
            self._table.changed.notify_all()
            if not self._table.changed.wait_for(lambda: len(here) == SIZE, self._timeout):
                missing = sorted({*range(SIZE)} - here.keys())
                raise LaunchError(f"rank {missing[0]} didn't come within {self._timeout} s.")
        return [here[rank] for rank in range(SIZE)]


class Together:
    """Three processes, with a store that all of them see."""

    def __init__(self, folder: Path) -> None:
        self.stores = [Store(folder / "store") for _ in range(SIZE)]
        self.table = Table()
        self.timeout = 60.0
        self.groups: list[Threads] = []

    def do(self, work: Callable[[int, Store], Any]) -> list[Any]:
        """Let every rank do something at the same time; return results and errors."""
        if not self.groups:
            self.groups = [Threads(self.table, rank, self.timeout) for rank in range(SIZE)]
        found: list[Any] = [None] * SIZE

        def run(rank: int) -> None:
            groups.joined.set(self.groups[rank])  # a thread has a context of its own
            try:
                found[rank] = work(rank, self.stores[rank])
            except BaseException as error:
                found[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(SIZE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return found

    def save(self, *halves: Any, name: str = "text", **options: Any) -> list[Any]:
        return self.do(lambda rank, store: store.save(halves[rank], name, **options))


@pytest.fixture
def together(tmp_path: Path) -> Together:
    adapters.register(Plugin(), name="test")
    return Together(tmp_path)


def parts(text: str = "abc") -> list[Half]:
    return [Half(letter) for letter in text]


def check_nothing_of_it(together: Together, *versions: str) -> None:
    store = together.stores[0]
    assert store.versions("text") == list(versions)
    assert [*(store.path / "staging").iterdir()] == []
    store.verify()


def test_each_writes_its_part_and_all_have_the_one_version(together: Together) -> None:
    assets = together.save(*parts())
    assert [str(asset.ref) for asset in assets] == ["text@v1"] * SIZE
    assert assets[0].stored == assets[1].stored == assets[2].stored
    store = together.stores[0]
    assert store.refs() == ["text@v1"]
    assert [file.path for file in store.get("text").stored.files] == ["part0", "part1", "part2"]
    assert store.load("text") == "abc"
    check_nothing_of_it(together, "v1")


def test_what_rank_0_returns_is_what_counts(together: Together) -> None:
    together.save(*parts())
    text = (together.stores[0].path / "assets" / "text" / "v1.json").read_text()
    assert re.search(r'"details": \{\s*"count": 3,\s*"by": 0\s*\}', text)


def test_the_files_are_taken_in_by_all_of_them(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = []
    for store in together.stores:
        add = store._blobs.add
        monkeypatch.setattr(
            store._blobs, "add", lambda path, a=add, s=store: took.append(s) or a(path)
        )
    together.save(*parts())
    assert sorted(map(together.stores.index, took)) == [0, 1, 2]


def test_a_file_of_the_version_before_is_kept_by_all(together: Together) -> None:
    together.save(*parts())
    together.save(Half("as before"), Half("x"), Half("y"))
    assert together.stores[0].load("text") == "axy"


def boom(*_: Any) -> None:
    raise ValueError("boom")


def fails_later(options: SaveOptions, folder: Path) -> None:
    assert options.group is not None
    options.group.exchange(b"so far so good")
    raise ValueError("boom")


def goes_on(options: SaveOptions, folder: Path) -> None:
    assert options.group is not None
    options.group.exchange(b"so far so good")


@pytest.mark.parametrize("rank", range(SIZE))
@pytest.mark.parametrize(("act", "others"), [(boom, None), (fails_later, goes_on)])
def test_where_one_fails_all_of_them_fail_and_nothing_is_left(
    together: Together, rank: int, act: Any, others: Any
) -> None:
    together.save(*parts())
    halves = [Half("x", act if n == rank else others) for n in range(SIZE)]
    for n, error in enumerate(together.save(*halves)):
        if n == rank:
            assert isinstance(error, MaterializationError)
            assert "failed with ValueError: boom" in str(error)
        else:
            assert isinstance(error, StoreError)
            assert f"'text' isn't saved, since rank {rank} failed: A " in str(error)
            assert "ValueError: boom" in str(error)
            assert str(error).endswith("Nothing of it became visible.")
    check_nothing_of_it(together, "v1")
    assert [str(asset.ref) for asset in together.save(*parts())] == ["text@v2"] * SIZE


def test_the_folder_is_there_until_all_know_that_one_failed(together: Together) -> None:
    _, *others = together.save(Half("a", boom), Half("b", None, 0.3), Half("c", None, 0.3))
    for error in others:
        assert "rank 0 failed: A " in str(error)
    check_nothing_of_it(together)


def test_a_full_disk_on_one_of_them_fails_all(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(together.stores[1]._blobs, "add", full)
    zero, one, two = together.save(*parts())
    assert isinstance(one, StoreError)
    assert "No space left on device" in str(one)
    for error in (zero, two):
        assert isinstance(error, StoreError)
        assert "rank 1 failed" in str(error)
        assert "No space left on device" in str(error)
    check_nothing_of_it(together)


def test_a_version_that_is_taken_fails_all(together: Together) -> None:
    from flowyml import Asset

    for expected in (type(None), FlowymlError):
        assets = [Asset(name="text", version="mine", data=half) for half in parts()]
        for found in together.save(*assets):
            error = found if isinstance(found, BaseException) else None
            assert isinstance(error, expected)
    assert "text@mine exists already" in str(error)
    check_nothing_of_it(together, "mine")


def test_nobody_waits_for_a_process_that_is_interrupted(together: Together) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    zero, one, two = together.save(Half("a"), Half("b", interrupted), Half("c"))
    assert isinstance(one, KeyboardInterrupt)
    assert "rank 1 failed: KeyboardInterrupt" in str(zero)
    assert "rank 1 failed: KeyboardInterrupt" in str(two)
    check_nothing_of_it(together)


def test_who_does_not_save_it_is_named(together: Together) -> None:
    together.timeout = 0.5
    zero, _, two = together.do(lambda rank, store: rank == 1 or store.save(Half("x"), "text"))
    for error in (zero, two):
        assert isinstance(error, LaunchError)
        assert str(error).startswith("'text' isn't saved: rank 1 didn't come within 0.5 s.")
        assert "by all of them, in the same order and under the same name" in str(error)
    check_nothing_of_it(together)


def test_different_formats_are_refused_by_all(together: Together) -> None:
    formats = ["parts", "parts", "other"]
    for error in together.do(lambda n, store: store.save(Half("x"), "text", format=formats[n])):
        assert isinstance(error, StoreError)
        assert "its format is 'parts' on rank 0 and 'other' on rank 2" in str(error)
    check_nothing_of_it(together)


def test_two_names_may_be_saved_at_the_same_time_in_any_order(together: Together) -> None:
    def work(rank: int, store: Store) -> list[str]:
        group = groups.joined.get()
        refs = []

        def save(name: str) -> None:
            groups.joined.set(group)
            refs.append(str(store.save(Half(name[rank]), name).ref))

        names = ["one", "two"] if rank else ["two", "one"]
        threads = [threading.Thread(target=save, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
            time.sleep(0.01)
        for thread in threads:
            thread.join(60)
        return sorted(refs)

    assert together.do(work) == [["one@v1", "two@v1"]] * SIZE
    assert (together.stores[0].load("one"), together.stores[0].load("two")) == ("one", "two")


def test_a_store_that_not_all_of_them_see_is_refused(
    together: Together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def elsewhere() -> Iterator[Path]:
        folder = tmp_path / "a disk of rank 0's own"
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)

    together.save(*parts())
    monkeypatch.setattr(together.stores[0]._backend, "staging", elsewhere)
    for error in together.save(*parts()):
        assert isinstance(error, StoreError)
        assert "has to be on a file system that all processes see" in str(error)
        assert str(together.stores[0].path) in str(error)
    check_nothing_of_it(together, "v1")


def test_one_with_another_store_than_the_others_is_refused(
    together: Together, tmp_path: Path
) -> None:
    together.stores[2] = Store(tmp_path / "mine")
    for error in together.save(*parts()):
        assert isinstance(error, StoreError)
        assert "rank 2 doesn't find" in str(error)
        assert f"that of rank 2 is {tmp_path / 'mine'}." in str(error)
    check_nothing_of_it(together)


def test_each_may_save_by_itself_into_a_store_of_its_own(
    together: Together, tmp_path: Path
) -> None:
    together.stores = [Store(tmp_path / f"store{rank}") for rank in range(SIZE)]
    told = []
    halves = [Half("alone", lambda options, _: told.append(options.group)) for _ in range(SIZE)]
    assert [str(asset.ref) for asset in together.save(*halves)] == ["text@v1"] * SIZE
    assert [store.load("text") for store in together.stores] == ["alone"] * SIZE
    assert told == [None] * SIZE


def test_in_a_step_only_rank_0_saves_what_is_whole(together: Together) -> None:
    def work(rank: int, store: Store) -> Any:
        origins.current_scope.set(origins.Scope("a run", "train"))
        asset = store.save([rank, 0.5], "whole")
        return asset.version, asset.stored is None, [*origins.current_scope.get().saved]  # type: ignore[union-attr]  # it was set

    zero, one, two = together.do(work)
    assert zero == ("v1", False, ["whole@v1"])
    assert one == two == (None, True, [])
    store = together.stores[0]
    assert (store.refs(), store.load("whole")) == (["whole@v1"], [0, 0.5])
    assert (store.get("whole").stored.run, store.get("whole").stored.step) == ("a run", "train")


def test_in_a_step_all_of_them_note_what_they_saved_together(together: Together) -> None:
    def work(rank: int, store: Store) -> list[str]:
        scope = origins.Scope("a run", "train")
        origins.current_scope.set(scope)
        store.save(Half("abc"[rank]), "text")
        return scope.saved

    assert together.do(work) == [["text@v1"]] * SIZE
    assert together.stores[0].get("text").stored.step == "train"


def test_outside_of_steps_each_saves_what_it_is_told_to(together: Together) -> None:
    refs = together.do(lambda rank, store: str(store.save([rank], "mine").ref))
    assert sorted(refs) == ["mine@v1", "mine@v2", "mine@v3"]


def test_a_materializer_that_cannot_tell_is_named(together: Together) -> None:
    for error in together.save(*[Half("unsure")] * SIZE):
        assert isinstance(error, MaterializationError)
        assert "'test.half' failed to say whether other processes hold parts" in str(error)
        assert "RuntimeError: can't tell" in str(error)


def test_a_single_process_saves_by_itself(together: Together) -> None:
    assert together.stores[0].save(Half("alone"), "text").version == "v1"
    assert together.stores[0].load("text") == "alone"


@pytest.mark.parametrize("folder", ["staging", "jobs"])
def test_what_killed_processes_left_is_removed_unless_somebody_writes_there(
    store: Store, folder: str
) -> None:
    store.save(1, "n")
    for name in ("left", "in use"):
        (store.path / folder / name / "tensors").mkdir(parents=True)
        (store.path / folder / name / "tensors" / "0.pt").write_bytes(b"half of")
    (store.path / folder / "a file").write_bytes(b"")
    for path in (store.path / folder).rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    os.utime(store.path / folder / "in use" / "tensors" / "0.pt")
    assert store.gc().unfinished == 2
    assert [path.name for path in (store.path / folder).iterdir()] == ["in use"]
