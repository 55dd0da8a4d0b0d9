"""Which process of which group this one is, as its environment says.

``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` are what torchrun
sets, and others who start processes for torch. The launcher adds one variable of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import attrs

from flowyml.errors import LaunchError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

VARIABLE = "FLOWYML_ELASTIC"
"""Holds what the launcher was told, as JSON, for the processes that it starts."""


@attrs.frozen
class Terms:
    """What the launcher was told that its processes have to know.

    Attributes:
        backend: the process group's; None is the one for the device.
        timeout: seconds that a process waits for others.
        device: the kind of device; None is the machine's accelerator, if any.
        parent: the number of the launching process; None when it was started otherwise.
    """

    backend: str | None = None
    timeout: float = 1800.0
    device: str | None = None
    parent: int | None = None

    def packed(self) -> str:
        """Return them as the value of a variable."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def found(cls, otherwise: Terms) -> Terms:
        """Return those of the process that started this one, or others if it has none."""
        text = os.environ.get(VARIABLE)
        terms = cls(**json.loads(text)) if text else otherwise
        return terms if terms.parent in (None, os.getppid()) else otherwise


@attrs.frozen
class Place:
    """This process among those of its group, and where they meet.

    Attributes:
        hosted: whether the launching process keeps the key-value store; otherwise rank 0 does.
        restarts: how often the group was started before.
        run_id: the name that the agent has for the group; empty when there is none.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    hosted: bool = False
    restarts: int = 0
    run_id: str = ""

    @classmethod
    def found(cls) -> Place:
        """Read it from this process's environment.

        Raises:
            LaunchError: when a variable is missing, or can't be.
        """
        return cls.of(os.environ)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Place:
        """Read it from an environment.

        Raises:
            LaunchError: when a variable is missing, or can't be.
        """
        missing = [name for name in NAMES if not variables.get(name)]
        if missing:
            present = [f"{name}={variables[name]}" for name in NAMES if variables.get(name)]
            raise LaunchError(
                f"This process can't join its group: {', '.join(missing)} "
                f"{'are' if len(missing) > 1 else 'is'} missing in its environment, which has "
                f"{', '.join(present) or 'none of the variables'}. torchrun sets them all; whoever "
                f"starts processes by other means has to set {', '.join(NAMES)}."
            )
        rank, world_size, local_rank = (_number(variables, name) for name in NAMES[:3])
        port = _number(variables, "MASTER_PORT")
        if not 0 <= rank < world_size:
            raise LaunchError(
                f"This process can't join its group: RANK is {rank}, but WORLD_SIZE is "
                f"{world_size}, so ranks go from 0 to {world_size - 1}."
            )
        if not 0 < port < 1 << 16:
            raise LaunchError(
                f"This process can't join its group: MASTER_PORT is {port}, which is no port."
            )
        run_id = variables.get("TORCHELASTIC_RUN_ID", "")
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            address=variables["MASTER_ADDR"],
            port=port,
            hosted=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            restarts=int(variables.get("TORCHELASTIC_RESTART_COUNT") or 0),
            run_id="" if run_id == "none" else run_id,
        )


def is_set() -> bool:
    """Tell whether the environment is that of a process in a group."""
    if not all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE")):
        return False
    if not any(os.environ.get(name) for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")):
        return False
    # A process that a rank has started has its variables, but isn't one of the group.
    text = os.environ.get(VARIABLE)
    return text is None or Terms.found(Terms(parent=0)).parent != 0


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise LaunchError(
            f"This process can't join its group: {name} is {variables[name]!r}, which is no number."
        ) from None
