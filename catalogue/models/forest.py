"""A random forest kept as arrays: no pickle, every tree's prediction of every row.

Trees are laid out breadth first with siblings side by side, so that a step down is one comparison and one addition.
Only comparisons and look-ups happen, so that the answer is scikit-learn's to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAYS = ("feature", "threshold", "left", "value", "roots")


@dataclass(frozen=True)
class Forest:
    """Regression trees.

    Attributes
    ----------
    feature : ndarray of int32, shape (nodes,)
        Column that an inner node looks at; 0 for a leaf.
    threshold : ndarray of float32, shape (nodes,)
        Rows with a larger value go right. +inf for a leaf.
    left : ndarray of int32, shape (nodes,)
        Left child; the right one follows it. A leaf is its own child.
    value : ndarray of float64, shape (nodes,)
        Mean target of the training rows in the node.
    roots : ndarray of int32, shape (trees,)
    n_features : int
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]
    n_features: int

    def __post_init__(self) -> None:
        n_nodes = len(self.feature)
        if any(len(getattr(self, name)) != n_nodes for name in ("threshold", "left", "value")):
            raise ValueError(f"expected {n_nodes} thresholds, children and values, one per node")
        leaf = np.isposinf(self.threshold)
        inside = (self.feature >= 0) & (self.feature < self.n_features)
        # Children lie behind their parents, so that every walk ends.
        goes_on = np.where(leaf, self.left == np.arange(n_nodes), self.left > np.arange(n_nodes))
        if not (inside & goes_on & (self.left + np.where(leaf, 0, 1) < n_nodes)).all() or (
            len(self.roots) and not (self.roots.min() >= 0 and self.roots.max() < n_nodes)
        ):
            raise ValueError("damaged forest: a feature, child or root points outside its arrays")

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @classmethod
    def from_sklearn(cls, forest: Any) -> Forest:
        """Take over a fitted ``sklearn.ensemble.RandomForestRegressor`` with one output."""
        parts: list[dict[str, NDArray[Any]]] = []
        roots, offset = [], 0
        for estimator in forest.estimators_:
            part = _breadth_first(estimator.tree_, offset)
            roots.append(offset)
            offset += len(part["feature"])
            parts.append(part)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in _ARRAYS[:-1]}
        return cls(**joined, roots=np.asarray(roots, np.int32), n_features=int(forest.n_features_in_))

    def predict_trees(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Prediction of every tree.

        Parameters
        ----------
        rows : ndarray, shape (rows, features)
            Finite; compared in float32, as scikit-learn does.

        Returns
        -------
        ndarray of float64, shape (trees, rows)

        Raises
        ------
        ValueError
            If the number of features is not the forest's or a value is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(f"expected rows of {self.n_features} features, found shape {rows.shape}")
        values = np.ascontiguousarray(rows, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("expected finite features, found NaN or infinity")
        from catalogue.models.compiled_forest import walk

        found = np.empty((self.n_trees, len(values)), np.float64)
        walk(values, self.feature, self.threshold, self.left, self.value, self.roots, found)
        return found

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for a bundle, each under ``forest.``."""
        return {f"forest.{name}": getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Forest:
        """Read back what :meth:`arrays` gave.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or points outside.
        """
        return cls(**{name: arrays[f"forest.{name}"] for name in _ARRAYS}, n_features=n_features)


def _breadth_first(tree: Any, offset: int) -> dict[str, NDArray[Any]]:
    """One scikit-learn tree, renumbered from ``offset``."""
    order, children = [0], np.zeros(tree.node_count, np.int64)
    position = 0
    while position < len(order):
        node = order[position]
        if tree.children_left[node] >= 0:
            children[position] = len(order)
            order += [int(tree.children_left[node]), int(tree.children_right[node])]
        else:
            children[position] = position
        position += 1
    leaf = tree.children_left[order] < 0
    # float32 x <= float64 t is x <= the largest float32 not above t.
    exact = tree.threshold[order]
    single = exact.astype(np.float32)
    single = np.where(single > exact, np.nextafter(single, np.float32(-np.inf)), single)
    return {
        "feature": np.where(leaf, 0, tree.feature[order]).astype(np.int32),
        "threshold": np.where(leaf, np.float32(np.inf), single).astype(np.float32),
        "left": (children + offset).astype(np.int32),
        "value": tree.value[order, 0, 0].astype(np.float64),
    }
