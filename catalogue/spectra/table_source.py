"""What a parent table of any file format offers to the import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa


class ParentError(Exception):
    """A parent table that cannot be used; the message names the file and the column."""


class TableSource(ABC):
    """A table on disk that is read in blocks of rows.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Column names as the table spells them.
    typed : bool
        Whether columns arrive with types of their own; text tables deliver strings.
    """

    path: Path
    names: tuple[str, ...]
    typed: bool = True

    @abstractmethod
    def batches(self, names: Sequence[str], rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of rows, in order.

        Parameters
        ----------
        names : sequence of str
            Columns to read, out of :attr:`names`.
        rows : int
            Wanted rows per block; blocks may have other lengths.

        Yields
        ------
        dict of str to pyarrow.Array
            Null where the table says so.

        Raises
        ------
        ParentError
            If a column has more than one value per row, or the file is damaged.
        """
