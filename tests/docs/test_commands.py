"""The two commands of the README: CI runs the second as it stands, and old Pythons are told."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]


def test_the_readme_has_a_command_to_try_and_a_command_to_test():
    to_try, to_test = COMMANDS
    assert to_try.endswith("docs/examples/digits.py")
    assert to_test.endswith("-m nox")


def test_ci_runs_the_test_command_as_it_stands_in_the_readme():
    ci = ROOT / ".ci" / "run"
    assert ci.read_text().splitlines()[-1] == COMMANDS[1]
    assert os.access(ci, os.X_OK)


def test_the_noxfile_tells_an_old_python_which_one_is_needed():
    noxfile = ROOT / "noxfile.py"
    ast.parse(noxfile.read_text(), feature_version=(3, 8))
    code = f"import runpy, sys; sys.version_info = (3, 8, 18); runpy.run_path({str(noxfile)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("flowyml needs Python 3.11 or newer")
