"""Identity: the digest of what is saved says whether two models are the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowyml.testing.checks import (
    changed,
    check,
    digest_of,
    formats_of,
    stored_of,
    variant,
    variants,
)
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_two_processes
from flowyml.testing.scene import work_folder
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True

_DAYS = 400 * 24 * 3600
_ELSEWHERE = {"TZ": "XYZ-11", "USER": "another", "LOGNAME": "another", "LANG": "C"}
_CAUSES = (
    "No time, random name, memory address, path or order of a set may get into a file; the same "
    "content has to give the same bytes, or SaveResult.content has to say what the content is."
)


@check
def check_an_unchanged_model_keeps_its_digest(subject: Subject) -> None:
    """The same model has the same digest: another time, in another folder and process."""
    model = subject.make_model()
    before = prediction(subject, model)
    digests = {format: digest_of(model, format) for format in formats_of(model)}
    with _later():
        _compare(digests, _digests(model, digests), "saved again")
    again = subject.make_model()
    found = difference(before, prediction(subject, again), "predict()")
    if found:
        raise ConformanceError(
            f"make_model() of {type(subject).__name__} doesn't return the same model each time: "
            f"{found}. Seed what it draws, on a generator of its own."
        )
    _compare(digests, _digests(again, digests), "made and saved a second time")
    with work_folder() as folder:
        (folder / "temporary").mkdir()
        elsewhere = {**_ELSEWHERE, "TMPDIR": str(folder / "temporary")}
        arguments = ([*digests], str(folder))
        for others in in_two_processes(subject, _digests_of_new, *arguments, environment=elsewhere):
            _compare(digests, others, "made and saved in another process, folder and time zone")


@check
def check_a_changed_model_has_another_digest(subject: Subject) -> None:
    """A model that differs as little as can be has another digest, in every format.

    So has each of the `variants`, in every format that keeps more than weights.
    """
    others = variants(subject)
    for format in formats_of(subject.make_model()):
        digest = digest_of(subject.make_model(), format)
        another = digest_of(changed(subject, subject.make_model()), format)
        if another == digest:
            raise ConformanceError(
                f"A model that change_model() has changed is saved in the format {format!r} with "
                f"the digest of the unchanged one. Save all that makes up a model, without "
                f"rounding, and name all of it in SaveResult.content if you set that."
            )
        if digest_of(subject.make_model(), format) != digest:
            raise ConformanceError(
                "After change_model(), make_model() returns another model than before. Each call "
                "has to return a new one."
            )
        _check_variants(format, others, {digest: "make_model()", another: "change_model()"})


def _check_variants(format: str, others: list[object], known: dict[str, str]) -> None:
    """Compare the digests with each other; those of weights alone may be equal."""
    for i, model in enumerate(others):
        stored = stored_of(model, format) if format in formats_of(model) else None
        if stored is None or stored.restore != "exact":
            continue
        if stored.digest in known:
            raise ConformanceError(
                f"The model of {variant(i)} is saved in the format {format!r} with the digest of "
                f"that of {known[stored.digest]}, though it is another one. Whatever tells them "
                f"apart has to be in the files, or in SaveResult.content if you set that: "
                f"`details` don't count."
            )
        known[stored.digest] = variant(i)


def _digests(model: object, formats: dict[str, str] | list[str]) -> dict[str, str]:
    return {format: digest_of(model, format) for format in formats}


def _digests_of_new(subject: Subject, formats: list[str], folder: str) -> dict[str, str]:
    os.chdir(folder)
    with _later():
        return _digests(subject.make_model(), formats)


def _compare(before: dict[str, str], after: dict[str, str], when: str) -> None:
    for format, digest in before.items():
        if after[format] != digest:
            raise ConformanceError(
                f"The same model, {when}, has another digest in the format {format!r}. {_CAUSES}"
            )


@contextmanager
def _later() -> Iterator[None]:
    """Let it be another time: most formats that note one have it from here."""
    now, now_ns = time.time, time.time_ns

    def shifted(clock: Callable[[], float], by: int) -> Callable[[], float]:
        return lambda: clock() + by

    time.time = shifted(now, _DAYS)
    time.time_ns = lambda: now_ns() + _DAYS * 10**9
    try:
        yield
    finally:
        time.time, time.time_ns = now, now_ns
