"""What an estimator has learned, counted: floating-point arrays and the nodes of trees.

scikit-learn has no notion of a parameter that was learned. Counted here are the numbers in the
floating-point arrays among the fitted attributes, those whose name ends in an underscore, at any
depth, and the nodes of trees. Indices, labels and counts are integers and don't count; nor do
records of the fit, such as singular values, nor what estimators keep in private attributes, such
as the samples of nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from flowyml_sklearn.composition import attributes, is_estimator, walk

_RECORDS = frozenset(
    {
        "alphas_",
        "classes_",
        "mse_path_",
        "oob_decision_function_",
        "oob_improvement_",
        "oob_prediction_",
        "oob_scores_",
        "pvalues_",
        "scores_",
        "singular_",
        "singular_values_",
        "train_score_",
    }
)
"""Fitted attributes that tell how the fit went, and labels even where they are floats."""


@attrs.define
class Learned:
    """The arrays and trees of an estimator and its parts, each counted once.

    Attributes:
        shapes: shapes of floating-point arrays by path, such as ``clf__coef_``.
        by_dtype: number of elements by data type.
        trees: number of trees.
        nodes: number of nodes of all trees.
    """

    shapes: dict[str, list[int]] = attrs.field(factory=dict)
    by_dtype: dict[str, int] = attrs.field(factory=dict)
    trees: int = 0
    nodes: int = 0

    @property
    def parameters(self) -> int:
        """Number of elements of all arrays, and of nodes of all trees."""
        return sum(self.by_dtype.values()) + self.nodes

    @property
    def dtype(self) -> str | None:
        """The data type of most elements; that of the thresholds where there are only trees."""
        if self.nodes and not self.by_dtype:
            return "float64"
        return max(self.by_dtype, key=self.by_dtype.__getitem__, default=None)


def learned(estimator: Any) -> Learned:
    """Count what an estimator and its parts have learned."""
    counter = _Counter()
    counter.composed("", estimator)
    return counter.found


def fitted_attributes(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield an estimator's own fitted attributes by name, without those that are computed."""
    for name, value in attributes(estimator).items():
        if name.endswith("_") and not name.startswith("_"):
            yield name, value


class _Counter:
    """Goes through fitted attributes; every object there outlives it, so an id stands for one."""

    def __init__(self) -> None:
        self.found = Learned()
        self._seen: set[int] = set()

    def composed(self, path: str, estimator: Any) -> None:
        """Count an estimator and its parts, each under the name that its user gave it."""
        new: dict[int, tuple[str, Any]] = {}
        for below, part in walk(estimator):
            if is_estimator(part) and id(part) not in self._seen:
                new.setdefault(id(part), ("__".join(filter(None, (path, below))), part))
        self._seen.update(new)
        for where, part in new.values():
            self._attributes(where, part)

    def _attributes(self, path: str, estimator: Any) -> None:
        for name, value in fitted_attributes(estimator):
            if name in _RECORDS:
                continue
            where = f"{path}__{name}" if path else name
            if name == "intercept_" and isinstance(value, (float, np.floating)):
                self._array(where, np.asarray(value))
            else:
                self._value(where, value)
        # The trees of histogram-based boosting are in no public attribute.
        self._value(f"{path}__predictors" if path else "predictors", _predictors(estimator))

    def _value(self, path: str, value: Any) -> None:
        if value is None or isinstance(value, (str, bytes, bool, int, float, dict)):
            return
        if id(value) in self._seen:
            return
        if is_estimator(value):
            self.composed(path, value)
            return
        self._seen.add(id(value))
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            self._items(path, value.flat)
        elif isinstance(value, np.ndarray):
            self._array(path, value)
        elif sparse.issparse(value):
            self._array(path, value.data, value.shape)
        elif isinstance(value, (list, tuple)):
            self._items(path, value)
        elif hasattr(value, "node_count"):
            self._tree(int(value.node_count))
        elif hasattr(value, "get_n_leaf_nodes"):
            self._tree(len(value.nodes))
        elif type(value).__module__.startswith("sklearn."):  # what some estimators keep others in
            self._items(path, getattr(value, "__dict__", {}).values())

    def _items(self, path: str, items: Any) -> None:
        for number, item in enumerate(items):
            self._value(f"{path}__{number}", item)

    def _array(self, path: str, array: Any, shape: tuple[int, ...] | None = None) -> None:
        if array.dtype.kind not in "fc":
            return
        dtype = str(array.dtype)
        self.found.by_dtype[dtype] = self.found.by_dtype.get(dtype, 0) + int(array.size)
        self.found.shapes[path] = [int(size) for size in (array.shape if shape is None else shape)]

    def _tree(self, nodes: int) -> None:
        self.found.trees += 1
        self.found.nodes += nodes


def _predictors(estimator: Any) -> Any:
    predictors = attributes(estimator).get("_predictors")
    return predictors if isinstance(predictors, list) else None
