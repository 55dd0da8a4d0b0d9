"""Where code runs: in which step and run, and as which of a group of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

from flowyml import groups, origins
from flowyml.interfaces import Group
from flowyml.running import Run, current_run, current_step
from flowyml.store import Store


@attrs.frozen(eq=False)
class Context:
    """The running step, as the process sees it that asks.

    Attributes:
        rank: the number of this process in its group, from 0; 0 when it is alone.
        local_rank: its number among those of the group that are on the same machine.
        world_size: how many processes the group has.
        device: where this process computes, in the framework's words: ``"cpu"``, ``"cuda:1"``.
        store: where the step's outputs go; outside of steps the default store.
        run: the run; None outside of runs.
        step: the step's name; None outside of steps.
        call: tells this call of the step from all others. It is the same in all processes, when
            the group is started again, and when an interrupted call is resumed.
        seed: the step's seed, or the one that was drawn for it; the same in all processes.
        group: the processes of the group; None when this one is alone.
    """

    rank: int
    local_rank: int
    world_size: int
    device: str
    store: Store
    run: Run | None = None
    step: str | None = None
    call: str | None = None
    seed: int | None = None
    group: Group | None = None


@attrs.frozen(eq=False)
class InStep:
    """What `Context` says of the step."""

    store: Store
    step: str
    call: str
    seed: int | None


in_step: ContextVar[InStep | None] = ContextVar("flowyml_in_step", default=None)


@contextmanager
def inside(index: int, step: InStep | None, scope: origins.Scope) -> Iterator[None]:
    """Let code run in a step, for the time of a with block.

    Args:
        index: of the step in the current run.
        step: what `current` says of it.
        scope: what is noted of what is saved meanwhile.
    """
    tokens = current_step.set(index), origins.current_scope.set(scope), in_step.set(step)
    try:
        yield
    finally:
        current_step.reset(tokens[0])
        origins.current_scope.reset(tokens[1])
        in_step.reset(tokens[2])


def current() -> Context:
    """Return the running step, and which of its processes this one is.

    The same code runs alone, where the rank is 0 and the world size 1, and in several processes.
    A process that was started as one of several joins the others, as a step does.

    Raises:
        LaunchError: when the others can't be found.
    """
    group, step, run = groups.join() or groups.group(), in_step.get(), current_run()
    default = run.store if run is not None else None
    return Context(
        rank=0 if group is None else group.rank,
        local_rank=0 if group is None else group.local_rank,
        world_size=1 if group is None else group.world_size,
        device=groups.device() if group is None else group.device,
        store=step.store if step is not None else default or Store.default(),
        run=run,
        step=None if step is None else step.step,
        call=None if step is None else step.call,
        seed=None if step is None else step.seed,
        group=group,
    )
