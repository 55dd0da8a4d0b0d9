"""Results of steps that are kept for equal calls: the same code, arguments and seed.

What a call comes to may not hang on anything else, so a call with an argument that has no digest
isn't kept, nor a result that would come back as something else. An entry only refers to what the
store holds; where that is gone or damaged, the call is made again.
"""

from __future__ import annotations

import copy
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from flowyml import adapters, encoding
from flowyml.arguments import Call
from flowyml.assets import Asset
from flowyml.digests import digest_of_bytes
from flowyml.errors import FlowymlError, FlowymlWarning, StoreError, told, warn
from flowyml.identity import NoDigestError, content_digest_of
from flowyml.inputs import Inputs
from flowyml.models import is_model
from flowyml.properties import type_name
from flowyml.records import Code, Output, StepRecord
from flowyml.store import Store

SCHEMA = 1
"""Version of an entry's layout."""


class NotCachedError(FlowymlError):
    """A call's result can't be kept, or taken."""


@attrs.frozen
class Hit:
    """A result that was kept.

    Attributes:
        result: what the step returned.
        source: ``"<run id>/<index>"`` of the step that computed it.
        outputs: what that step stored.
    """

    result: Any
    source: str
    outputs: list[Output]


def key_of(
    code: Code | None,
    call: Call,
    inputs: Inputs,
    seed: int | None,
    formats: tuple[str, ...],
    launcher: Mapping[str, Any],
) -> str:
    """Return the key of a call.

    Raises:
        NotCachedError: with the reason, when it has none.
    """
    if code is None:
        raise NotCachedError("the function's code can't be looked at")
    if code.unknown:
        raise NotCachedError(code.unknown[0])
    digests = {}
    for name in call.inputs:
        record = inputs.records[name]
        if record.digest is None:
            raise NotCachedError(f"the argument {name!r} has no digest: {record.reason}")
        digests[name] = record.digest
    _refuse_lost(call.form)
    secrets = {name: _digest_of_secret(name, value) for name, value in call.secrets.items()}
    return digest_of_bytes(
        encoding.dumps(
            {
                "schema": SCHEMA,
                "python": platform.python_version_tuple()[:2],
                "code": code.digest,
                "libraries": sorted(code.libraries.items()),
                "call": call.form,
                "inputs": sorted(digests.items()),
                "linked": inputs.linked,
                "secrets": sorted(secrets.items()),
                "seed": seed,
                "formats": formats,
                "launcher": sorted(launcher.items()),
            }
        )
    )


def _refuse_lost(form: Any) -> None:
    if isinstance(form, dict):
        form = list(form.values())
    if isinstance(form, list):
        if len(form) == 3 and form[0] == "lost":
            raise NotCachedError(f"an argument, a {form[1]}, has no digest: {form[2]}")
        for item in form if not form or form[0] != "value" else ():
            _refuse_lost(item)


def _digest_of_secret(name: str, value: Any) -> str:
    try:
        return content_digest_of(value)
    except NoDigestError as error:
        raise NotCachedError(f"the argument {name!r} has no digest: {error}") from error


def _has_twice(value: Any, met: set[int]) -> bool:
    """Tell whether a list or dict is at several places in a plain value."""
    if not isinstance(value, (list, tuple, dict)):
        return False
    if id(value) in met and not isinstance(value, tuple):
        return True
    met.add(id(value))
    items = value.values() if isinstance(value, dict) else value
    return any(_has_twice(item, met) for item in items)


class Entry:
    """What is kept under one key."""

    def __init__(self, key: str, store: Store) -> None:
        self.key = key
        self._store = store
        self._record = f"cache/{key}.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process or thread computes this key.

        Raises:
            StoreError: when the store can't be locked.
        """
        from filelock import FileLock

        folder = self._store.path / "cache"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{self.key}.lock", thread_local=False)
            lock.acquire()
        except OSError as error:
            raise StoreError(f"{folder} can't be locked: {error}.") from error
        try:
            yield
        finally:
            lock.release()

    def find(self, inputs: Inputs) -> Hit | None:
        """Return what is kept, or None.

        Arguments that the function changed in place are changed as it did.
        """
        try:
            data = self._store.read_record(self._record)
        except (OSError, FlowymlError):
            return None
        try:
            if data["schema"] != SCHEMA:
                return None
            outputs = [Output(**item) for item in data["outputs"]]
            made = _Loader(self._store, data, inputs).result()
            return Hit(made, str(data["source"]), outputs)
        except KeyboardInterrupt:
            raise
        except Exception as error:  # a stranger's entry, a deleted version, a damaged file
            warn(
                f"What was kept of an equal call can't be used, so it is made again: {told(error)}",
                FlowymlWarning,
            )
            return None

    def keep(self, result: Any, source: str, record: StepRecord, inputs: Inputs) -> None:
        """Keep a result.

        Raises:
            NotCachedError: with the reason, when it would come back as something else.
            StoreError: when the store can't take it.
        """
        for name, (value, _) in inputs.changed().items():
            materializer = adapters.materializer_of(value)
            if materializer is None or "into" not in materializer.accepts:
                raise NotCachedError(f"it changes its argument {name!r}")
        if inputs.lost:
            raise NotCachedError(f"it changes its argument {inputs.lost[0]!r}")
        data = {
            "schema": SCHEMA,
            "source": source,
            "outputs": [attrs.asdict(output) for output in record.outputs],
            "result": self._form(result, record, inputs),
            "changed": {
                name: [self._kept(value, digest), digest]
                for name, (value, digest) in inputs.changed().items()
            },
        }
        self._store.write_record(self._record, data)

    def _form(self, result: Any, record: StepRecord, inputs: Inputs) -> Any:
        """Return how a result is made of what is stored."""
        if record.not_stored:
            left = record.not_stored[0]
            raise NotCachedError(f"an output wasn't stored: {left.reason}")
        refs = {output.key: output.ref for output in record.outputs}
        if result is None:
            return None
        if encoding.is_encodable(result) and _has_twice(result, set()):
            raise NotCachedError("a part of its result is in it more than once")
        if list(refs) == [""] and not (type(result) is dict and list(result) == [""]):
            return self._part(result, refs[""], inputs)
        kind = type(result)
        if kind not in (tuple, list, dict):
            raise NotCachedError(f"it returned a {type_name(result)}")
        items = list(result.items() if kind is dict else enumerate(result))
        if any(type(key) not in (str, int) for key, _ in items) or len(refs) != len(items):
            raise NotCachedError("it returned a dict with other keys than strings and numbers")
        if not any(isinstance(item, Asset) for _, item in items):
            whole = adapters.materializer_of(result)
            if whole is not None:  # its parts may have memory in common
                return ["ref", self._kept(result, content_digest_of(result))]
        shareable = [item for _, item in items if not encoding.is_encodable(item)]
        if len(shareable) > 1:
            raise NotCachedError(
                "its outputs may have memory in common; return them as one asset instead"
            )
        return [
            kind.__name__,
            [[key, self._part(item, refs[str(key)], inputs)] for key, item in items],
        ]

    def _part(self, item: Any, ref: str, inputs: Inputs) -> Any:
        self._check(ref)
        data = item.data if isinstance(item, Asset) else item
        argument = inputs.name_of(data)
        if isinstance(item, Asset):
            if argument is not None and argument in inputs.changed():
                return ["asset of", ref, argument]
            return ["asset", ref]
        return ["ref", ref] if argument is None else ["argument", argument]

    def _check(self, ref: str) -> None:
        stored = self._store.get(ref).stored
        if stored is None or stored.restore != "exact":
            raise NotCachedError(f"{ref} can't be restored exactly")

    def _kept(self, value: Any, digest: str) -> str:
        ref = self._store.keep(value, digest)
        assert ref is not None
        self._check(ref)
        return ref


class _Loader:
    """Makes a result of an entry."""

    def __init__(self, store: Store, data: Mapping[str, Any], inputs: Inputs) -> None:
        self._store = store
        self._data = data
        self._inputs = inputs

    def result(self) -> Any:
        """Load everything first, and change arguments then: whatever fails, none is changed."""
        for name, (ref, digest) in self._data["changed"].items():
            if is_model(self._inputs[name]):
                self._try(name, ref, digest)
        made = self._made(self._data["result"])
        for name, (ref, digest) in self._data["changed"].items():
            self._change(name, ref, digest)
        return made

    def _try(self, name: str, ref: str, digest: str) -> None:
        """Raise NotCachedError when an argument would not be in all as the function left it."""
        trial = copy.deepcopy(self._inputs[name])
        self._store.load(ref, into=trial)
        if content_digest_of(trial) != digest:
            raise NotCachedError(f"it changes more of its argument {name!r} than its values")

    def _change(self, name: str, ref: str, digest: str) -> None:
        argument = self._inputs[name]
        self._store.load(ref, into=argument)
        self._inputs.records[name].changed = digest
        if content_digest_of(argument) != digest:
            warn(
                f"The argument {name!r} has been given the values that the function had given it "
                f"when it ran, but is not in all else as it was then.",
                FlowymlWarning,
            )

    def _made(self, form: Any) -> Any:
        if form is None:
            return None
        word, *rest = form
        if word == "ref":
            return self._store.load(rest[0])
        if word == "argument":
            return self._inputs[rest[0]]
        if word in ("asset", "asset of"):
            return self._asset(*rest)
        items = [(key, self._made(item)) for key, item in rest[0]]
        if word == "dict":
            return dict(items)
        return {"tuple": tuple, "list": list}[word](item for _, item in items)

    def _asset(self, ref: str, argument: str | None = None) -> Asset:
        asset = self._store.get(ref)
        if argument is None:
            asset.data = self._store.load(ref)
        else:
            asset.data = self._inputs[argument]
        return asset


_said: set[str] = set()


def say_once(step: str, source: str) -> None:
    """Say, once for each step in a process, that its result was taken from an earlier call."""
    if step not in _said:
        _said.add(step)
        with suppress(OSError, ValueError):  # there may be nobody to tell
            print(
                f"flowyml: {step} was not run again: its result is that of an equal call in the "
                f"run {source.partition('/')[0]}",
                file=sys.stderr,
            )
