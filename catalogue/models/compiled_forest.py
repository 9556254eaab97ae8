"""The walk of rows through regression trees, compiled by numba; imported where it is called, as numba loads slowly.

Walking row by row waits for memory and for mispredicted branches at every step. Here a node parts all its rows at
once, as training does: no step depends on the one before, and none branches on data.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]

_BLOCK_ROWS = 8192
"""Rows whose features stay in the cache of a core."""
_FEW = 4
"""Rows that are walked one by one, as parting them would cost more."""


@numba.njit(nogil=True)
def _part(rows: _Array, low: int, high: int, values: _Array, threshold: Any, spare: _Array) -> int:
    """Bring the rows that go left before those that go right, in order; returns where the right ones begin."""
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
def _one_tree(
    columns: _Array, forest: Any, root: int, n: int, rows: _Array, spare: _Array, stack: _Array, found: _Array
) -> None:
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
        middle = _part(rows, low, high, columns[feature[node]], threshold[node], spare)
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = left[node], low, middle
        stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = left[node] + 1, middle, high
        depth += 2


@numba.njit(nogil=True)
def walk(
    values: _Array, feature: _Array, threshold: _Array, left: _Array, value: _Array, roots: _Array, found: _Array
) -> None:
    """Prediction of every tree for every row.

    Parameters
    ----------
    values : ndarray of float32, shape (rows, features)
    feature, threshold, left, value, roots
        See :class:`~catalogue.models.forest.Forest`.
    found : ndarray of float64, shape (trees, rows)
        Written.
    """
    rows, spare = np.empty(_BLOCK_ROWS, np.uint32), np.empty(_BLOCK_ROWS, np.uint32)
    # Every node pushes two and takes one: at most one pending node per level.
    stack = np.empty((len(feature) + 2, 3), np.int64)
    for start in range(0, len(values), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(values))
        columns = np.ascontiguousarray(values[start:stop].T)
        for tree in range(len(roots)):
            parts = feature, threshold, left, value
            _one_tree(columns, parts, roots[tree], stop - start, rows, spare, stack, found[tree, start:stop])
