"""How many processes there are to be on this machine, and where it meets the others."""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch.distributed.elastic.rendezvous import utils

from flowyml.errors import LaunchError
from flowyml_pytorch.launching.agent import Plan
from flowyml_pytorch.launching.place import Terms

if TYPE_CHECKING:
    from flowyml.interfaces import Job
    from flowyml_pytorch.launching.elastic import Elastic

_PORT = 29400
"""torch's port for agents that meet, where none is given."""

_launched: Counter[tuple[str, int | None]] = Counter()
"""How many groups this process has started at each endpoint, which all machines count alike."""


def plan(elastic: Elastic, job: Job) -> Plan:
    """Return what to start.

    Raises:
        LaunchError: when it can't work here.
    """
    processes = count(elastic.nproc_per_node, elastic.backend)
    device = "cpu" if elastic.nproc_per_node == "cpu" else None
    terms = Terms(elastic.backend, elastic.timeout, device)
    least, most = elastic.nodes
    if elastic.rdzv_endpoint is None:
        return Plan(
            processes=processes,
            nodes=(1, 1),
            endpoint="localhost:0",
            backend="c10d",
            run_id=elastic.rdzv_id or uuid.uuid4().hex,
            hosts=True,
            node_rank=None,
            max_restarts=elastic.max_restarts,
            terms=terms,
        )
    host, port = utils.parse_rendezvous_endpoint(elastic.rdzv_endpoint, _PORT)
    endpoint = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _launched[endpoint, elastic.node_rank] += 1
    hosts = is_host(elastic)
    if elastic.rdzv_backend in ("c10d", "static"):
        (_see_free if hosts else _see_reachable)(job, host, port, elastic)
    return Plan(
        processes=processes,
        nodes=(least, most),
        endpoint=endpoint,
        backend=elastic.rdzv_backend,
        run_id=elastic.rdzv_id or f"{job.name}-{_launched[endpoint, elastic.node_rank]}",
        hosts=hosts,
        node_rank=elastic.node_rank,
        max_restarts=elastic.max_restarts,
        terms=terms,
    )


def count(asked: int | str, backend: str | None) -> int:
    """Return the number of processes on this machine.

    Raises:
        LaunchError: when there aren't the devices for them.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = 0 if accelerator is None else torch.accelerator.device_count()
    if asked == "gpu" and accelerator is None:
        raise LaunchError(
            "nproc_per_node='gpu' starts a process for each GPU, but torch sees none here "
            f"(torch {torch.__version__}). Use 'cpu', 'auto' or a number, or see that driver and "
            "build of torch fit the GPUs and that CUDA_VISIBLE_DEVICES names them."
        )
    if asked in ("gpu", "auto") and devices and backend != "gloo":
        return devices
    if isinstance(asked, str):
        return os.cpu_count() or 1
    if devices and asked > devices and backend is None and _communicates(accelerator):
        assert accelerator is not None
        raise LaunchError(
            f"nproc_per_node is {asked}, but torch sees {devices} devices of the kind "
            f"{accelerator.type} here, and each process needs its own. Use 'gpu', or the backend "
            f"'gloo', which computes on the CPU."
        )
    return asked


def is_host(elastic: Elastic) -> bool:
    """Tell whether this machine is the first, at whose address the others meet."""
    if elastic.node_rank is not None:
        return elastic.node_rank == 0
    if elastic.rdzv_endpoint is None:
        return True
    host, _ = utils.parse_rendezvous_endpoint(elastic.rdzv_endpoint, _PORT)
    return utils._matches_machine_hostname(host)


def _communicates(device: torch.device | None) -> bool:
    if device is None:
        return False
    try:
        return bool(torch.distributed.get_default_backend_for_device(device))
    except ValueError:
        return False


def _see_free(job: Job, host: str, port: int, elastic: Elastic) -> None:
    """See that nobody else listens on the port, where this process is going to."""
    try:
        with socket.create_server(("", port)):
            return
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return  # whatever it is, torch meets it too
    raise LaunchError(
        f"The step {job.name!r} can't start: port {port} of rdzv_endpoint="
        f"{elastic.rdzv_endpoint!r} is in use on this machine, by an earlier run that goes on, or "
        f"another program. Give another port on all machines. If this isn't the first machine, "
        f"say which it is: node_rank=1, say."
    )


def _see_reachable(job: Job, host: str, port: int, elastic: Elastic) -> None:
    """Wait until the first machine listens."""
    deadline = time.monotonic() + elastic.timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, elastic.timeout / 10)).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"The step {job.name!r} can't start: nobody listened at rdzv_endpoint="
                    f"{elastic.rdzv_endpoint!r} within {elastic.timeout:g} s ({error}). Start the "
                    f"program on that machine too; if that is this one, give node_rank=0."
                ) from None
        else:
            return
        time.sleep(0.2)
