"""What type checkers tell of code that uses flowyml, as users write it: neither more nor less.

Above a line with a mistake stands ``# error: [mypy's code] / pyright's rule``, with commas where
there are several. Every other line has to be right, what ``assert_type`` says included. mypy runs
with ``--strict`` and pyright in its strict mode, each once for all files.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).parent / "snippets"
NAMES = sorted(path.name for path in SNIPPETS.glob("*.py"))

_ERROR = re.compile(r"^ *# error: \[(?P<mypy>[a-z-]+(, [a-z-]+)*)\] / (?P<pyright>\w+(, \w+)*)$")

Findings = set[tuple[int, str]]
"""Lines, and the codes of mypy or the rules of pyright that they break."""


def expected(checker: str, name: str) -> Findings:
    findings: Findings = set()
    for number, line in enumerate((SNIPPETS / name).read_text().splitlines(), 1):
        if "# error" in line:
            match = _ERROR.fullmatch(line)
            assert match, f"{name}:{number} isn't understood: {line}"
            findings |= {(number + 1, rule) for rule in match[checker].split(", ")}
    return findings


@functools.cache
def told(checker: str) -> dict[str, dict[tuple[int, str], str]]:
    """Run a checker on all snippets at once; return its messages by file, line and rule."""
    found: dict[str, dict[tuple[int, str], str]] = {name: {} for name in NAMES}
    for path, line, rule, message in {"mypy": by_mypy, "pyright": by_pyright}[checker]():
        found[Path(path).name][line, rule] = message
    return found


def by_mypy() -> list[tuple[str, int, str, str]]:
    options = ["--strict", "--config-file=", "--cache-dir=/dev/null", "--output=json"]
    output = run("mypy", *options, *(str(SNIPPETS / name) for name in NAMES))
    errors = [json.loads(line) for line in output.splitlines()]
    return [
        (error["file"], error["line"], error["code"], error["message"])
        for error in errors
        if error["severity"] == "error"
    ]


def by_pyright() -> list[tuple[str, int, str, str]]:
    # Its Python package looks for a newer version of itself, unless it is to print JSON.
    output = run(
        "pyright", "--outputjson", f"--pythonpath={sys.executable}", f"--project={SNIPPETS}"
    )
    return [
        (error["file"], error["range"]["start"]["line"] + 1, error["rule"], error["message"])
        for error in json.loads(output)["generalDiagnostics"]
    ]


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # errors were found, and nothing worse
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_tells_of_the_mistakes_and_of_nothing_else(checker: str, name: str) -> None:
    messages, wanted = told(checker)[name], expected(checker, name)
    more = sorted(set(messages) - wanted)
    wrong = [f"{name}:{line}: {rule}: {messages[line, rule]}" for line, rule in more]
    wrong += [f"{name}:{line}: no {rule}" for line, rule in sorted(wanted - set(messages))]
    assert not wrong, "\n".join(wrong)
