"""Scripts: the program of a recorded run, loaded again for the functions and classes in it.

What a script defines belongs to the module ``__main__``, which in another process is another
program. So its file is run as that module once more, but without what it does only when it is
started: the part under ``if __name__ == "__main__":``, and calls of steps.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import attrs

from flowyml.errors import FlowymlError, told

loading: ContextVar[bool] = ContextVar("flowyml_loading", default=False)
"""Whether a script is being loaded for its definitions: a step or run that starts must not."""

_NAME_MEANWHILE = "__reproduced__"
"""What a script finds when it asks whether it is ``__main__``."""


class ScriptError(FlowymlError):
    """The script of a recorded run can't be loaded again."""


class CalledWhileLoading(BaseException):
    """What is loaded for its definitions has come to the call of a step, or to a run."""


def refuse_while_loading(what: str) -> None:
    """Stop what is loaded for its definitions; do nothing at any other time.

    Args:
        what: what it was about to do, as in ``"calls the step 'train'"``.
    """
    if loading.get():
        raise CalledWhileLoading(what)


@contextmanager
def definitions_only() -> Iterator[None]:
    """Let no step or run start in a with block: its code is loaded for what it defines."""
    token = loading.set(True)
    try:
        yield
    finally:
        loading.reset(token)


@attrs.frozen
class Program:
    """What a process was started with.

    Attributes:
        file: the script, or the file of the module.
        module: the module's name for ``python -m name``; None for a script.
        argv: the arguments, the program's name included.
    """

    file: Path
    module: str | None = None
    argv: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Self | None:
        """Return the program in a run's environment; None when it had no file."""
        main = environment.get("main")
        file = main.get("file") if isinstance(main, Mapping) else None
        if not isinstance(file, str):
            return None
        assert isinstance(main, Mapping)
        name, argv = main.get("module"), environment.get("argv")
        module = name if isinstance(name, str) else None
        return cls(Path(file), module, tuple(map(str, argv)) if isinstance(argv, list) else ())

    def is_running(self) -> bool:
        """Tell whether this process was started with it."""
        file = getattr(sys.modules.get("__main__"), "__file__", None)
        return isinstance(file, str) and os.path.realpath(file) == os.path.realpath(self.file)

    @property
    def folder(self) -> Path:
        """Where Python looks first for the modules that it imports."""
        if self.module is None:
            return self.file.parent
        parts = self.module.split(".")
        if self.file.stem == "__main__" and parts[-1] != "__main__":
            parts.append("__main__")
        return self.file.parents[min(len(parts), len(self.file.parents)) - 1]


@attrs.frozen
class Loaded:
    """A script that was loaded.

    Attributes:
        module: what it defined, for the time being the module ``__main__``.
        stopped: where and why not all of it was run; None when all was. What comes after is
            loaded as far as it only defines.
    """

    module: ModuleType
    stopped: str | None


@contextmanager
def importing_as(program: Program) -> Iterator[None]:
    """Find modules where a program found them, for the time of a with block."""
    path, folder = [*sys.path], str(program.folder)
    if folder not in (str(Path(entry).absolute()) for entry in path):
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path


@contextmanager
def loaded_as_main(program: Program, needed: Iterable[str]) -> Iterator[Loaded]:
    """Make a program the module ``__main__`` for the time of a with block.

    Args:
        program: which. Its top-level statements are run, up to the first that calls a step;
            of the rest only definitions, imports and plain values are taken.
        needed: qualified names that are needed of it. Unless its file defines one of them, it is
            the wrong file, and nothing in it is run.

    Raises:
        ScriptError: when there is no such file, it can't be parsed or it is the wrong one.
    """
    tree = _parsed(program.file)
    _check_defines(tree, program.file, needed)
    with importing_as(program):
        module = _empty_module(program)
        before = sys.modules["__main__"], sys.argv
        sys.modules["__main__"], sys.argv = module, [*program.argv] or [str(program.file)]
        try:
            with definitions_only():
                stopped = _execute(tree, module, program.file)
            yield Loaded(module, stopped)
        finally:
            sys.modules["__main__"], sys.argv = before


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ScriptError(
            f"The script {file} can't be read: {told(error)}. Put it back where it was, or import "
            f"its steps and call flowyml.reproduce in that process."
        ) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ScriptError(f"The script {file} can't be parsed: {told(error)}.") from error


def _check_defines(tree: ast.Module, file: Path, needed: Iterable[str]) -> None:
    wanted = list(dict.fromkeys(name.partition(".")[0] for name in needed))
    defined = set(_defined(tree))
    if not defined.intersection(wanted):
        raise ScriptError(
            f"The script {file} defines none of what the run needs of it "
            f"({', '.join(wanted) or 'nothing is named'}), so it wasn't run."
        )


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that are defined outside of functions and classes."""
    for node in _top_level(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Lambda):
            yield "<lambda>"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a tree, but not what stands in its functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _top_level(child)


def _empty_module(program: Program) -> ModuleType:
    """Return a module with the attributes that Python gives the one it starts."""
    module = ModuleType("__main__")
    module.__file__ = str(program.file)
    vars(module).update(__builtins__=sys.modules["builtins"], __annotations__={}, __package__=None)
    if program.module is None:
        return module
    try:
        spec = importlib.util.find_spec(program.module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{program.module}.__main__")
    except (ImportError, ValueError, AttributeError) as error:
        raise ScriptError(f"{program.module} can't be imported: {told(error)}.") from error
    if spec is None or spec.origin is None:
        raise ScriptError(f"The module {program.module} isn't there; it was in {program.file}.")
    if os.path.realpath(spec.origin) != os.path.realpath(program.file):
        raise ScriptError(
            f"The module {program.module} is now {spec.origin}; it was {program.file}. Call "
            f"reproduce in a process that imports the one that the run used."
        )
    module.__spec__, module.__package__, module.__loader__ = spec, spec.parent, spec.loader
    return module


def _execute(tree: ast.Module, module: ModuleType, file: Path) -> str | None:
    """Run a script's top-level statements; return where and why that stopped, if it did."""
    flags = _future_flags(tree)
    document = ast.get_docstring(tree, clean=False)
    stopped: str | None = None
    _say_not_started(tree)
    imports = _imports(tree)
    for statement in tree.body:
        if stopped is not None and not only_defines(statement):
            continue
        try:
            part = ast.Module([*([] if _is_future(statement) else imports), statement], [])
            code = compile(part, str(file), "exec", flags=flags, dont_inherit=True)
            exec(code, vars(module))  # noqa: S102  (as starting the script does)
        except KeyboardInterrupt:
            raise
        except CalledWhileLoading as signal:
            stopped = stopped or f"line {statement.lineno} {signal}"
        except BaseException as error:  # a script may raise anything, SystemExit above all
            stopped = stopped or f"line {statement.lineno} raised {told(error)}"
    module.__doc__ = document
    return stopped


def _imports(tree: ast.Module) -> list[ast.stmt]:
    """Return what imports as the tree does, but is never run.

    Python compiles a call of something in a module otherwise where it sees that the name is
    imported, and code that is compiled otherwise has another digest.
    """
    found = [
        node
        for node in _top_level(tree)
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and not _is_future(node))
    ]
    if not found:
        return []
    return [ast.fix_missing_locations(ast.If(ast.Constant(False), [*found], []))]


def _is_future(statement: ast.stmt) -> bool:
    """Tell whether it is an import that has to come before all other statements."""
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _future_flags(tree: ast.Module) -> int:
    flags = 0
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and _is_future(statement):
            for alias in statement.names:
                feature = getattr(__future__, alias.name, None)
                flags |= getattr(feature, "compiler_flag", 0)
    return flags


def _say_not_started(tree: ast.Module) -> None:
    """Let what compares ``__name__``, outside of functions, find that it isn't ``__main__``."""
    for node in _top_level(tree):
        if isinstance(node, ast.Compare):
            node.left = _renamed(node.left)
            node.comparators = [_renamed(operand) for operand in node.comparators]


def _renamed(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Name) and node.id == "__name__":
        return ast.copy_location(ast.Constant(_NAME_MEANWHILE), node)
    return node


def only_defines(statement: ast.stmt) -> bool:
    """Tell whether a statement does no more than give a name to something."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        try:
            ast.literal_eval(statement.value or ast.Constant(None))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return False
        return True
    return isinstance(
        statement,
        (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom),
    )
