"""What a step was given, beyond settings: recognised by content, and kept if it is known nowhere.

An input that the store holds is recorded by its ref. One that it doesn't hold is kept by its
content, up to a size, or the run couldn't be repeated.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from flowyml import adapters, origins
from flowyml.arguments import Call, masked
from flowyml.assets import Asset, Parent, Relation
from flowyml.errors import AdapterWarning, FlowymlError, told, warn
from flowyml.identity import NoDigestError, content_digest_of
from flowyml.models import is_model
from flowyml.names import parse_ref
from flowyml.properties import describe, type_name
from flowyml.records import Input
from flowyml.store import Store
from flowyml.store.catalog import is_kept

KEPT_BY_DEFAULT = 16 << 20
"""Bytes up to which an input is kept unless `@step(keep_inputs=...)` says otherwise."""


class Inputs:
    """The inputs of one call.

    Attributes:
        records: what is recorded of each, by flat name.
        lost: names of those that had a digest before the call and have none after it.
        linked: names of those that have parts in common, in groups.
    """

    def __init__(self, call: Call, store: Store, limit: int | None) -> None:
        """Describe inputs and keep those that aren't in the store.

        Args:
            call: the call that they are of.
            store: the store.
            limit: bytes up to which one is kept; None is without limit.
        """
        self._values = dict(call.inputs)
        self._private = call.private
        self._store = store
        self._limit = limit
        self.lost: list[str] = []
        self.records = {name: self._record(name, value) for name, value in call.inputs.items()}
        self.linked = self._linked()
        if limit != 0:
            self._keep_all()
        self.records |= self._recognised(call.settings)

    @classmethod
    def received(cls, records: dict[str, Input], values: Mapping[str, Any], store: Store) -> Inputs:
        """Return inputs that another process has described, as they are here.

        Args:
            records: what that process recorded of each, by flat name.
            values: the inputs, by flat name.
            store: the store.
        """
        made = cls(Call(), store, 0)
        made.records = {name: record for name, record in records.items() if name in values}
        made._values = {name: value for name, value in values.items() if name in records}
        return made

    def parents(self, of_model: bool) -> tuple[Parent, ...]:
        """Return the inputs that are assets, as parents of an output.

        Args:
            of_model: whether the output is a model: it was trained on what is none.
        """
        found = []
        for name, record in self.records.items():
            known = record.ref is not None and not is_kept(*parse_ref(record.ref))
            ref = record.ref if known else record.derived_from
            if ref is not None:
                data = of_model and not is_model(self._values.get(name))
                relation: Relation = "trained_on" if data else "parent"
                found.append(Parent(ref, record.digest if known else None, relation))
        return tuple(found)

    def note_changes(self) -> None:
        """Record which inputs have changed in place."""
        for name, value in self._values.items():
            record = self.records[name]
            if record.digest is None or _is_code(value):
                continue
            try:
                digest = content_digest_of(value)
            except NoDigestError as error:
                record.reason = f"it has no digest any more: {error}"
                self.lost.append(name)
            else:
                record.changed = None if digest == record.digest else digest

    def changed(self) -> dict[str, tuple[Any, str]]:
        """Return the inputs that have changed, with their new digests, by name."""
        return {
            name: (self[name], record.changed)
            for name, record in self.records.items()
            if record.changed is not None
        }

    def name_of(self, obj: object) -> str | None:
        """Return the name of the input that an object is."""
        names = (name for name in self._values if self[name] is obj)
        return next(names, None)

    def given(self, name: str) -> Any:
        """Return an input as it was given: an asset rather than its data."""
        return self._values.get(name)

    def __getitem__(self, name: str) -> Any:
        """Return an input itself; of an asset, its data."""
        value = self._values[name]
        return value.data if issubclass(type(value), Asset) else value

    def _record(self, name: str, value: Any) -> Input:
        record = Input(type_name(value))
        try:
            record.digest = content_digest_of(value)
        except NoDigestError as error:
            record.reason = str(error)
        try:
            if name not in self._private:
                record.settings = _settings(value)
            origin = origins.find(value, self._store.path, record.digest)
            record.derived_from = origin.derived_from
            if origin.ref is not None and self._store.has(origin.ref):
                record.ref = origin.ref
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of adapters, of the store, of the object's own code
            record.reason = told(error)
        return record

    def _keep_all(self) -> None:
        """Keep what isn't in the store, and together what has parts in common."""
        for names in self.linked:
            self._keep_together(names)
        for name, record in self.records.items():
            code = _is_code(self._values[name])
            if record.digest and not (record.ref or record.within or record.reason or code):
                record.ref, record.reason = self._kept(self[name], record.digest, {name})

    def _recognised(self, settings: dict[str, Any]) -> dict[str, Input]:
        """Return those settings that are what a step returned or the store loaded."""
        found = {}
        for name, value in settings.items():
            if not origins.may_be_known(value):
                continue
            try:
                digest = content_digest_of(value)
            except NoDigestError:
                continue
            ref = origins.find(value, self._store.path, digest).ref
            if ref is not None and self._store.has(ref):
                found[name] = Input(type_name(value), digest, ref)
        return found

    def _linked(self) -> list[list[str]]:
        """Return the names of inputs in groups that have parts in common."""
        groups: list[tuple[set[Any], list[str]]] = []
        for name, record in self.records.items():
            value = self[name]
            parts = {("object", id(value)), *(_parts(value) if record.digest else ())}
            met = [group for group in groups if group[0] & parts]
            rest = [group for group in groups if not group[0] & parts]
            joined = parts.union(*(group[0] for group in met))
            groups = [*rest, (joined, [*(one for group in met for one in group[1]), name])]
        return sorted(names for _, names in groups if len(names) > 1)

    def _keep_together(self, names: list[str]) -> None:
        together = {name: self[name] for name in names}
        try:
            digest = content_digest_of(together)
        except NoDigestError:
            return
        ref, reason = self._kept(together, digest, set(names))
        for name in names:
            self.records[name].within = ref
            self.records[name].reason = reason

    def _kept(self, value: Any, digest: str, names: set[str]) -> tuple[str | None, str | None]:
        """Keep an object; return its ref, or why it isn't kept."""
        if names & self._private:
            return None, "it wasn't kept, since something in it has a name that looks secret"
        try:
            ref = self._store.keep(value, digest, limit=self._limit)
        except FlowymlError as error:
            return None, f"it wasn't kept: {error}"
        except Exception as error:  # of the object's own code
            return None, f"it wasn't kept: {told(error)}"
        if ref is not None:
            return ref, None
        return None, (
            f"it has more than {self._limit} bytes, and nothing as large is kept unless "
            f"@step(keep_inputs=True) says so"
        )


def _is_code(value: Any) -> bool:
    return issubclass(type(value), (types.FunctionType, type))


def _settings(value: Any) -> dict[str, Any]:
    if _is_code(value) or isinstance(value, Asset):
        return {}
    materializer = adapters.materializer_of(value)
    return {} if materializer is None else {**masked(describe(dict(materializer.settings(value))))}


def _parts(value: Any) -> set[Any]:
    """Return what an object has that others may have too, as its adapter tells."""
    try:
        materializer = adapters.materializer_of(value)
        return set() if materializer is None else set(materializer.parts(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        warn(f"The parts of a {type_name(value)} can't be told: {told(error)}", AdapterWarning)
        return set()
