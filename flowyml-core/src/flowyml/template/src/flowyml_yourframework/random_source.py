"""Lets a seed reach the framework's random generator, so that runs can be repeated.

REPLACE: many frameworks draw from the generators of Python or NumPy. flowyml seeds those itself:
then delete this file, and what `plugin` says of it.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from flowyml.interfaces import RandomSource


class DefaultGenerator(RandomSource):
    """The generator that the framework draws from unless it is told otherwise."""

    name = "yourframework"

    # REPLACE: the module and its generator. A framework that nobody has imported has no state:
    # there is nothing to seed, and nothing to put back.

    def seed(self, seed: int) -> None:
        """Seed the generator."""
        toy = sys.modules.get("flowyml_yourframework.toy")
        if toy is not None:
            toy.generator.seed(seed)

    def state(self) -> Any:
        """Return the generator's state."""
        toy = sys.modules.get("flowyml_yourframework.toy")
        return None if toy is None else toy.generator.getstate()

    def restore(self, state: Any) -> None:
        """Put the generator back into a state."""
        if state is not None:
            sys.modules["flowyml_yourframework.toy"].generator.setstate(state)

    # REPLACE: the record of a run keeps a state as bytes. Without these two methods it keeps none.

    def pack(self, state: Any) -> bytes | None:
        """Return a state as bytes, the same for the same state."""
        return None if state is None else json.dumps(state).encode()

    def unpack(self, data: bytes) -> Any:
        """Return the state that `pack` was given; refuse anything else."""
        try:
            version, words, gauss = json.loads(data)
            state = version, tuple(words), gauss
            random.Random().setstate(state)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError("it is no state of the generator") from error
        return state
