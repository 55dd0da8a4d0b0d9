"""The launcher that users give a step: ``@step(launcher=Elastic(nproc_per_node=2))``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, ClassVar

import attrs

from flowyml.interfaces import Group, Job, Launcher
from flowyml_pytorch.launching import place
from flowyml_pytorch.launching.place import Place, Terms

_WORDS = ("auto", "cpu", "gpu")


def _check_processes(elastic: Elastic, field: attrs.Attribute[Any], value: object) -> None:
    if value in _WORDS and isinstance(value, str):
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"nproc_per_node is a number, 'gpu', 'cpu' or 'auto', not {value!r}")
    if value < 1:
        raise ValueError(f"nproc_per_node is at least 1, not {value}")


def _check_nodes(elastic: Elastic, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise TypeError(f"nnodes is a number, or a range such as '1:4', not {value!r}")
    parts = str(value).split(":")
    if not (len(parts) <= 2 and all(part.isdecimal() for part in parts)):
        raise ValueError(f"nnodes is a number, or a range such as '1:4', not {value!r}")
    if not 0 < int(parts[0]) <= int(parts[-1]):
        raise ValueError(f"nnodes is at least 1, and a range goes upwards, unlike {value!r}")


def _check_text(elastic: Elastic, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{field.name} is a text, not {value!r}")
    if value == "":
        raise ValueError(f"{field.name} is empty")


def _check_count(elastic: Elastic, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field.name} is a number, not {value!r}")
    if value < 0:
        raise ValueError(f"{field.name} is at least 0, not {value}")


def _check_timeout(elastic: Elastic, field: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"timeout is seconds or a timedelta, not {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"timeout is more than 0 seconds, and finite, unlike {value!r}")


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


@attrs.frozen(repr=False)
class Elastic(Launcher):
    """Runs a step in several processes, on one machine or several, by torch's elastic agent.

    In the step the process group is up and the device is set; `flowyml.current` tells rank and
    world size. What ranks print has the rank before each line. When a rank fails, its exception is
    raised where the step was called; nothing is left running, whatever happens.

    Under torchrun the step joins the group that it is started in, and nothing here counts.

    Attributes:
        nproc_per_node: processes on this machine: a number, ``"gpu"`` for one on each GPU,
            ``"cpu"`` for one on each CPU core, or ``"auto"`` for one of these.
        nnodes: machines: a number, or a range such as ``"1:4"``. The program is started on each.
        rdzv_endpoint: ``"host:port"`` of the first machine, where several meet.
        rdzv_id: a name for the group, the same on all machines; otherwise the step's.
        rdzv_backend: how machines find each other, in torch's words: ``"c10d"``, or ``"static"``.
        node_rank: the number of this machine, from 0; otherwise found out by rdzv_endpoint.
        max_restarts: how often all processes are started again after one has failed.
        backend: torch's backend for the process group; otherwise the one for the device:
            ``"nccl"`` on CUDA, ``"gloo"`` on the CPU. With ``"gloo"`` the CPU computes.
        timeout: seconds, or a timedelta, that a process waits for another one at most.

    Raises:
        TypeError: when an argument is of another type.
        ValueError: when it can't be.
    """

    name: ClassVar[str] = "elastic"

    nproc_per_node: int | str = attrs.field(default="auto", validator=_check_processes)
    nnodes: int | str = attrs.field(default=1, validator=_check_nodes)
    rdzv_endpoint: str | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    rdzv_id: str | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    rdzv_backend: str = attrs.field(default="c10d", validator=_check_text, kw_only=True)
    node_rank: int | None = attrs.field(default=None, validator=_check_count, kw_only=True)
    max_restarts: int = attrs.field(default=0, validator=_check_count, kw_only=True)
    backend: str | None = attrs.field(default=None, validator=_check_text, kw_only=True)
    timeout: float = attrs.field(
        default=1800.0, converter=_seconds, validator=_check_timeout, kw_only=True
    )

    def __attrs_post_init__(self) -> None:
        least, most = self.nodes
        if most > 1 and self.rdzv_endpoint is None:
            raise ValueError(
                f"nnodes={self.nnodes!r} needs rdzv_endpoint='host:port', the address of the "
                f"first machine, at which the others find it"
            )
        if self.rdzv_backend == "static" and (self.node_rank is None or least != most):
            raise ValueError("rdzv_backend='static' needs node_rank, and one number as nnodes")
        if self.node_rank is not None and self.node_rank >= most:
            raise ValueError(
                f"node_rank is {self.node_rank}, but nnodes is {self.nnodes}, so machines have "
                f"the numbers from 0 to {most - 1}"
            )

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({given})"

    @property
    def nodes(self) -> tuple[int, int]:
        """The least and the largest number of machines."""
        parts = [int(part) for part in str(self.nnodes).split(":")]
        return parts[0], parts[-1]

    def launch(self, job: Job) -> None:
        """Run a job under torch's agent."""
        from flowyml_pytorch.launching import agent, nodes

        agent.run(job, nodes.plan(self, job))

    def is_launched(self) -> bool:
        """Tell whether the environment is a rank's, or torch's process group is up."""
        return _distributed() is not None or place.is_set()

    def join(self) -> AbstractContextManager[Group]:
        """Set up torch's process group and the device, unless that was done."""
        from flowyml_pytorch.launching import joining

        terms = Terms.found(Terms(self.backend, self.timeout))
        here = None if _distributed() is not None else Place.found()
        return joining.joined(here, terms)

    def group(self) -> Group | None:
        """Return the group of torch's default process group."""
        if _distributed() is None:
            return None
        from flowyml_pytorch.launching import group

        return group.current()

    def unwrapped(self, obj: Any) -> Any:
        """Return the model in a DistributedDataParallel; any other object as it is."""
        parallel = sys.modules.get("torch.nn.parallel.distributed")
        if parallel is None or not isinstance(obj, parallel.DistributedDataParallel):
            return obj
        return obj.module

    def leads(self) -> bool:
        """Tell whether this is the first machine."""
        if self.rdzv_endpoint is None:
            return True
        from flowyml_pytorch.launching import nodes

        return nodes.is_host(self)

    def device(self) -> str | None:
        """Return the current accelerator, or the CPU; None as long as torch isn't imported."""
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "accelerator"):
            return None
        kind = torch.accelerator.current_accelerator(check_available=True)
        if kind is None:
            return "cpu"
        module = getattr(torch, kind.type, None)
        begun = getattr(module, "is_initialized", bool)()  # asking which would begin it
        return f"{kind.type}:{torch.accelerator.current_device_index() if begun else 0}"

    def settings(self) -> Mapping[str, Any]:
        """Return the arguments that were given."""
        return attrs.asdict(self, filter=lambda field, value: value != field.default)


def _distributed() -> Any:
    """Return ``torch.distributed`` if its process group is up."""
    module = sys.modules.get("torch.distributed")
    if module is None or not getattr(module, "is_available", bool)():
        return None
    return module if module.is_initialized() else None
