"""xarray backend: ``xarray.open_dataset(path, engine="catalogue")`` for FITS, Parquet and CSV catalogues, lazily."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from catalogue.query.formats import format_of, open_table
from catalogue.query.table import Table, TableError


class ColumnArray(BackendArray):
    """One column of a table on disk; rows are read when they are asked for.

    Parameters
    ----------
    table : Table
    name : str
    """

    def __init__(self, table: Table, name: str) -> None:
        self.table = table
        self.name = name
        column = table.columns[name]
        self.shape = (table.n_rows, *column.shape)
        self.dtype = column.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        """Values at a key of integers and slices; anything else is made of these by xarray."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._basic)

    def _basic(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        row, *rest = key
        if isinstance(row, slice):
            rows = range(*row.indices(self.shape[0]))
            if not rows:
                values = np.empty((0, *self.shape[1:]), self.dtype)
            else:
                first, last = min(rows[0], rows[-1]), max(rows[0], rows[-1])
                block = self.table.read([self.name], first, last + 1)[self.name]
                values = block[:: abs(rows.step)] if rows.step > 0 else block[::-1][:: abs(rows.step)]
            return np.asarray(values[(slice(None), *rest)])
        at = int(row) % self.shape[0]
        return np.asarray(self.table.read([self.name], at, at + 1)[self.name][(0, *rest)])


class CatalogueBackend(BackendEntrypoint):
    """Opens a catalogue as a dataset along ``row``, with units, descriptions and flag meanings as CF attributes."""

    description = "Stellar catalogues in FITS, Parquet or CSV"
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(  # type: ignore[override]
        self, filename_or_obj: str | Path, *, drop_variables: str | Iterable[str] | None = None
    ) -> xarray.Dataset:
        """Open lazily; see :func:`catalogue.query.open`.

        Raises
        ------
        TableError
            If it is no catalogue.
        """
        table = open_table(Path(filename_or_obj))
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        variables = {}
        for name, column in table.columns.items():
            if name in dropped:
                continue
            dimensions = ("row", *(f"{name}_axis{axis}" for axis in range(len(column.shape))))
            variables[name] = xarray.Variable(
                dimensions,
                indexing.LazilyIndexedArray(ColumnArray(table, name)),
                column.cf_attributes(),
                {"preferred_chunks": {"row": table.block_sizes or table.block_rows}},
            )
        attributes = {key: value for key, value in table.attributes.items() if value != ""}
        return xarray.Dataset(variables, attrs={"Conventions": "CF-1.11", **attributes})

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a path is a FITS file, which no other backend of xarray reads."""
        if not isinstance(filename_or_obj, str | Path) or not Path(filename_or_obj).is_file():
            return False
        try:
            return format_of(Path(filename_or_obj)) == "fits"
        except TableError:
            return False
