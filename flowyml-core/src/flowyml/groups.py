"""The group of processes that this process is one of, if any.

Launchers know of groups: a step joins one that this process was started in, and what is saved
outside of steps asks for one that has been joined already.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from flowyml import adapters
from flowyml.assets import Asset
from flowyml.errors import AdapterWarning, told, warn

if TYPE_CHECKING:
    from flowyml.interfaces import Group, Launcher

_Answer = TypeVar("_Answer")

joined: ContextVar[Group | None] = ContextVar("flowyml_group", default=None)
"""The group that a step has joined."""


_PROCESS = "FLOWYML_GROUP_PROCESS"
"""The environment variable by which children of a process know that they aren't in its group."""

_stays = ExitStack()
"""Holds the group that this process was started in, for as long as the process lives."""


def join() -> Group | None:
    """Join the group that this process was started in, if any and if that isn't done yet.

    It is left when the process ends: the next step needs it again.

    Raises:
        LaunchError: when the others can't be found.
    """
    found = joined.get()
    if found is not None:
        return found
    launcher = launched_by()
    if launcher is None:
        return None
    found = launcher.group()
    if found is None:
        atexit.register(_stays.close)
        found = _stays.enter_context(launcher.join())
    os.environ[_PROCESS] = str(os.getpid())
    return found


@contextmanager
def entered(found: Group) -> Iterator[None]:
    """Let a group be the one that this process has joined, for the time of a with block."""
    os.environ[_PROCESS] = str(os.getpid())
    token = joined.set(found)
    try:
        yield
    finally:
        joined.reset(token)


@contextmanager
def explained() -> Iterator[None]:
    """Let the launcher say of an exception what the other processes have to do with it."""
    launcher = launched_by() if joined.get() is not None else None
    with nullcontext() if launcher is None else launcher.join():
        yield


def unwrapped(result: Any) -> Any:
    """Return a step's result free of what binds it to the group, and likewise of its parts."""
    launcher = launched_by()
    if launcher is None:
        return result
    if isinstance(result, Asset):
        result.data = launcher.unwrapped(result.data)
        return result
    if type(result) not in (list, tuple, dict):
        return launcher.unwrapped(result)
    items = list(result.values() if type(result) is dict else result)
    found = [unwrapped(item) for item in items]
    if all(new is old for new, old in zip(found, items, strict=True)):
        return result
    return dict(zip(result, found, strict=True)) if type(result) is dict else type(result)(found)


def group() -> Group | None:
    """Return the group that this process has joined, by a step or by itself; None when alone."""
    return joined.get() or _first(lambda launcher: launcher.group())


def launched_by() -> Launcher | None:
    """Return the launcher whose kind of group this process was started in, or None.

    A process that one of the group has started, such as a loader's worker, isn't one of it.
    """
    if os.environ.get(_PROCESS, str(os.getpid())) != str(os.getpid()):
        return None
    return _first(lambda launcher: launcher if launcher.is_launched() else None)


def device() -> str:
    """Return where a process computes that is alone."""
    return _first(lambda launcher: launcher.device()) or "cpu"


def _first(ask: Callable[[Launcher], _Answer | None]) -> _Answer | None:
    """Return the first launcher's answer; one that fails has none."""
    for launcher in adapters.launchers():
        try:
            answer = ask(launcher)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            warn(
                f"The launcher {launcher.name!r} of the adapter {adapters.provider(launcher)} "
                f"failed: {told(error)}",
                AdapterWarning,
            )
        else:
            if answer is not None:
                return answer
    return None
