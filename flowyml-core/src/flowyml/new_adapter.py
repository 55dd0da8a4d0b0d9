"""Writes a small distribution for a new adapter, with tests that pass as they stand.

The files lie in ``template/``, valid as they stand: linters and type checkers read them too. What
differs from one adapter to the next is its name, for which they say ``yourframework``.
"""

from __future__ import annotations

import json
import keyword
import os
import re
import secrets
import shlex
import shutil
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flowyml import adapters
from flowyml._version import __version__
from flowyml.errors import AdapterError, FlowymlError

_TEMPLATE = Path(__file__).with_name("template")
_PLACEHOLDER = "yourframework"

_FILES = (
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "src/flowyml_yourframework/__init__.py",
    "src/flowyml_yourframework/extractor.py",
    "src/flowyml_yourframework/materializer.py",
    "src/flowyml_yourframework/plugin.py",
    "src/flowyml_yourframework/py.typed",
    "src/flowyml_yourframework/random_source.py",
    "src/flowyml_yourframework/recognition.py",
    "src/flowyml_yourframework/toy.py",
    "tests/test_adapter.py",
    "tests/test_conformance.py",
)


def write(name: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Write the distribution of a new adapter; return its folder.

    Args:
        name: the framework's import name, as in ``Model.from_<name>``.
        directory: a folder that doesn't exist yet, or is empty; by default one with the
            distribution's name, such as ``./flowyml-jax``.

    Raises:
        ValueError: when the name is unfit.
        AdapterError: when an adapter of that name is installed already.
        FlowymlError: when the folder isn't empty or can't be written.
    """
    distribution = _distribution(check_name(name))
    folder = Path(directory or distribution)
    try:
        _check_is_free(folder)
        texts = {path: (_TEMPLATE / path).read_text(encoding="utf-8") for path in _FILES}
        _place({_filled(path, name): _filled(text, name) for path, text in texts.items()}, folder)
    except OSError as error:
        raise FlowymlError(
            f"The adapter {name!r} can't be written to {folder}: {error}. Give another folder: "
            f"python -m flowyml new-adapter {name} FOLDER"
        ) from error
    return folder


def next_steps(folder: Path) -> str:
    """Say what was written, and what to type next."""
    wanted = " ".join(['-e ".[test]"', *map(shlex.quote, _source_of_core())])
    return f"""\
Wrote {folder}: an adapter for a toy framework that it contains. To see its tests pass:

  cd {shlex.quote(os.fspath(folder))}
  python3 -m venv .venv
  .venv/bin/python -m pip install {wanted}
  .venv/bin/python -m pytest

Its README.md says how to put your framework in the toy's place."""


def check_name(name: str) -> str:
    """Return a name that a new adapter can have.

    Raises:
        ValueError: when ``Model.from_<name>`` or ``flowyml-<name>`` would be unfit.
        AdapterError: when an adapter of that name is installed already.
    """
    fitting = _nearest(name)
    if name != fitting:
        hint = f" If it is imported as {fitting!r}, give that." if fitting else ""
        raise ValueError(
            f"{name!r} can't be the name of an adapter. Use the framework's import name, as in "
            f"Model.from_jax: lower-case letters, digits and single '_', a letter in front, no "
            f"keyword of Python.{hint}"
        )
    for info in adapters.list():
        if name == info.name or name in info.frameworks:
            raise AdapterError(
                f"There is an adapter for {name!r} already: {info}. Two would get in each other's "
                f"way; choose another name."
            )
    return name


def _nearest(name: str) -> str | None:
    """Return the fitting name that is nearest to a name: itself, if it fits."""
    words = re.findall("[a-z0-9]+", name.lower())
    if len(words) > 1 and words[0] == "flowyml":  # the name of a distribution
        words = words[1:]
    text = "_".join(words)
    return None if not text or text[0].isdigit() or keyword.iskeyword(text) else text


def _distribution(name: str) -> str:
    return f"flowyml-{name.replace('_', '-')}"


def _source_of_core() -> list[str]:
    """Return the arguments with which pip finds flowyml-core where this one came from.

    None are needed where it came from an index; of anything else pip keeps a record (PEP 610).
    """
    try:
        record = metadata.distribution("flowyml-core").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # the source tree is on the path
        record = None
    if record is None:
        return []
    origin = json.loads(record)
    url = origin["url"]
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    elif url.startswith("file:"):
        path = unquote(urlsplit(url).path)
        if not Path(path).exists():
            return []
        return ["-e", path] if origin.get("dir_info", {}).get("editable") else [path]
    if "subdirectory" in origin:
        url += f"#subdirectory={origin['subdirectory']}"
    return [url]


def _filled(text: str, name: str) -> str:
    text = text.replace("flowyml-core>=0", f"flowyml-core>={__version__}")
    return text.replace(f"flowyml-{_PLACEHOLDER}", _distribution(name)).replace(_PLACEHOLDER, name)


def _check_is_free(folder: Path) -> None:
    if folder.is_dir():
        found = sorted(entry.name for entry in folder.iterdir())
    elif os.path.lexists(folder):
        raise FlowymlError(f"{folder} is no folder; give one that doesn't exist yet, or is empty.")
    else:
        return
    if found:
        raise FlowymlError(
            f"{folder} isn't empty: it has {found[0]!r} in it. Give a folder that doesn't exist "
            f"yet, or is empty."
        )


def _place(texts: dict[str, str], folder: Path) -> None:
    """Write files so that they appear whole: under another name first."""
    existed = folder.is_dir()
    # A folder that is there stays, since it may be the one that somebody is in.
    draft = (folder if existed else folder.parent) / f".new-adapter-{secrets.token_hex(4)}"
    try:
        for path, text in texts.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(text, encoding="utf-8", newline="\n")
        if existed:
            for entry in sorted(draft.iterdir()):
                entry.rename(folder / entry.name)
        else:
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
