"""What another process has to load before it can call a function of this one.

A function of a module is imported. What a script defines is loaded from its file, without what
the script does when it is started; what a notebook defines, from its cells. Global variables that
the function reads go along as they are now.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from flowyml import scripts
from flowyml.code import bytecode
from flowyml.environment import invocation
from flowyml.errors import LaunchError, told
from flowyml.steps import Step
from flowyml.steps import find as find_step

_MAIN = "__main__"
_MOST_FUNCTIONS = 10_000


@attrs.frozen
class Source:
    """How to come by a function in another process.

    Attributes:
        function: its dotted name.
        file: the file of the script that this process was started with; None without one.
        module: the module that it was started with, by ``python -m``.
        argv: its arguments.
        path: where modules are found.
        folder: the working directory.
        needed: the qualified names in the main program that are needed of it.
        home: the file of the function's module.
        definitions: what defines things in a notebook, a text for each cell.
    """

    function: str
    file: str | None
    module: str | None
    argv: tuple[str, ...]
    path: tuple[str, ...]
    folder: str
    needed: tuple[str, ...] = ()
    home: str | None = None
    definitions: tuple[str, ...] = ()


def source_of(step: Step[..., Any], named: Iterable[str]) -> Source:
    """Return how to come by a step's function.

    Args:
        step: the step.
        named: dotted names of classes and functions that its arguments need.

    Raises:
        LaunchError: when no other process could.
    """
    function = step.function
    if "<" in function.__qualname__:
        raise LaunchError(
            f"The function of the step {step.name!r}, {step.dotted}, is defined inside of another "
            f"function, so the processes that are to run it can't import it. Move it out, to the "
            f"top of its module."
        )
    main = invocation.main()
    cells: tuple[str, ...] = ()
    needed = [name for name in (step.dotted, *named) if name.startswith(f"{_MAIN}.")]
    if needed and main["file"] is None:
        cells = tuple(_cells(vars(sys.modules[_MAIN])))
        if not cells:
            raise LaunchError(
                f"The step {step.name!r} is defined in a program that has no file, so the "
                f"processes that are to run it can't load it. Write it into a file or a notebook."
            )
    return Source(
        function=step.dotted,
        file=main["file"],
        module=main["module"],
        argv=tuple(map(str, getattr(sys, "argv", ()))),
        path=tuple(os.path.abspath(entry or os.curdir) for entry in sys.path),  # noqa: PTH100
        folder=os.getcwd(),  # noqa: PTH109  (text)
        needed=tuple(name.removeprefix(f"{_MAIN}.") for name in needed),
        home=getattr(sys.modules.get(function.__module__), "__file__", None),
        definitions=cells,
    )


def _cells(namespace: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cells of a notebook, or of an IPython session, as they were run."""
    shell = namespace.get("get_ipython")
    cells: list[Any] = []
    with suppress(Exception):  # another kernel may have none of this
        cells += shell().history_manager.input_hist_parsed  # type: ignore[misc]  # or it raises
    yield from (cell for cell in map(str, cells) if cell.strip())


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the global variables of its module that a function of a main program reads.

    Itself, and by the functions and classes of the same module that it uses. Left out are
    functions, classes, modules and steps: these are loaded.
    """
    if function.__module__ != _MAIN:
        return {}
    namespace = function.__globals__
    found: dict[str, Any] = {}
    met: set[int] = set()
    todo: list[types.CodeType] = [function.__code__]
    while todo and len(met) < _MOST_FUNCTIONS:
        code = todo.pop()
        if id(code) in met:
            continue
        met.add(id(code))
        for name in dict.fromkeys(chain[0] for chain in bytecode.read(code).chains):
            if name not in namespace or name.startswith("__"):
                continue
            value = namespace[name]
            inner = list(_codes_in(value))
            if inner or isinstance(value, (type, types.ModuleType, types.FunctionType, Step)):
                todo += inner
            elif not isinstance(value, types.BuiltinFunctionType):
                found[name] = value
    return found


def _codes_in(value: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function or class of the main program."""
    if isinstance(value, Step):
        value = value.function
    if getattr(value, "__module__", None) != _MAIN:
        return
    if isinstance(value, types.FunctionType):
        yield value.__code__
    elif isinstance(value, type):
        for item in vars(value).values():
            held = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
            if isinstance(held, types.FunctionType):
                yield held.__code__


@contextmanager
def loaded(source: Source) -> Iterator[Callable[[Mapping[str, Any]], Step[..., Any]]]:
    """Load what defines a function, for the time of a with block.

    Yields what returns the step, given the global variables that come along: those that are
    missing are set.

    Raises:
        LaunchError: when it can't be loaded.
    """
    with suppress(OSError):
        os.chdir(source.folder)
    sys.argv[:] = source.argv
    sys.path[:] = [*source.path, *(entry for entry in sys.path if entry not in source.path)]
    with ExitStack() as stack:
        hint = ""
        if source.definitions:
            stack.enter_context(_empty_main())
            hint = _load_cells(source.definitions)
        elif source.needed:
            hint = _load_script(source, stack)

        def step(variables: Mapping[str, Any]) -> Step[..., Any]:
            namespace = vars(sys.modules[_MAIN])
            if source.function.startswith(f"{_MAIN}."):
                namespace.update(
                    {k: v for k, v in variables.items() if k not in namespace or _is_plain(v)}
                )
                again = _load_cells(source.definitions) if source.definitions else ""
                hint_now = again or hint
            else:
                _import_home(source)
                hint_now = hint
            return _step(source.function, hint_now)

        yield step


@contextmanager
def _empty_main() -> Iterator[None]:
    before = sys.modules[_MAIN]
    sys.modules[_MAIN] = types.ModuleType(_MAIN)
    try:
        yield
    finally:
        sys.modules[_MAIN] = before


def _import_home(source: Source) -> None:
    """Import the module of the function from its file, if its name alone doesn't lead there."""
    name = source.function.rpartition(".")[0]
    while name and source.home is not None:
        with suppress(ImportError, ValueError, AttributeError):
            if name in sys.modules or importlib.util.find_spec(name) is not None:
                return
        if Path(source.home).stem in (name.rpartition(".")[2], "__init__"):
            break
        name = name.rpartition(".")[0]
    spec = importlib.util.spec_from_file_location(name, source.home) if source.home else None
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with scripts.definitions_only():
        spec.loader.exec_module(module)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, type(None)))


def _load_script(source: Source, stack: ExitStack) -> str:
    """Make the script the main module; return why not all of it was loaded, if so."""
    assert source.file is not None
    program = scripts.Program(Path(source.file), source.module, source.argv)
    try:
        found = stack.enter_context(scripts.loaded_as_main(program, source.needed))
    except scripts.ScriptError as error:
        raise LaunchError(str(error)) from error
    return "" if found.stopped is None else f" The script was loaded until {found.stopped}."


def _load_cells(cells: tuple[str, ...]) -> str:
    """Define what cells of a notebook define; return what couldn't be, in words."""
    namespace = vars(sys.modules[_MAIN])
    failed = ""
    with scripts.definitions_only():
        for number, cell in enumerate(cells, 1):
            try:
                tree = ast.parse(cell, f"<cell {number}>")
            except SyntaxError:
                continue
            for statement in tree.body:
                failed = _define(statement, number, namespace) or failed
    return failed


def _define(statement: ast.stmt, number: int, namespace: dict[str, Any]) -> str:
    if not scripts.only_defines(statement):
        return ""
    try:
        code = compile(ast.Module([statement], []), f"<cell {number}>", "exec")
        exec(code, namespace)  # noqa: S102  (the cell was run in the notebook)
    except Exception as error:
        return f" Cell {number} can't be loaded: {told(error)}."
    return ""


def _step(dotted: str, hint: str) -> Step[..., Any]:
    from flowyml.reproducing.finding import resolve

    try:
        found = resolve(dotted)
    except Exception as error:
        raise LaunchError(
            f"The function {dotted} can't be imported by the processes that are to run it: "
            f"{told(error)}"
        ) from error
    registered = find_step(dotted)
    for step in (found, registered):
        if isinstance(step, Step):
            return step
    raise LaunchError(
        f"The function {dotted} can't be imported by the processes that are to run it: its module "
        f"doesn't define it at its top, or not as a step.{hint}"
    )
