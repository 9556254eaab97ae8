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


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file says of a column without being read.

    Attributes
    ----------
    first : ndarray of int64, shape (parts + 1,)
        First row of each part, and the number of rows.
    low, high : ndarray of float64, shape (parts,)
        Least and largest value; NaN if the file does not say.
    """

    first: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


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
    block_sizes : tuple of int or None
        Rows of each block, where the file has blocks of its own that differ.
    """

    path: Path
    n_rows: int
    columns: dict[str, TableColumn]
    attributes: dict[str, Any]
    block_rows: int = BLOCK_ROWS
    block_sizes: tuple[int, ...] | None = None

    def limits(self, name: str) -> Limits | None:
        """Least and largest value of a column in each of the parts that the file itself tells of; None if it does not.

        Parameters
        ----------
        name : str
        """
        return None

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
