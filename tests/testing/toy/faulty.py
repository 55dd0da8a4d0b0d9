"""Adapters of the toy framework that break one promise each."""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy_adapter import Plugin, ToyExtractor, ToyMaterializer, ToySource

import flowyml
from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.interfaces import Layer, LoadOptions, Saved, SaveOptions, SaveResult


def materializer(name: str, **parts: Any) -> Plugin:
    return Plugin(ToyExtractor, type(name, (ToyMaterializer,), parts))


def extractor(name: str, **parts: Any) -> Plugin:
    return Plugin(type(name, (ToyExtractor,), parts))


def source(name: str, **parts: Any) -> Plugin:
    return Plugin(sources=(type(name, (ToySource,), parts),))


def describing(**properties: Any) -> Plugin:
    def extract(self: Any, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        found = {**ToyExtractor().extract(obj, options), **properties}
        return {key: value() if callable(value) else value for key, value in found.items()}

    return extractor("Describing", extract=extract)


# ------------------------------------------------------------------------------ registration


class WithoutVersion(Plugin):
    def __init__(self) -> None:
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if name == "api_version":
            raise AttributeError(name)
        return super().__getattribute__(name)


class WithoutMaterializers(Plugin):
    @flowyml.hookimpl
    def flowyml_register_materializers(self) -> list[Any]:
        return []


without_version = WithoutVersion()
without_materializers = WithoutMaterializers()
returns_a_class = materializer("Class", __new__=lambda cls: cls)
foreign_key = materializer("ForeignKey", key="toys.model")
odd_format = materializer("OddFormat", formats=("whole/numbers",))
no_types = materializer("NoTypes", types=())
odd_conversion = materializer("OddConversion", conversions={"halves": ("whole",)})
accepts_dtype = materializer("AcceptsDtype", accepts=frozenset({"dtype"}))

# --------------------------------------------------------------------------------- detection


def imports(self: Any, obj: object) -> bool:
    return isinstance(obj, importlib.import_module("toyframework").Polynomial)


def asks(self: Any, obj: object) -> bool:
    return hasattr(obj, "coefficients")


def returns_the_object(self: Any, obj: object) -> Any:
    return obj if ToyExtractor().detect(obj) else False


def takes_classes(self: Any, obj: object) -> bool:
    toyframework = sys.modules.get("toyframework")
    if toyframework is None:
        return False
    kind = obj if isinstance(obj, type) else type(obj)
    return toyframework.Polynomial in type.mro(kind)


def takes_curves(self: Any, obj: object) -> bool:
    toyframework = sys.modules.get("toyframework")
    return toyframework is not None and type(obj) in (toyframework.Polynomial, toyframework.Curve)


def raises(self: Any, obj: object) -> bool:
    if "toyframework" not in sys.modules:
        return False
    raise LookupError("no idea")


imports_to_detect = extractor("Imports", detect=imports)
asks_for_attributes = extractor("Asks", detect=asks)
detects_objects = extractor("ReturnsTheObject", detect=returns_the_object)
detects_classes = extractor("TakesClasses", detect=takes_classes)
detects_curves = extractor("TakesCurves", detect=takes_curves)
detects_nothing = extractor("DetectsNothing", detect=lambda self, obj: False)
raises_to_detect = extractor("Raises", detect=raises)
names_other_modules = extractor("NamesOthers", modules=("toyframework_of_old",))
names_modules_of_old = materializer("NamesOld", modules=("toyframework_of_old",))
two_of_a_kind = Plugin(
    ToyExtractor, ToyMaterializer, type("Second", (ToyMaterializer,), {"key": "toy.second"})
)

# ------------------------------------------------------------------------------- description


def changes(self: Any, obj: Any) -> Layer | None:
    obj.coefficients[0] += 1e-9
    return None


def notes(self: Any, obj: Any) -> Layer | None:
    obj.coefficients = [*obj.coefficients, 0.0]  # predicts the same
    return None


def draws(self: Any, obj: Any) -> str:
    random.random()
    return "polynomial"


def fails(self: Any, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    raise KeyError("coefficient")


def half(self: Any, obj: Any) -> Layer:
    return Layer("", "Polynomial", 1, 1)


def too_few(self: Any, obj: Any) -> Layer:
    count = len(obj.coefficients)
    return Layer("", "Sum", count, count, children=(Layer("0", "Power", count + 1, 1),))


describes_tuples = describing(settings={"degrees": (1, 2)})
describes_objects = describing(transform=object)
describes_text = describing(parameters="three")
describes_too_much = describing(frozen_parameters=1)
describes_addresses = describing(address=lambda: hash("polynomial"))
describes_times = describing(time=time.perf_counter_ns)
fails_to_describe = extractor("Fails", extract=fails)
changes_the_model = extractor("Changes", outline=changes)
notes_in_the_model = extractor("Notes", outline=notes)
draws_random_numbers = extractor("Draws", default_name=draws)
outlines_a_half = extractor("Half", outline=half)
outlines_too_few = extractor("TooFew", outline=too_few)
nameless = extractor("Nameless", default_name=lambda self, obj: "")

# --------------------------------------------------------------------- restoring and identity


def saving(change: Any) -> Any:
    """Return a save() that does something else too."""

    def save(self: Any, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        result = ToyMaterializer.save(self, obj, folder, options)
        return change(obj, folder) or result

    return save


def loading(change: Any) -> Any:
    """Return a load() that does something else with what it gives back."""

    def load(self: Any, saved: Saved, options: LoadOptions) -> Any:
        return change(ToyMaterializer.load(self, saved, options), options)

    return load


def rounded(obj: Any, folder: Path) -> None:
    (folder / "numbers.json").write_text(json.dumps([round(c, 3) for c in obj.coefficients]))


def dated(obj: Any, folder: Path) -> None:
    (folder / "date.json").write_text(str(int(time.time() / 3600)))


def unordered(obj: Any, folder: Path) -> None:
    (folder / "names.json").write_text(json.dumps([*{str(number) for number in range(50)}]))


def counted(obj: Any, folder: Path) -> None:
    obj.coefficients.append(1.0)


def negated(obj: Any, options: LoadOptions) -> Any:
    if hasattr(obj, "coefficients"):
        obj.coefficients[-1] *= -1
    return obj


def as_list(obj: Any, options: LoadOptions) -> Any:
    return type("List", (), {"__call__": lambda self, x: obj(x)})() if callable(obj) else obj


def another(obj: Any, options: LoadOptions) -> Any:
    return type(obj)(obj.coefficients, obj.then) if callable(obj) else obj


def unfilled(self: Any, saved: Saved, options: LoadOptions) -> Any:
    if options.into is None:
        return ToyMaterializer.load(self, saved, options)
    if not hasattr(options.into, "coefficients"):
        raise MaterializationError("it has no coefficients")
    return options.into


def unchecked(self: Any, saved: Saved, options: LoadOptions) -> Any:
    if options.into is not None:
        options.into.coefficients[:] = ToyMaterializer.read(self, saved, "numbers.json")
        return options.into
    return ToyMaterializer.load(self, saved, options)


def converts(self: Any, saved: Saved, options: LoadOptions) -> Any:
    if options.format is not None:
        raise LookupError(options.format)
    return ToyMaterializer.load(self, saved, options)


converts_nothing = materializer(
    "ConvertsNothing", conversions={"whole": ("numbers",)}, load=converts
)
rounds = materializer("Rounds", save=saving(rounded))
dates = materializer("Dates", save=saving(dated))
unorders = materializer("Unorders", save=saving(unordered))
counts = materializer("Counts", save=saving(counted))
negates = materializer("Negates", load=loading(negated))
gives_another_type = materializer("AsList", load=loading(as_list))
gives_another_object = materializer("Another", load=loading(another))
does_not_fill = materializer("Unfilled", load=unfilled)
checks_no_type = materializer("Unchecked", load=unchecked)
accepts_device = materializer("AcceptsDevice", accepts=frozenset({"into", "device"}))
has_no_format = materializer("NoFormat", can_save=lambda self, *_: False)

# ----------------------------------------------------------------------------------- seeding

without_source = Plugin(sources=())


def seeds_anew(self: Any, seed: int) -> None:
    sys.modules["toyframework"].generator.seed()


seeds_by_chance = source("SeedsByChance", seed=seeds_anew)
seeds_nothing = source("SeedsNothing", seed=lambda self, seed: None)
restores_nothing = source("RestoresNothing", restore=lambda self, state: None)


class Live(ToySource):
    """Returns its state itself: not a copy."""

    def state(self) -> Any:
        return sys.modules["toyframework"].generator


gives_its_live_state = Plugin(sources=(Live,))

# ------------------------------------------------------------------------------------- trust


def imports_first(self: Any, saved: Saved, options: LoadOptions) -> Any:
    name = self.read(saved, "then.json")
    if name is not None:
        importlib.import_module(name.rpartition(".")[0])
    return ToyMaterializer.function(self, saved, options)


def trusts(self: Any, saved: Saved, options: LoadOptions) -> Any:
    name = self.read(saved, "then.json")
    if name is None:
        return None
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def trusts_alike(self: Any, saved: Saved, options: LoadOptions) -> Any:
    name = self.read(saved, "then.json")
    if name is not None and any(pattern.startswith(name) for pattern in options.trust.patterns):
        return trusts(self, saved, options)
    return ToyMaterializer.function(self, saved, options)


def refuses_otherwise(self: Any, saved: Saved, options: LoadOptions) -> Any:
    name = self.read(saved, "then.json")
    if name is not None and not options.trust.allows(name):
        raise MaterializationError(f"no trust in {name}")
    return ToyMaterializer.function(self, saved, options)


imports_untrusted = materializer("ImportsFirst", function=imports_first)
trusts_all = materializer("Trusts", function=trusts)
trusts_names_alike = materializer("TrustsAlike", function=trusts_alike)
raises_another_error = materializer("RefusesOtherwise", function=refuses_otherwise)


def asks_for_less(self: Any, saved: Saved, options: LoadOptions) -> Any:
    try:
        return ToyMaterializer.function(self, saved, options)
    except UntrustedDataError as error:
        raise UntrustedDataError(str(error)) from error


def gives_another_function(self: Any, saved: Saved, options: LoadOptions) -> Any:
    return ToyMaterializer.function(self, saved, options) and abs


def refuses(self: Any, saved: Saved, options: LoadOptions) -> Any:
    raise UntrustedDataError("It needs trust.", ["their_functions"])


trades_functions = materializer("Trades", function=gives_another_function)
refuses_all = materializer("Refuses", function=refuses)
requires_nothing = materializer("AsksForLess", function=asks_for_less)
keeps_its_needs_quiet = materializer("Quiet", save=saving(lambda obj, folder: SaveResult()))
