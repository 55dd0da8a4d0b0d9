"""Adapters of the toy framework that lose something, or leave something behind."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from faulty import describing, extractor, loading, materializer, saving, source
from toy_adapter import Plugin, ToyExtractor, ToyMaterializer, ToySource

from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Saved, SaveOptions, SaveResult

# ---------------------------------------------------------------------------------- settings


def without_title(self: Any, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
    result = ToyMaterializer.save(self, obj, folder, options)
    (folder / "title.json").unlink(missing_ok=True)
    return result


def with_title_in_details(self: Any, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
    result = without_title(self, obj, folder, options)
    return SaveResult(result.restore, result.reason, result.required_trust, {"title": obj.title})


def retitled(obj: Any, folder: Path) -> None:
    obj.title = "saved"


def fills_first(self: Any, saved: Saved, options: LoadOptions) -> Any:
    if hasattr(options.into, "coefficients"):
        options.into.coefficients = self.read(saved, "numbers.json")
    return ToyMaterializer.load(self, saved, options)


def fills_what_fits(self: Any, saved: Saved, options: LoadOptions) -> Any:
    into = options.into
    if hasattr(into, "title"):
        into.title = "filled"
        if len(into.coefficients) != len(self.read(saved, "numbers.json")):
            raise MaterializationError("it has another number of coefficients")
    return ToyMaterializer.load(self, saved, options)


def takes_subclasses(self: Any, obj: object) -> bool:
    toyframework = sys.modules.get("toyframework")
    return toyframework is not None and issubclass(type(obj), toyframework.Polynomial)


def takes_names(self: Any, obj: object) -> bool:
    return type(obj).__name__ == "Polynomial"


def takes_curves(self: Any, obj: object) -> bool:
    return ToyMaterializer().detect(obj) or type(obj).__name__ == "Curve"


forgets_the_title = materializer(
    "Forgets", save=without_title, title=lambda self, saved: "untitled"
)
notes_the_title = materializer(
    "Notes",
    save=with_title_in_details,
    title=lambda self, saved: saved.result.details["title"],
)
changes_the_title = materializer("Retitles", save=saving(retitled))
fills_before_it_checks = materializer("FillsFirst", load=fills_first)
fills_what_it_refuses = materializer("FillsWhatFits", load=fills_what_fits)
saves_subclasses = materializer("Subclasses", detect=takes_subclasses)
detects_names = materializer("Names", detect=takes_names)
saves_curves = materializer("Curves", detect=takes_curves)

# ------------------------------------------------------------------------------ other places


def writing(text: Any) -> Plugin:
    def write(obj: Any, folder: Path) -> None:
        (folder / "note.json").write_text(json.dumps(text()))

    return materializer("Writing", save=saving(write))


notes_the_folder = writing(os.getcwd)
notes_the_user = writing(lambda: os.environ.get("USER"))
notes_the_temporary_folder = writing(tempfile.gettempdir)
notes_two_labels = writing(lambda: [*{"no", "yes"}])
describes_two_labels = describing(labels=lambda: [*{"no", "yes"}])


def with_function(self: Any, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    found = ToyExtractor().extract(obj, options)
    return {**found, "then": obj.then, "where": {str(obj.then)} and str(obj.then)}


def with_its_address(self: Any, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**ToyExtractor().extract(obj, options), "then": obj.then and hash(obj.then)}


describes_functions = extractor("Functions", extract=with_function)
describes_their_hashes = extractor("Hashes", extract=with_its_address)


def overlooking(self: Any, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
    return ToyMaterializer.save(self, obj, folder, options) if has_room(folder) else SaveResult()


def has_room(folder: Path) -> bool:
    try:
        (folder / "numbers.json").write_text("[0.5, 0.25]" + 100 * " ")
    except OSError:
        (folder / "numbers.json").unlink()
        for name, text in (("numbers", "[]"), ("title", '""'), ("then", "null")):
            with suppress(OSError):
                (folder / f"{name}.json").write_text(text)
        return False
    return True


overlooks_a_full_disk = materializer("Overlooks", save=overlooking)

# ------------------------------------------------------------------------------------- noise


def written(self: Any, obj: Any) -> str:
    Path("description.txt").write_text("a polynomial")
    return "polynomial"


def said(self: Any, obj: Any) -> str:
    print("a polynomial")
    return "polynomial"


def written_late(self: Any, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
    result = ToyMaterializer.save(self, obj, folder, options)
    options.done(folder / "numbers.json")
    (folder / "numbers.json").write_text(json.dumps([0.0, *obj.coefficients]))
    return result


def left_over(obj: Any, folder: Path) -> None:
    os.close(tempfile.mkstemp()[0])


def moved(obj: Any, folder: Path) -> None:
    os.chdir(folder)


def drawn(obj: Any, *others: Any) -> Any:
    random.random()
    return obj if isinstance(others[0], LoadOptions) else None


def printed(obj: Any, options: LoadOptions) -> Any:
    os.write(1, b"loaded\n")
    return obj


def warned(obj: Any, options: LoadOptions) -> Any:
    warnings.warn("it is old", UserWarning, stacklevel=2)
    return obj


class Lazy(list):  # type: ignore[type-arg]
    """Coefficients that are read when they are needed."""

    path: Path

    def __iter__(self) -> Any:
        return iter(json.loads(self.path.read_bytes()))


def lazy(self: Any, saved: Saved, options: LoadOptions) -> Any:
    found = ToyMaterializer.load(self, saved, options)
    if options.into is None:
        found.coefficients = Lazy(found.coefficients)
        found.coefficients.path = saved.files["numbers.json"]
    return found


writes_a_description = extractor("Writes", default_name=written)
prints_a_description = extractor("Prints", default_name=said)
writes_too_late = materializer("WritesLate", save=written_late)
leaves_temporary_files = materializer("LeavesFiles", save=saving(left_over))
moves_away = materializer("Moves", save=saving(moved))
draws_to_save = materializer("DrawsToSave", save=saving(drawn))
draws_to_load = materializer("DrawsToLoad", load=loading(drawn))
prints_to_load = materializer("PrintsToLoad", load=loading(printed))
warns_to_load = materializer("WarnsToLoad", load=loading(warned))
reads_when_needed = materializer("Lazily", load=lazy)

# ----------------------------------------------------------------------------- random sources


class LastSeed(ToySource):
    """Takes the last seed for the state."""

    last: int | None = None

    def seed(self, seed: int) -> None:
        super().seed(seed)
        self.last = seed

    def state(self) -> Any:
        return self.last

    def restore(self, state: Any) -> None:
        if state is not None:
            self.seed(state)

    def pack(self, state: Any) -> None:
        return None


def seeds_python(self: Any, seed: int) -> None:
    random.seed(seed)
    ToySource.seed(self, seed)


def imports_to_seed(self: Any, seed: int) -> None:
    import toyframework

    toyframework.generator.seed(seed)


def restores_anything(self: Any, state: Any) -> None:
    sys.modules["toyframework"].generator.setstate(state)


takes_the_seed_for_the_state = Plugin(sources=(LastSeed,))
seeds_another_library = source("SeedsPython", seed=seeds_python)
imports_its_framework_to_seed = source("ImportsToSeed", seed=imports_to_seed)
restores_nothing_wrong = source("RestoresAnything", restore=restores_anything)


# ----------------------------------------------------------------------------------- records


def of_files(change: Any) -> Any:
    """Return a digests() that says something else."""

    def digests(self: Any, obj: Any, format: str) -> Any:
        return change(dict(ToyMaterializer.digests(self, obj, format)), obj)

    return digests


def without_the_title(digests: dict[str, str], obj: Any) -> Any:
    return {path: digest for path, digest in digests.items() if path != "title.json"}


noted: dict[Any, Any] = {}


def as_noted(digests: dict[str, str], obj: Any) -> Any:
    key = id(obj), *digests
    return noted.setdefault(key, (obj, digests))[1]  # holds the object, so that the id stays


def drawing(digests: dict[str, str], obj: Any) -> Any:
    random.random()
    return digests


def writing(digests: dict[str, str], obj: Any) -> Any:
    Path("digests.json").write_text(json.dumps(digests))
    return digests


def failing(digests: dict[str, str], obj: Any) -> Any:
    raise LookupError(obj.title)


digests_less = materializer("DigestsLess", digests=of_files(without_the_title))
digests_what_was = materializer("DigestsWhatWas", digests=of_files(as_noted))
digests_a_list = materializer("DigestsAList", digests=of_files(lambda d, _: [*d.values()]))
digests_in_short = materializer(
    "DigestsInShort", digests=of_files(lambda d, _: {path: each[:16] for path, each in d.items()})
)
draws_to_digest = materializer("DrawsToDigest", digests=of_files(drawing))
writes_to_digest = materializer("WritesToDigest", digests=of_files(writing))
fails_to_digest = materializer("FailsToDigest", digests=of_files(failing))
sets_objects = materializer("SetsObjects", settings=lambda self, obj: {"then": object()})
sets_a_list = materializer("SetsAList", settings=lambda self, obj: ["degree"])
runs_in_tuples = extractor("RunsInTuples", environment=lambda self: {"version": (1, 2)})
packs_text = source("PacksText", pack=lambda self, state: state and json.dumps(state))
packs_the_same = source("PacksTheSame", pack=lambda self, state: state and b"state")
packs_none = source("PacksNone", pack=lambda self, state: json.dumps(state).encode())
unpacks_anything = source(
    "UnpacksAnything",
    unpack=lambda self, data: ToySource.unpack(self, data) if b"[" in data[:1] else None,
)
unpacks_carelessly = source(
    "UnpacksCarelessly", unpack=lambda self, data: data[0] and ToySource.unpack(self, data)
)


def packs_by_chance(self: Any, state: Any) -> bytes | None:
    return state and b"%r %r" % (random.random(), state)


def unpacks_another(self: Any, data: bytes) -> Any:
    version, words, gauss = ToySource.unpack(self, data)
    return version, (*words[:-1], 7), gauss


packs_at_random = source("PacksAtRandom", pack=packs_by_chance)
unpacks_another_state = source("UnpacksAnother", unpack=unpacks_another)
