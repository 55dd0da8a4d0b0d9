"""The properties of an estimator; nothing of it changes, nothing of it is fitted or called.

What each property means exactly is written in the README.
"""

from __future__ import annotations

import warnings
from typing import Any

import sklearn  # type: ignore[import-untyped]
from sklearn import base
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]

from flowyml_sklearn import values
from flowyml_sklearn.composition import is_estimator, walk
from flowyml_sklearn.learned import fitted_attributes, learned

_SAMPLE = 10
_KINDS = (
    ("classifier", base.is_classifier),
    ("regressor", base.is_regressor),
    ("outlier detector", base.is_outlier_detector),
)
"""What scikit-learn can tell of an estimator; the rest is told by its methods."""


def describe(estimator: Any) -> dict[str, Any]:
    """Return the properties of an estimator, fitted or not, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asking for an attribute may tell of its deprecation
        return _describe(estimator)


def _describe(estimator: Any) -> dict[str, Any]:
    below = {path: part for path, part in walk(estimator) if path}
    found = learned(estimator)
    types = (type(part).__name__ for part in below.values() if is_estimator(part))
    name = type(estimator).__name__
    return {
        "parameters": found.parameters,
        "architecture": name,
        "model_class": name,
        "num_layers": len(below) or 1,
        "layer_types": list(dict.fromkeys(types)) or [name],
        "num_tensors": len(found.shapes),
        "tensor_shapes_sample": dict(list(found.shapes.items())[:_SAMPLE]),
        "dtype": found.dtype,
        "class_path": values.class_name(type(estimator)),
        "estimator_type": _kind(estimator),
        "fitted": is_fitted(estimator),
        "steps": {path: _name(part) for path, part in below.items()},
        "hyperparameters": {
            key: values.hyperparameter(value)
            for key, value in estimator.get_params(deep=True).items()
        },
        "fitted_attributes": _attributes(estimator),
        "n_features_in_": _count(_asked(estimator, "n_features_in_")),
        "feature_names_in_": values.labels(_asked(estimator, "feature_names_in_")),
        "classes_": values.labels(_asked(estimator, "classes_")),
        "trees": found.trees,
        "tree_nodes": found.nodes,
        "sklearn_version": sklearn.__version__,
    }


def is_fitted(estimator: Any) -> bool:
    """Tell whether scikit-learn takes an estimator for fitted."""
    try:
        check_is_fitted(estimator)
    except Exception:  # NotFittedError; or whatever a third party's estimator makes of the question
        return False
    return True


def _attributes(estimator: Any) -> dict[str, Any]:
    described = {}
    for path, part in walk(estimator):
        if is_estimator(part):
            for name, value in fitted_attributes(part):
                described[f"{path}__{name}" if path else name] = (
                    values.hyperparameter(value)
                    if name == "best_params_"
                    else values.fitted_attribute(value)
                )
    return described


def _kind(estimator: Any) -> str | None:
    for kind, tells in _KINDS:
        try:
            if tells(estimator):
                return kind
        except Exception:  # noqa: S112  (a third party's tags may lack what is asked for)
            continue
    if _asked(estimator, "transform") is not None:
        return "transformer"
    return "clusterer" if _asked(estimator, "fit_predict") is not None else None


def _asked(estimator: Any, name: str) -> Any:
    """Return an attribute that may be computed, or None: what computes it may raise anything."""
    try:
        return getattr(estimator, name, None)
    except Exception:
        return None


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _name(part: Any) -> str:
    return values.class_name(type(part)) if is_estimator(part) else str(part)
