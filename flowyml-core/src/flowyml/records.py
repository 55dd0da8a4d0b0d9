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


@attrs.define
class StepRecord:
    """One call of a step.

    Attributes:
        name: the step's name.
        function: the dotted name of its function.
        status: ``running``, ``completed`` or ``failed``.
        started_at: when, in UTC.
        duration: seconds, without the time that storing the outputs took; None while it runs.
        seed: the seed that was applied, or None.
        hyperparameters: the arguments that are JSON-able, defaults included.
        inputs: the types of the other arguments, by name.
        outputs: what was stored.
        not_stored: what was not.
        parent: index of the step that called this one, or None.
        error: why it failed.
    """

    name: str
    function: str
    started_at: datetime
    status: Status = "running"
    duration: float | None = None
    seed: int | None = None
    hyperparameters: dict[str, Any] = attrs.field(factory=dict)
    inputs: dict[str, str] = attrs.field(factory=dict)
    outputs: list[Output] = attrs.field(factory=list)
    not_stored: list[NotStored] = attrs.field(factory=list)
    parent: int | None = None
    error: Failure | None = None


@attrs.define
class RunRecord:
    """One run: the steps that were called in it, and the environment they ran in.

    Attributes:
        id: unique; sorts by time.
        name: the run's name.
        status: ``running`` (also after the process was killed), ``completed`` or ``failed``.
        started_at: when, in UTC.
        duration: seconds; None while it runs.
        seed: the seed for steps that have none of their own, or None.
        environment: Python, platform and adapter versions.
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
    steps: list[StepRecord] = attrs.field(factory=list)
    tags: dict[str, str] = attrs.field(factory=dict)
    error: Failure | None = None

    @property
    def outputs(self) -> list[str]:
        """Refs of everything that its steps stored."""
        return [output.ref for step in self.steps for output in step.outputs]


def to_data(record: RunRecord) -> dict[str, Any]:
    """Return a record as JSON-able data."""
    data = attrs.asdict(
        record,
        value_serializer=lambda _, __, value: (
            value.isoformat() if isinstance(value, datetime) else value
        ),
    )
    return {"schema": SCHEMA, **data}


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
        if type(fields["name"]) is not str or fields["status"] not in get_args(Status):
            raise ValueError("its name or status is unfit")
        if type(fields["duration"]) not in (float, int, type(None)):
            raise ValueError("its duration is unfit")
        return RunRecord(**_common(fields))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"The run record {key} is damaged: {error!r}.") from error


def _step(data: Any) -> StepRecord:
    fields = dict(data)
    fields["outputs"] = [Output(**item) for item in fields["outputs"]]
    fields["not_stored"] = [NotStored(**item) for item in fields["not_stored"]]
    return StepRecord(**_common(fields))


def _common(fields: dict[str, Any]) -> dict[str, Any]:
    error = fields["error"]
    return {
        **fields,
        "started_at": datetime.fromisoformat(fields["started_at"]).astimezone(UTC),
        "error": None if error is None else Failure(**error),
    }
