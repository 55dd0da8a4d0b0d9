"""Steps: functions whose calls are recorded and whose outputs are stored by themselves.

A step returns exactly what its function returned. What a materializer handles is stored under
the step's name, or an asset's own; what none handles is noted in the record.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, Generic, ParamSpec, TypeVar, overload

from flowyml import adapters, encoding, names
from flowyml.assets import Asset
from flowyml.errors import FlowymlError, MaterializationWarning, warn
from flowyml.properties import NotJsonableError, check_tags, to_jsonable, type_name
from flowyml.records import NotStored, Output, StepRecord
from flowyml.running import Run, current_run, failure, parent_step, run
from flowyml.seeds import check_seed, seeded
from flowyml.store import Store
from flowyml.store.saving import checked_preference

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_SECRET = re.compile(
    r"(^|_)(passwords?|passwd|pwd|passphrase|secrets?|token|bearer|auth|credentials?"
    r"|(api|access|private|secret)_?keys?)$"
)
"""Names that look secret. A token is; ``max_tokens`` and ``token_count`` are not."""
_LARGEST_HYPERPARAMETER = 16_384
"""Bytes of JSON; what is larger is data, and a record isn't the place for data."""


class Step(Generic[_Parameters, _Result]):
    """A function whose calls are recorded; call it like the function."""

    def __init__(
        self,
        function: Callable[_Parameters, _Result],
        name: str | None,
        seed: int | None,
        store: Store | None,
        tags: Mapping[str, str] | None,
        format: str | Iterable[str] | None = None,
    ) -> None:
        _refuse_unfit(function)
        functools.update_wrapper(self, function)
        self.function = function
        self._signature = inspect.signature(function)
        self.name = names.check_name(name or names.from_text(function.__name__))
        self.seed = None if seed is None else check_seed(seed)
        self.store = store
        self.tags = check_tags(tags or {})
        self.format = checked_preference(format)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __reduce__(self) -> str:
        """Pickle by name, like a function, so that processes can be handed a step."""
        return self.function.__qualname__

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function, so that methods can be steps."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        """Call the function in the current run, or in a run of its own."""
        bound = self._signature.bind(*args, **kwargs)  # a wrong call is no run
        outer = current_run()
        context = nullcontext(outer) if outer else run(self.name, store=self.store, tags=self.tags)
        with context as this_run:
            assert this_run is not None
            return self._call_in(this_run, bound, args, kwargs)

    def _call_in(
        self, this_run: Run, bound: inspect.BoundArguments, args: Any, kwargs: Any
    ) -> _Result:
        seed = self.seed if self.seed is not None else this_run.seed
        record = StepRecord(
            name=self.name,
            function=f"{self.function.__module__}.{self.function.__qualname__}",
            started_at=datetime.now(UTC),
            seed=seed,
            parent=parent_step.get(),
        )
        record.hyperparameters, record.inputs = _arguments(bound)
        index = this_run.add(record)
        this_run.write_or_warn()
        token = parent_step.set(index)
        started = time.perf_counter()
        try:
            with seeded(seed):
                result = self.function(*args, **kwargs)
        except BaseException as error:
            record.duration = time.perf_counter() - started
            record.status, record.error = "failed", failure(error)
            this_run.write_or_warn()
            raise
        finally:
            parent_step.reset(token)
        record.duration = time.perf_counter() - started
        record.status = "completed"
        self._store_outputs(this_run, record, result)
        this_run.write_or_warn()
        return result

    def _store_outputs(self, this_run: Run, record: StepRecord, result: object) -> None:
        store = Store.of(self.store or this_run.store)
        try:
            outputs = list(_outputs(result))
        except Exception:  # a container's own methods may raise, and materializers may quarrel
            outputs = [("", result)]
        for key, value in outputs:
            name = value.name if isinstance(value, Asset) else None
            try:
                asset = store.save_for_run(
                    value,
                    name or names.from_text(f"{self.name}.{key}" if key else self.name),
                    preferred=self.format,
                    run=this_run.id,
                    step=self.name,
                )
            except Exception as error:  # nothing may take the result from the user now
                record.not_stored.append(NotStored(key, type_name(value), str(error)))
                self._warn_not_stored(key, value, error)
            else:
                assert asset.stored is not None
                stored = asset.stored
                record.outputs.append(Output(key, str(asset.ref), stored.digest, stored.type))

    def _warn_not_stored(self, key: str, value: object, error: Exception) -> None:
        which = f"The output {key!r}" if key else "The output"
        told = str(error) if isinstance(error, FlowymlError) else f"{type_name(error)}: {error}"
        warn(
            f"{which} of the step {self.name!r}, a {type_name(value)}, was not stored: {told}",
            MaterializationWarning,
        )


@overload
def step(function: Callable[_Parameters, _Result], /) -> Step[_Parameters, _Result]: ...


@overload
def step(
    name: str | None = None,
    *,
    seed: int | None = None,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
) -> Callable[[Callable[_Parameters, _Result]], Step[_Parameters, _Result]]: ...


def step(
    name: Callable[..., Any] | str | None = None,
    *,
    seed: int | None = None,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
) -> Any:
    """Make a function a step: ``@step``, ``@step("name")`` or ``@step(seed=0)``.

    Args:
        name: of the step and of outputs that have none of their own; by default the function's.
        seed: seeds Python, NumPy and every framework before each call; the outer random state
            is put back after it.
        store: where outputs go; by default the run's store.
        tags: free text by key, for the run that a call outside any run opens.
        format: the format, or formats in order of preference, for outputs that have it; it comes
            before the store's own.

    Raises:
        ValueError: for an unfit name or seed, or a format that no installed adapter has.
        TypeError: for what is no plain function: a generator or ``async def`` returns before it
            has run, so its outputs could not be stored.
    """
    if callable(name):
        return Step(name, None, seed, store, tags)
    return lambda function: Step(function, name, seed, store, tags, format)


def _refuse_unfit(function: Any) -> None:
    if not inspect.isroutine(function):
        raise TypeError(f"@step decorates functions; got {function!r}")
    for test, kind in (
        (inspect.iscoroutinefunction, "an async function"),
        (inspect.isgeneratorfunction, "a generator"),
        (inspect.isasyncgenfunction, "an async generator"),
    ):
        if test(function):
            raise TypeError(
                f"{function.__qualname__} is {kind}, which returns before it has run; make it a "
                f"plain function that returns its result."
            )


def _arguments(bound: inspect.BoundArguments) -> tuple[dict[str, Any], dict[str, str]]:
    """Split the arguments, defaults included, into JSON-able values and the types of the rest."""
    bound.apply_defaults()
    hyperparameters: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for name, value in _flat(bound):
        try:
            converted = _masked({name: to_jsonable(value)})[name]
            if len(encoding.dumps(converted)) > _LARGEST_HYPERPARAMETER:
                raise NotJsonableError(name)
        except (NotJsonableError, encoding.EncodingError):
            inputs[name] = "***" if _looks_secret(name) else type_name(value)
        else:
            hyperparameters[name] = converted
    return hyperparameters, inputs


def _masked(value: Any) -> Any:
    """Replace what stands under names that look secret, at any depth."""
    if isinstance(value, dict):
        return {k: "***" if _looks_secret(k) else _masked(item) for k, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _looks_secret(name: str) -> bool:
    return _SECRET.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()) is not None


def _flat(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Yield arguments by name, those of ``**kwargs`` under their own."""
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _outputs(result: object) -> Iterator[tuple[str, Any]]:
    """Yield what to store, by key: the whole result, or its parts when no materializer has it."""
    if result is None:
        return
    if isinstance(result, Asset) or (
        not _holds_models(result) and adapters.materializer_of(result) is not None
    ):
        yield "", result
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        yield from zip(result._fields, result, strict=True)
    elif isinstance(result, (list, tuple)):
        yield from ((str(index), item) for index, item in enumerate(result))
    elif isinstance(result, Mapping):
        yield from ((str(key), item) for key, item in result.items())
    else:
        yield "", result


def _holds_models(result: object) -> bool:
    """Tell whether a container holds models: each becomes an asset with a description."""
    if isinstance(result, Mapping):
        result = [*result.values()]
    return isinstance(result, (list, tuple)) and any(
        isinstance(item, Asset) or adapters.extractor_or_none(item) is not None for item in result
    )
