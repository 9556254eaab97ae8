"""A catalogue on disk as columns that are read by ranges of rows, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 131072
"""Rows that are read together where the format suggests nothing else: tens of megabytes of a catalogue."""


class TableError(Exception):
    """A table that cannot be read; the message names the file, and what was expected and found."""


@dataclass(frozen=True)
class TableColumn:
    """One column.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
        Native byte order; ``StringDType`` for text.
    shape : tuple of int
        Shape of the value of one row, ``()`` for a scalar.
    unit, ucd, description : str
    null : int or None
        Value of an integer column that means "missing".
    attributes : mapping
        Further CF attributes, as ``flag_masks``.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    unit: str = ""
    ucd: str = ""
    description: str = ""
    null: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def cf_attributes(self) -> dict[str, Any]:
        """Attributes under their CF names; ``null_value`` is ours, since CF's own turns integers into floats."""
        facts = {"long_name": self.description, "units": self.unit, "ucd": self.ucd, "null_value": self.null}
        return {**{name: value for name, value in facts.items() if value not in ("", None)}, **self.attributes}


class Table(ABC):
    """A table with random access to its rows. Instances can be sent to other processes.

    Attributes
    ----------
    path : Path
    n_rows : int
    columns : dict of str to TableColumn
    attributes : dict
        Title, provenance and the like.
    block_rows : int
        Rows that are best read together.
    """

    path: Path
    n_rows: int
    columns: dict[str, TableColumn]
    attributes: dict[str, Any]
    block_rows: int = BLOCK_ROWS

    @abstractmethod
    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows ``start`` to ``stop`` of some columns.

        Parameters
        ----------
        names : sequence of str
        start, stop : int
            ``0 <= start <= stop <= n_rows``.

        Returns
        -------
        dict of str to ndarray, shape (stop - start, ...)
            In the columns' dtypes; missing floats are NaN, missing integers the column's ``null``.

        Raises
        ------
        TableError
            If the file is damaged.
        """

    def blocks(self, names: Sequence[str], rows: int | None = None) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """All rows in order, as pairs of first row and columns."""
        step = rows or self.block_rows
        for start in range(0, self.n_rows, step):
            yield start, self.read(names, start, min(start + step, self.n_rows))
