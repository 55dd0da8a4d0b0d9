"""Digests without saving: what a materializer says at once is what a save would come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowyml.digests import digest_of_bytes, is_digest
from flowyml.interfaces import Materializer
from flowyml.properties import type_name
from flowyml.store import manifest
from flowyml.stored import Stored, StoredFile
from flowyml.testing.checks import (
    blaming,
    changed,
    check,
    formats_of,
    materializer_of,
    models,
    naming,
    stored_of,
)
from flowyml.testing.processes import in_new_process
from flowyml.testing.scene import QUIET
from flowyml.testing.subject import ConformanceError, Subject
from flowyml.testing.surroundings import no_changes, quiet, unmoved

__tracebackhide__ = True

_ADVICE = (
    "Let digests() and save() share the code that decides what the content is, or leave digests() "
    "out: flowyml then saves into a temporary folder."
)


@check
def check_digests_are_those_of_saving(subject: Subject) -> None:
    """What `digests` says of a model, changed or not, is what saving it comes to.

    It is asked twice, and changes nothing. A materializer without it passes.
    """
    found = materializer_of(subject.make_model())
    if type(found).digests is not Materializer.digests:
        in_new_process(subject, _compare, environment=QUIET)


def _compare(subject: Subject) -> None:
    first = subject.make_model()
    for format in formats_of(first):
        _asked(first, format)  # so that nothing is set up late
    for what, model in models(subject):
        with naming(what):
            for format in formats_of(model):
                _check_told(model, format)
    for format in formats_of(first):
        model = subject.make_model()
        _told(model, format)
        _check_told(changed(subject, model), format)  # what was noted of it before is out of date


def _check_told(model: Any, format: str) -> None:
    found = _told(model, format)
    if found is None:
        return
    key = materializer_of(model).key
    stored = stored_of(model, format)
    if _digest(key, format, found) != stored.digest:
        raise ConformanceError(
            f"digests() of {key!r} tells of other content than saving in the format {format!r} "
            f"comes to{_where(found, stored)}, so that flowyml doesn't recognise the model. "
            f"{_ADVICE}"
        )
    if _told(model, format) != found:
        raise ConformanceError(f"digests() of {key!r} says something else a second time. {_ADVICE}")


def _told(model: Any, format: str) -> list[str] | dict[str, str] | None:
    """Return what the materializer says is the content of a model.

    Raises:
        ConformanceError: when it fails, changes something, or returns something else.
    """
    what = f"digests() of {materializer_of(model).key!r}"
    changes = no_changes(f"{what} changes a file", "It has to do without: save() writes.")
    with unmoved(what), quiet(what), changes:
        found = _asked(model, format)
    if found is None:
        return None
    digests = [*found.values()] if isinstance(found, Mapping) else found
    if not isinstance(digests, (list, tuple)) or not all(map(is_digest, digests)):
        raise ConformanceError(
            f"{what} returned a {type_name(found)} with something else than digests. Return "
            f"digests as of flowyml.digests.digest_of_bytes: a list, or a dict by path."
        )
    return dict(found) if isinstance(found, Mapping) else list(digests)


def _asked(model: Any, format: str) -> Any:
    materializer = materializer_of(model)
    what = f"digests() of {materializer.key!r}"
    with blaming(what, f"It may return None. {_ADVICE}"):
        return materializer.digests(model, format)


def _digest(key: str, format: str, found: list[str] | dict[str, str]) -> str:
    """Return the digest that a model has with such content."""
    if isinstance(found, dict):
        files = tuple(StoredFile(path, digest, 0) for path, digest in found.items())
        return manifest.content_digest(key, format, files, None)
    return manifest.content_digest(key, format, (), digest_of_bytes("\n".join(found).encode()))


def _where(found: list[str] | dict[str, str], stored: Stored) -> str:
    """Say which files differ, where they are the content."""
    if stored.content is not None:
        is_list = isinstance(found, list)
        return "" if is_list else ", which says in SaveResult.content what the content is: a list"
    if isinstance(found, list):
        return ", where all files together are the content: a dict by path is due"
    files = {file.path: file.digest for file in stored.files}
    differing = sorted(p for p in {*files, *found} if files.get(p) != found.get(p))
    return f", as to {', '.join(map(repr, differing))}"
