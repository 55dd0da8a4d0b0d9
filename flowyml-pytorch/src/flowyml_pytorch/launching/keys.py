"""torch's key-value stores, as far as they are used here: torch's types don't tell of all of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol, cast


class Keys(Protocol):
    """Values by key, which all processes of a group see."""

    timeout: timedelta

    def set(self, key: str, value: str | bytes) -> None:
        """Set a value."""

    def get(self, key: str) -> bytes:
        """Return a value, once there is one."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Add to a number, which begins with 0, and return it."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Tell whether all have values."""
        ...

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a value if it was the expected one, or none when that is empty; return it."""
        ...

    def delete_key(self, key: str) -> bool:
        """Delete a value."""
        ...

    def set_timeout(self, timeout: timedelta) -> None:
        """Set how long `get` waits."""

    def clone(self) -> Keys:
        """Return the same store over a connection of its own."""
        ...


def within(store: Keys, prefix: str) -> Keys:
    """Return a part of a store, whose keys have a prefix."""
    import torch.distributed as dist

    made: Any = dist.PrefixStore(prefix, cast(Any, store))  # type: ignore[attr-defined]  # it does
    return cast(Keys, made)


def connect(address: str, port: int, *, keeps: bool, timeout: float) -> Keys:
    """Connect to a store, or keep it in this process."""
    import torch.distributed as dist

    made: Any = dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it all the same
        address,
        port,
        is_master=keeps,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
    )
    return cast(Keys, made)
