"""The machine: its processor, memory and GPUs, as far as that can be read quickly.

Everything here is best effort: what can't be had is None or left out, and nothing is raised.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowyml.environment import commands

_ROOT = Path("/")
_SECONDS = 5.0
"""How long other programs may take."""


def cpu(root: Path = _ROOT) -> dict[str, Any]:
    """Describe the processor.

    Returns:
        ``model``: its name, or None; ``physical``: cores, if known; ``count``: logical ones, of
        all processors; ``available``: how many of these this process may use, by its affinity and
        the quota of its container, which need not be a whole number.
    """
    model, physical = _model_and_cores(root)
    count = os.cpu_count()
    available: float | None = count
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    quota = min(_quotas(root), default=None)
    if quota is not None:
        available = min(available or quota, quota)
    return {"model": model, "physical": physical, "count": count, "available": available}


def _model_and_cores(root: Path) -> tuple[str | None, int | None]:
    text = _read(root / "proc/cpuinfo")
    if not text:
        return (_first_line("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"), None)
    model = _field(text, "model name") or _field(text, "Model") or _arm(text)
    cores = {
        (_field(block, "physical id"), core)
        for block in text.split("\n\n")
        if (core := _field(block, "core id")) is not None
    }
    return model, len(cores) or None


def _arm(text: str) -> str | None:
    """Return the numbers that an ARM processor has where others have a name."""
    numbers = [_field(text, f"CPU {key}") for key in ("implementer", "part", "variant")]
    return None if None in numbers else "ARM {} part {} variant {}".format(*numbers)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the processors that the control groups of this process may use."""
    own = re.findall(r"^\d+:([^:]*):/(.*)$", _read(root / "proc/self/cgroup") or "", re.M)
    top = root / "sys/fs/cgroup"
    for controllers, path in own:
        if not controllers:  # version 2, which has one tree for all
            for group in _upwards(top, path):
                quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
                yield from _processors(quota, period)
        elif "cpu" in controllers.split(","):
            for group in _upwards(top / "cpu", path):
                quota = _read(group / "cpu.cfs_quota_us") or ""
                yield from _processors(quota, _read(group / "cpu.cfs_period_us") or "")


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it: in a container, only the last may be there."""
    group = top / path
    yield from (group, *(each for each in group.parents if each.is_relative_to(top)))


def _processors(quota: str, period: str) -> Iterator[float]:
    if quota.strip().isdecimal() and period.strip().isdecimal() and int(period):
        processors = round(int(quota) / int(period), 2)
        yield int(processors) if processors.is_integer() else processors


def memory_bytes() -> int | None:
    """Return the size of the main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def gpus(root: Path = _ROOT) -> list[dict[str, Any]]:
    """Describe the GPUs of NVIDIA and AMD.

    Returns:
        For each its ``name``, ``memory`` in bytes, ``driver`` and ``uuid``, if they are known.
    """
    return _nvidia(root) or _asked_nvidia() or _amd(root)


def _nvidia(root: Path) -> list[dict[str, Any]]:
    """Read what NVIDIA's driver tells in files, which don't have the size of the memory."""
    folder = root / "proc/driver/nvidia"
    found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", _read(folder / "version") or "")
    return [
        {
            "name": _field(text, "Model"),
            "memory": None,
            "driver": found and found[1],
            "uuid": _field(text, "GPU UUID"),
        }
        for path in sorted(folder.glob("gpus/*/information"))
        if (text := _read(path))
    ]


def _asked_nvidia() -> list[dict[str, Any]]:
    output = _output(
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version,uuid",
        "--format=csv,noheader,nounits",
    )
    return [
        {
            "name": name,
            "memory": int(memory) << 20 if memory.isdecimal() else None,
            "driver": driver,
            "uuid": uuid,
        }
        for line in output.splitlines()
        if len(fields := [field.strip() for field in line.rsplit(",", 3)]) == 4
        for name, memory, driver, uuid in [fields]
    ]


def _amd(root: Path) -> list[dict[str, Any]]:
    driver = _read(root / "sys/module/amdgpu/version")
    return [
        {
            "name": _read(device / "product_name") or f"AMD {_read(device / 'device')}",
            "memory": int(memory) if memory.isdecimal() else None,
            "driver": driver,
            "uuid": _read(device / "unique_id"),
        }
        for device in sorted(root.glob("sys/class/drm/card*/device"))
        if _read(device / "vendor") == "0x1002"
        and (memory := _read(device / "mem_info_vram_total"))
    ]


def _read(path: Path) -> str | None:
    """Return the text of a file, without white space around it; None when it can't be had."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None


def _field(text: str, name: str) -> str | None:
    """Return what stands after ``name:`` at the beginning of a line."""
    found = re.search(rf"^{re.escape(name)}\s*:[ \t]*(\S.*?)\s*$", text, re.M)
    return found[1] if found else None


def _first_line(*command: str) -> str | None:
    return next(iter(_output(*command).splitlines()), None) if sys.platform == "darwin" else None


def _output(program: str, *arguments: str) -> str:
    """Return what a program prints; nothing when it is missing, fails or hangs."""
    path = shutil.which(program)
    parts: list[bytes] = []
    if path is None or not commands.succeeds(
        [path, *arguments], parts.append, time.monotonic() + _SECONDS
    ):
        return ""
    return b"".join(parts).decode("utf-8", "replace")
