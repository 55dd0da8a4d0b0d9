import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from flowyml import Store, adapters, hookimpl
from flowyml.errors import (
    AdapterWarning,
    AssetNotFoundError,
    IntegrityError,
    MaterializationError,
    StoreError,
)
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult
from flowyml.store.backend import LocalDirectory


def files(store: Store, folder: str = "") -> list[Path]:
    return sorted(path for path in (store.path / folder).rglob("*") if path.is_file())


def test_nothing_is_made_until_something_is_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.names() == []
    assert store.versions("x") == []
    assert store.verify().files == 0
    with pytest.raises(AssetNotFoundError, match="holds no 'x'. It holds: nothing yet"):
        store.load("x")
    assert not store.path.exists()


def test_the_layout_on_disk(store: Store) -> None:
    store.save({"a": 1}, "numbers")
    store.save({"a": 2}, "numbers")
    names = [str(path.relative_to(store.path)) for path in files(store)]
    assert [name for name in names if not name.startswith("blobs/")] == [
        ".gitignore", "assets/numbers/v1.json", "assets/numbers/v2.json", "store.json",
    ]  # fmt: skip
    assert len(files(store, "blobs")) == 2
    assert (store.path / ".gitignore").read_text() == "*\n"
    assert json.loads((store.path / "store.json").read_text()) == {"layout": 1}
    for blob in files(store, "blobs"):
        digest = blob.parent.name + blob.name
        assert blake3.blake3(blob.read_bytes()).hexdigest() == digest
        assert not blob.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert not list((store.path / "staging").iterdir())


def test_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store.default().path == tmp_path / ".flowyml"
    monkeypatch.setenv("FLOWYML_STORE", str(tmp_path / "elsewhere"))
    assert Store.default().path == tmp_path / "elsewhere"


def test_names_and_versions(store: Store) -> None:
    for name in ("b", "a", "b"):
        store.save(1, name)
    assert store.names() == ["a", "b"]
    assert store.versions("b") == ["v1", "v2"]
    assert store.versions("c") == []


def test_the_newest_version_is_the_highest_number(store: Store) -> None:
    for number in range(1, 12):
        store.save(number, "n")
    assert store.load("n") == 11
    assert store.load("n@v9") == 9
    assert store.versions("n")[-2:] == ["v10", "v11"]


def test_missing_names_and_versions_are_told_with_what_is_there(store: Store) -> None:
    store.save(1, "n")
    with pytest.raises(AssetNotFoundError, match="holds no 'm'. It holds: n"):
        store.get("m")
    with pytest.raises(AssetNotFoundError, match="holds no n@v2. Of 'n' it holds: v1"):
        store.load("n@v2")
    with pytest.raises(LookupError):
        store.load("n@v2")


def test_what_no_materializer_handles_is_said_by_type_and_nothing_is_made(store: Store) -> None:
    with pytest.raises(MaterializationError, match="No materializer handles a set"):
        store.save({1}, "s")
    assert store.names() == []


def test_an_unknown_format_names_the_known_ones(store: Store, toy: Any) -> None:
    with pytest.raises(MaterializationError, match="format 'zip'; it can in 'toy', 'compact'"):
        store.save(toy([]), "m", format="zip")
    assert store.save(toy([]), "m", format="compact").stored.format == "compact"


def test_a_name_is_needed(store: Store) -> None:
    with pytest.raises(TypeError, match="a name has to be a string"):
        store.save(1)


def test_files_in_folders_and_details_come_back(store: Store, toy: Any) -> None:
    asset = store.save(toy([1.0, 2.0]), "m")
    assert [file.path for file in asset.stored.files] == ["format.txt", "parts/weights.json"]
    assert store.load("m").weights == [1.0, 2.0]


def test_equal_content_has_one_digest_and_is_stored_once(store: Store, toy: Any) -> None:
    first = store.save(toy([1.0]), "a")
    before = files(store, "blobs")
    second = store.save(toy([1.0]), "b")
    third = store.save(toy([2.0]), "b")
    assert first.digest == second.digest != third.digest
    assert len(files(store, "blobs")) == len(before) + 1


def test_a_damaged_blob_is_healed_by_saving_the_content_again(store: Store) -> None:
    store.save([1, 2, 3], "n")
    (blob,) = files(store, "blobs")
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[::-1])
    store.save([1, 2, 3], "n")
    assert blob.read_bytes() == content
    store.verify()


def test_get_has_everything_but_the_data(store: Store, toy: Any) -> None:
    saved = store.save(toy([1.0]), "m")
    read = store.get("m")
    assert read.data is None
    assert read.stored == saved.stored
    assert read.stored.type == "conftest.Toy" or read.stored.type.endswith(".Toy")


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "ä", [1, (2, 3)], {"a": {1: None}}, 10**30])
def test_jsonable_values_come_back_equal_and_of_their_type(store: Store, value: object) -> None:
    store.save(value, "v")
    assert store.load("v") == value
    assert type(store.load("v")) is type(value)


@settings(max_examples=50, deadline=None)
@given(array=hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_numpy_arrays_come_back_bit_for_bit(
    array: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    store.save(array, "a")
    back = store.load("a")
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_numpy_scalars_and_fortran_order(store: Store) -> None:
    store.save(np.float32(0.1), "s")
    assert type(store.load("s")) is np.float32
    store.save(np.asfortranarray(np.ones((2, 3))), "f")
    assert store.load("f").flags.f_contiguous


def test_a_loaded_array_can_be_changed_without_changing_the_file(store: Store) -> None:
    store.save(np.zeros(3), "a")
    array = store.load("a")
    array[:] = 1
    assert store.load("a").tolist() == [0, 0, 0]
    store.verify()


def test_arrays_of_objects_are_not_pickled(store: Store) -> None:
    with pytest.raises(MaterializationError, match="No materializer handles a numpy.ndarray"):
        store.save(np.array([object()]), "o")


def test_into_and_device_mean_nothing_for_json(store: Store) -> None:
    store.save(1, "n")
    with pytest.raises(MaterializationError, match="into= has no meaning for n@v1"):
        store.load("n", into=[])


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not a store: .* but 'notes.txt'"):
        Store(tmp_path).save(1, "n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file; a store is a directory"):
        Store(tmp_path / "file").save(1, "n")


def test_a_newer_layout_is_refused(store: Store) -> None:
    store.save(1, "n")
    (store.path / "store.json").unlink()
    (store.path / "store.json").write_text('{"layout": 2}')
    with pytest.raises(StoreError, match="has the layout 2; this flowyml knows layout 1"):
        Store(store.path).load("n")


def test_a_save_that_fails_leaves_nothing_behind(store: Store, toy: Any, monkeypatch: Any) -> None:
    store.save(toy([1.0]), "m")
    before = files(store)

    def fail(self: object, staged: Path, key: str) -> bool:
        if key.startswith("assets/"):
            raise OSError(28, "No space left on device")
        return publish(self, staged, key)

    publish = LocalDirectory.publish
    with monkeypatch.context() as patched:
        patched.setattr(LocalDirectory, "publish", fail)
        with pytest.raises(StoreError, match="No space left on device.*Nothing of it became"):
            store.save(toy([2.0]), "m")
    assert store.versions("m") == ["v1"]
    assert set(before) <= set(files(store))
    assert store.load("m").weights == [1.0]
    assert not list((store.path / "staging").iterdir())


def test_threads_and_processes_save_one_name_without_a_race(store: Store) -> None:
    threads = [
        threading.Thread(target=lambda: [store.save(i, "n") for i in range(10)]) for _ in range(4)
    ]
    code = f"from flowyml import Store\nfor i in range(10): Store({str(store.path)!r}).save(i, 'n')"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert store.versions("n") == [f"v{number}" for number in range(1, 71)]
    assert sorted(store.load(f"n@{version}") for version in store.versions("n")) == sorted(
        [*range(10)] * 7
    )


KILLED = """
import sys, os, signal
from flowyml import Store
from flowyml.store import backend
count = int(sys.argv[1])
real = os.fsync
def fsync(descriptor):
    global count
    count -= 1
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
Store("store").save(list(range(int(sys.argv[1]), 1000)), "n")
"""


def test_a_process_killed_at_any_sync_leaves_no_half_version(tmp_path: Path) -> None:
    Store(tmp_path / "store").save([0], "n")
    survived = 0
    for syncs in range(30):
        done = subprocess.run([sys.executable, "-c", KILLED, str(syncs)], cwd=tmp_path, check=False)
        store = Store(tmp_path / "store")
        store.verify()
        assert store.load("n@v1") == [0]
        for version in store.versions("n")[1:]:
            assert store.load(f"n@{version}")[-1] == 999
        if done.returncode == 0:
            survived += 1
            break
    assert survived, "the save never ran to its end, so not every moment was tried"
    assert syncs > 3


def test_reading_metadata_imports_no_framework(
    store: Store, toy: Any, run_python: Callable[..., str]
) -> None:
    store.save(np.zeros(3), "array")
    code = f"""
import sys
from flowyml import Store
store = Store({str(store.path)!r})
print(store.get("array").stored.type, store.names(), store.versions("array"), store.verify().files)
print({{"numpy", "torch", "flowyml_pytorch", "flowyml.builtin"}} & set(sys.modules))
"""
    assert run_python(code) == "numpy.ndarray ['array'] ['v1'] 1\nset()\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root can't write")
def test_a_read_only_folder_is_told() -> None:
    with pytest.raises(StoreError, match="/proc/self/store can't be made"):
        Store("/proc/self/store").save(1, "n")


def test_a_version_is_exported_as_a_plain_folder(store: Store, toy: Any, tmp_path: Path) -> None:
    store.save(toy([1.0, 2.0]), "m")
    folder = store.export("m", tmp_path / "out" / "m")
    assert json.loads((folder / "parts" / "weights.json").read_text()) == [1.0, 2.0]
    assert json.loads((folder / "manifest.json").read_text())["version"] == "v1"
    assert [path.name for path in folder.parent.iterdir()] == ["m"]
    with pytest.raises(StoreError, match="exists already; choose a new folder"):
        store.export("m", folder)
    for blob in files(store, "blobs"):
        blob.chmod(0o644)
        blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(IntegrityError):
        store.export("m", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_files_of_other_programs_in_the_store_are_ignored(store: Store) -> None:
    store.save(1, "n")
    (store.path / "assets" / ".DS_Store").write_text("")
    (store.path / "assets" / "a b").mkdir()
    for stray in ("._v1.json", "foo bar.json", "\u00b2.json", "notes.txt"):
        (store.path / "assets" / "n" / stray).write_text("{")
    assert store.names() == ["n"]
    assert store.versions("n") == ["v1"]
    assert store.verify().versions == 1
    assert store.save(2, "n").version == "v2"


def test_many_processes_may_make_one_store_at_once(tmp_path: Path) -> None:
    code = "from flowyml import Store; import sys; Store(sys.argv[1]).save(1, 'n')"
    for attempt in range(5):
        path = str(tmp_path / f"store{attempt}")
        processes = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(6)]
        assert [process.wait(60) for process in processes] == [0] * 6
        assert len(Store(path).versions("n")) == 6


def test_a_folder_of_the_store_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.save(1, "n")
    (store.path / "assets" / "m").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="isn't a plain folder"):
        store.save(1, "m")
    assert list((tmp_path / "elsewhere").iterdir()) == []


class Careless:
    """What a materializer of a third party may do wrong."""

    def __init__(self, mistake: Any) -> None:
        self.mistake = mistake


@pytest.mark.parametrize(
    "mistake",
    [
        lambda folder: (folder / "my file.bin").write_text(""),
        lambda folder: SaveResult(restore="foo"),  # type: ignore[arg-type]
        lambda folder: SaveResult(required_trust=[1]),  # type: ignore[arg-type]
        lambda folder: SaveResult(details={"x": object()}),
        lambda folder: None,
        lambda folder: 1 / 0,
        lambda folder: sys.exit(3),
    ],
)
def test_a_careless_materializer_is_told_when_saving(store: Store, mistake: Any) -> None:
    class CarelessMaterializer(Materializer):
        key = "careless.thing"
        formats = ("x",)

        def detect(self, obj: object) -> bool:
            return isinstance(obj, Careless)

        def save(self, obj: Careless, folder: Path, options: SaveOptions) -> SaveResult:
            result = obj.mistake(folder)
            return SaveResult() if isinstance(result, int) else result

        def load(self, saved: Saved, options: LoadOptions) -> None: ...

    class Plugin:
        @hookimpl
        def flowyml_register_materializers(self) -> list[Materializer]:
            return [CarelessMaterializer()]

    adapters.register(Plugin(), "careless")
    with pytest.raises(MaterializationError, match=r"careless\.thing"):
        store.save(Careless(mistake), "m")
    assert store.versions("m") == []


def test_a_materializer_that_exits_is_told(store: Store, toy: Any, monkeypatch: Any) -> None:
    def exit(*arguments: Any) -> Any:
        sys.exit("no licence")

    materializer = adapters.materializer("toy.model")
    store.save(toy([1.0]), "m")
    monkeypatch.setattr(materializer, "load", exit)
    with pytest.raises(MaterializationError, match="'toy.model' failed with SystemExit: no lic"):
        store.load("m")
    monkeypatch.setattr(materializer, "can_save", exit)
    preferring = Store(store.path, format="compact")
    with pytest.warns(AdapterWarning, match="failed to say .* 'compact', which counts as no"):
        asset = preferring.save(toy([1.0]), "m")
    assert asset.stored is not None
    assert asset.stored.format == "toy"


def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(store: Store) -> None:
    for number in range(3):
        store.save(["content", number], "n")
    store.delete("n@v3")
    assert store.versions("n") == ["v1", "v2"]
    with pytest.raises(AssetNotFoundError):
        store.load("n@v3")
    with pytest.raises(AssetNotFoundError, match="holds no n@v3"):
        store.delete("n@v3")
    assert store.save(1, "n").version == "v4"
    with pytest.raises(ValueError, match="Say which version to delete, as in 'n@v1'"):
        store.delete("n")


def test_collecting_removes_what_nothing_refers_to_and_nothing_else(store: Store) -> None:
    store.save(["only here"], "a")
    store.save(["shared"], "a")
    store.save(["shared"], "b")
    store.delete("a@v1")
    store.delete("a@v2")
    assert store.gc().blobs == 0  # too young: somebody may be about to refer to them
    collected = store.gc(grace=0)
    assert (collected.blobs, collected.unfinished) == (1, 0)
    assert collected.size > 0
    assert store.load("b") == ["shared"]
    assert len(files(store, "blobs")) == 1
    store.verify()


def test_collecting_removes_what_a_killed_save_left(store: Store) -> None:
    store.save([0], "n")
    subprocess.run([sys.executable, "-c", KILLED, "2"], cwd=store.path.parent, check=False)
    assert list((store.path / "staging").iterdir())
    assert store.gc().unfinished == 0
    assert store.gc(grace=0).unfinished == 1
    assert not list((store.path / "staging").iterdir())


def test_nothing_is_collected_where_a_manifest_is_damaged(store: Store) -> None:
    store.save(["a"], "a")
    path = store.path / "assets" / "a" / "v1.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(IntegrityError, match=r"Nothing was removed.*a@v1"):
        store.gc(grace=0)
    assert len(files(store, "blobs")) == 1


def test_collecting_while_others_save_loses_nothing(store: Store) -> None:
    code = (
        "from flowyml import Store; import sys\n"
        "for i in range(25): Store(sys.argv[1]).save(['same', i % 3], sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    processes = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    while any(process.poll() is None for process in processes):
        for name in store.names():
            for version in store.versions(name)[:-1]:
                store.delete(f"{name}@{version}")
        store.gc(grace=5)
    assert [process.returncode for process in processes] == [0, 0]
    store.verify()
    assert store.load("a") == store.load("b") == ["same", 0]


def test_statistics_tell_what_is_shared(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.save(list(range(1000)), name)
    stats = store.stats()
    assert (stats.versions, stats.blobs) == (3, 1)
    assert stats.logical == 3 * stats.stored > 0


def test_a_version_moves_to_another_store(store: Store, toy: Any, tmp_path: Path) -> None:
    saved = store.save(toy([1.0, 2.0]), "m")
    folder = store.export("m", tmp_path / "m")
    other = Store(tmp_path / "other")
    taken = other.import_(folder)
    assert (taken.ref, taken.digest, taken.stored) == ("m@v1", saved.digest, saved.stored)
    assert other.load("m").weights == [1.0, 2.0]
    assert other.import_(folder).ref == "m@v1"  # it is there already
    assert other.import_(folder, name="copy").ref == "copy@v1"
    other.save(toy([3.0]), "taken")
    with pytest.raises(StoreError, match=r"has a taken@v1 of other content.*name="):
        other.import_(folder, name="taken")
    (folder / "format.txt").write_text("changed")
    with pytest.raises(IntegrityError, match=r"format\.txt isn't what was exported"):
        other.import_(folder, name="damaged")
    assert "damaged" not in other.names()
    with pytest.raises(StoreError, match="can't be imported"):
        other.import_(tmp_path / "nowhere")


def test_a_blob_that_a_saver_marks_while_it_is_collected_is_put_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(["content"], "a")
    store.delete("a@v1")
    (blob,) = files(store, "blobs")
    # The collector has looked, and thinks the blob old; since then a saver has marked it.
    age = LocalDirectory.age
    monkeypatch.setattr(
        LocalDirectory,
        "age",
        lambda self, key: 1e9 if key.startswith("blobs/") else age(self, key),
    )
    assert store.gc(grace=60).blobs == 0
    assert blob.exists()
    os.utime(blob, (0, 0))
    assert store.gc(grace=60).blobs == 1
    assert not blob.exists()


def test_refs_name_everything_in_order(store: Store) -> None:
    assert store.refs() == []
    for name in ("b", "a", "b"):
        store.save(1, name)
    assert store.refs() == ["a@v1", "b@v1", "b@v2"]


def test_a_version_that_another_process_adds_meanwhile_is_seen(store: Store) -> None:
    other = Store(store.path)
    store.save(1, "n")
    store.save(2, "n")
    other.save(3, "n")
    other.save(4, "n")
    assert store.save(5, "n").version == "v5"
    other.delete("n@v5")
    assert store.save(6, "n").version == "v6"
    assert other.save(7, "n").version == "v7"


def test_a_thousand_versions_are_saved_as_fast_as_ten(store: Store) -> None:
    listed: list[str] = []
    keys = store._backend.keys
    store._backend.keys = lambda folder: (listed.append(folder), keys(folder))[1]  # type: ignore[method-assign, func-returns-value]
    for number in range(20):
        store.save(number, "n")
    assert listed.count("assets/n") <= 4


def test_tables_of_a_thousand_columns_and_of_any_names_come_back(store: Store) -> None:
    wide = np.zeros(2, [(f"column_{number}", "f8") for number in range(1_000)])
    named = np.ones(2, [("größe", "i4")])
    for number, array in enumerate((wide, named)):
        store.save(array, f"table{number}")
        assert np.array_equal(store.load(f"table{number}"), array)
