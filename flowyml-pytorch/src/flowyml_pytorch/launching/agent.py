"""Running a job under torch's elastic agent, which is what torchrun runs too.

The agent starts the ranks, restarts them all when one fails, and meets agents on other machines.
What it lacks is added around it: nothing is left whatever happens, signals do afterwards what they
did before, and a failure is one sentence.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousHandler
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from flowyml.errors import LaunchError, told
from flowyml.interfaces import Job
from flowyml_pytorch.launching import wording
from flowyml_pytorch.launching.guard import Guard
from flowyml_pytorch.launching.interrupts import Interrupts
from flowyml_pytorch.launching.place import VARIABLE, Terms
from flowyml_pytorch.launching.streams import Streams

_LOGGERS = "torch.distributed.elastic"
_EVENTS = "torchelastic-events-null"


@attrs.frozen
class Plan:
    """What an agent is to start, and with whom.

    Attributes:
        processes: how many on this machine.
        nodes: how many machines at least and at most.
        endpoint: host and port at which the agents meet.
        backend: torch's name of the way in which they do.
        run_id: what they call this group.
        hosts: whether this machine listens at the endpoint.
        node_rank: the number of this machine; None when they find out.
        max_restarts: how often all ranks are started again after one has failed.
        terms: what the ranks have to know.
    """

    processes: int
    nodes: tuple[int, int]
    endpoint: str
    backend: str
    run_id: str
    hosts: bool
    node_rank: int | None
    max_restarts: int
    terms: Terms

    @property
    def is_alone(self) -> bool:
        """Whether this is the only machine."""
        return self.nodes == (1, 1)

    def parameters(self) -> RendezvousParameters:
        """Return how the agents meet, in torch's words."""
        seconds = max(1, int(self.terms.timeout))
        settings: dict[str, Any] = {
            "timeout": seconds,
            "join_timeout": seconds,
            "read_timeout": min(60, seconds),
        }
        if self.backend == "c10d":
            settings["is_host"] = self.hosts
        if self.node_rank is not None:
            settings["rank"] = self.node_rank
        return RendezvousParameters(
            backend=self.backend,
            endpoint=self.endpoint,
            run_id=self.run_id,
            min_nodes=self.nodes[0],
            max_nodes=self.nodes[1],
            local_addr="127.0.0.1" if self.is_alone else None,
            **settings,
        )


class _Agent(LocalElasticAgent):
    """The agent, with its ranks under guard."""

    def __init__(
        self, spec: WorkerSpec, streams: Streams, guard: Guard, interrupts: Interrupts
    ) -> None:
        super().__init__(spec, logs_specs=streams)
        self._guard = guard
        self._interrupts = interrupts

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._guard.sweep()
        self.close()
        with self._interrupts.held():
            ids: dict[int, Any] = super()._start_workers(worker_group)
            self._guard.watch(ids.values())
        return ids

    def _shutdown(self, *arguments: Any, **options: Any) -> None:
        if self._interrupts.again:
            self._guard.sweep()
        super()._shutdown(*arguments, **options)

    def close(self) -> None:
        """Close this process's ends of the streams, which torch leaves to the garbage collector."""
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        for handler in handlers.values():
            for name in ("_stdout", "_stderr"):
                stream = getattr(handler, name, None)
                if stream is not None:
                    stream.close()

    def restarts(self) -> int:
        """Return how often the ranks were started again."""
        return self._worker_group.spec.max_restarts - self._remaining_restarts


def run(job: Job, plan: Plan) -> None:
    """Run a job and return when its ranks have ended.

    Raises:
        LaunchError: when they can't be started, or naming the one that failed first.
    """
    streams = Streams(_environment(job, plan), {"TQDM_DISABLE": "1"})
    interrupts = Interrupts()
    try:
        with _quiet(), interrupts, streams, Guard() as guard:
            try:
                interrupts.release()
                _run(job, plan, streams, guard, interrupts)
            except SignalException:
                pass  # what it stands for is raised when everything is as it was
            finally:
                interrupts.hold()
    finally:
        if interrupts.came == signal.SIGINT:
            raise KeyboardInterrupt
        if interrupts.came is not None:
            raise SystemExit(128 + interrupts.came)


def _run(job: Job, plan: Plan, streams: Streams, guard: Guard, interrupts: Interrupts) -> None:
    handler = _meet(job, plan)
    master, _, port = plan.endpoint.rpartition(":")
    static = plan.backend == "static"
    spec = WorkerSpec(
        role="default",
        local_world_size=plan.processes,
        entrypoint=job.command[0],
        args=tuple(part.replace("$", "$$") for part in job.command[1:]),
        rdzv_handler=handler,
        max_restarts=plan.max_restarts,
        monitor_interval=0.1,
        master_addr=master if static else None,
        master_port=int(port) if static else None,
        local_addr="127.0.0.1" if plan.is_alone else None,
    )
    agent = _Agent(spec, streams, guard, interrupts)
    interrupted = False
    try:
        result = agent.run()
    except SignalException:
        interrupted = True  # the others may go on
        raise
    except RendezvousError as error:
        raise _unmet(job, plan, error) from error
    finally:
        agent.close()
        if not interrupted:
            with suppress(RendezvousError):
                handler.shutdown()
    _check(job, plan, agent, result)


def _meet(job: Job, plan: Plan) -> RendezvousHandler:
    try:
        return get_rendezvous_handler(plan.parameters())
    except (RendezvousError, RuntimeError, ValueError) as error:
        raise _unmet(job, plan, error) from error


def _unmet(job: Job, plan: Plan, error: Exception) -> LaunchError:
    most = plan.nodes[1]
    return LaunchError(
        f"The step {job.name!r} can't start: {plan.nodes[0]}{f' to {most}' if most > 1 else ''} "
        f"machines were to meet at {plan.endpoint} within {plan.terms.timeout:g} s as "
        f"{plan.run_id!r}, and didn't: {told(error.__cause__ or error)}. Start the program on all "
        f"of them, with the same nnodes, rdzv_endpoint and rdzv_id, and see that the others can "
        f"reach that address."
    )


def _environment(job: Job, plan: Plan) -> dict[str, str]:
    terms = attrs.evolve(plan.terms, parent=os.getpid())
    own = {"PYTHONUNBUFFERED": "1", VARIABLE: terms.packed()}
    if "OMP_NUM_THREADS" not in os.environ and plan.processes > 1:
        own["OMP_NUM_THREADS"] = "1"
    return {**own, **job.environment}


def _check(job: Job, plan: Plan, agent: _Agent, result: RunResult | None) -> None:
    if result is None:
        raise LaunchError(
            f"The step {job.name!r} runs without this machine: the {plan.nodes[1]} that it may "
            f"have at most (nnodes) had met at {plan.endpoint} already."
        )
    if result.is_failed():
        raise _failure(job, plan, result.failures, agent.restarts())


def _failure(
    job: Job, plan: Plan, failures: Mapping[int, ProcessFailure], restarts: int
) -> LaunchError:
    """Return the error of the rank that failed first; torch notes them as they end."""
    rank, failure = next(iter(failures.items()))
    host = "" if plan.is_alone else f" on {socket.gethostname()}"
    name = f"rank {rank} (process {failure.pid}{host})"
    times = {0: "", 1: ", also after 1 restart"}.get(restarts, f", also after {restarts} restarts")
    ended = wording.ended(name, failure.exitcode)
    return LaunchError(f"The step {job.name!r} failed{times}: {ended}", rank)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the agent logs off the screen: it is in the error, or isn't of interest.

    Whoever sets ``LOGLEVEL``, torch's variable for it, sees it all.
    """
    known = [name for name in logging.root.manager.loggerDict if name.startswith(_LOGGERS)]
    names = [] if "LOGLEVEL" in os.environ else [*known, _EVENTS]
    loggers = [logging.getLogger(name) for name in names]
    silent = logging.Filter("")
    silent.filter = lambda record: False  # type: ignore[method-assign]  # no class for one line
    for logger in loggers:
        logger.addFilter(silent)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(silent)
