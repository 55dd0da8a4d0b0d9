"""The kit from end to end: an adapter that keeps every promise passes it whole."""

from __future__ import annotations

from toy_subject import Toy

from flowyml.testing import AdapterConformance


class TestToy(Toy, AdapterConformance):
    """A framework as small as can be, so that it runs wherever the core does."""
