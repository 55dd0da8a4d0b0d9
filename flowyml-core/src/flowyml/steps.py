"""Steps: functions whose calls are recorded and whose outputs are stored by themselves.

A step returns exactly what its function returned. What a materializer handles is stored under
the step's name, or an asset's own; what none handles is noted in the record.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, ParamSpec, TypeVar, overload

import attrs

from flowyml import adapters, code, groups, names, seeds
from flowyml.calling import Again, Calling
from flowyml.inputs import KEPT_BY_DEFAULT
from flowyml.interfaces import Launcher
from flowyml.properties import check_tags
from flowyml.records import StepRecord
from flowyml.running import Run, RunContext, current_run, failure
from flowyml.scripts import refuse_while_loading
from flowyml.store import Store
from flowyml.store.saving import checked_preference

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@attrs.frozen
class Settings:
    """How a step goes about its calls; see `step` for the meaning of each."""

    seed: int | None = None
    cache: bool = False
    retries: int = 0
    backoff: float = 1.0
    store: Store | None = None
    tags: dict[str, str] = attrs.field(factory=dict)
    format: tuple[str, ...] = ()
    keep_inputs: int | None = KEPT_BY_DEFAULT
    launcher: Launcher | None = None
    resume: bool = False


class Step(Generic[_Parameters, _Result]):
    """A function whose calls are recorded; call it like the function.

    Attributes:
        name: of the step, and of outputs that have none of their own.
        function: the function.
        settings: what `step` was given.
    """

    def __init__(
        self, function: Callable[_Parameters, _Result], name: str | None, settings: Settings
    ) -> None:
        _refuse_unfit(function)
        functools.update_wrapper(self, function)
        self.function = function
        self._signature = inspect.signature(function)
        self.name = names.check_name(name or names.from_text(function.__name__))
        self.settings = settings
        code.source_of(function)  # the file may be edited before the first call
        _steps[self.dotted] = self

    @property
    def dotted(self) -> str:
        """The dotted name of the function."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __reduce__(self) -> str:
        """Pickle by name, like a function, so that processes can be handed a step."""
        return self.function.__qualname__

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function, so that methods can be steps."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        """Call the function in the current run, or in a run of its own."""
        refuse_while_loading(f"calls the step {self.name!r}")
        resume = self._take_resume(kwargs)
        bound = self._signature.bind(*args, **kwargs)  # a wrong call is no run
        outer = current_run()
        settings = self.settings
        context: AbstractContextManager[Run]
        if outer is not None:
            context = nullcontext(outer)
        else:
            given = settings.store, dict(settings.tags), False, settings.launcher
            context = RunContext(self.name, None, *given)
        with context as this_run:
            calling = Calling(self, this_run, bound, args, kwargs, resume=resume)
            with groups.explained() if outer is None else nullcontext():
                result: _Result = calling.result()
            return result

    def _take_resume(self, kwargs: dict[str, Any]) -> bool:
        """Return whether to resume; ``resume=`` isn't the function's unless it has such a one."""
        takes = any(
            name == "resume" or parameter.kind is parameter.VAR_KEYWORD
            for name, parameter in self._signature.parameters.items()
        )
        if takes or "resume" not in kwargs:
            return self.settings.resume
        return _checked_flag("resume", kwargs.pop("resume"))

    def bound(self, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return arguments, by the names of their parameters, as a call of the function."""
        return inspect.BoundArguments(self._signature, OrderedDict(arguments))

    def repeat(
        self,
        record: StepRecord,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        states: Mapping[str, bytes],
        this_run: Run,
    ) -> StepRecord:
        """Call the function once more as it was called then; return the new record.

        Args:
            record: of the call then. Its seed is applied if it was.
            args: positional arguments.
            kwargs: keyword arguments.
            states: packed random states by library, to start from if no seed was applied.
            this_run: the run to record it in, which `running.replay` opened.

        Raises:
            TypeError: when the arguments don't fit the function any more.
        """
        bound = self._signature.bind(*args, **kwargs)
        calling = Calling(
            self, this_run, bound, tuple(args), dict(kwargs), Again(record, dict(states))
        )
        try:
            calling.result()
        except Exception as error:
            if calling.record.status != "failed":  # the recording failed, not the function
                calling.record.status, calling.record.error = "failed", failure(error)
        return calling.record


_steps: weakref.WeakValueDictionary[str, Step[..., Any]] = weakref.WeakValueDictionary()


def find(function: str) -> Step[..., Any] | None:
    """Return the step of a function's dotted name in this process, the last one that was made."""
    return _steps.get(function)


@overload
def step(function: Callable[_Parameters, _Result], /) -> Step[_Parameters, _Result]: ...


@overload
def step(
    name: str | None = None,
    *,
    seed: int | None = None,
    cache: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
    keep_inputs: bool | int | None = None,
    launcher: Launcher | str | None = None,
    resume: bool = False,
) -> Callable[[Callable[_Parameters, _Result]], Step[_Parameters, _Result]]: ...


def step(
    name: Callable[..., Any] | str | None = None,
    *,
    seed: int | None = None,
    cache: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
    keep_inputs: bool | int | None = None,
    launcher: Launcher | str | None = None,
    resume: bool = False,
) -> Any:
    """Make a function a step: ``@step``, ``@step("name")`` or ``@step(seed=0)``.

    Args:
        name: of the step and of outputs that have none of their own; by default the function's.
        seed: seeds Python, NumPy and every framework before each call; the outer random state
            is put back after it.
        cache: whether a call takes the result of an equal one: of the same code, arguments of
            the same content, and the same seed.
        retries: how many times a call that raises an Exception is made again, each time from the
            same random state.
        backoff: seconds before the first retry; twice as many before each further one, but
            never more than 60.
        store: where outputs go; by default the run's store.
        tags: free text by key, for the run that a call outside any run opens.
        format: the format, or formats in order of preference, for outputs that have it; it comes
            before the store's own.
        keep_inputs: bytes up to which an argument that isn't in the store is kept there by its
            content, so that the call can be reproduced: 16 MiB by default. True keeps all, False
            none.
        launcher: what starts the processes that make a call together, or the name of one: they
            are given the arguments, and the result is what the function returned where the rank
            is 0. In a process that was started as one of a group already, nothing is started.
        resume: whether a call goes on where an equal one was interrupted, which `Checkpoint` of
            an adapter makes possible. ``train(..., resume=True)`` says so for one call, if the
            function has no argument of that name.

    Raises:
        ValueError: for an unfit name, seed or number, or a format that no installed adapter has.
        TypeError: for what is no plain function: a generator or ``async def`` returns before it
            has run, so its outputs could not be stored.
    """
    if isinstance(name, (classmethod, staticmethod)):
        raise TypeError(f"@step stands below @{type(name).__name__}, next to the function")
    if callable(name):
        return Step(name, None, Settings())
    settings = Settings(
        seed=None if seed is None else seeds.check_seed(seed),
        cache=_checked_flag("cache", cache),
        retries=_checked_retries(retries),
        backoff=_checked_backoff(backoff),
        store=store,
        tags=check_tags(tags or {}),
        format=checked_preference(format),
        keep_inputs=_checked_limit(keep_inputs),
        launcher=_checked_launcher(launcher),
        resume=_checked_flag("resume", resume),
    )
    return lambda function: Step(function, name, settings)


def _checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}= takes True or False; got {value!r}")
    return value


def _checked_launcher(value: Any) -> Launcher | None:
    if isinstance(value, str):
        return adapters.launcher(value)
    if value is not None and not isinstance(value, Launcher):
        raise TypeError(
            f"launcher= takes a launcher, such as flowyml_pytorch.Elastic(nproc_per_node=2); got "
            f"{value!r}"
        )
    return value


def _checked_retries(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"retries= takes a whole number; got {value!r}")
    if value < 0:
        raise ValueError(f"retries= takes a number from 0; got {value}")
    return value


def _checked_backoff(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"backoff= takes seconds; got {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"backoff= takes seconds from 0; got {value}")
    return float(value)


def _checked_limit(value: Any) -> int | None:
    """Return the bytes up to which inputs are kept; None is without limit."""
    if value is None:
        return KEPT_BY_DEFAULT
    if isinstance(value, bool):
        return None if value else 0
    if not isinstance(value, int):
        raise TypeError(f"keep_inputs= takes True, False or a number of bytes; got {value!r}")
    if value < 0:
        raise ValueError(f"keep_inputs= takes bytes from 0; got {value}")
    return value


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
