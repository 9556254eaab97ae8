"""Blocks of one fixed size, so that what a writer does never depends on how the rows came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Blocks:
    """Collects rows and gives them out in blocks of ``size`` rows.

    Parameters
    ----------
    size : int
        Rows of every block but the last.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._rows = 0

    def add(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Add rows; gives every block that is full by then.

        Only the block that older rows began is copied together; the others are views of ``columns``.
        """
        rows = len(next(iter(columns.values())))
        start = 0
        if self._rows:
            start = min(self.size - self._rows, rows)
            self._keep(_rows(columns, 0, start))
            if self._rows < self.size:
                return
            yield self._join()
            self._pending, self._rows = [], 0
        while rows - start >= self.size:
            yield _rows(columns, start, start + self.size)
            start += self.size
        # Copied, so that the rest does not keep the whole of `columns` alive.
        self._keep({name: values.copy() for name, values in _rows(columns, start, rows).items()})

    def rest(self) -> dict[str, NDArray[Any]] | None:
        """Rows left over, or None."""
        return self._join() if self._rows else None

    def _keep(self, columns: dict[str, NDArray[Any]]) -> None:
        rows = len(next(iter(columns.values())))
        if rows:
            self._pending.append(columns)
            self._rows += rows

    def _join(self) -> dict[str, NDArray[Any]]:
        if len(self._pending) == 1:
            return self._pending[0]
        return {name: np.concatenate([part[name] for part in self._pending]) for name in self._pending[0]}


def _rows(columns: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
    return {name: values[start:stop] for name, values in columns.items()}
