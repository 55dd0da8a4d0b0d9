"""Knows a model when it sees one, without importing the framework.

Whoever holds a model has imported its framework, so a look into ``sys.modules`` is enough.
"""

from __future__ import annotations

import sys

# REPLACE: the framework's top-level modules, as in ("sklearn",). While none of them is imported,
# flowyml doesn't even ask.
MODULES = ("flowyml_yourframework.toy",)

# REPLACE: what a model is, for error messages.
MODEL = "flowyml_yourframework.toy.Linear"


def is_model(obj: object) -> bool:
    """Tell whether an object is a model of the framework. Any object may come."""
    # REPLACE: the module and the type. A subclass isn't meant here: it would come back as its
    # base. Use isinstance() where the extractor and the materializer know what to do with it.
    toy = sys.modules.get("flowyml_yourframework.toy")
    return toy is not None and type(obj) is toy.Linear
