"""Identity: the digest of what is saved says whether two models are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowyml.testing.checks import check, digest_of, formats_of
from flowyml.testing.predictions import difference, prediction
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import ConformanceError, Subject

_DAYS = 400 * 24 * 3600
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
    elsewhere = {"TZ": "XYZ-11"}
    others = in_new_process(subject, _digests_of_new, [*digests], environment=elsewhere)
    _compare(digests, others, "made and saved in another process")


@check
def check_a_changed_model_has_another_digest(subject: Subject) -> None:
    """A model that differs as little as can be has another digest, in every format."""
    for format in formats_of(subject.make_model()):
        digest = digest_of(subject.make_model(), format)
        if digest_of(subject.change_model(subject.make_model()), format) == digest:
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


def _digests(model: object, formats: dict[str, str] | list[str]) -> dict[str, str]:
    return {format: digest_of(model, format) for format in formats}


def _digests_of_new(subject: Subject, formats: list[str]) -> dict[str, str]:
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
