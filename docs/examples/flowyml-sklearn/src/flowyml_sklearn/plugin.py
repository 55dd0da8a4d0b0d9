"""What flowyml discovers: registers the extractor and the materializer of scikit-learn.

scikit-learn is looked up in ``sys.modules`` only: whoever holds an estimator has imported it. The
work is done in modules that import it, which are imported when there is work.

There is no random source: scikit-learn draws from NumPy's global generator, which flowyml seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowyml.hookspecs import hookimpl
from flowyml.interfaces import (
    Extractor,
    Layer,
    LoadOptions,
    Materializer,
    Saved,
    SaveOptions,
    SaveResult,
)

api_version = 1
"""Version of flowyml.interfaces that this adapter is written for."""


def _is_estimator(obj: object) -> bool:
    base = getattr(sys.modules.get("sklearn.base"), "BaseEstimator", None)
    return base is not None and issubclass(type(obj), base)


class EstimatorExtractor(Extractor):
    """Describes a scikit-learn estimator, fitted or not, and all that it is composed of."""

    modules = ("sklearn",)
    framework = "sklearn"
    accepts = "a scikit-learn estimator"

    def detect(self, obj: object) -> bool:
        """Tell whether it is an instance of a ``sklearn.base.BaseEstimator``."""
        return _is_estimator(obj)

    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the properties that `describe.describe` finds."""
        from flowyml_sklearn.describe import describe

        return describe(obj)

    def outline(self, obj: Any) -> Layer | None:
        """Return the tree of the estimators that it is composed of."""
        from flowyml_sklearn.outline import outline

        return outline(obj)


class EstimatorMaterializer(Materializer):
    """Saves a scikit-learn estimator through skops, which needs no pickle."""

    modules = ("sklearn",)
    key = "sklearn.estimator"
    formats = ("skops",)
    types = ("sklearn.base.BaseEstimator",)
    accepts = frozenset()

    def detect(self, obj: object) -> bool:
        """Tell whether it is an instance of a ``sklearn.base.BaseEstimator``."""
        return _is_estimator(obj)

    def save(self, obj: Any, folder: Path, options: SaveOptions) -> SaveResult:
        """Write ``model.skops``, and every large array as a file of its own."""
        from flowyml_sklearn import estimators

        return estimators.save(obj, folder, options)

    def load(self, saved: Saved, options: LoadOptions) -> Any:
        """Give the estimator back, once all that it is made of is trusted."""
        from flowyml_sklearn import estimators

        return estimators.load(saved, options)

    def blame(self, saved: Saved, path: str) -> str | None:
        """Name the attribute whose array a file holds."""
        attribute = saved.result.details.get("arrays", {}).get(path)
        return f"the array {attribute}" if attribute else None


@hookimpl
def flowyml_register_extractors() -> list[Extractor]:
    """Register the extractor of the framework ``sklearn``."""
    return [EstimatorExtractor()]


@hookimpl
def flowyml_register_materializers() -> list[Materializer]:
    """Register the materializer of estimators."""
    return [EstimatorMaterializer()]
