"""New Python processes in which a part of a check runs, and what they answer.

What an adapter promises of other processes can only be seen there. Each one has another hash
seed; questions and answers travel as exact JSON, apart from whatever libraries print.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import IO, Any, Self

import attrs

from flowyml import encoding
from flowyml.testing.subject import Bare, ConformanceError, Named, Subject, bare, load_adapter

__tracebackhide__ = True

_NONE: Mapping[str, str] = MappingProxyType({})

_BOOTSTRAP = """
import json, os, sys
question = sys.stdin.buffer.read()
sys.path[:] = json.loads(question)["path"]
from flowyml.testing.processes import answer
answer(question)
"""

HASH_SEEDS = (1502, 4276)
"""Seeds of Python's hashes: with one, a set of two common labels has the other order.

Such as "a" and "b", "0" and "1", "no" and "yes", "cat" and "dog", "weight" and "bias".
"""

_hash_seeds = itertools.cycle(HASH_SEEDS)


class ProcessError(RuntimeError):
    """A process that a check started has failed; the text holds what it printed."""


class Process:
    """A running process that was asked for the result of a function.

    Leaving a ``with`` block around it ends it.

    Attributes:
        popen: the process itself.
    """

    def __init__(self, question: bytes, environment: Mapping[str, str], what: str) -> None:
        self._what = what
        self._files = ExitStack()
        self._answer = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._errors = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        with tempfile.TemporaryFile() as asked:
            asked.write(question)
            asked.seek(0)
            self.popen = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP],
                stdin=asked,
                stdout=self._answer,
                stderr=self._errors,
                env=dict(environment),
            )

    def result(self, timeout: float = 120.0) -> Any:
        """Wait for the process to end, and return what the function returned.

        Raises:
            ProcessError: when it fails, or takes longer than `timeout` seconds.
            ConformanceError: when the function raised one.
        """
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ProcessError(
                f"{self._what} took longer than {timeout:g} s in a new process and was ended. "
                f"It printed:\n{self.printed()}"
            ) from error
        text = _whole(self._answer)
        if status != 0 or not text:
            raise ProcessError(
                f"{self._what} failed in a new process, which exited with status {status} and "
                f"printed:\n{self.printed()}"
            )
        answered = encoding.loads(text)
        if "refused" in answered:
            raise ConformanceError(answered["refused"])
        return answered["returned"]

    def printed(self) -> str:
        """Return everything that was printed so far, errors included."""
        return _whole(self._errors).decode(errors="replace")

    def kill(self) -> None:
        """End the process at once, if it still runs."""
        self.popen.kill()
        self.popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()
        self._files.close()


def start(
    subject: Subject | Bare,
    function: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] = _NONE,
    with_subject: bool = True,
) -> Process:
    """Start ``function(subject, *arguments)`` in a new process.

    Args:
        subject: the adapter under test; registered there by hand when it has a `plugin`.
        function: a function at the top of a module that other processes can import.
        *arguments: values with an exact JSON form.
        environment: variables on top of this process's own, of which those of flowyml are left
            out.
        with_subject: False leaves the subject's module out, as that imports the framework: the
            function then gets a `Bare` subject.

    Raises:
        ConformanceError: when the subject's class can't be found by another process.
    """
    question = {
        "path": [os.path.abspath(entry) for entry in sys.path],  # noqa: PTH100  ("" is the cwd)
        "function": [function.__module__, function.__qualname__],
        "arguments": list(arguments),
        "bare": list(attrs.astuple(bare(subject))),
        "subject": _whereabouts(type(subject)) if with_subject else None,
    }
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("FLOWYML_")}
    variables = {**inherited, "PYTHONHASHSEED": str(next(_hash_seeds)), **environment}
    return Process(encoding.dumps(question), variables, function.__name__.strip("_"))


def in_new_process(
    subject: Subject | Bare,
    function: Callable[..., Any],
    *arguments: Any,
    timeout: float = 120.0,
    environment: Mapping[str, str] = _NONE,
    with_subject: bool = True,
) -> Any:
    """Return what ``function(subject, *arguments)`` returns in a new process.

    Arguments and result have an exact JSON form; see `start`.

    Raises:
        ProcessError: when the process fails, with its exit status and what it printed, or takes
            longer than `timeout` seconds.
        ConformanceError: when the function raised one.
    """
    with start(
        subject, function, *arguments, environment=environment, with_subject=with_subject
    ) as process:
        return process.result(timeout)


def in_two_processes(
    subject: Subject | Bare,
    function: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] = _NONE,
) -> list[Any]:
    """Return what a function returns in two processes at once, in which sets are ordered otherwise.

    Like `in_new_process`; the seeds of their hashes are `HASH_SEEDS`.
    """
    with ExitStack() as stack:
        both = []
        for seed in HASH_SEEDS:
            seeded = {**environment, "PYTHONHASHSEED": str(seed)}
            process = start(subject, function, *arguments, environment=seeded)
            both.append(stack.enter_context(process))
        return [process.result() for process in both]


def answer(question: bytes) -> None:
    """Do in this new process what `start` asked for, and answer on its standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print, below Python too, isn't part of the answer
        out.write(encoding.dumps(_answered(encoding.loads(question))))


def _answered(question: Mapping[str, Any]) -> dict[str, Any]:
    module, name = question["function"]
    function = getattr(importlib.import_module(module), name)
    subject: Named = Bare(*question["bare"])
    try:
        if question["subject"] is not None:
            subject = _found(**question["subject"])()
        load_adapter(subject)
        return {"returned": function(subject, *question["arguments"])}
    except ConformanceError as error:
        traceback.print_exc()
        return {"refused": str(error)}


def _whereabouts(cls: type) -> dict[str, Any]:
    """Say where a class is to be found: its module, the packages around it, and their files."""
    module, name = cls.__module__, cls.__qualname__
    if "<locals>" in name or module == "__main__":
        raise ConformanceError(
            f"The class {name} of {module} can't be found by another process. Define it at the "
            f"top of a module that is imported, such as a test file that pytest runs."
        )
    parts = module.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return {"modules": [_location(each) for each in around], "name": name}


def _location(module: str) -> tuple[str, str | None, list[str] | None]:
    found = sys.modules.get(module)
    file, path = getattr(found, "__file__", None), getattr(found, "__path__", None)
    return module, file and str(Path(file).absolute()), None if path is None else [*path]


def _found(modules: list[tuple[str, str | None, list[str] | None]], name: str) -> type[Subject]:
    for location in modules:
        _import(*location)
    found: Any = sys.modules[modules[-1][0]]
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, type)
    return found


def _import(name: str, file: str | None, path: list[str] | None) -> None:
    """Import a module by its name, or else from its file: pytest makes up names of test files."""
    if name in sys.modules:
        return
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and (file is None or _is_same(spec.origin, file)):
        importlib.import_module(name)
        return
    if file is None:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = path or []
        return
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=path)
    assert spec is not None, file
    assert spec.loader is not None, file
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _is_same(origin: str | None, file: str) -> bool:
    return origin is not None and Path(origin).exists() and Path(origin).samefile(file)


def _whole(file: IO[bytes]) -> bytes:
    # Reading at a position of our own: the running process writes where the file's one stands.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
