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
        """Add rows; gives every block that is full by then."""
        self._pending.append(dict(columns))
        self._rows += len(next(iter(columns.values())))
        if self._rows < self.size:
            return
        joined = self._join()
        whole = self._rows - self._rows % self.size
        for start in range(0, whole, self.size):
            yield {name: values[start : start + self.size] for name, values in joined.items()}
        # Copied, so that the rest does not keep the whole block alive.
        self._pending = [{name: values[whole:].copy() for name, values in joined.items()}]
        self._rows -= whole

    def rest(self) -> dict[str, NDArray[Any]] | None:
        """Rows left over, or None."""
        return self._join() if self._rows else None

    def _join(self) -> dict[str, NDArray[Any]]:
        if len(self._pending) == 1:
            return self._pending[0]
        return {name: np.concatenate([part[name] for part in self._pending]) for name in self._pending[0]}
