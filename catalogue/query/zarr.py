"""Row-aligned Zarr groups by ranges of rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from catalogue.query.table import BLOCK_ROWS, Table, TableColumn, TableError

_DESCRIBED = {"long_name": "description", "units": "unit", "ucd": "ucd", "null_value": "null"}


class ZarrTable(Table):
    """A group whose arrays have rows along their first axis; arrays of another length are left out.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TableError
        If it is not a Zarr group or holds no arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays = {name: array for name, array in self._group().arrays() if array.ndim}
        if not arrays:
            raise TableError(f"{path}: expected arrays along rows, found none")
        lengths = [array.shape[0] for array in arrays.values()]
        self.n_rows = max(set(lengths), key=lengths.count)
        rows = {name: array for name, array in arrays.items() if array.shape[0] == self.n_rows}
        self.columns = {name: _column(name, array) for name, array in rows.items()}
        chunk = max((array.chunks[0] for array in rows.values()), default=BLOCK_ROWS)
        self.block_rows = chunk * max(1, BLOCK_ROWS // max(chunk, 1))
        self.attributes = dict(self._group().attrs)

    def _group(self) -> zarr.Group:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return zarr.open_group(self.path, mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise TableError(f"{self.path}: expected a Zarr group: {error}") from error

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows ``start`` to ``stop``; see :meth:`Table.read`."""
        group = self._group()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: np.asarray(group[name][start:stop]) for name in names}  # type: ignore[index]


def _column(name: str, array: zarr.Array) -> TableColumn:
    attributes = dict(array.attrs)
    known = {theirs: ours for theirs, ours in _DESCRIBED.items() if theirs in attributes}
    facts: dict[str, Any] = {ours: attributes.pop(theirs) for theirs, ours in known.items()}
    if facts.get("unit") == "1":
        facts["unit"] = ""
    return TableColumn(name, np.dtype(array.dtype), tuple(array.shape[1:]), attributes=attributes, **facts)
