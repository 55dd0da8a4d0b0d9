"""Progress bars for long operations: on a terminal, and nowhere else.

The library that draws them is imported when there is one to draw.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Self

_LONG = 64 << 20
"""Bytes from which on an operation may take long enough for somebody to wait for it."""

_DELAY = 0.5
"""Seconds until a bar is shown: most operations are done by then."""


class Progress:
    """Bytes of a long operation; a context.

    Attributes:
        title: what is being done, as in ``"Verifying digits@v3"``.
    """

    def __init__(self, title: str, total: int = 0) -> None:
        self.title = title
        self._lock = threading.Lock()
        self._bar: Any = None
        self.expect(total)

    def expect(self, total: int) -> None:
        """Say how many bytes there are in all, once that is known."""
        if total < _LONG or not _is_terminal() or self._bar is not None:
            return
        from tqdm import tqdm  # type: ignore[import-untyped]  # it carries no annotations

        self._bar = tqdm(
            desc=self.title,
            total=total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            delay=_DELAY,
            leave=False,
            file=sys.stderr,
        )

    def advance(self, size: int) -> None:
        """Note bytes that are done; from any thread."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
