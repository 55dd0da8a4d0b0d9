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
from flowyml.errors import FlowymlWarning, told
from flowyml.interfaces import Materializer
from flowyml.properties import type_name
from flowyml.stored import Stored
from flowyml.testing.subject import ConformanceError, Named, Subject, load_adapter

__tracebackhide__ = True

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
        raise ConformanceError(f"{what} failed with {in_words(error)}. {advice}") from error


def in_words(error: BaseException) -> str:
    """Return an error with its type, to be followed by a full stop."""
    return told(error).removesuffix(".")


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


def changed(subject: Subject, model: Any) -> Any:
    """Return a model as `Subject.change_model` changes it.

    Raises:
        ConformanceError: when that fails, or returns none.
    """
    what = f"change_model() of {type(subject).__name__}"
    with blaming(what, "It has to work on what make_model() returns, and on that loaded again."):
        found = subject.change_model(model)
    if found is None:
        raise ConformanceError(
            f"{what} returned None. Return the model, also when it is the one that was given."
        )
    return found


def variants(subject: Subject) -> list[Any]:
    """Return the models of `Subject.variants`.

    Raises:
        ConformanceError: when there is something else among them.
    """
    what = f"variants() of {type(subject).__name__}"
    with blaming(what, "It has to return or yield models."):
        found = [*subject.variants()]
    for item in found:
        if item is None:
            raise ConformanceError(f"{what} returned None among the models. Return models only.")
    return found


def models(subject: Subject, *, all_of_them: bool = True) -> list[tuple[str, Any]]:
    """Return new models, each with what has returned it.

    Args:
        subject: what makes them.
        all_of_them: False leaves out the variants.
    """
    made = [("make_model()", subject.make_model())]
    made.append(("make_model_that_needs_trust()", subject.make_model_that_needs_trust()))
    if all_of_them:
        made += [(variant(i), model) for i, model in enumerate(variants(subject))]
    return [(what, model) for what, model in made if model is not None]


def variant(number: int) -> str:
    """Return how messages call one of the models of `Subject.variants`."""
    return f"variants()[{number}]"


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in a `ConformanceError` which model it is about, unless that is the ordinary one."""
    try:
        yield
    except ConformanceError as error:
        if what == "make_model()":
            raise
        raise ConformanceError(f"{error} This is about the model of {what}.") from error


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
    advice = f"Mend save() of {materializer.key!r}, or can_save() if it can't be."
    with blaming(what, advice), staying(what):
        return store.save(model, name, format=format)


def digest_of(model: object, format: str | None = None) -> str:
    """Return the content digest that the model has when it is saved, without describing it."""
    return stored_of(model, format).digest


def stored_of(model: object, format: str | None = None) -> Stored:
    """Save the model without describing it, and return what the store notes of that."""
    with temporary_store() as store:
        stored = saved(store, Asset(data=model), "model", format).stored
    assert stored is not None
    return stored


def loaded(store: Store, ref: str, advice: str, **options: Any) -> Any:
    """Load; a failure says what was asked for."""
    given = "".join(f", {key}=..." for key in options)
    with blaming(f"Store.load({ref!r}{given})", advice):
        return store.load(ref, **options)


@contextmanager
def staying(what: str) -> Iterator[None]:
    """Make sure that a block leaves this process in the folder where it is.

    Raises:
        ConformanceError: when it doesn't, about `what`.
    """
    folder = Path.cwd()
    yield
    try:
        moved = Path.cwd() != folder
    except FileNotFoundError:  # into one that is gone
        moved = True
    if moved:
        os.chdir(folder)
        raise ConformanceError(
            f"{what} leaves the process in another current folder. Use whole paths instead of "
            f"os.chdir(), which is for all threads; or put it back in a `finally`."
        )


@contextmanager
def _away_from_the_shell() -> Iterator[None]:
    removed = {key: os.environ.pop(key) for key in [*os.environ] if key.startswith("FLOWYML_")}
    try:
        yield
    finally:
        os.environ.update(removed)
