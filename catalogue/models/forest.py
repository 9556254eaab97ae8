"""A random forest kept as arrays: no pickle, every tree's prediction of every row.

Trees are laid out breadth first with siblings side by side, so that a step down is one comparison and one addition.
Only comparisons and look-ups happen, so the compiled and the numpy evaluation give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        compiled = _compiled_walk()
        if compiled is None:
            return self._walk_with_numpy(values)
        found = np.empty((self.n_trees, len(values)), np.float64)
        compiled(values, self.feature, self.threshold, self.left, self.value, self.roots, found)
        return found

    def _walk_with_numpy(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """All rows one level down at a time; rows that have reached a leaf are left out."""
        found = np.empty((self.n_trees, len(values)), np.float64)
        is_leaf = np.isposinf(self.threshold)
        for tree, root in enumerate(self.roots):
            node = np.full(len(values), root, np.int32)
            active = np.arange(len(values))
            while len(active):
                active = active[~is_leaf[node[active]]]
                here = node[active]
                goes_right = values[active, self.feature[here]] > self.threshold[here]
                node[active] = self.left[here] + goes_right
            found[tree] = self.value[node]
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


_BLOCK_ROWS = 8192
"""Rows whose features stay in the cache of a core."""
_FEW = 4
_walk: list[Callable[..., None] | None] = []


def _compiled_walk() -> Callable[..., None] | None:
    """Compiled evaluation, or None where numba is not installed."""
    if not _walk:
        _walk.append(_compile())
    return _walk[0]


def _compile() -> Callable[..., None] | None:
    """Compile the evaluation by partition.

    Walking row by row waits for memory and for mispredicted branches at every step. Here a node parts all its
    rows at once, as training does: no step depends on the one before, and none branches on data.
    """
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(nogil=True)
    def part(rows: Any, low: int, high: int, values: Any, threshold: np.float32, spare: Any) -> int:
        n_left, n_right = np.uint64(low), np.uint64(0)
        for k in range(np.uint64(low), np.uint64(high)):
            row = rows[k]
            right = np.uint64(values[row] > threshold)
            rows[n_left] = row
            spare[n_right] = row
            n_left += np.uint64(1) - right
            n_right += right
        for k in range(n_right):
            rows[n_left + k] = spare[k]
        return int(n_left)

    @numba.njit(nogil=True)
    def one_tree(columns: Any, forest: Any, root: int, n: int, rows: Any, spare: Any, stack: Any, found: Any) -> None:
        feature, threshold, left, value = forest
        for k in range(n):
            rows[k] = k
        stack[0, 0], stack[0, 1], stack[0, 2] = root, 0, n
        depth = 1
        while depth > 0:
            depth -= 1
            node, low, high = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            if high - low <= _FEW or left[node] == node:
                for k in range(low, high):
                    here = node
                    while left[here] != here:
                        here = left[here] + int(columns[feature[here], rows[k]] > threshold[here])
                    found[rows[k]] = value[here]
                continue
            middle = part(rows, low, high, columns[feature[node]], threshold[node], spare)
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = left[node], low, middle
            stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = left[node] + 1, middle, high
            depth += 2

    @numba.njit(nogil=True)
    def walk(values: Any, feature: Any, threshold: Any, left: Any, value: Any, roots: Any, found: Any) -> None:
        rows, spare = np.empty(_BLOCK_ROWS, np.uint32), np.empty(_BLOCK_ROWS, np.uint32)
        # Every node pushes two and takes one: at most one pending node per level.
        stack = np.empty((len(feature) + 2, 3), np.int64)
        for start in range(0, len(values), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(values))
            columns = np.ascontiguousarray(values[start:stop].T)
            for tree in range(len(roots)):
                one_tree(
                    columns,
                    (feature, threshold, left, value),
                    roots[tree],
                    stop - start,
                    rows,
                    spare,
                    stack,
                    found[tree, start:stop],
                )

    compiled: Callable[..., None] = walk
    return compiled
