"""What loading a forged version may have done, and how a message tells of many."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import attrs

__tracebackhide__ = True

_BASE = "Raise MaterializationError, or UntrustedDataError, naming the file and what is wrong."
_CODE = (
    "Don't unpickle, evaluate, import or call what a file says: let through what is on a list of "
    "yours, refuse the rest with UntrustedDataError unless options.trust allows it."
)
_MEMORY = (
    "Compare sizes that a file claims with the size that it has before making room, and raise "
    "MaterializationError."
)

RAN = f"Code that it names or holds was run. {_CODE}"
HELD = (
    f"What load() gave back holds a function or class that it names. {_CODE} What a trusted "
    f"module has imported from another one isn't trusted with it: take a name only from the "
    f"module that defines it."
)
FOLLOWED = (
    "A path or an address in it was followed. Read nothing but saved.files, and no address at all."
)
NAMED = (
    "load() gave the model an attribute by a name that it holds: another name would replace a "
    "method. Set only the attributes that are on a list of yours."
)
WROTE = "Loading it wrote a file. Write nothing on loading."
TAKEN = (
    f"load() gave back an object, as if nothing were wrong. {_BASE} Check the bytes of each file "
    f"before using any, and don't write files that load() ignores."
)
ENDED = f"load() ended with what is no error of flowyml. {_BASE}"
FILLED = f"Loading it, or predicting with it, took too much memory. {_MEMORY}"
RECURSED = (
    "Loading it, or predicting with it, recursed too deep. Catch RecursionError where you parse "
    "or walk what a file nests, and raise MaterializationError."
)
EXITED = f"Loading it, or predicting with it, called sys.exit(). {_BASE}"
_NATIVE = (
    f"{_BASE} Don't hand a file to code that trusts it before you have checked it: sizes, "
    f"indexes, depths, and that what refers to each other agrees."
)
CRASHED = f"Loading it, or predicting with it, crashed the process. {_NATIVE}"
HUNG = f"Loading it, or predicting with it, took too long or never ended. {_NATIVE}"
UNTRIED = "It wasn't tried, as too many have ended their process. Mend the others first."

_SHOWN = 8
"""How many forged versions a message lists for each kind of harm."""


@attrs.frozen
class Harm:
    """Harm that a forged version did.

    Attributes:
        what: the forged version.
        kind: what happened and what to do, one of the texts of this module.
        detail: how that was noticed.
    """

    what: str
    kind: str
    detail: str = ""


def listed(harms: Sequence[Harm], tried: int) -> str:
    """Return a message on all harms: each kind once, with some of the versions that did it."""
    kinds = defaultdict(list)
    for harm in harms:
        kinds[harm.kind].append(harm)
    return "\n".join(
        [
            f"Of {tried} forged versions, {len(harms)} did harm or were taken for a model. Their "
            f"digests are right, as anybody can compute them, so load() has to expect anything in "
            f"its files and in saved.result.details.",
            *(line for kind, found in kinds.items() for line in (kind, *_lines(found))),
        ]
    )


def _lines(harms: Sequence[Harm]) -> list[str]:
    # What differs in a number only, such as a protocol or an offset, is shown once.
    alike = [*{re.sub(r"\d+", "0", harm.what): harm for harm in reversed(harms)}.values()][::-1]
    shown = [_line(harm, whole=harm is alike[0]) for harm in alike[:_SHOWN]]
    more = len(harms) - len(shown)
    return [*shown, *([f" - ... and {more} more"] if more else [])]


def _line(harm: Harm, whole: bool) -> str:
    """Return a line; what a process said as it crashed takes many, which are shown once."""
    detail = harm.detail if whole or "\n" not in harm.detail else ""
    return f" - {harm.what}" + (f": {detail}" if detail else "")
