"""What tests ask of new processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from flowyml.testing import ConformanceError


def same(subject: Any, *values: Any) -> Any:
    return list(values)


def kind(subject: Any) -> tuple[str, str]:
    return type(subject).__module__, type(subject).__qualname__


def facts(subject: Any) -> dict[str, Any]:
    return {
        "hash": hash("toy"),
        "flowyml": [key for key in os.environ if key.startswith("FLOWYML_")],
        "toyframework": "toyframework" in sys.modules,
        "modules": subject.modules,
    }


def prints(subject: Any) -> str:
    print("from Python")
    os.write(1, b"from below\n")
    return "the answer"


def fails(subject: Any) -> None:
    raise LookupError("lost")


def exits(subject: Any) -> None:
    os._exit(3)


def refuses(subject: Any) -> None:
    raise ConformanceError("Do it otherwise.")


def orders(subject: Any, pairs: list[list[str]]) -> list[list[str]]:
    return [[*{*pair}] for pair in pairs]


def waits(subject: Any, path: str) -> None:
    print("waiting", flush=True)
    with Path(path).open("w"):
        time.sleep(60)
