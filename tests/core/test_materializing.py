"""What a materializer and the store agree on: formats, files of earlier versions, damage, bars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowyml
from flowyml import Store, adapters
from flowyml.digests import digest_of_bytes
from flowyml.errors import IntegrityError, MaterializationError
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult


def files(store: Store, folder: str) -> list[Path]:
    return sorted(path for path in (store.path / folder).rglob("*") if path.is_file())


def test_a_format_is_preferred_per_save_and_per_store(tmp_path: Path, toy: Any) -> None:
    store = Store(tmp_path / "s", format="compact")
    assert store.save(toy([1.0]), "m").stored.format == "compact"
    assert store.save(toy([1.0]), "m", format="toy").stored.format == "toy"
    assert store.save([1], "l").stored.format == "json"  # has no such format, and needs none
    ordered = Store(tmp_path / "s", format=["npy", "compact", "toy"])
    assert ordered.save(toy([1.0]), "m").stored.format == "compact"
    with pytest.raises(ValueError, match=r"No installed adapter has a format 'onnx'; there are "):
        Store(tmp_path / "s", format="onnx")
    with pytest.raises(TypeError, match="names of formats; got a int"):
        Store(tmp_path / "s", format=[3])


def test_what_a_materializer_does_not_heed_is_refused(store: Store, toy: Any) -> None:
    store.save(toy([1.0]), "m")
    with pytest.raises(MaterializationError, match="class_map= has no meaning for m@v1"):
        store.load("m", class_map={"old.Toy": toy})
    with pytest.raises(MaterializationError, match="can't be loaded as 'onnx'; it can as 'toy'"):
        store.load("m", format="onnx")
    with pytest.raises(TypeError, match="class_map= takes classes"):
        store.load("m", class_map={"old.Toy": "new.Toy"})
    assert store.load("m", format="toy").weights == [1.0]


class Growing(Materializer):
    """Writes one file per item, and only those that the version before doesn't have."""

    key = "growing.items"
    formats = ("items",)

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Items)

    def save(self, obj: Items, folder: Path, options: SaveOptions) -> SaveResult:
        earlier = options.earlier()
        options.expect(sum(map(len, obj)))
        for item in obj:
            name = f"{item[0]}-{len(item)}.txt"
            if earlier and name in earlier.files() and earlier.keep(name):
                continue
            (folder / name).write_text(item)
            options.done(folder / name)
        return SaveResult(content=(digest_of_bytes("".join(obj).encode()),))

    def load(self, saved: Saved, options: LoadOptions) -> Items:
        return Items(path.read_text() for path in saved.files.values())

    def blame(self, saved: Saved, path: str) -> str:
        assert saved.files.keys() >= {path}
        return f"the item {path[0]}"


class Items(list[str]):
    pass


@pytest.fixture
def growing(fresh_adapters: None) -> None:
    class Adapter:
        @flowyml.hookimpl
        def flowyml_register_materializers(self) -> list[Materializer]:
            return [Growing()]

    adapters.register(Adapter(), name="growing")


def test_a_version_refers_to_files_of_the_one_before(store: Store, growing: None) -> None:
    large = "b" * 2_000_000
    store.save(Items(["aa", large]), "m")
    before = store.stats().stored
    second = store.save(Items(["aa", large, "c"]), "m")
    assert store.stats().stored == before + 1
    assert store.load("m") == ["aa", large, "c"]
    assert store.save(Items(["aa", large, "c"]), "m").digest == second.digest
    store.delete("m@v1")
    store.gc(grace=0)
    assert store.load("m@v2") == ["aa", large, "c"]


def test_a_damaged_file_is_written_anew_and_not_referred_to(store: Store, growing: None) -> None:
    store.save(Items(["aa"]), "m")
    (blob,) = files(store, "blobs")
    blob.chmod(0o644)
    blob.write_text("ab")
    store.save(Items(["aa"]), "m")
    assert store.load("m") == store.load("m@v1") == ["aa"]


def test_damage_is_told_in_the_words_of_its_materializer(store: Store, growing: None) -> None:
    store.save(Items(["aa", "bbb"]), "m")
    for blob in files(store, "blobs"):
        if blob.read_text() == "bbb":
            blob.chmod(0o644)
            blob.write_text("bbc")
    told = r"m@v1, file 'b-3.txt', is damaged: .* Damaged in it: the item b\."
    with pytest.raises(IntegrityError, match=told):
        store.load("m")
    with pytest.raises(IntegrityError, match=told):
        store.verify()
    store.save(Items(["cc"]), "n")
    assert store.verify("n").files == 1


TERMINAL = """
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    from flowyml import Store, progress
    progress._LONG, progress._DELAY = 1, 0.0
    store = Store("s")
    store.save(["x"] * 1000, "m")
    store.load("m")
    store.verify()
    store.export("m", "out")
    sys.exit(0)
shown = b""
try:
    while part := os.read(terminal, 4096):
        shown += part
except OSError:
    pass
print([word for word in ("Saving m", "Loading m@v1", "Verifying", "Exporting m@v1")
       if word.encode() in shown], os.waitpid(pid, 0)[1])
"""


def test_long_operations_show_a_bar_on_a_terminal_and_nothing_elsewhere(
    run_python: Callable[..., str], capfd: pytest.CaptureFixture[str], store: Store
) -> None:
    shown = run_python(TERMINAL, TERM="xterm")
    assert shown == "['Loading m@v1', 'Verifying', 'Exporting m@v1'] 0\n"
    store.save(b"".join([b"x"] * 3).decode() * 30_000_000, "m")
    store.verify()
    assert capfd.readouterr() == ("", "")
