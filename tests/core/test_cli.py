import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowyml import Model, Store, __version__, run, runs, step
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
    titles, core, *_ = capsys.readouterr().out.splitlines()
    assert titles.split() == ["name", "state", "distribution", "frameworks", "formats", "types"]
    assert core.split() == ["core", "known", "flowyml-core", __version__, "-", "?", "?"]
    assert main(["adapters", "--load"]) == 0
    loaded = capsys.readouterr().out.splitlines()[1]
    assert "json, npy" in loaded
    assert "None, bool, int and 7 more" in loaded


def test_adapters_for_programs(capsys: Captured) -> None:
    assert main(["adapters", "--json"]) == 0
    core = json.loads(capsys.readouterr().out)[0]
    assert core["state"] == "known"
    assert core["formats"] is core["types"] is core["error"] is None
    assert main(["adapters", "--json", "--load"]) == 0
    core = json.loads(capsys.readouterr().out)[0]
    assert core["state"] == "loaded"
    assert core["formats"] == ["json", "npy"]
    assert core["distribution"] == "flowyml-core"
    assert core["frameworks"] == []


NOISY = """
import os, sys
print("noise")
os.write(1, b"noise past Python\\n")
os.system("echo noise of a child")
sys.__stdout__.write("noise of another kind\\n")
"""


def make_adapter(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}_plugin.py").write_text(source)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[flowyml.adapters]\n{name} = {name}_plugin\n")


def adapters_of(
    folder: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", "FLOWYML_ADAPTER_TIMEOUT": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "flowyml", "adapters", *options],
        env={**variables, "PYTHONPATH": str(folder)},
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_adapters_tells_what_is_wrong_with_each(tmp_path: Path) -> None:
    make_adapter(tmp_path, "failing", "def fail():\n    raise RuntimeError('no')\nfail()")
    make_adapter(tmp_path, "hanging", "import time; time.sleep(3600)")
    make_adapter(tmp_path, "noisy", NOISY)
    states = {"failing": "broken", "hanging": "broken", "noisy": "loaded"}

    listed = adapters_of(tmp_path)
    assert listed.returncode == 0
    assert listed.stderr == ""
    for name in states:
        assert re.search(rf"^{name} +known +{name} 1\.2 +{name} +\? +\?$", listed.stdout, re.M)
    assert "flowyml adapters --load" in listed.stdout

    loaded = adapters_of(tmp_path, "--load", "--verbose")
    assert loaded.returncode == 0
    for name, state in states.items():
        assert re.search(rf"^{name} +{state} +{name} 1\.2 ", loaded.stdout, re.M)
    assert "\n'failing' (failing 1.2) is broken: RuntimeError: no\nTraceback" in loaded.stdout
    assert "failing_plugin.py" in loaded.stdout
    assert "'hanging' (hanging 1.2) is broken: TimeoutError: loading it takes" in loaded.stdout
    assert "'noisy' (noisy 1.2) works, but it prints when it is loaded: 'noise'" in loaded.stdout
    assert loaded.stderr.count("flowyml: The adapter 'failing' (failing 1.2) is left out") == 1
    assert "past Python" in loaded.stderr

    brief = adapters_of(tmp_path, "--load")
    assert "is broken: RuntimeError: no" in brief.stdout
    assert "Traceback" not in brief.stdout


def test_adapters_lists_all_and_fails_where_broken_ones_are_errors(
    tmp_path: Path,
) -> None:
    make_adapter(tmp_path, "failing", "raise RuntimeError('no')")
    make_adapter(tmp_path, "falling", "raise RuntimeError('neither')")
    listed = adapters_of(tmp_path, "--load", FLOWYML_STRICT_ADAPTERS="1")
    assert listed.returncode == 1
    assert re.search(r"^core +loaded", listed.stdout, re.M)
    assert re.search(r"^failing +broken", listed.stdout, re.M)
    assert re.search(r"^falling +broken", listed.stdout, re.M)
    assert "RuntimeError: no\n" in listed.stderr
    assert "RuntimeError: neither\n" in listed.stderr


def test_adapters_for_programs_whatever_adapters_print(tmp_path: Path) -> None:
    make_adapter(tmp_path, "failing", "raise RuntimeError('no')")
    make_adapter(tmp_path, "noisy", NOISY)
    found = json.loads(adapters_of(tmp_path, "--load", "--json", "--verbose").stdout)
    adapters = {adapter["name"]: adapter for adapter in found}
    assert adapters["failing"]["state"] == "broken"
    assert adapters["failing"]["error"] == "RuntimeError: no"
    assert "failing_plugin.py" in adapters["failing"]["traceback"]
    assert adapters["noisy"]["traceback"] is None
    assert len(adapters["noisy"]["notes"]) == 1


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


@step
def scale(values: list[int], factor: int = 2) -> list[int]:
    return [value * factor for value in values]


@pytest.fixture
def twice(store: Store) -> Store:
    """A store with two runs that differ in a setting."""
    for factor in (2, 3):
        with run("scaling", store=store):
            scale(store.save([1, 2], "data").data, factor)
    return store


def test_what_differs_and_why(twice: Store, capsys: Captured) -> None:
    where = ["--store", str(twice.path)]
    assert main(["diff", "scale@v1", "scale@v2", *where]) == 0
    assert re.search(r"factor +2 → 3", capsys.readouterr().out)
    first, second = (record.id for record in runs(twice))
    assert main(["diff", first, second, "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "run"
    assert main(["explain", "scale@v1", "scale@v2", *where]) == 0
    assert "Other settings were given to 'scale': 'factor'." in capsys.readouterr().out
    assert main(["explain", first, "scale@v2", *where]) == 1
    assert "scale@v2" in capsys.readouterr().err


def test_lineage(twice: Store, capsys: Captured) -> None:
    where = ["--store", str(twice.path)]
    assert main(["lineage", "scale@v1", *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("● scale@v1: list")
    assert main(["lineage", "data@v1", "--mermaid", *where]) == 0
    assert "scale@v1" in capsys.readouterr().out
    assert main(["lineage", "data@v1", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["ref"] == "data@v1"


def test_reproduce(twice: Store, capsys: Captured) -> None:
    record = runs(twice)[0]
    assert main(["reproduce", record.id, "--store", str(twice.path)]) == 0
    assert "bit for bit identical" in capsys.readouterr().out
    assert main(["reproduce", "nothing", "--store", str(twice.path)]) == 1
    assert record.id in capsys.readouterr().err


def test_gc_drops_what_is_kept_when_told_to(store: Store, capsys: Captured) -> None:
    with run("r", store=store) as r:
        scale([1] * 20_000)
    ref = str(r.steps[0].inputs["values"].ref)
    assert main(["gc", "--grace", "0", "--store", str(store.path)]) == 0
    assert store.has(ref)
    assert main(["gc", "--grace", "0", "--drop-kept", "--store", str(store.path)]) == 0
    assert not store.has(ref)
