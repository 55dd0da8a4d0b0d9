"""Joining the group that this process was started in: store, device, process group.

The store is connected to before torch's process group is, so that what goes wrong is said in time
and in words: torch writes pages to stderr while it tries. Its keys have a prefix that rank 0 tells
the others at each start of the group: the agent's store outlives a restart, and what the processes
before have left in it would lead the new ones to addresses where nobody is.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from flowyml.errors import LaunchError, told
from flowyml_pytorch.launching import failing, group, meeting, wording
from flowyml_pytorch.launching.keys import Keys, connect
from flowyml_pytorch.launching.place import Place, Terms
from flowyml_pytorch.launching.presence import Presence

_AT_LEAST = 1.0
"""Seconds for a connection, whatever is left of the time."""


@contextmanager
def joined(place: Place | None, terms: Terms) -> Iterator[group.TorchGroup]:
    """Join the group for the time of a with block; one that is there already stays.

    Args:
        place: which process this is; None when the process group is there.
        terms: how to join.

    Raises:
        LaunchError: when the others can't be found, and in place of torch's errors when another
            process is the reason for them.
    """
    if place is not None:
        _set_up(place, terms)
    found = group.current()
    assert found is not None
    presence = found.presence
    presence.arrive()
    presence.watch(terms.parent)
    try:
        yield found
    except BaseException as error:
        failing.explain(error, found)
        raise
    else:
        _say_returned(presence, place, terms.timeout)
    finally:
        presence.leave()
        failed = sys.exc_info()[0] is not None
        if place is not None and dist.is_initialized() and (not failed or found.device == "cpu"):
            dist.destroy_process_group()  # what a device waits for in vain could hold it up


def _set_up(place: Place, terms: Terms) -> None:
    device = _device(place, terms)
    deadline = time.monotonic() + terms.timeout
    base = _connect(place, terms, deadline)
    store = meeting.meet(place, base, deadline, terms.timeout)
    backend = terms.backend or _backend(device)
    try:
        dist.init_process_group(
            backend,
            store=cast(Any, store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=terms.timeout),
            device_id=None if device.type == "cpu" else device,
        )
    except Exception as error:
        raise LaunchError(
            f"Rank {place.rank} can't set up torch's process group with the backend {backend!r}: "
            f"{told(error)}"
        ) from error
    made = group.TorchGroup(store, place.local_rank, terms.timeout, place.restarts)
    made.id = _identity(place, base, made.id)
    group.note(made)


def _identity(place: Place, base: Keys, otherwise: str) -> str:
    """Return a name that is the same after a restart, where the store can keep one."""
    shared = base.compare_set("flowyml/group", "", otherwise).decode()
    return f"{place.run_id}-{shared[:8]}" if place.run_id else shared


def _device(place: Place, terms: Terms) -> torch.device:
    """Choose where this process computes, and make it the current device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if terms.device == "cpu" or terms.backend == "gloo" or accelerator is None:
        return torch.device("cpu")
    if _own_backend(accelerator) is None:
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if place.local_rank >= count:
        raise LaunchError(
            f"Rank {place.rank} has no device to compute on: LOCAL_RANK is {place.local_rank}, but "
            f"torch sees {count} of the kind {accelerator.type} here. Start at most {count} "
            f"processes on this machine, or use the backend 'gloo', which computes on the CPU."
        )
    torch.accelerator.set_device_index(place.local_rank)
    return torch.device(accelerator.type, place.local_rank)


def _own_backend(device: torch.device) -> str | None:
    try:
        return dist.get_default_backend_for_device(device)
    except ValueError:
        return None


def _backend(device: torch.device) -> str:
    """Return the backend for a device; tensors on the CPU can always be communicated too."""
    return "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{_own_backend(device)}"


def _connect(place: Place, terms: Terms, deadline: float) -> Keys:
    keeps = place.rank == 0 and not place.hosted
    if not keeps:
        _reach(place, deadline)
    left = max(_AT_LEAST, deadline - time.monotonic())
    address = "localhost" if keeps else place.address
    try:
        store = connect(address, place.port, keeps=keeps, timeout=left)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise LaunchError(
                f"Rank 0 can't listen on port {place.port}, as another program does: an earlier "
                f"run that goes on, perhaps, or a second process with RANK 0. Set MASTER_PORT to "
                f"a free port, and give each process its own rank."
            ) from None
        raise LaunchError(
            f"Rank {place.rank} can't talk to what listens on {place.address}:{place.port} "
            f"(MASTER_ADDR and MASTER_PORT): {told(error)}"
        ) from error
    store.set_timeout(timedelta(seconds=terms.timeout))
    return store


def _reach(place: Place, deadline: float) -> None:
    """Wait until somebody listens where the processes meet."""
    start = time.monotonic()
    while True:
        try:
            left = max(_AT_LEAST, deadline - time.monotonic())
            socket.create_connection((place.address, place.port), timeout=left).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"Rank {place.rank} can't reach rank 0 at {place.address}:{place.port} "
                    f"(MASTER_ADDR and MASTER_PORT) within {time.monotonic() - start:.0f} s: "
                    f"{told(error)}. Either rank 0 wasn't started, or these variables name "
                    f"another machine or port than its own, or a firewall is between."
                ) from None
        else:
            return
        time.sleep(0.1)


def _say_returned(presence: Presence, place: Place | None, timeout: float) -> None:
    """Say that this process has done its part; keep the store as long as others may need it."""
    deadline = time.monotonic() + timeout
    keeps = place is not None and place.rank == 0 and not place.hosted
    left = [*presence.others()] if keeps else []
    with suppress(RuntimeError):  # the store is gone: nobody needs to know
        presence.end(wording.RETURNED)
        while left and time.monotonic() < deadline:
            left = [rank for rank in left if presence.ended(rank) is None]
            time.sleep(0.02 if left else 0)
