"""What an adapter brings, as values: imported by everybody, so it imports no interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from flowyml.interfaces import Extractor, Launcher, Materializer, RandomSource, Recognizer


@attrs.frozen(eq=False)
class Contents:
    """What a plugin's hooks returned."""

    extractors: tuple[Extractor, ...] = ()
    materializers: tuple[Materializer, ...] = ()
    random_sources: tuple[RandomSource, ...] = ()
    launchers: tuple[Launcher, ...] = ()

    def items(self) -> tuple[Extractor | Materializer | RandomSource | Launcher, ...]:
        """All of it."""
        return (*self.extractors, *self.materializers, *self.random_sources, *self.launchers)

    def claims(self) -> set[str]:
        """What no second adapter may bring, in words."""
        return (
            {f"the framework {item.framework!r}" for item in self.extractors}
            | {f"the materializer {item.key!r}" for item in self.materializers}
            | {f"the random source {item.name!r}" for item in self.random_sources}
            | {f"the launcher {item.name!r}" for item in self.launchers}
        )

    def names(self) -> set[str]:
        """The names of adapters under which others look for what is in here."""
        keys = {item.key.partition(".")[0] for item in self.materializers}
        return keys | {item.framework for item in self.extractors}

    def modules(self) -> set[str]:
        """The modules of frameworks that loading the plugin must not have imported."""
        items: tuple[Recognizer, ...] = (*self.extractors, *self.materializers)
        return {module for item in items for module in item.modules}
