"""What an error of torch's communication means: another process hangs, has returned, or failed.

torch tells of a socket or of a time-out. Which process is the reason can be asked of them all, by
the key-value store.
"""

from __future__ import annotations

import re
import time

import torch.distributed as dist

from flowyml.errors import LaunchError, told
from flowyml_pytorch.launching import stacks, wording
from flowyml_pytorch.launching.group import PATIENCE, TorchGroup

_ORIGIN = re.compile(r"gloo|ProcessGroup|NCCL|c10d|TCPStore", re.IGNORECASE)
_TIMED_OUT = re.compile(r"timed out|time-?out", re.IGNORECASE)
_CUT_OFF = re.compile(
    r"connection (closed|reset|refused|was likely closed)|broken pipe|socket closed"
    r"|(read|write) error|remote process exited",
    re.IGNORECASE,
)


def explain(error: BaseException, group: TorchGroup) -> None:
    """Say how this process ends; raise a better error when another process is the reason.

    Raises:
        LaunchError: from the error, naming that process.
    """
    try:
        reason = _reason(error, group)
        if reason is None:
            group.presence.end(told(error))
    except RuntimeError:
        return  # the store is gone, with whoever kept it
    if reason is not None:
        raise LaunchError(reason) from error


def _reason(error: BaseException, group: TorchGroup) -> str | None:
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if not isinstance(error, dist.DistError) and not _ORIGIN.search(text):
        return None
    if _TIMED_OUT.search(text):
        group.presence.say_waiting()
        return _about_hanging(error, group)
    return _about_gone(error, group) if _CUT_OFF.search(text) else None


def _about_hanging(error: BaseException, group: TorchGroup) -> str:
    waited = f"{_waiting(error, group)}, for {group.timeout:g} s"
    gone = _first_gone(group)
    if gone is not None:
        return f"{waited}, in vain: {wording.gone(*gone)}"
    where = group.presence.ask(group.presence.others())
    away = {rank: it for rank, it in where.items() if it is None or not it.waits}
    if not away:
        every = " ".join(wording.at(rank, it) for rank, it in where.items())
        return f"{waited}, and all others wait too, for something else. {every}"
    names = [*away]
    verb = "hangs: it doesn't" if len(names) == 1 else "hang: they don't"
    return (
        f"{wording.ranks(names).capitalize()} {verb} take part in what others wait for. "
        f"{' '.join(wording.at(rank, it) for rank, it in away.items())} {waited}. If it only takes "
        f"longer, raise the launcher's timeout."
    )


def _about_gone(error: BaseException, group: TorchGroup) -> str:
    """Say who is gone, unless whoever started the processes ends this one before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        gone = _first_gone(group)
        if gone is not None and gone[1] == wording.RETURNED:
            return f"{_waiting(error, group)}, in vain: {wording.gone(*gone)}"
        time.sleep(0.05)
    waited = _waiting(error, group)
    gone = _first_gone(group)
    if gone is not None:
        return f"{waited}, in vain: {wording.gone(*gone)}"
    where = group.presence.ask(group.presence.others())
    silent = [group.presence.name(rank) for rank, it in where.items() if it is None]
    return f"{waited}, and lost the connection. {', '.join(silent) or 'Nobody'} doesn't answer."


def _waiting(error: BaseException, group: TorchGroup) -> str:
    return f"Rank {group.rank} waited at {stacks.raised_at(error)}"


def _first_gone(group: TorchGroup) -> tuple[int, str] | None:
    for rank in group.presence.others():
        how = group.presence.ended(rank)
        if how is not None:
            return rank, how
    return None
