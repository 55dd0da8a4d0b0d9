"""The call of a step, as one of several processes makes it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flowyml import adapters, encoding, groups, origins, running, seeds
from flowyml.arguments import describe
from flowyml.context import InStep, inside
from flowyml.digests import digest_of_bytes
from flowyml.errors import StoreError
from flowyml.inputs import Inputs
from flowyml.interfaces import Group
from flowyml.launching import jobs, parcels, program
from flowyml.outputs import parts_of, store_outputs
from flowyml.records import StepRecord, from_data, step_from_data, step_to_data, to_data
from flowyml.running import Run
from flowyml.steps import Step
from flowyml.store import Store


class Work:
    """What one process has to do."""

    def __init__(self, folder: Path, private: list[Any]) -> None:
        """Read a job.

        Args:
            folder: where it is.
            private: what came with it and isn't written there.

        Raises:
            LaunchError: when there is none.
        """
        self._folder = folder
        self._data = jobs.read(folder)
        self._private = private

    def do(self, joined: Callable[[Group], None]) -> None:
        """Make the call.

        Args:
            joined: is told of the group once it is joined.
        """
        source = program.Source(**_tuples(self._data["source"]))
        with (
            program.loaded(source) as step_of,
            adapters.launcher(self._data["launcher"]).join() as group,
        ):
            joined(group)
            with groups.entered(group):
                self._make(step_of, group)

    def _make(self, step_of: Callable[[Mapping[str, Any]], Step[..., Any]], group: Group) -> None:
        leading = self._leading(group)
        values = parcels.unpack(
            self._data["arguments"], Store(self._folder / jobs.ARGUMENTS), private=self._private
        )
        variables = {
            name.removeprefix("variable "): value
            for name, value in values.items()
            if name.startswith("variable ")
        }
        arguments = {
            name.removeprefix("argument "): value
            for name, value in values.items()
            if name.startswith("argument ")
        }
        call = _Call(self._data, step_of(variables), arguments, group, Path(leading["folder"]))
        call.make()
        self._hand_on(Path(leading["folder"]), group)

    def _leading(self, group: Group) -> dict[str, Any]:
        """Return what all processes go by: the folder and the run of the machine that leads."""
        own = {
            "leads": self._data["leads"],
            "folder": str(self._folder),
            "run": self._data["run"],
            "call": self._data["call"],
            "step": self._data["step"],
        }
        told = [encoding.loads(each) for each in group.exchange(encoding.dumps(own), "job")]
        leading: dict[str, Any] = next((each for each in told if each["leads"]), told[0])
        if not Path(leading["folder"]).is_dir():
            raise StoreError(
                f"The folder {leading['folder']} isn't there for rank {group.rank}: the store's "
                f"folder has to be on a file system that all processes see. Say which with "
                f"store=Store(...) or FLOWYML_STORE."
            )
        self._data.update(run=leading["run"], call=leading["call"], step=leading["step"])
        return leading

    def _hand_on(self, leading: Path, group: Group) -> None:
        """Give the outcome to the machines that didn't lead, before anybody removes it."""
        group.exchange(b"", "made")
        if leading != self._folder and group.local_rank == 0:
            shutil.copytree(leading / jobs.RESULTS, self._folder / jobs.RESULTS)
            shutil.copyfile(leading / jobs.OUTCOME, self._folder / jobs.OUTCOME)
        group.exchange(b"", "taken")


class _Call:
    """The call itself."""

    def __init__(
        self,
        data: Mapping[str, Any],
        step: Step[..., Any],
        arguments: Mapping[str, Any],
        group: Group,
        folder: Path,
    ) -> None:
        self._data = data
        self._step = step
        self._group = group
        self._folder = folder
        self._store = Store(data["store"], format=data["formats"])
        self.record: StepRecord = step_from_data(data["step"])
        self._run = Run(from_data(data["run"], "of the job"), self._store, keeps=False)
        self._run.steps.append(self.record)
        self.record.world_size = group.world_size
        self._bound = step.bound(arguments)
        call = describe(self._bound)
        self._inputs = Inputs.received(self.record.inputs, call.inputs, self._store)
        self._plain = {name: repr(value) for name, value in call.settings.items()}

    def make(self) -> None:
        """Call the function; where the rank is 0, leave what came of it in the folder."""
        with running.entered(self._run):
            try:
                result = self._called()
            finally:
                if self._group.rank == 0:
                    self._write_steps()
            self._store_outputs(result)
            if self._group.rank == 0:
                self._write_outcome(result)

    def _called(self) -> Any:
        scope = origins.Scope(
            self._run.id, self._step.name, self._inputs.parents(of_model=True), self.record.saved
        )
        self._sow()
        store, seed = self._store, self.record.seed
        with inside(0, InStep(store, self._step.name, self._data["call"], seed), scope):
            return self._step.function(*self._bound.args, **self._bound.kwargs)

    def _sow(self) -> None:
        """Put the generators where the function starts from: every rank elsewhere."""
        rank, seed = self._group.rank, self.record.seed or 0
        if self.record.seeded or rank > 0:
            seeds.sow(seeds.of_rank(seed, self._group))
        else:
            seeds.put({k: base64.b64decode(text) for k, text in self._data["states"].items()})

    def _store_outputs(self, result: Any) -> None:
        after = seeds.Randomness.now().packed()
        self.record.random_after = {name: digest_of_bytes(state) for name, state in after.items()}
        scope = origins.Scope(self._run.id, self._step.name)
        with inside(0, None, scope):
            store_outputs(
                parts_of(result),
                self.record,
                self._inputs,
                self._store,
                self._run.id,
                self._step.settings.format,
            )

    def _write_steps(self) -> None:
        codes = to_data(self._run.record)["code"]
        states = {key: base64.b64encode(state).decode() for key, state in self._run.states.items()}
        data = {
            "steps": [step_to_data(record) for record in self._run.steps[1:]],
            "code": list(codes.values()),
            "states": states,
        }
        (self._folder / jobs.STEPS).write_bytes(encoding.dumps(data))

    def _write_outcome(self, result: Any) -> None:
        changed = {f"{jobs.CHANGED}{name}": value for name, value in self._changed()}
        store, reason, parcel = Store(self._folder / jobs.RESULTS), None, None
        try:
            parcel = parcels.pack({"result": result, **changed}, store, self._known(result))
        except parcels.NotPackedError as error:
            reason = f"{error}."
        step = step_to_data(self.record)
        data = {
            "result": None if parcel is None else parcel.to_data(),
            "private": [] if parcel is None else parcel.private,
            "not_sent": reason,
            "step": step,
        }
        staged = self._folder / f"{jobs.OUTCOME}.tmp"
        staged.write_bytes(encoding.dumps(data))
        staged.replace(self._folder / jobs.OUTCOME)

    def _changed(self) -> Iterator[tuple[str, Any]]:
        """Yield the arguments that the function has changed in place, with their names."""
        self._inputs.note_changes()
        for name, (value, _) in self._inputs.changed().items():
            yield name, value
        for name, before in self._plain.items():
            value = self._bound.arguments.get(name)
            if isinstance(value, (list, dict)) and repr(value) != before:
                yield name, value

    def _known(self, result: Any) -> Callable[[Any], str | None]:
        """Return what tells where an output is that has been stored exactly."""
        places: dict[int, str] = {}
        outputs = {output.key: output.ref for output in self.record.outputs}
        for key, value in parts_of(result):
            ref = outputs.get(key)
            stored = None if ref is None else self._store.get(ref).stored
            if stored is not None and stored.restore == "exact":
                places[id(value)] = f"{self._store.path}|{ref}"
        return lambda obj: places.get(id(obj))


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}
