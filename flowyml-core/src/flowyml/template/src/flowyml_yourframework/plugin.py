"""What flowyml loads: registers the extractor, the materializer and the random source.

Everybody who has the adapter installed waits for this module and for what it imports, so the
framework isn't among that: the methods import it, when there is work for them.
"""

from __future__ import annotations

from flowyml import hookimpl
from flowyml.interfaces import Extractor, Materializer, RandomSource

from flowyml_yourframework.extractor import ModelExtractor
from flowyml_yourframework.materializer import ModelMaterializer
from flowyml_yourframework.random_source import DefaultGenerator

api_version = 3
"""Version of flowyml.interfaces that this adapter is written for."""


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    """Register what describes models."""
    return [ModelExtractor()]


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register what turns models into files and back."""
    return [ModelMaterializer()]


@hookimpl
def flowyml_register_random_sources() -> list[RandomSource]:
    """Register what a seed has to reach."""
    return [DefaultGenerator()]
