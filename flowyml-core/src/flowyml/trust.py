"""What a caller trusts when loading: classes and functions, by object or by dotted name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

_PATTERN = r"[^\W\d]\w*(\.[^\W\d]\w*)*(\.\*)?"  # compiled when it is first used


@attrs.frozen
class Trust:
    """The names that loading may import and use beyond those that are safe anyway.

    Attributes:
        patterns: dotted names, ``"mypkg.models.Net"``, or all below one, ``"mypkg.*"``.
    """

    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, trust: Iterable[Any] | Any = ()) -> Trust:
        """Build from classes, functions and names; one alone needs no list around it.

        Raises:
            TypeError: for anything else.
            ValueError: for a string that is no dotted name.
        """
        if isinstance(trust, (str, type)) or callable(trust):
            trust = (trust,)
        if not isinstance(trust, Iterable):
            raise TypeError(f"trust= takes classes and dotted names; got {trust!r}")
        return cls(tuple(_pattern(item) for item in trust))

    def allows(self, name: str) -> bool:
        """Tell whether a dotted name is listed."""
        return any(
            name.startswith(pattern[:-1]) if pattern.endswith(".*") else name == pattern
            for pattern in self.patterns
        )


def _pattern(item: Any) -> str:
    if isinstance(item, str):
        if not re.fullmatch(_PATTERN, item):
            raise ValueError(
                f"trust= takes dotted names such as 'mypkg.Net' or 'mypkg.*'; got {item!r}"
            )
        return item
    module, qualname = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if module is None or qualname is None:
        raise TypeError(f"trust= takes classes, functions and dotted names; got {item!r}")
    return f"{module}.{qualname}"
