"""Which rows are computed together: spectra that lie scattered cost no more than their number."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from catalogue.models.granules import map_granules

Rows = slice | NDArray[np.intp]
"""Rows of a batch that are computed together."""

_LEAST_SAVING = 0.1
"""Share of the granules that packing must save: below it, gathering rows costs more than it brings."""


def whole_granules(usable: NDArray[np.bool_], size: int) -> list[slice]:
    """The granules of a batch, in their places, that hold a usable row."""
    parts = (slice(first, min(first + size, len(usable))) for first in range(0, len(usable), size))
    return [part for part in parts if usable[part].any()]


class Places:
    """Packs scattered rows of a network on one device into common granules, where that changes no byte.

    A granule is a fixed number of rows, as the shape of a matrix product decides its rounding. Rows may be packed
    into fewer granules if their place within one does not matter either. That is tried once: a granule that holds one
    spectrum in every place must give one answer. Where it does not, every granule is computed in place. Threads may
    share it.
    """

    def __init__(self) -> None:
        self._free: bool | None = None
        self._lock = threading.Lock()

    def granules(self, usable: NDArray[np.bool_], size: int, compute: Callable[[Rows], Tensor]) -> list[Rows]:
        """Granules that hold every usable row of a batch once.

        Parameters
        ----------
        usable : ndarray of bool, shape (rows,)
        size : int
            Rows of a granule.
        compute : callable
            Result of such rows, which lie along its second axis.
        """
        whole, rows = whole_granules(usable, size), np.flatnonzero(usable)
        dense = -(-len(rows) // size) > (1 - _LEAST_SAVING) * len(whole)
        if len(whole) < 2 or dense or not self._are_free(rows[0], size, compute):
            return list(whole)
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def _are_free(self, row: np.intp, size: int, compute: Callable[[Rows], Tensor]) -> bool:
        with self._lock:
            if self._free is None:
                everywhere = np.full(size, row)
                result = map_granules(lambda _: compute(everywhere), 1)[0]
                if result.isnan().any():  # a spectrum without an answer says nothing of places
                    return False
                places = result.movedim(1, 0).contiguous().numpy()
                self._free = len({place.tobytes() for place in places}) == 1
            return self._free
