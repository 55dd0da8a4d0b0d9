"""What a run runs in, kept once in its record: all that its results may depend on besides the code.

These members, each of which JSON can hold; None is what can't be had:

- ``python`` (its version), ``implementation``, ``build``, ``compiler``, ``executable``
- ``platform``, ``machine``, ``hostname``
- ``cpu``: ``model``, ``physical`` cores, ``count`` and ``available`` logical ones
- ``memory_bytes``; ``gpus``: each with ``name``, ``memory``, ``driver`` and ``uuid``
- ``threads``, ``variables``: the environment variables that set numbers of threads, and others
  that change results, of a fixed list, if they are set
- ``distributions``: versions of what is installed; ``adapters``: distribution and version of each
- ``frameworks``: what their adapters say of the imported ones
- ``git``: of the main program's folder or else the working directory; see `repository`
- ``main``: the ``file`` of the main program, and the ``module`` if it was started with ``-m``
- ``pid``, the number of the process
- ``argv``, in which what follows a name that looks secret is masked, and ``cwd``
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowyml import adapters, encoding, properties
from flowyml.environment import hardware, installed, invocation, repository, variables
from flowyml.errors import AdapterNotFoundError, AdapterWarning, told, warn
from flowyml.interfaces import Extractor
from flowyml.properties import type_name

KINDS = ("code", "packages", "python", "hardware", "settings", "other")
"""Kinds of differences, in the order in which `differences` tells them."""

_COMPARED = (
    ("python", "Python", ("python",)),
    ("python", "Python implementation", ("implementation",)),
    ("python", "Python build", ("build",)),
    ("python", "Python compiler", ("compiler",)),
    ("hardware", "platform:", ("platform",)),
    ("hardware", "machine:", ("machine",)),
    ("hardware", "CPU:", ("cpu", "model")),
    ("hardware", "CPU cores", ("cpu", "physical")),
    ("hardware", "CPU count", ("cpu", "count")),
    ("hardware", "available CPUs", ("cpu", "available")),
    ("other", "memory in bytes", ("memory_bytes",)),
    ("other", "git branch", ("git", "branch")),
    ("other", "git remote", ("git", "remote")),
    ("other", "git root", ("git", "root")),
    ("other", "hostname", ("hostname",)),
    ("other", "executable", ("executable",)),
    ("other", "main file", ("main", "file")),
    ("other", "main module", ("main", "module")),
    ("other", "arguments", ("argv",)),
    ("other", "working directory", ("cwd",)),
)


def environment() -> dict[str, Any]:
    """Return what this process is and runs in; what takes long is found out once.

    Never fails: what can't be had is left unknown, and a framework's adapter that fails is only
    told of.
    """
    told_by_the_system = {
        **_fixed(),
        "threads": variables.threads(),
        "variables": variables.others(),
        "pid": os.getpid(),
        "argv": _known(invocation.argv, []),
        "cwd": _known(os.getcwd, None),
    }
    return {
        **_plain(told_by_the_system),
        "distributions": _known(installed.distributions, {}),
        "adapters": _adapters(),
        "frameworks": _frameworks(),
    }


@functools.cache
def _fixed() -> dict[str, Any]:
    """Return what stays the same in a process.

    Without a lock, so that a process that is forked meanwhile has none to wait for.
    """
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "build": " ".join(platform.python_build()),
        "compiler": platform.python_compiler(),
        "executable": sys.executable,
        "platform": _known(platform.platform, None),
        "machine": _known(platform.machine, None),
        "hostname": _known(platform.node, None),
        "cpu": _known(hardware.cpu, {}),
        "memory_bytes": _known(hardware.memory_bytes, None),
        "gpus": _known(hardware.gpus, []),
        "git": _known(_git, None),
        "main": _known(invocation.main, {}),
    }


def _git() -> dict[str, Any] | None:
    """Describe the main program's repository, or that of the working directory.

    A program that was installed, such as a notebook's kernel, isn't what is being worked on.
    """
    file = invocation.main()["file"]
    found = None if file is None else repository.describe(Path(file).parent)
    return found or repository.describe(Path.cwd())


def _adapters() -> dict[str, str]:
    """Return the adapters that are in use, with what brings them."""
    return {
        info.name: f"{info.distribution or info.plugin} {info.version or ''}".rstrip()
        for info in adapters.list()
        if info.state in ("known", "loaded")
    }


def _frameworks() -> dict[str, Any]:
    """Ask the adapters of the frameworks that are imported."""
    adapters.load()
    found: dict[str, Any] = {}
    for name in adapters.frameworks():
        with suppress(AdapterNotFoundError):  # it is being loaded, and we are called by it
            extractor = adapters.extractor(name)
            imported = not sys.modules.keys().isdisjoint(extractor.modules)
            if (imported or not extractor.modules) and (facts := _asked(extractor)):
                found[name] = facts
    return found


def _asked(extractor: Extractor) -> dict[str, Any]:
    """Ask one; one that fails is told of, and takes nothing else with it."""
    try:
        facts = extractor.environment()
        if not isinstance(facts, Mapping):
            raise TypeError(f"it returned a {type_name(facts)}; needed is a mapping")
        described = {str(key): properties.describe(value) for key, value in facts.items()}
        encoding.dumps(described)
        return described
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        warn(
            f"What {extractor.framework} runs in is not recorded: the extractor of "
            f"{adapters.provider(extractor)} failed with {told(error)}",
            AdapterWarning,
        )
        return {}


def _known(ask: Callable[[], Any], otherwise: Any) -> Any:
    """Ask; whatever goes wrong, it is only a description that lacks something."""
    try:
        return ask()
    except Exception:
        return otherwise


def _plain(value: Any) -> Any:
    """Copy what everybody is given and may change, with texts that JSON can hold.

    Names of files and values of variables may be bytes that are no UTF-8.
    """
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if type(value) is str else value


def differences(before: object, after: object) -> list[tuple[str, str]]:
    """Say what differs between two environments, as pairs of a kind and a sentence.

    What can hardly influence results is of the kind ``other``. What one of them doesn't tell, as
    that of an older flowyml, is no difference. Takes anything: a record may be damaged.
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return []
    found = [
        *(("code", text) for text in _git_differences(before, after)),
        *_by_name(before, after, "packages", "distributions", "not installed"),
        *_by_name(before, after, "settings", "threads", "unset"),
        *_by_name(before, after, "settings", "variables", "unset"),
        *(("settings", text) for text in _framework_differences(before, after)),
        *_gpu_differences(before, after),
    ]
    old, new = _parts(before, after, "adapters")
    for name in sorted(set(old) ^ set(new), key=str):
        pair = f"{old.get(name, 'none')} → {new.get(name, 'none')}"
        found.append(("packages", f"adapter {name}: {pair}"))
    for kind, label, path in _COMPARED:
        one, other = _at(before, path), _at(after, path)
        if one is not None and other is not None and _differ(one, other):
            found.append((kind, f"{label} {_short(one)} → {_short(other)}"))
    return sorted(found, key=lambda pair: KINDS.index(pair[0]))


def _git_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    if "git" not in before or "git" not in after:
        return
    old, new = before["git"], after["git"]
    if (old is None) != (new is None):
        yield f"git: {'no' if old is None else 'a'} repository → {'a' if new else 'no'} repository"
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    if old.get("commit") != new.get("commit"):
        yield f"git commit {_commit(old)} → {_commit(new)}"
    for count, digest, what in (
        ("changed", "diff", "uncommitted changes"),
        ("untracked", "untracked_digest", "untracked files"),
    ):
        if all(isinstance(git.get(count), int) for git in (old, new)) and (
            old[count] != new[count] or old.get(digest) != new.get(digest)
        ):
            yield f"git: {what} differ ({old[count]} → {new[count]} files)"


def _commit(git: dict[str, Any]) -> str:
    return str(git.get("commit") or "none")[:7]


def _framework_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    old, new = _parts(before, after, "frameworks")
    for name in sorted({*old, *new}, key=str):
        if name not in old or name not in new:
            yield (
                f"{name} not imported → imported"
                if name in new
                else f"{name} imported → not imported"
            )
            continue
        one, other = _flat(old[name], str(name)), _flat(new[name], str(name))
        for key in (key for key in one if key in other and _differ(one[key], other[key])):
            yield f"{key} {_short(one[key])} → {_short(other[key])}"


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Return the values in nested settings by their whole name."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    joined: dict[str, Any] = {}
    for key, item in value.items():
        joined |= _flat(item, f"{name}.{key}")
    return joined


def _by_name(
    before: dict[str, Any], after: dict[str, Any], kind: str, key: str, missing: str
) -> Iterator[tuple[str, str]]:
    old, new = _parts(before, after, key)
    for name in sorted({*old, *new}, key=str):
        one, other = old.get(name, missing), new.get(name, missing)
        if _differ(one, other):
            yield kind, f"{name} {_short(one)} → {_short(other)}"


def _gpu_differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(before.get("gpus"), list) or not isinstance(after.get("gpus"), list):
        return
    for kind, label, key in (
        ("hardware", "GPUs", "name"),
        ("hardware", "GPU driver", "driver"),
        ("other", "GPUs of the same kind", "uuid"),
    ):
        old, new = (_counted(each["gpus"], key) for each in (before, after))
        if old != new:
            yield kind, f"{label}: {old} → {new}"
            if key == "name":
                return


def _counted(gpus: list[Any], key: str) -> str:
    """Return what a member says of all GPUs, with how often it says so."""
    said = [str(gpu.get(key)) for gpu in gpus if isinstance(gpu, dict)]
    return ", ".join(f"{said.count(text)} × {text}" for text in dict.fromkeys(said)) or "none"


def _parts(
    before: dict[str, Any], after: dict[str, Any], key: str
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return a part of both, or nothing when one of them doesn't have it."""
    old, new = before.get(key), after.get(key)
    return (old, new) if isinstance(old, dict) and isinstance(new, dict) else ({}, {})


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _differ(one: object, other: object) -> bool:
    return one != other and repr(one) != repr(other)  # as NaN is no difference


def _short(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


_LONG = 200
