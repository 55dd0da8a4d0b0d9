"""Finding the steps of a recorded run in this process, and what differs in them from then.

A record may be a stranger's, so nothing that it names is called or evaluated here. Modules are
imported as an ``import`` statement would; what is found there has to be a step.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from flowyml import code, scripts, steps
from flowyml.environment import differences as environment_differences
from flowyml.environment import environment, repository
from flowyml.errors import told
from flowyml.identity import NoDigestError, content_digest_of
from flowyml.records import RunRecord, StepRecord
from flowyml.steps import Step

_MAIN = "__main__"


@attrs.define
class Found:
    """The steps of a run, as this process has them.

    Attributes:
        steps: by index in the run, for those that no step called: the step, or why there is none.
        notes: what else to know before they are run.
    """

    steps: dict[int, Step[..., Any] | str] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)


@contextmanager
def steps_of(record: RunRecord) -> Iterator[Found]:
    """Find a run's steps, importing what defines them; the script only for the with block."""
    found = Found()
    with ExitStack() as stack:
        hint = _prepare(record, found, stack)
        for index, step in enumerate(record.steps):
            if step.parent is None:
                found.steps[index] = _step(step, hint)
        yield found


def _prepare(record: RunRecord, found: Found, stack: ExitStack) -> str:
    """Make the run's script the main module if it is needed; return why it isn't there."""
    program = scripts.Program.of(record.environment)
    needed = sorted(set(_needed_of_main(record)))
    if program is not None and not program.is_running():
        if not needed:
            stack.enter_context(scripts.importing_as(program))
            return ""
        try:
            loaded = stack.enter_context(scripts.loaded_as_main(program, needed))
        except scripts.ScriptError as error:
            return f" {error}"
        where = f"The script {program.file} was loaded for its definitions"
        if loaded.stopped is None:
            found.notes.append(f"{where}.")
            return ""
        found.notes.append(f"{where}, until {loaded.stopped}.")
        return f" {found.notes[-1]}"
    if program is None and hasattr(sys.modules[_MAIN], "__file__"):
        return (
            " The run was made in a notebook, an interactive session or by 'python -c', which left "
            "no file: call flowyml.reproduce there."
        )
    return ""


def _needed_of_main(record: RunRecord) -> Iterator[str]:
    """Yield the qualified names that a record names in the main module."""
    for step in record.steps:
        for name in (step.function, *(given.type for given in step.inputs.values())):
            if name.startswith(f"{_MAIN}."):
                yield name.removeprefix(f"{_MAIN}.")
        yield from _named_in(step.call)


def _named_in(form: Any) -> Iterator[str]:
    """Yield the names of the main module's that the form of a call has."""
    if isinstance(form, dict):
        form = list(form.values())
    if isinstance(form, list):
        if len(form) > 2 and form[1] == _MAIN and isinstance(form[2], str):
            yield form[2]
        for item in form if not form or form[0] != "value" else ():
            yield from _named_in(item)


def _step(record: StepRecord, hint: str) -> Step[..., Any] | str:
    """Return the step that a record is of, or why there is none."""
    try:
        found = resolve(record.function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that is imported may raise anything
        return f"the module that defines {record.function} can't be imported: {told(error)}"
    registered = steps.find(record.function)
    candidates = [
        step
        for step in (found, registered)
        if isinstance(step, Step) and step.dotted == record.function
    ]
    if not candidates:
        if found is not None:
            return (
                f"{record.function} is a {type(found).__name__} and no step any more, and nothing "
                f"but steps is called. Decorate it with @step."
            )
        hint = hint if record.function.startswith(f"{_MAIN}.") else ""
        return (
            f"its function {record.function} isn't there. Import the module that defines it.{hint}"
        )
    return next((step for step in candidates if step.name == record.name), candidates[0])


def resolve(dotted: str) -> Any:
    """Return what a dotted name means, importing the modules in it; None when there is nothing."""
    parts = dotted.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        if name not in sys.modules and not _import(name):
            return None
        value = _attribute(sys.modules[name], parts[length:])
        if value is not None and not isinstance(value, types.ModuleType):
            return value
        if steps.find(dotted) is not None:  # one that is made in a function has no such name
            return None
    return None


def _import(name: str) -> bool:
    above = name.rpartition(".")[0]
    if above and not hasattr(sys.modules[above], "__path__"):  # what follows is no module
        return False
    with scripts.definitions_only():
        if importlib.util.find_spec(name) is None:
            return False
        importlib.import_module(name)
    return True


def _attribute(value: Any, names: list[str]) -> Any:
    for name in names:
        value = vars(value).get(name) if isinstance(value, types.ModuleType | type) else None
    return value


def differences(record: RunRecord, found: Found) -> Iterator[str]:
    """Yield what differs from then, in sentences, before anything is run."""
    for index, step in found.steps.items():
        then = record.steps[index]
        if isinstance(step, Step):
            for text in _code_differences(record, then, step):
                yield f"code differs: {text}"
            declared = step.settings.seed
            if then.seeded and declared is not None and declared != then.seed:
                yield f"seed differs: {then.name} has {declared} now; it is run with {then.seed}"
    for kind, text in environment_differences(record.environment, _environment_now(record)):
        if kind != "other":
            yield f"{kind} differs: {text}"
    folder = record.environment.get("cwd")
    if isinstance(folder, str) and folder != str(Path.cwd()):
        yield f"working directory differs: {folder} → {Path.cwd()}"


def _environment_now(record: RunRecord) -> dict[str, Any]:
    """Return this process's environment, with the state of the repository that the run was in."""
    now = environment()
    git = record.environment.get("git")
    root = git.get("root") if isinstance(git, dict) else record.environment.get("cwd")
    if isinstance(root, str) and Path(root).is_dir():
        now["git"] = repository.describe(root)
    then = record.environment.get("frameworks")
    if isinstance(then, dict):  # what isn't imported yet, the steps are still going to import
        now["frameworks"] = {**then, **now["frameworks"]}
    return now


def _code_differences(record: RunRecord, then: StepRecord, step: Step[..., Any]) -> Iterator[str]:
    before = record.code.get(then.code or "")
    if before is None:
        yield f"what the code of {then.name} was is not recorded"
    else:
        there = [
            item
            for item in map(_already_there, before.given)
            if isinstance(item, (types.FunctionType, type))
        ]
        after = code.describe_call(step.function, there, content_digest_of)
        if after.digest != before.digest:
            yield from code.differences(before, after) or [f"{then.function} changed"]
    for name, given in then.inputs.items():
        dotted = then.hyperparameters.get(name)
        if given.digest is None or not isinstance(dotted, str):
            continue
        passed = _already_there(dotted)
        if isinstance(passed, (types.FunctionType, type)):
            try:
                same = content_digest_of(passed) == given.digest
            except NoDigestError:
                same = False
            if not same:
                yield f"{dotted}, the argument {name!r} of {then.name}, changed"


def _already_there(dotted: str) -> Any:
    """Return what a dotted name means without importing; the program has the name of its file."""
    parts, program = dotted.split("."), code.modules.name_of(_MAIN)
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        module = sys.modules.get(_MAIN if name == program else name)
        if module is not None:
            return _attribute(module, parts[length:])
    return None
