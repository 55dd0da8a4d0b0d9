"""Whether training can go on exactly, and why not: said as soon as it shows, and once."""

from __future__ import annotations

from flowyml.errors import FlowymlWarning, warn


class Exactness:
    """The reasons why going on from a checkpoint won't be exact.

    Attributes:
        name: the checkpoint's, for messages.
        reasons: what was noted.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.reasons: list[str] = []

    def note(self, reason: str) -> None:
        """Note a reason and warn of it, unless that is done."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            warn(f"Going on from {self.name} won't be exact: {reason}.", FlowymlWarning)
