"""A uniform sample of a stream of rows that depends on the row numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def row_priority(rows: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    """Pseudo-random 64-bit number of each row: the output function of SplitMix64.

    Parameters
    ----------
    rows : ndarray of integers, shape (n,)
    seed : int

    Returns
    -------
    ndarray of uint64, shape (n,)
        Different for different rows: the function is a bijection.

    Notes
    -----
    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", figure 4.
    """
    with np.errstate(over="ignore"):
        state = (rows.astype(np.uint64) + np.uint64(1 + seed)) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _FIRST
        state = (state ^ (state >> np.uint64(27))) * _SECOND
        return state ^ (state >> np.uint64(31))


class RowSample:
    """Keeps the ``size`` rows of lowest priority number: uniform, whatever the blocks and their order.

    Parameters
    ----------
    size : int
        Rows kept at most.
    seed : int
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 0:
            raise ValueError(f"expected a sample size of at least 0, got {size}")
        self.size = size
        self.seed = seed
        self.seen = 0
        self._limit = np.uint64(2**64 - 1)
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._held = 0

    def add(self, first_row: int, offered: NDArray[np.bool_], columns: Mapping[str, NDArray[Any]]) -> None:
        """Offer rows to the sample.

        Parameters
        ----------
        first_row : int
            Catalogue row of element 0; no row is given twice.
        offered : ndarray of bool, shape (n,)
            Which of the rows are offered.
        columns : mapping of str to ndarray, shape (n,)
            The same names in every call.
        """
        rows = np.flatnonzero(offered)
        self.seen += len(rows)
        if not self.size or not len(rows):
            return
        priority = row_priority(first_row + rows, self.seed)
        wanted = priority <= self._limit
        taken = rows[wanted]
        part = {name: values[taken] for name, values in columns.items()}
        self._parts.append({**part, "row": first_row + taken, "priority": priority[wanted]})
        self._held += len(taken)
        if self._held > 2 * self.size:
            self._compact()

    def _compact(self) -> None:
        merged = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        priority = merged["priority"].astype(np.uint64)
        if len(priority) > self.size:
            kept = np.argpartition(priority, self.size - 1)[: self.size]
            merged = {name: values[kept] for name, values in merged.items()}
            self._limit = np.uint64(merged["priority"].max())
        self._parts, self._held = [merged], len(merged["row"])

    def take(self, size: int) -> dict[str, NDArray[Any]]:
        """The ``size`` rows of lowest priority (fewer if fewer were offered), in row order.

        Returns
        -------
        dict of str to ndarray
            The offered columns, ``row`` (int64) and ``priority`` (uint64); empty if nothing was ever offered.
        """
        if not self._parts:
            return {}
        self._compact()
        merged = self._parts[0]
        chosen = np.argsort(merged["priority"])[: min(size, self.size)]
        chosen = chosen[np.argsort(merged["row"][chosen])]
        return {name: values[chosen] for name, values in merged.items()}

    def __len__(self) -> int:
        return min(self.seen, self.size)
