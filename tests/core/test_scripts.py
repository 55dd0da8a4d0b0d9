"""Scripts that are loaded again for the functions and classes in them."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import flowyml
from flowyml import scripts
from flowyml.scripts import Program, ScriptError, importing_as, loaded_as_main
from flowyml.steps import Step


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Program]:
    return lambda text: Program(written(tmp_path / "project" / "train.py", text))


def test_a_script_becomes_the_main_module_for_the_time_being(
    script: Callable[[str], Program],
) -> None:
    before = sys.modules["__main__"], sys.argv, [*sys.path]
    program = script(
        """
        '''Trains.'''
        import sys
        class Net: ...
        seen = sys.argv, sys.path[0], __file__, __name__, __spec__
        """
    )
    program = dataclass_with(program, argv=("train.py", "--epochs", "3"))
    with loaded_as_main(program, ["Net"]) as loaded:
        main = sys.modules["__main__"]
        assert main is loaded.module
        assert main.Net.__module__ == "__main__"
        assert main.__doc__ == "Trains."
        folder, file = str(program.file.parent), str(program.file)
        assert main.seen == (["train.py", "--epochs", "3"], folder, file, "__main__", None)
        assert loaded.stopped is None
    assert (sys.modules["__main__"], sys.argv, sys.path) == before


def dataclass_with(program: Program, **changes: object) -> Program:
    import attrs

    return attrs.evolve(program, **changes)


@pytest.mark.parametrize(
    "guard",
    [
        'if __name__ == "__main__":',
        "if '__main__' == __name__:",
        'if __name__ == "__main__" and True:',
        'if "x" and (__name__ in {"__main__"}):',
        'if not __name__ != "__main__":',
    ],
)
def test_what_a_script_does_when_it_is_started_is_left_out(
    guard: str, script: Callable[[str], Program]
) -> None:
    program = script(f"def f(): ...\n{guard}\n    done = 'started'\nelse:\n    done = 'imported'\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.done == "imported"


def test_a_guard_within_a_try_or_an_expression_is_one_too(
    script: Callable[[str], Program],
) -> None:
    program = script(
        """
        started = []
        def f(): started.append(__name__ == "__main__")
        try:
            if __name__ == "__main__":
                started.append("try")
        finally:
            pass
        started.append("expression") if __name__ == "__main__" else None
        __name__ == "__main__" and started.append("and")
        f()
        """
    )
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.started == [True]  # in a function it is as it was


def test_a_step_that_is_called_on_the_way_does_not_run(script: Callable[[str], Program]) -> None:
    program = script(
        """
        from flowyml import step
        ran = []
        @step
        def train(rate=0.1):
            ran.append(rate)
        before = 1
        train()
        between = [before, ran]
        LIMIT: int = 3
        from math import pi
        @step
        def evaluate():
            return LIMIT
        evaluate()
        """
    )
    with loaded_as_main(program, ["train"]) as loaded:
        found = vars(loaded.module)
        assert loaded.stopped == "line 8 calls the step 'train'"
        assert found["ran"] == []
        assert isinstance(found["evaluate"], Step)
        assert (found["before"], found["LIMIT"], round(found["pi"])) == (1, 3, 3)
        assert "between" not in found
    assert not Path(".flowyml").exists()


def test_an_error_on_the_way_ends_the_loading_there(script: Callable[[str], Program]) -> None:
    program = script("def f(): ...\nimport sys\nsys.exit('usage: ...')\ndef g(): ...\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.stopped == "line 3 raised SystemExit: usage: ..."
        assert callable(loaded.module.g)


def test_an_interruption_is_one(script: Callable[[str], Program]) -> None:
    program = script("def f(): ...\nraise KeyboardInterrupt\n")
    before = sys.modules["__main__"]
    with pytest.raises(KeyboardInterrupt), loaded_as_main(program, ["f"]):
        pass
    assert sys.modules["__main__"] is before
    assert scripts.loading.get() is False


def test_the_text_of_its_functions_and_classes_can_be_had(
    script: Callable[[str], Program],
) -> None:
    program = script("X = 1\n\nclass Net:\n    a = 1\n\ndef f():\n    return X\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert inspect.getsource(loaded.module.f) == "def f():\n    return X\n"
        assert inspect.getsource(loaded.module.Net) == "class Net:\n    a = 1\n"
        assert loaded.module.f.__code__.co_firstlineno == 6


def test_future_imports_of_a_script_hold(script: Callable[[str], Program]) -> None:
    program = script("from __future__ import annotations\nimport sys\ndef f(a: no_name): ...\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f.__annotations__ == {"a": "no_name"}
        assert loaded.stopped is None
    program = script("def f(a: int): ...\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f.__annotations__ == {"a": int}


def test_dataclasses_of_a_script_work(script: Callable[[str], Program]) -> None:
    program = script(
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        @dataclass
        class Config:
            rate: float = 0.1
            kind: ClassVar[str] = "a"
        """
    )
    with loaded_as_main(program, ["Config"]) as loaded:
        assert [field.name for field in dataclasses.fields(loaded.module.Config)] == ["rate"]


def test_modules_beside_a_script_are_found(
    script: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script("import beside_the_script\ndef f(): return beside_the_script.X\n")
    written(program.file.parent / "beside_the_script.py", "X = 5")
    monkeypatch.delitem(sys.modules, "beside_the_script", raising=False)
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f() == 5


def test_modules_are_found_where_a_program_that_is_not_loaded_found_them(
    script: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script("raise AssertionError('it is not run')")
    written(program.file.parent / "found_beside.py", "X = 6")
    before = [*sys.path]
    with importing_as(program):
        assert __import__("found_beside").X == 6
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "found_beside")


def test_a_module_that_was_started_by_name_is_loaded_as_one(tmp_path: Path) -> None:
    package = tmp_path / "root" / "its_package"
    written(package / "__init__.py", "")
    written(package / "parts.py", "X = 7")
    file = written(
        package / "training.py",
        """
        from .parts import X
        def f(): return X
        seen = __name__, __package__, __spec__.name
        """,
    )
    program = Program(file, "its_package.training")
    assert program.folder == tmp_path / "root"
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f() == 7
        assert loaded.module.seen == ("__main__", "its_package", "its_package.training")
    for name in [name for name in sys.modules if name.startswith("its_package")]:
        del sys.modules[name]


def test_a_package_that_was_started_is_loaded_from_its_main_file(tmp_path: Path) -> None:
    package = tmp_path / "root" / "started_package"
    written(package / "__init__.py", "")
    program = Program(written(package / "__main__.py", "def f(): return __spec__.name"))
    program = dataclass_with(program, module="started_package")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f() == "started_package.__main__"
    del sys.modules["started_package"]


def test_a_module_that_is_another_now_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "root" / "tokenize.py", "def f(): ...")
    with (
        pytest.raises(ScriptError, match=r"The module tokenize is now .*tokenize.py; it was "),
        loaded_as_main(Program(file, "tokenize"), ["f"]),
    ):
        pass


def test_a_script_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(ScriptError, match=r"gone.py can't be read: FileNotFoundError.*Put it back"),
        loaded_as_main(Program(tmp_path / "gone.py"), ["f"]),
    ):
        pass


def test_a_script_that_is_no_python_is_an_error_that_says_so(
    script: Callable[[str], Program],
) -> None:
    with (
        pytest.raises(ScriptError, match=r"can't be parsed: SyntaxError"),
        loaded_as_main(script("def f(:\n"), ["f"]),
    ):
        pass


@pytest.mark.parametrize("needed", [["train"], ["<lambda>"], []])
def test_a_file_that_defines_nothing_of_what_is_needed_is_not_run(
    needed: list[str], script: Callable[[str], Program], tmp_path: Path
) -> None:
    done = tmp_path / "done"
    program = script(f"open({str(done)!r}, 'w').close()\ndef other(): train = 1\n")
    with pytest.raises(ScriptError, match=r"defines none of"), loaded_as_main(program, needed):
        pass
    assert not done.exists()


@pytest.mark.parametrize("needed", ["f", "Net.fit", "made", "make.<locals>.step", "<lambda>"])
def test_one_of_what_is_needed_is_enough(needed: str, script: Callable[[str], Program]) -> None:
    program = script(
        """
        if True:
            def f(): ...
        class Net: ...
        made = lambda: 1
        async def make(): ...
        """
    )
    with loaded_as_main(program, ["gone", needed]) as loaded:
        assert loaded.stopped is None


def test_the_program_of_a_record_may_be_anything() -> None:
    for main in (None, 3, {}, {"file": None, "module": "a"}, {"file": 3}):
        assert Program.of({"main": main}) is None
    assert Program.of({}) is None
    found = Program.of({"main": {"file": "/a/b.py", "module": None}, "argv": None})
    assert found == Program(Path("/a/b.py"))


def test_a_process_knows_its_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    assert Program(Path(__file__)).is_running()
    assert not Program(Path(pytest.__file__)).is_running()


def test_a_run_that_is_entered_on_the_way_does_not_start(script: Callable[[str], Program]) -> None:
    program = script("from flowyml import run\ndef f(): ...\nwith run('all'):\n    f()\n")
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.stopped == "line 3 starts the run 'all'"
    assert not Path(".flowyml").exists()


def test_a_step_can_be_called_when_the_script_is_loaded(
    script: Callable[[str], Program], store: flowyml.Store
) -> None:
    program = script("from flowyml import step\n@step\ndef f(x): return x + 1\nf(2)\n")
    with loaded_as_main(program, ["f"]) as loaded, flowyml.run("a", store=store):
        assert loaded.module.f(3) == 4


def test_its_functions_are_compiled_as_they_are_in_the_whole_script(
    script: Callable[[str], Program],
) -> None:
    text = """
        import random
        try:
            import json as text
        except ImportError:
            text = None
        def f():
            return random.random(), text.dumps({}), [random.choice(x) for x in ()]
        """
    program = script(text)
    whole: dict[str, Any] = {}
    code = compile(dedent(text), str(program.file), "exec", dont_inherit=True)
    exec(code, whole)  # noqa: S102  (as an import would)
    with loaded_as_main(program, ["f"]) as loaded:
        assert loaded.module.f.__code__ == whole["f"].__code__
