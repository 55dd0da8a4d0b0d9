"""What shows that loading did harm: modules that leave a mark, and a file that nobody may open.

The mark is a folder, which whatever runs code makes. Anything of `KNOWN` that is in use after
loading was reached through a name in a file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__tracebackhide__ = True

STRANGE = "flowyml_strange_module"
"""A package that can be imported and isn't, unless a file makes somebody do it."""

KNOWN = "flowyml_known_module"
"""A module that is imported: who finds its names in a file still may not use them."""

TRUSTED = "flowyml_trusted_module"
"""A module whose names are trusted: none is its own, and what it imported of `KNOWN` isn't."""

BAIT = "bait.json"
"""A file that is opened only by who follows a path or an address in another one."""

UNASKED = "flowyml_unasked_member"
"""A name that no honest file has."""

_MARKING = """
import os
def mark(what):
    os.makedirs(os.path.join({mark!r}, what), exist_ok=True)
def run(*args, **kwargs):
    mark("called")
class Made:
    def __new__(cls, *args, **kwargs):
        mark("made")
        return object.__new__(cls)
    def __setstate__(self, state):
        mark("made")
"""


def bait(mark: Path) -> Path:
    """Return where the bait is, given the mark."""
    return mark.with_name(BAIT)


def set_up(folder: Path, mark: Path) -> None:
    """Write modules and bait, and import the modules that are known already."""
    marking = _MARKING.format(mark=str(mark))
    (folder / STRANGE).mkdir()
    (folder / STRANGE / "__init__.py").write_text(f'{marking}mark("imported")\n')
    (folder / STRANGE / "inner.py").write_text(marking)
    (folder / f"{KNOWN}.py").write_text(marking)
    (folder / f"{TRUSTED}.py").write_text(f"import {KNOWN}\nfrom {KNOWN} import run\n")
    bait(mark).write_text("[]")
    sys.path.insert(0, str(folder))
    importlib.import_module(TRUSTED)


def forget() -> None:
    """Let what was imported be imported anew, so that it is noticed again."""
    for name in (STRANGE, f"{STRANGE}.inner"):
        sys.modules.pop(name, None)


def references() -> int:
    """Return how many references there are to what is known."""
    known = sys.modules[KNOWN]
    return sys.getrefcount(known.run) + sys.getrefcount(known.Made)
