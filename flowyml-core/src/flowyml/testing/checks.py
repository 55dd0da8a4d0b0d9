"""What all checks have in common: each stands alone, and tells an adapter's author what to do."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from flowyml import Store, adapters
from flowyml.assets import Asset
from flowyml.contents import Contents
from flowyml.errors import FlowymlWarning
from flowyml.interfaces import Materializer
from flowyml.properties import type_name
from flowyml.registry import told
from flowyml.testing.subject import ConformanceError, Named, Subject, load_adapter

Check: TypeAlias = Callable[[Subject], None]


def check(function: Check) -> Check:
    """Make a check of a function that raises `ConformanceError` when a promise isn't kept.

    The adapter is there when it runs; it is the same whatever flowyml's variables are in the
    user's shell, and goes on where flowyml only warns.
    """

    @functools.wraps(function)
    def run(subject: Subject) -> None:
        __tracebackhide__ = True
        with _away_from_the_shell(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FlowymlWarning)
            load_adapter(subject)
            function(subject)

    return run


@contextmanager
def blaming(what: str, advice: str) -> Iterator[None]:
    """Turn whatever is raised into a `ConformanceError` about `what`, followed by an advice."""
    try:
        yield
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(f"{what} failed with {told(error)}. {advice}") from error


def contents(subject: Named) -> Contents:
    """Return what the adapter under test has registered, loading it if need be."""
    registry = adapters._registry
    registry.load(subject.framework)

    def is_ours(item: Any) -> bool:
        return registry.provider(item).name == subject.framework

    return Contents(
        tuple(filter(is_ours, registry.extractors())),
        tuple(filter(is_ours, registry.materializers())),
        tuple(filter(is_ours, registry.random_sources())),
    )


@contextmanager
def temporary_store() -> Iterator[Store]:
    """Make a store in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="flowyml-testing-") as folder:
        yield Store(Path(folder) / "store")


def materializer_of(model: object) -> Materializer:
    """Return the materializer that handles the model."""
    with blaming(f"Looking for a materializer of a {type_name(model)}", "Its detect() decides."):
        found = adapters.materializer_of(model)
    if found is None:
        raise ConformanceError(
            f"No materializer handles the model, a {type_name(model)}. Return one whose detect() "
            f"says True of it from flowyml_register_materializers()."
        )
    return found


def formats_of(model: object, described_with: Mapping[str, Any] | None = None) -> list[str]:
    """Return the formats that the model can be saved in."""
    materializer = materializer_of(model)
    with blaming(f"can_save() of {materializer.key!r}", "It has to return True or False."):
        return [
            format
            for format in materializer.formats
            if materializer.can_save(model, format, described_with or {})
        ]


def saved(store: Store, model: object, name: str, format: str | None = None) -> Asset:
    """Save the model, or an asset with it, in a format, by default its first."""
    data = model.data if isinstance(model, Asset) else model
    materializer = materializer_of(data)
    what = f"Saving a {type_name(data)} in the format {format or materializer.formats[0]!r}"
    with blaming(what, f"Mend save() of {materializer.key!r}, or can_save() if it can't be."):
        return store.save(model, name, format=format)


def digest_of(model: object, format: str | None = None) -> str:
    """Return the content digest that the model has when it is saved, without describing it."""
    with temporary_store() as store:
        return f"{saved(store, Asset(data=model), 'model', format).digest}"


def loaded(store: Store, ref: str, advice: str, **options: Any) -> Any:
    """Load; a failure says what was asked for."""
    given = "".join(f", {key}=..." for key in options)
    with blaming(f"Store.load({ref!r}{given})", advice):
        return store.load(ref, **options)


@contextmanager
def _away_from_the_shell() -> Iterator[None]:
    removed = {key: os.environ.pop(key) for key in [*os.environ] if key.startswith("FLOWYML_")}
    try:
        yield
    finally:
        os.environ.update(removed)
