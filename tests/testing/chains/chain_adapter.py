"""Adapters of chains: one that asks for trust as it should, and some that don't."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import flowyml
from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml.interfaces import LoadOptions, Materializer, Saved, SaveOptions, SaveResult


class Good(Materializer):
    modules = ("chains",)
    key = "chain.model"
    formats: ClassVar[tuple[str, ...]] = ("json",)
    types = ("chains.Chain",)

    def detect(self, obj: object) -> bool:
        chains = sys.modules.get("chains")
        return chains is not None and type(obj) is chains.Chain

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        names = [f"{step.__module__}.{step.__qualname__}" for step in obj.steps]
        (folder / "steps.json").write_text(json.dumps({"first": None, "names": names}))
        return SaveResult(required_trust=tuple(sorted({*names})))

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        import chains

        try:
            data = json.loads(saved.files["steps.json"].read_bytes())
            names = [name for name in (data["first"], *data["names"]) if name is not None]
            if {*data} != {"first", "names"} or any(type(name) is not str for name in names):
                raise ValueError(data)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise MaterializationError(f"{saved.ref}: steps.json is unfit") from error
        required = [*dict.fromkeys(self.needed(names, saved, options))]
        if required:
            raise UntrustedDataError(f"{saved.ref} needs trust", required)
        return chains.Chain(map(self.function, names))

    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        """Return all names, unless each is trusted."""
        return [] if all(map(options.trust.allows, names)) else names

    def function(self, name: str) -> Any:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        if found.__module__ != module:
            raise MaterializationError(f"{name} isn't defined there")
        return found


class BelievesTheManifest(Good):
    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        return super().needed([*saved.result.required_trust], saved, options)


class TrustsAllForOne(Good):
    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        return [] if any(map(options.trust.allows, names)) else names


class AsksForTheFirst(Good):
    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        return names if names and not options.trust.allows(names[0]) else []


class TrustsWhatIsImported(Good):
    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        new = [name for name in names if name.rpartition(".")[0] not in sys.modules]
        return super().needed(new, saved, options)


class LooksForModulesFirst(Good):
    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        for name in names:
            with contextlib.suppress(ImportError, ValueError):
                importlib.util.find_spec(name.rpartition(".")[0])  # imports what is above it
        return super().needed(names, saved, options)


class TakesWhatIsReexported(Good):
    def function(self, name: str) -> Any:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


class OverlooksAPlace(Good):
    """Checks ``first``, which no honest model has, not at all."""

    def needed(self, names: list[str], saved: Saved, options: LoadOptions) -> list[str]:
        data = json.loads(saved.files["steps.json"].read_bytes())
        return super().needed([*data["names"]], saved, options)


class Plugin:
    """The plugin of a materializer."""

    api_version = 1

    def __init__(self, kind: type[Materializer]) -> None:
        self.kind = kind

    @flowyml.hookimpl
    def flowyml_register_materializers(self) -> list[Materializer]:
        return [self.kind()]


PLUGINS = {kind.__name__: Plugin(kind) for kind in (Good, *Good.__subclasses__())}
globals().update({f"plugin_{name}": plugin for name, plugin in PLUGINS.items()})
