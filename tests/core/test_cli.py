import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowyml import Model, Store, __version__, run, step
from flowyml.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def filled(store: Store, toy: Any) -> Store:
    @step(store=store)
    def train() -> Model:
        return Model.create(toy([1.0, 2.0]), "m", training_history={"loss": [0.5]})

    with run("everything", store=store):
        train()
    return store


def test_adapters(capsys: Captured) -> None:
    assert main(["adapters"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "state", "distribution", "plugin"]
    assert lines[1].split() == ["core", "known", "flowyml-core", __version__, "flowyml.builtin"]
    assert main(["adapters", "--json", "--load"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "loaded"


def test_list_show_runs_verify(filled: Store, capsys: Captured) -> None:
    where = ["--store", str(filled.path)]
    assert main(["list", *where]) == 0
    assert "m@v1" in capsys.readouterr().out
    assert main(["show", "m", *where]) == 0
    shown = capsys.readouterr().out
    assert "parameters    2" in shown
    assert "step train" in shown
    assert main(["runs", *where]) == 0
    assert "everything  completed" in capsys.readouterr().out
    assert main(["verify", *where]) == 0
    assert "Intact: 1 versions, 2 files" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "show m", "runs"])
def test_json_for_programs(filled: Store, command: str, capsys: Captured) -> None:
    assert main([*command.split(), "--json", "--store", str(filled.path)]) == 0
    assert json.loads(capsys.readouterr().out)


def test_keeping_a_store_in_order(filled: Store, tmp_path: Path, capsys: Captured) -> None:
    where = ["--store", str(filled.path)]
    assert main(["stats", *where]) == 0
    assert "1 versions" in capsys.readouterr().out
    assert main(["stats", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == 1
    assert main(["export", "m", str(tmp_path / "m"), *where]) == 0
    assert main(["import", str(tmp_path / "m"), "--name", "copy", *where]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm'}\ncopy@v1\n"
    assert main(["delete", "m@v1", *where]) == 0
    assert main(["gc", *where]) == 0
    assert "Removed 0 blobs" in capsys.readouterr().out
    assert main(["delete", "m", *where]) == 1
    assert "Say which version" in capsys.readouterr().err


def test_damage_is_an_exit_status(filled: Store, capsys: Captured) -> None:
    for blob in (filled.path / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o644)
            blob.write_bytes(blob.read_bytes()[::-1])
    assert main(["verify", "--store", str(filled.path)]) == 1
    assert "m@v1, file 'parts/weights.json', is damaged" in capsys.readouterr().err


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path, capsys: Captured) -> None:
    assert main(["show", "nothing", "--store", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("flowyml: ")
    assert len(captured.splitlines()) == 1
    assert main(["show", "a@b@c", "--store", str(tmp_path / "none")]) == 1


def test_the_module_runs_and_imports_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys, flowyml.cli as cli; cli.main(sys.argv[1:]);"
        "print({'torch', 'flowyml_pytorch'} & {*sys.modules})"
    )
    for command in (["adapters"], ["list"], ["runs"], ["verify"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            check=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout.endswith("set()\n"), done.stderr
    version = subprocess.run(
        [sys.executable, "-m", "flowyml", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout == f"flowyml {__version__}\n"
    assert subprocess.run([sys.executable, "-m", "flowyml"], check=False).returncode == 0
