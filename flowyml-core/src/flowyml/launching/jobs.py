"""A call of a step that other processes make: sent to them by a folder, and what comes back."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from flowyml import encoding
from flowyml.assets import Asset
from flowyml.errors import FlowymlWarning, LaunchError, MaterializationError, told, warn
from flowyml.interfaces import Job, Launcher
from flowyml.launching import failures, parcels, program
from flowyml.records import StepRecord, code_from_data, step_from_data, step_to_data, to_data
from flowyml.running import Run
from flowyml.store import Store

if TYPE_CHECKING:
    import inspect

    from flowyml.inputs import Inputs
    from flowyml.steps import Step

FOLDER = "jobs"
"""The folder of a store in which jobs have theirs while they run."""

PRIVATE = "FLOWYML_PRIVATE"
"""The environment variable by which texts travel that must not be written down."""

JOB = "job.json"
OUTCOME = "outcome.json"
STEPS = "steps.json"
ARGUMENTS = "arguments"
RESULTS = "results"
CHANGED = "changed "

_TOUCHED = 300.0
"""Seconds after which the folder of a running job is touched again: `Store.gc` removes old ones."""


@attrs.frozen(eq=False)
class Sending:
    """One call of a step, as it is sent.

    Attributes:
        step: the step.
        run: the run that it is recorded in.
        record: its record.
        call: what tells it from all others.
        bound: its arguments.
        inputs: those of them that are data.
        states: packed random states by library, to start from if no seed is applied.
        store: where outputs go.
        launcher: what starts the processes.
    """

    step: Step[..., Any]
    run: Run
    record: StepRecord
    call: str
    bound: inspect.BoundArguments
    inputs: Inputs
    states: Mapping[str, bytes]
    store: Store
    launcher: Launcher

    def made(self) -> Any:
        """Have the call made; return what the function returned where the rank is 0.

        Raises:
            LaunchError: when it can't be sent, or a process ended without a word.
            BaseException: what the function raised, in the process where that happened first.
        """
        with self._folder() as folder:
            environment = self._write(folder)
            command = (sys.executable, "-m", "flowyml.launching.worker", str(folder))
            job = Job(self.step.name, command, environment, folder)
            try:
                with _in_use(folder):
                    self.launcher.launch(job)
            except LaunchError as error:
                self._take_steps(folder)
                first = failures.first(folder, error.rank)
                if first is None:
                    raise
                raise first from first.__cause__
            self._take_steps(folder)
            outcome = _read(folder / OUTCOME)
            if outcome is None:
                raise LaunchError(
                    f"The processes of the step {self.step.name!r} ended without an outcome: one "
                    f"of them ended itself, as os._exit does, before the function returned."
                )
            return self._received(outcome, Store(folder / RESULTS))

    def _note(self, outcome: dict[str, Any]) -> None:
        """Take over what was recorded where the call was made."""
        told = step_from_data({**step_to_data(self.record), **outcome["step"]})
        for name in ("outputs", "not_stored", "saved", "random_after", "world_size"):
            setattr(self.record, name, getattr(told, name))
        for name, record in told.inputs.items():
            self.record.inputs[name].changed = record.changed

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        parent = self.store.path / FOLDER
        self.store.prepare()
        parent.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path) -> dict[str, str]:
        """Write the job; return the environment that its processes need."""
        parcel = self._packed(Store(folder / ARGUMENTS))
        data = {
            "launcher": self.launcher.name,
            "leads": self.launcher.leads(),
            "source": attrs.asdict(program.source_of(self.step, parcel.named())),
            "run": to_data(attrs.evolve(self.run.record, steps=[], code={}, environment={})),
            "step": step_to_data(self.record),
            "call": self.call,
            "store": str(self.store.path),
            "formats": list(self.store.format),
            "states": {name: base64.b64encode(s).decode() for name, s in self.states.items()},
            "arguments": parcel.to_data(),
        }
        (folder / JOB).write_bytes(encoding.dumps(data))
        return {PRIVATE: json.dumps(parcel.private)} if parcel.private else {}

    def _packed(self, store: Store) -> parcels.Parcel:
        values = {f"argument {name}": value for name, value in self.bound.arguments.items()}
        variables = {
            f"variable {name}": value
            for name, value in program.globals_of(self.step.function).items()
        }
        while True:
            try:
                return parcels.pack({**values, **variables}, store, self._known())
            except parcels.NotPackedError as error:
                if error.name in variables:  # the other processes may have one of their own
                    del variables[error.name]
                    continue
                name = error.name.removeprefix("argument ")
                raise LaunchError(
                    f"The step {self.step.name!r} can't be sent to other processes: in its "
                    f"argument {name!r} {error}"
                ) from error

    def _known(self) -> Callable[[Any], str | None]:
        """Return what tells where an argument is stored; not of those with parts in common."""
        linked = {name for names in self.inputs.linked for name in names}
        places: dict[int, str] = {}
        for name, record in self.inputs.records.items():
            value = self.inputs.given(name)
            if record.ref is None or value is None or name in linked:
                continue
            if isinstance(value, Asset) and value.ref != record.ref:
                continue
            stored = self.store.get(record.ref).stored
            if stored is not None and stored.restore == "exact":
                places[id(value)] = f"{self.store.path}|{record.ref}"
        return lambda obj: places.get(id(obj))

    def _take_steps(self, folder: Path) -> None:
        """Record the steps that the function called."""
        data = _read(folder / STEPS)
        if data is None:
            return
        states = {key: base64.b64decode(text) for key, text in data["states"].items()}
        code = {item.digest: item for item in map(code_from_data, data["code"])}
        indices = {0: self.run.steps.index(self.record)}
        for number, item in enumerate(data["steps"], 1):
            record = step_from_data(item)
            record.parent = indices[record.parent or 0]
            random = {key: states[key] for key in record.random if key in states}
            indices[number] = self.run.add(record, code.get(record.code or ""), random)
            self.run.update(indices[number])

    def _received(self, data: dict[str, Any], store: Store) -> Any:
        self._note(data)
        reason = data["not_sent"]
        if reason is not None:
            raise MaterializationError(
                f"What the step {self.step.name!r} returned can't come back from the process that "
                f"made it: {reason} What could be stored is in {self.store.path}."
            )
        values = parcels.unpack(data["result"], store, private=data["private"])
        result = values.pop("result")
        for name, value in values.items():
            self._change(name.removeprefix(CHANGED), value)
        return result

    def _argument(self, name: str) -> Any:
        try:
            return self.inputs[name]
        except KeyError:
            return self.bound.arguments[name]

    def _change(self, name: str, value: Any) -> None:
        """Give an argument the content that the function has given it, where that is possible."""
        from flowyml import adapters

        try:
            target = self._argument(name)
            if type(target) is type(value) is list:
                target[:] = value
                return
            if type(target) is type(value) is dict:
                target.clear()
                target.update(value)
                return
            if type(target).__module__ == "numpy" and target.shape == value.shape:
                target[...] = value
                return
            materializer = adapters.materializer_of(target)
            if materializer is None or "into" not in materializer.accepts:
                raise LaunchError("nothing can be loaded into it")
            with tempfile.TemporaryDirectory(prefix="flowyml-") as folder:
                store = Store(folder)
                store.load(str(store.save(value, "changed").ref), into=target)
        except Exception as error:
            warn(
                f"The function of the step {self.step.name!r} changed its argument {name!r} in "
                f"another process; the one here stays as it was: {told(error)}",
                FlowymlWarning,
            )


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Show for the time of a with block that a folder isn't the leftover of a killed process."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(_TOUCHED):
            with suppress(OSError):
                os.utime(folder)

    thread = threading.Thread(target=touch, name="flowyml job", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read(folder: Path) -> dict[str, Any]:
    """Return the job in a folder.

    Raises:
        LaunchError: when there is none.
    """
    data = _read(folder / JOB)
    if data is None:
        raise LaunchError(f"{folder} holds no job. All processes have to see the store's folder.")
    return data


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = encoding.loads(path.read_bytes())
    except (OSError, encoding.EncodingError):
        return None
    return data


def private() -> list[Any]:
    """Return what came by the environment, and take it from there."""
    text = os.environ.pop(PRIVATE, "[]")
    found: list[Any] = json.loads(text)
    return found
