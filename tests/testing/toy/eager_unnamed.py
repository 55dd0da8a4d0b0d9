"""Faulty: imports its framework when it is loaded, and doesn't name it."""

import toy_adapter
import toyframework  # noqa: F401


class ToyExtractor(toy_adapter.ToyExtractor):
    modules = ()


class ToyMaterializer(toy_adapter.ToyMaterializer):
    modules = ()


plugin = toy_adapter.Plugin(ToyExtractor, ToyMaterializer)
