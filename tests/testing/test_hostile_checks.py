"""The conformance kit's checks of damage, strangers and sudden ends, on good and faulty adapters.

Each faulty adapter differs from the good one in one thing that real adapters get wrong.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import importlib
import io
import json
import mmap
import os
import pickle
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flowyml import Store, hookimpl
from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult
from flowyml.store import saving
from flowyml.store.blobs import Blobs
from flowyml.testing import ConformanceError, Subject, durability, forging, hostility, zipping
from flowyml.testing.artifacts import artifacts
from flowyml.testing.damage import cuts, flips, offsets, spread, varied
from flowyml.testing.durability import (
    check_concurrent_savers_lose_nothing,
    check_errors_are_clear,
    check_flipped_bytes_are_refused,
)
from flowyml.testing.folders import (
    check_loading_leaves_the_files_alone,
    check_saving_writes_only_into_its_folder,
)
from flowyml.testing.hostility import check_hostile_files_are_refused
from flowyml.testing.killing import check_a_killed_save_leaves_nothing_half_written
from flowyml.testing.rewriting import other_data

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the checks kill processes")


# ------------------------------------------------------------------------------ a good adapter


class Toy:
    """A model: weights, and how often each is used."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class ToyMaterializer(Materializer):
    """Writes JSON, or a zip archive with JSON in it, and believes nothing that it reads."""

    key = "toy.model"
    formats: ClassVar[tuple[str, ...]] = ("json", "zip")
    types = ("Toy",)
    unparsable: ClassVar[tuple[type[Exception], ...]] = (ValueError, RecursionError)

    def detect(self, obj: object) -> bool:
        return isinstance(obj, Toy)

    def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
        content = self.content(obj)
        if options.format == "zip":
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                archive.writestr(zipfile.ZipInfo("model.json"), content)
            content = stream.getvalue()
        (folder / f"model.{options.format}").write_bytes(content)
        return SaveResult(details={"count": len(obj.weights)})

    def content(self, obj: Toy) -> bytes:
        return json.dumps({"type": "toys:Toy", "weights": obj.weights}).encode()

    def load(self, saved: Saved, options: LoadOptions) -> Toy:
        path = saved.files.get(f"model.{saved.format}")
        if path is None:
            return self.unfit("the file is missing")
        content = path.read_bytes()
        if saved.format == "zip":
            content = self.unzipped(content)
        try:
            data = self.parsed(content)
        except self.unparsable:
            return self.unfit("no JSON")
        weights = data.get("weights") if isinstance(data, dict) else None
        if not isinstance(weights, list) or len(weights) != saved.result.details.get("count"):
            return self.unfit("no weights")
        if any(type(weight) is not float for weight in weights):
            return self.unfit("weights that are no numbers")
        return self.built(data)

    def unzipped(self, content: bytes) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                self.check_members(archive.infolist())
                return archive.read("model.json")
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError, NotImplementedError):
            self.unfit("no archive")
            raise

    def check_members(self, members: list[zipfile.ZipInfo]) -> None:
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            self.unfit("something compressed")

    def parsed(self, content: bytes) -> Any:
        return json.loads(content)

    def built(self, data: Mapping[str, Any]) -> Toy:
        return Toy(data["weights"])

    def unfit(self, why: str) -> Any:
        raise MaterializationError(f"model.json or model.zip is unfit: {why}")


class Adapter:
    """The plugin of a toy adapter."""

    api_version = 1

    def __init__(self, materializer: type[Materializer]) -> None:
        self.materializer = materializer

    @hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [self.materializer()]


class ToySubject(Subject):
    """A toy adapter with some materializer, to be tested."""

    framework = "toy"
    Own: ClassVar[type[Materializer]] = ToyMaterializer
    adapter: ClassVar[Adapter]

    def __init_subclass__(cls) -> None:
        cls.plugin = f"{cls.__module__}:{cls.__qualname__}.adapter"
        cls.adapter = Adapter(cls.Own)

    def make_model(self) -> Toy:
        return Toy([float(number) for number in range(100)])

    def change_model(self, model: Toy) -> Toy:
        model.weights[0] += 1
        return model

    def predict(self, model: Toy) -> list[float]:
        return [2 * weight for weight in model.weights]


class Good(ToySubject):
    pass


def refused(check: Callable[[Subject], None], subject: type[Subject]) -> str:
    """Return what a check says against an adapter."""
    with pytest.raises(ConformanceError) as caught:
        check(subject())
    return str(caught.value)


@pytest.mark.parametrize(
    "check",
    [
        check_flipped_bytes_are_refused,
        check_hostile_files_are_refused,
        check_a_killed_save_leaves_nothing_half_written,
        check_concurrent_savers_lose_nothing,
        check_errors_are_clear,
        check_saving_writes_only_into_its_folder,
        check_loading_leaves_the_files_alone,
    ],
)
def test_a_good_adapter_passes(check: Callable[[Subject], None]) -> None:
    check(Good())


# ------------------------------------------------------------------------------ strangers


class Unpickling(ToySubject):
    class Own(ToyMaterializer):
        def parsed(self, content: bytes) -> Any:
            try:
                return json.loads(content)
            except ValueError:
                return pickle.loads(content)  # noqa: S301  (the fault)


def test_an_adapter_that_unpickles_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Unpickling)
    assert "Code that it names or holds was run. Don't unpickle" in text
    assert " - json: 'model.json' is a pickle of protocol 0 that calls os.mkdir: os.mkdir" in text
    assert text.count("pickle of protocol") == 3, "once for what is called, and where"
    assert "... and" in text
    assert text.count("Don't unpickle") == 1


class UnpicklingMembers(ToySubject):
    class Own(ToyMaterializer):
        formats = ("zip",)

        def parsed(self, content: bytes) -> Any:
            if content[:1] == b"\x80":
                return pickle.loads(content)  # noqa: S301  (the fault)
            return json.loads(content)


def test_an_adapter_that_unpickles_a_member_of_an_archive_is_found() -> None:
    text = refused(check_hostile_files_are_refused, UnpicklingMembers)
    assert "'model.zip' has a member 'model.json' that is a pickle of protocol 2 that" in text


class Importing(ToySubject):
    class Own(ToyMaterializer):
        def built(self, data: Mapping[str, Any]) -> Toy:
            module, _, name = data["type"].partition(":")
            if module == "toys":
                return Toy(data["weights"])
            return getattr(importlib.import_module(module), name)(data["weights"])  # type: ignore[no-any-return]


def test_an_adapter_that_calls_what_a_file_names_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Importing)
    assert "is JSON in which ['type'] is 'flowyml_strange_module:run': called" in text
    assert "is JSON in which ['type'] is 'flowyml_known_module:Made': made" in text


class Starting(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            os.system("true")  # noqa: S605, S607  (the fault)
            super().unfit(why)


def test_an_adapter_that_starts_programs_on_loading_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Starting)
    assert "Code that it names or holds was run." in text
    assert "calls os.mkdir: os.system" in text


class Believing(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            return Toy([])


def test_an_adapter_that_takes_anything_for_a_model_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Believing)
    assert "load() gave back an object, as if nothing were wrong. Raise MaterializationE" in text
    assert "calls os.mkdir: a " in text


class Recursing(ToySubject):
    class Own(ToyMaterializer):
        unparsable = (ValueError,)


def test_an_adapter_that_recurses_without_bounds_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Recursing)
    assert "recursed too deep. Catch RecursionError where you parse" in text
    assert "'model.json' is JSON of 100,000 lists in one another: RecursionError: " in text


class Exiting(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            sys.exit(why)


def test_an_adapter_that_exits_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Exiting)
    assert "called sys.exit(). Raise MaterializationError" in text
    assert "calls os.mkdir: SystemExit: no JSON" in text


class Stop(BaseException):
    """What no handler of errors catches."""


class Stopping(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            raise Stop(why)


def test_what_is_no_error_is_made_one_by_the_store() -> None:
    check_hostile_files_are_refused(Stopping())


class Hanging(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            threading.Event().wait()


def test_an_adapter_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostility, "LONGEST", 1.0)
    text = refused(check_hostile_files_are_refused, Hanging)
    assert "Of 2 forged versions, 3 did harm" in text
    assert "Loading it, or predicting with it, took too long or never ended." in text
    assert "protocol 0 that calls os.mkdir: the process said Timeout (" in text
    assert "in unfit" in text, "it tells where"
    assert "protocol 0 that calls builtins.exec" in text
    assert "It wasn't tried, as too many have ended their process." in text


class Crashing(ToySubject):
    class Own(ToyMaterializer):
        def unfit(self, why: str) -> Any:
            os.abort()


def test_an_adapter_that_crashes_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Crashing)
    assert "Of 8 forged versions, 9 did harm" in text
    assert "Loading it, or predicting with it, crashed the process. Raise" in text
    assert "protocol 0 that calls os.mkdir: the process said Fatal Python error: Aborted" in text
    assert text.count("Fatal Python error") == 1
    assert "It wasn't tried, as too many have ended their process." in text


class Inflating(ToySubject):
    class Own(ToyMaterializer):
        formats = ("zip",)

        def check_members(self, members: list[zipfile.ZipInfo]) -> None:
            pass


def test_an_adapter_that_unpacks_a_bomb_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Inflating)
    assert f"has a member 'model.json' that unpacks to {zipping.BOMB:,} bytes" in text
    assert "Compare sizes that a file claims" in text


class Unpacking(ToySubject):
    class Own(ToyMaterializer):
        def unzipped(self, content: bytes) -> bytes:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name in archive.namelist():
                    if name != "model.json":
                        Path(name).write_bytes(archive.read(name))
            return super().unzipped(content)


def test_an_adapter_that_unpacks_anywhere_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Unpacking)
    assert "Loading it wrote a file." in text
    assert "has one more member, '../slipped.txt': 'slipped.txt'" in text


class Bearing(ToySubject):
    def hostile_files(self, files: Mapping[str, bytes]) -> Iterable[Mapping[str, bytes]]:
        yield dict.fromkeys(files, b"{}")
        yield files
        yield {**files, "extra": b"", "more": b""}


def test_an_authors_own_hostile_files_have_to_be_refused() -> None:
    text = refused(check_hostile_files_are_refused, Bearing)
    assert "json: number 1 of hostile_files(), which differs in nothing: a " in text
    assert "json: number 2 of hostile_files(), which differs in 'extra', 'more': a " in text
    assert "number 0" not in text


class Careless(ToySubject):
    def hostile_files(self, files: Mapping[str, bytes]) -> Iterable[Any]:
        yield {path: content.decode() for path, content in files.items() if path != "model.zip"}


class Mistaken(ToySubject):
    def hostile_files(self, files: Mapping[str, bytes]) -> Iterable[Any]:
        return [files["model.txt"]]


def test_an_authors_own_hostile_files_are_bytes_by_path() -> None:
    text = refused(check_hostile_files_are_refused, Careless)
    assert "Number 0 of hostile_files() has 'model.json': str, where {path: bytes} is due" in text


def test_an_authors_own_hostile_files_may_fail_and_are_told() -> None:
    text = refused(check_hostile_files_are_refused, Mistaken)
    assert "hostile_files() failed with KeyError: 'model.txt'. It gets {path: bytes}" in text


class Evaluating(ToySubject):
    class Own(ToyMaterializer):
        def built(self, data: Mapping[str, Any]) -> Toy:
            if data.get("type") != "toys:Toy":
                eval(data["type"], {"__builtins__": {}})  # noqa: S307  (the fault)
            return super().built(data)


def test_an_adapter_that_evaluates_a_text_is_found_though_it_has_no_builtins() -> None:
    text = refused(check_hostile_files_are_refused, Evaluating)
    assert "['type'] is an expression that calls os.mkdir: os.mkdir" in text


class Decoding(ToySubject):
    class Own(ToyMaterializer):
        decode = staticmethod(base64.b64decode)

        def built(self, data: Mapping[str, Any]) -> Toy:
            if data.get("type") != "toys:Toy":
                pickle.loads(self.decode(data["type"]))  # noqa: S301  (the fault)
            return super().built(data)


class DecodingDigits(Decoding):
    class Own(Decoding.Own):
        decode = staticmethod(bytes.fromhex)


@pytest.mark.parametrize(
    ("subject", "form"), [(Decoding, "base64"), (DecodingDigits, "hexadecimal")]
)
def test_an_adapter_that_unpickles_a_text_is_found(subject: type[Subject], form: str) -> None:
    text = refused(check_hostile_files_are_refused, subject)
    assert f"['type'] is a pickle in {form} that calls os.mkdir: os.mkdir" in text


class Following(ToySubject):
    class Own(ToyMaterializer):
        formats = ("json",)

        def load(self, saved: Saved, options: LoadOptions) -> Toy:
            self.folder = saved.files["model.json"].parent
            return super().load(saved, options)

        def built(self, data: Mapping[str, Any]) -> Toy:
            if data.get("type") != "toys:Toy":
                self.read(data["type"])
            return super().built(data)

        def read(self, text: str) -> bytes:
            return (self.folder / text).read_bytes()


class FollowingUpwards(Following):
    class Own(Following.Own):
        def read(self, text: str) -> bytes:
            return b"" if Path(text).is_absolute() else super().read(text)


class Fetching(Following):
    class Own(Following.Own):
        def read(self, text: str) -> bytes:
            with urllib.request.urlopen(text, timeout=3) as answer:  # noqa: S310  (the fault)
                return bytes(answer.read())


@pytest.mark.parametrize(
    ("subject", "followed"),
    [
        (Following, "is the path of another file: open"),
        (FollowingUpwards, "is the path of another file, with dots: open"),
        (Fetching, "is the address of another file: open"),
        (Fetching, "is the address of a server: socket.connect"),
    ],
)
def test_an_adapter_that_follows_a_path_or_an_address_is_found(
    subject: type[Subject], followed: str
) -> None:
    text = refused(check_hostile_files_are_refused, subject)
    assert "A path or an address in it was followed. Read nothing but saved.files" in text
    assert f"['type'] {followed}" in text


class Setting(ToySubject):
    class Own(ToyMaterializer):
        def built(self, data: Mapping[str, Any]) -> Toy:
            toy = super().built(data)
            vars(toy).update(data)
            return toy


def test_an_adapter_that_sets_any_attribute_is_found() -> None:
    text = refused(check_hostile_files_are_refused, Setting)
    assert "load() gave the model an attribute by a name that it holds" in text
    assert "the whole has one more member, 'flowyml_unasked_member'" in text


class Sized(ToySubject):
    """A model with a size, which matters only when it is used."""

    class Own(ToyMaterializer):
        formats = ("json",)
        size: ClassVar[Any] = 100

        def content(self, obj: Toy) -> bytes:
            return json.dumps({"size": self.size, "weights": obj.weights}).encode()

        def built(self, data: Mapping[str, Any]) -> Toy:
            toy = super().built(data)
            toy.size = int(data["size"])  # type: ignore[attr-defined]
            return toy

    def predict(self, model: Toy) -> list[float]:
        bytearray(min(getattr(model, "size", 100), 1 << 32))
        return super().predict(model)


class SizedInWords(Sized):
    class Own(Sized.Own):
        size = "100"


class Walking(Sized):
    def predict(self, model: Toy) -> list[float]:
        if getattr(model, "size", 100) == 1_000_000:
            os.abort()
        return super().predict(model)


@pytest.mark.parametrize(
    ("subject", "size"), [(Sized, "1099511627776"), (SizedInWords, "'1099511627776'")]
)
def test_an_adapter_whose_models_do_harm_when_they_are_used_is_found(
    subject: type[Subject], size: str
) -> None:
    text = refused(check_hostile_files_are_refused, subject)
    assert "Loading it, or predicting with it, took too much memory." in text
    assert f"['size'] is {size}: MemoryError" in text


def test_what_comes_after_a_crash_is_tried_too() -> None:
    text = refused(check_hostile_files_are_refused, Walking)
    assert "['size'] is 1000000: the process said Fatal Python error: Aborted" in text
    assert "['size'] is 1099511627776: MemoryError" in text
    assert "It wasn't tried" not in text


def test_of_what_a_crashing_process_says_the_end_is_told() -> None:
    said = "Fatal Python error: Segmentation fault\n\n  File ... in load\n"
    noise = "x" * 5000
    assert hostility._told(f"{noise}{said}\nExtension modules: {noise}").endswith(said.rstrip())
    assert hostility._told(noise) == f"the process said {noise[:2000]}"


class Unsound(ToySubject):
    class Own(ToyMaterializer):
        def built(self, data: Mapping[str, Any]) -> Toy:
            raise MaterializationError("never")


def test_an_adapter_that_refuses_its_own_files_is_not_taken_for_a_safe_one() -> None:
    text = refused(check_hostile_files_are_refused, Unsound)
    assert "Loading model@v1, saved as 'json', failed with MaterializationError: never" in text


def test_forged_versions_have_right_digests_and_are_gone_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    honest = forging.read(store, store.save([1, 2], "honest"))
    before = sorted(tmp_path.rglob("*.json"))
    with forging.forged(store, honest, {"value.json": b"[3]"}, {}) as ref:
        assert store.load(ref) == [3]
        assert store.verify().versions == 2
    assert sorted(tmp_path.rglob("*.json")) == before
    assert store.load("honest") == [1, 2]


def test_artifacts_are_the_same_every_time(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr(zipfile.ZipInfo("a/data.json"), b'{"names": ["a:b", "c"], "n": 1}')
    files = {"archive.zip": archive.getvalue(), "text.json": b'[{"a": "b.c"}]'}
    first, second = ([*artifacts(files, {"x": [1]}, tmp_path / "mark")] for _ in range(2))
    assert first == second
    told = [artifact.what for artifact in first]
    assert len(set(told)) == len(told)
    for part in ("has a member 'a/data.json' that is JSON in which ['names'][0] is 'os:system'",):
        assert f"'archive.zip' {part}" in told
    assert "'text.json' is JSON in which [0]['a'] is 'os.system'" in told
    assert "in the manifest's details, ['x'][0] is -1" in told
    assert "'text.json' is JSON in which [0] has no 'a'" in told


def test_samples_of_json_are_of_every_kind_of_place(tmp_path: Path) -> None:
    nodes = [{"left": number, "name": f"n{number}"} for number in range(500)]
    data = {"nodes": nodes, "classes": "3", "then": None}
    changed = {what.partition(" is ")[0] for what, _ in other_data(data, 8, tmp_path / "mark")}
    assert {"['classes']", "['then']"} < changed
    for kind in ("left", "name"):
        assert any(where.endswith(f"['{kind}']") for where in changed)
    shown = [what for what, _ in other_data(data, 8, tmp_path / "mark")]
    assert "['classes'] is '1000000'" in shown
    assert "the whole has no 'classes'" in shown
    assert "the whole has one more member, '__class__'" in shown
    assert "['then'] is 'os.system'" in shown


# ------------------------------------------------------------------------------ damage


def test_samples_of_damage_have_both_ends_and_every_byte_of_what_is_small() -> None:
    assert offsets(b"abc", 10) == [0, 1, 2]
    found = offsets(bytes(1000), 40)
    assert (len(found), found[:16], found[-1]) == (40, [*range(16)], 999)
    assert [offset for offset, damaged in flips(b"abc", 9) if damaged != b"abc"] == [0, 1, 2]
    assert [size for size, _ in cuts(bytes(100), 4)] == [0, 25, 50, 99]
    assert [*cuts(b"", 4)] == []
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert (spread(range(10), 1), spread(range(10), 0)) == ([0], [])
    assert varied(["a.bin", "b.bin", "c.bin", "d.json"], 3) == ["a.bin", "d.json", "b.bin"]


def test_a_store_that_doesnt_compare_digests_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Blobs.checked
    monkeypatch.setattr(
        Blobs, "checked", lambda *args, **options: checked(*args, **{**options, "verify": False})
    )
    text = refused(check_flipped_bytes_are_refused, Good)
    assert "with the byte at offset 0 of 'model.json' damaged, ended with" in text
    assert "has to be an IntegrityError that names version and file" in text


class Remembering(ToySubject):
    class Own(ToyMaterializer):
        lost = 0

        def load(self, saved: Saved, options: LoadOptions) -> Toy:
            if not saved.files:
                type(self).lost += 1
            toy = super().load(saved, options)
            return Toy([weight + self.lost for weight in toy.weights])


def test_an_adapter_that_damage_changes_for_good_is_found() -> None:
    text = refused(check_flipped_bytes_are_refused, Remembering)
    assert "was damaged and mended, and predicts something else now: 0.0 became" in text


# ------------------------------------------------------------------------------ a crowd


class Scratching(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            scratch = Path(tempfile.gettempdir()) / "toy-scratch"
            scratch.mkdir(exist_ok=True)
            (scratch / f"{os.getpid()}").touch()
            until = time.monotonic() + 30
            rehearses = "rehearsal" in str(folder)
            while not rehearses and len([*scratch.iterdir()]) < 2 and time.monotonic() < until:
                time.sleep(0.001)  # so that it is no matter of luck
            toy = Toy(obj.weights if min(scratch.iterdir()).name == f"{os.getpid()}" else [7.0])
            return super().save(toy, folder, options)


def test_an_adapter_that_uses_one_place_for_all_processes_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    text = refused(check_concurrent_savers_lose_nothing, Scratching)
    assert "isn't what its process saved" in text
    assert "use no fixed path for anything" in text


def test_a_store_that_loses_a_version_of_two_savers_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save([1], "model")
    durability._check_complete(store, [["v1"], []])
    for saved_by in ([["v1"], ["v2"]], [["v1"], ["v1"]]):
        with pytest.raises(ConformanceError, match="Two processes saved 2 versions at once"):
            durability._check_complete(store, saved_by)


# ------------------------------------------------------------------------------ errors


class Disguising(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            try:
                return super().save(obj, folder, options)
            except OSError as error:
                raise RuntimeError(f"error {error.errno} in the library") from None


def test_an_adapter_whose_library_disguises_errors_is_found() -> None:
    text = refused(check_errors_are_clear, Disguising)
    assert "save() of 'toy.model' as 'json', in a folder that can't be written, raised" in text
    assert f"RuntimeError: error {errno.ENOTDIR} in the library. Raise OSError" in text
    text = refused(check_a_killed_save_leaves_nothing_half_written, Disguising)
    assert "A save as 'json' found the disk full at 0 bytes of a file and raised" in text
    assert f"error {errno.EFBIG}" in text
    assert "raise OSError from it" in text


class Silent(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            with contextlib.suppress(OSError):
                super().save(obj, folder, options)
            return SaveResult(details={"count": len(obj.weights)})


def test_an_adapter_that_overlooks_errors_is_found() -> None:
    assert "raised nothing. Raise OSError" in refused(check_errors_are_clear, Silent)
    text = refused(check_a_killed_save_leaves_nothing_half_written, Silent)
    assert "found the disk full at 0 bytes of a file. Loading model@v2 then failed with" in text


def test_a_store_that_takes_any_format_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "chosen_format", lambda *_: "json")
    text = refused(check_errors_are_clear, Good)
    assert "Saving in an unknown format has to raise MaterializationError; nothing" in text


# ------------------------------------------------------------------------------ sudden ends


class Locking(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            lock = Path(tempfile.gettempdir()) / "toy.lock"
            lock.touch(exist_ok=False)
            try:
                return super().save(obj, folder, options)
            finally:
                lock.unlink()


def test_an_adapter_whose_lock_stays_when_it_is_killed_is_found() -> None:
    text = refused(check_a_killed_save_leaves_nothing_half_written, Locking)
    assert "A save as 'json' was killed just before " in text
    assert "toy.lock" in text
    assert "needs no file that an earlier save may have left, such as a lock" in text


class Sharing(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            Path("shared.json").write_text(json.dumps(obj.weights))
            return super().save(obj, folder, options)

        def built(self, data: Mapping[str, Any]) -> Toy:
            return Toy(json.loads(Path("shared.json").read_text()))


def test_an_adapter_that_keeps_weights_outside_of_the_store_is_found() -> None:
    text = refused(check_a_killed_save_leaves_nothing_half_written, Sharing)
    assert "and model@v1 isn't what was saved" in text or "Loading model@v1 then failed" in text
    text = refused(check_saving_writes_only_into_its_folder, Sharing)
    assert "changed more than the folder that it is given: open of " in text
    assert "here/shared.json" in text


class Overwriting(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            earlier = options.earlier()
            path = earlier.open(f"model.{options.format}") if earlier else None
            if path is not None:
                path.chmod(0o644)
                path.write_bytes(self.content(obj))
            return super().save(obj, folder, options)


def test_an_adapter_that_writes_into_earlier_versions_is_found() -> None:
    text = refused(check_a_killed_save_leaves_nothing_half_written, Overwriting)
    assert "Verifying then failed with IntegrityError: model@v1, file 'model.json'," in text
    assert "leaves files of earlier versions alone" in text


class Threaded(ToySubject):
    def make_model(self) -> Toy:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().make_model()


class ThreadedAndLocking(Threaded):
    Own = Locking.Own


def test_processes_with_threads_are_started_anew_and_killed() -> None:
    text = refused(check_a_killed_save_leaves_nothing_half_written, ThreadedAndLocking)
    assert "was killed just before " in text


def test_a_good_adapter_with_threads_passes() -> None:
    check_a_killed_save_leaves_nothing_half_written(Threaded())


# ------------------------------------------------------------------------------ whose files


class Caching(ToySubject):
    class Own(ToyMaterializer):
        def load(self, saved: Saved, options: LoadOptions) -> Toy:
            toy = super().load(saved, options)
            (saved.files[f"model.{saved.format}"].parent / "cache").write_text("again")
            return toy


def test_an_adapter_that_writes_when_it_loads_is_found() -> None:
    text = refused(check_loading_leaves_the_files_alone, Caching)
    assert "load() of 'toy.model' changed a file or folder: open of " in text
    assert "/cache. Stored files are read-only" in text


class Mapped(list[float]):
    """Weights, the changes of which reach a file."""

    def __init__(self, weights: list[float], path: Path) -> None:
        super().__init__(weights)
        libc = ctypes.CDLL(None)  # as a library in C would: Python doesn't announce that
        libc.chmod(os.fsencode(path), 0o644)
        self._file = mmap.mmap(libc.open(os.fsencode(path), os.O_RDWR), 0)

    def __setitem__(self, key: Any, item: Any) -> None:
        super().__setitem__(key, item)
        self._file[0] ^= 1


class WritingThrough(ToySubject):
    class Own(ToyMaterializer):
        def load(self, saved: Saved, options: LoadOptions) -> Toy:
            toy = super().load(saved, options)
            return Toy(Mapped(toy.weights, saved.files[f"model.{saved.format}"]))


def test_an_adapter_whose_objects_write_through_is_found() -> None:
    text = refused(check_loading_leaves_the_files_alone, WritingThrough)
    assert "Changing what load() of 'toy.model' returned changes the stored file: model@v1" in text
    assert "mmap.ACCESS_COPY" in text


class Frugal(ToySubject):
    class Own(ToyMaterializer):
        known: ClassVar[dict[str, Toy]] = {}

        def load(self, saved: Saved, options: LoadOptions) -> Toy:
            return self.known.setdefault(saved.ref, super().load(saved, options))


def test_an_adapter_that_returns_one_object_twice_is_found() -> None:
    text = refused(check_loading_leaves_the_files_alone, Frugal)
    assert "gives something else after what was loaded before was changed" in text
    assert "Return a new object each time" in text


class Temporary(ToySubject):
    class Own(ToyMaterializer):
        def save(self, obj: Toy, folder: Path, options: SaveOptions) -> SaveResult:
            with tempfile.TemporaryDirectory() as name:
                (Path(name) / "scratch").write_text("temporary")
            return super().save(obj, folder, options)


def test_temporary_files_are_allowed() -> None:
    check_saving_writes_only_into_its_folder(Temporary())
