"""What is kept of a run: values, and their JSON form in ``runs/<run id>.json``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

import attrs

from flowyml.errors import IntegrityError

SCHEMA = 1
"""Version of the record's layout."""

Status: TypeAlias = Literal["running", "completed", "failed"]


@attrs.frozen
class Output:
    """One output of a step that was stored.

    Attributes:
        key: where it stood in what the step returned; empty for the whole of it.
        ref: ``"name@version"`` in the store.
        digest: its content digest.
        type: the dotted name of its type.
    """

    key: str
    ref: str
    digest: str
    type: str


@attrs.frozen
class NotStored:
    """One output of a step that was not stored, with the reason."""

    key: str
    type: str
    reason: str


@attrs.frozen
class Failure:
    """An exception: the name of its type, its text, and its traceback as text."""

    type: str
    message: str
    traceback: str


@attrs.frozen
class Code:
    """What a step's function consisted of.

    Attributes:
        function: its dotted name.
        digest: over its code and that of every function of the project that it may call.
        source: its text; None when that can't be had.
        file: where it is from; None when it was typed in.
        parts: digests of the code by dotted name: the function, those it may call, and the
            values of module globals that they read.
        libraries: versions of the installed packages that it uses, by name.
        unknown: what it uses that has no digest, in words.
        given: dotted names of the project's classes and functions that its arguments consist of:
            they are among the parts, too.
    """

    function: str
    digest: str
    source: str | None = None
    file: str | None = None
    parts: dict[str, str] = attrs.field(factory=dict)
    libraries: dict[str, str] = attrs.field(factory=dict)
    unknown: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


@attrs.define
class Input:
    """One argument that is data rather than a setting: a model, a tensor, a loader.

    Attributes:
        type: the dotted name of its type.
        digest: its content digest when the step was called; None when it has none.
        ref: ``"name@version"`` of what holds that content in the store, if known.
        derived_from: ref of what it was before it was changed in place, if that is known.
        settings: what its adapter says about it, such as an optimizer's learning rate.
        reason: why it has no digest, or isn't in the store.
        changed: its content digest after the call, when the step changed it in place.
        within: ref of a dict in the store that holds it by its name, together with other inputs
            that it has parts in common with.
    """

    type: str
    digest: str | None = None
    ref: str | None = None
    derived_from: str | None = None
    settings: dict[str, Any] = attrs.field(factory=dict)
    reason: str | None = None
    changed: str | None = None
    within: str | None = None


@attrs.define
class StepRecord:
    """One call of a step.

    Attributes:
        name: the step's name.
        function: the dotted name of its function.
        status: ``running``, ``completed`` or ``failed``.
        started_at: when, in UTC.
        duration: seconds, without the time that storing the outputs took; None while it runs.
        seed: the seed that was applied, or else one that was drawn for the call.
        seeded: whether the seed was applied.
        random: digests of the random generators' states at entry, by library.
        random_after: the same when the function had returned.
        hyperparameters: settings among the arguments, defaults included, by flat name
            (``"config.learning_rate"``).
        inputs: the other arguments, by name.
        call: the arguments in a form that they can be rebuilt from; see `arguments`.
        code: the digest of the function's code, a key of the run's `code`.
        outputs: what was stored.
        not_stored: what was not.
        saved: refs of what the function itself saved.
        parent: index of the step that called this one, or None.
        attempts: why earlier attempts of this call failed.
        cache_key: under which the outputs are kept for equal calls.
        cached_from: ``"<run id>/<index>"`` of the step whose outputs were taken; the function
            didn't run then.
        not_cached: why the outputs can't be kept for equal calls, where that was asked for.
        error: why it failed.
        call_id: tells the call from all others, in all processes that make it together. One that
            resumes an interrupted call has that one's, which begins with its run's id.
        launcher: what started the processes that made the call: its name and settings.
        world_size: how many processes made the call together.
    """

    name: str
    function: str
    started_at: datetime
    status: Status = "running"
    duration: float | None = None
    seed: int | None = None
    seeded: bool = False
    random: dict[str, str] = attrs.field(factory=dict)
    random_after: dict[str, str] = attrs.field(factory=dict)
    hyperparameters: dict[str, Any] = attrs.field(factory=dict)
    inputs: dict[str, Input] = attrs.field(factory=dict)
    call: dict[str, Any] = attrs.field(factory=dict)
    code: str | None = None
    outputs: list[Output] = attrs.field(factory=list)
    not_stored: list[NotStored] = attrs.field(factory=list)
    saved: list[str] = attrs.field(factory=list)
    parent: int | None = None
    attempts: list[Failure] = attrs.field(factory=list)
    cache_key: str | None = None
    cached_from: str | None = None
    not_cached: str | None = None
    error: Failure | None = None
    call_id: str | None = None
    launcher: dict[str, Any] = attrs.field(factory=dict)
    world_size: int = 1


@attrs.define
class RunRecord:
    """One run: the steps that were called in it, and the environment they ran in.

    Attributes:
        id: unique; sorts by time.
        name: the run's name.
        status: ``running`` (also after the process was killed), ``completed`` or ``failed``.
        started_at: when, in UTC.
        duration: seconds; None while it runs.
        seed: the seed from which steps that have none of their own get theirs, or None.
        environment: what it ran in; see `environment`.
        code: what the steps' functions consisted of, by digest.
        steps: in the order of their calls.
        tags: free text by key.
        error: why it failed.
    """

    id: str
    name: str
    started_at: datetime
    status: Status = "running"
    duration: float | None = None
    seed: int | None = None
    environment: dict[str, Any] = attrs.field(factory=dict)
    code: dict[str, Code] = attrs.field(factory=dict)
    steps: list[StepRecord] = attrs.field(factory=list)
    tags: dict[str, str] = attrs.field(factory=dict)
    error: Failure | None = None

    @property
    def outputs(self) -> list[str]:
        """Refs of everything that its steps stored."""
        return [output.ref for step in self.steps for output in step.outputs]


def to_data(record: RunRecord) -> dict[str, Any]:
    """Return a record as JSON-able data."""
    return {"schema": SCHEMA, **_plain(record)}


def step_to_data(record: StepRecord) -> dict[str, Any]:
    """Return a step's record as JSON-able data."""
    data: dict[str, Any] = _plain(record)
    return data


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _FIELDS:
        return {name: _plain(getattr(value, name)) for name in _FIELDS[kind]}
    if kind is datetime:
        return value.isoformat()
    if kind is list and value and type(value[0]) in _FIELDS:
        return [_plain(item) for item in value]
    if kind is dict and any(type(item) in _FIELDS for item in value.values()):
        return {key: _plain(item) for key, item in value.items()}
    return value


_FIELDS = {
    kind: tuple(field.name for field in attrs.fields(kind))
    for kind in (RunRecord, StepRecord, Code, Input, Output, NotStored, Failure)
}


def from_data(data: Any, key: str) -> RunRecord:
    """Read what `to_data` returned.

    Raises:
        IntegrityError: when it is something else.
    """
    try:
        fields = dict(data)
        if fields.pop("schema") != SCHEMA:
            raise ValueError(f"it has the schema {data['schema']!r}; known is {SCHEMA}")
        fields["steps"] = [_step(step) for step in fields["steps"]]
        fields["code"] = {
            _text(digest): code_from_data(code) for digest, code in _dict(fields["code"]).items()
        }
        if type(fields["name"]) is not str or type(fields["id"]) is not str:
            raise ValueError("its name or id is unfit")
        _dict(fields["environment"])
        _dict(fields["tags"])
        return RunRecord(**_common(fields))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"The run record {key} is damaged: {error!r}.") from error


def step_from_data(data: Any) -> StepRecord:
    """Read what `step_to_data` returned.

    Raises:
        IntegrityError: when it is something else.
    """
    try:
        return _step(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"A step's record is damaged: {error!r}.") from error


def _step(data: Any) -> StepRecord:
    fields = dict(data)
    for name in ("random", "random_after", "hyperparameters", "call"):
        _dict(fields[name])
    fields["inputs"] = {
        _text(name): Input(**item) for name, item in _dict(fields["inputs"]).items()
    }
    fields["outputs"] = [Output(**item) for item in fields["outputs"]]
    fields["not_stored"] = [NotStored(**item) for item in fields["not_stored"]]
    fields["attempts"] = [Failure(**item) for item in fields["attempts"]]
    fields["saved"] = [_text(ref) for ref in fields["saved"]]
    if type(fields["name"]) is not str or type(fields["function"]) is not str:
        raise ValueError("a step's name is unfit")
    return StepRecord(**_common(fields))


def code_from_data(data: Any) -> Code:
    """Read one entry of a run's `code`."""
    fields = dict(data)
    return Code(**{**fields, "unknown": tuple(fields["unknown"]), "given": tuple(fields["given"])})


def _common(fields: dict[str, Any]) -> dict[str, Any]:
    error = fields["error"]
    if fields["status"] not in get_args(Status):
        raise ValueError(f"its status is {fields['status']!r}")
    if type(fields["duration"]) not in (float, int, type(None)):
        raise ValueError("its duration is unfit")
    return {
        **fields,
        "started_at": datetime.fromisoformat(fields["started_at"]).astimezone(UTC),
        "error": None if error is None else Failure(**error),
    }


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ValueError(f"an object is needed where {value!r:.50} stands")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"a string is needed where {value!r:.50} stands")
    return value
