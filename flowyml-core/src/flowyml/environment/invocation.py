"""How this process was started: its main program and its arguments, without what is secret."""

from __future__ import annotations

import os
import re
import sys

from flowyml.arguments import MASK, looks_secret

_MOST = 1000


def main() -> dict[str, str | None]:
    """Return the ``file`` of the main program, and the ``module`` that ``python -m`` was given.

    A notebook, an interactive session and code on the command line have no file.
    """
    module = sys.modules.get("__main__")
    file = getattr(module, "__file__", None)
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if not isinstance(file, str) or file.startswith("<"):
        file = None
    return {
        "file": None if file is None else os.path.abspath(file),  # noqa: PTH100  (text)
        "module": name.removesuffix(".__main__") if isinstance(name, str) else None,
    }


def argv() -> list[str]:
    """Return the arguments of the main program, masking values of options that look secret.

    These are ``--token abc``, ``--api-key=abc`` and ``login.password=abc``, and what stands before
    the ``@`` of a URL. A secret that goes by no name can't be told from anything else.
    """
    given = getattr(sys, "argv", None)
    arguments = [str(each) for each in given] if isinstance(given, list) else []
    shown: list[str] = []
    hidden = False
    for argument in arguments[:_MOST]:
        name, equals, _ = argument.partition("=")
        if hidden and not argument.startswith("--"):
            shown.append(MASK)
            hidden = False
            continue
        secret = looks_secret(re.split(r"[.\[]", name.lstrip("-+").rstrip("]"))[-1])
        hidden = secret and not equals and argument.startswith("-")
        shown.append(f"{name}={MASK}" if secret and equals else _without_credentials(argument))
    left_out = len(arguments) - len(shown)
    return [*shown, f"… and {left_out:,} more"] if left_out else shown


def _without_credentials(argument: str) -> str:
    return re.sub(r"://[^/?#\s]*@", f"://{MASK}@", argument)
