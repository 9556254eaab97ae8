"""The rows of a unit while its files are read: per-row columns of the unit, pixels of one chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from catalogue.spectra.parent import BOOKKEEPING, read_parent_columns
from catalogue.spectra.primitives import MISSING_INTEGER, RowStatus, Spectrum, SpectrumError
from catalogue.spectra.values import missing_value, numpy_dtype
from catalogue.surveys.base import Survey

SIGNATURES = ("file_size", "file_mtime_ns")
"""Columns that tell which file was read; no part of any digest of contents."""


class UnitRows:
    """Per-row columns of a unit, from the parent table at first, completed as files are read.

    Parameters
    ----------
    survey : Survey
    group : zarr.Group
        The store.
    parent : Path
        Imported parent table.
    start, stop : int

    Attributes
    ----------
    columns : dict of str to ndarray, shape (rows,)
        Store columns of the survey, and the key if it is none of them.
    path, selected, duplicate_of : ndarray, shape (rows,)
    status, reason : ndarray, shape (rows,)
    signature : ndarray of int64, shape (rows, 2)
        Size and modification time of the files.
    """

    def __init__(self, survey: Survey, group: zarr.Group, parent: Path, start: int, stop: int) -> None:
        self.survey = survey
        self.group = group
        self.start = start
        self.stop = stop
        self.chunk_rows = int(group["flux"].chunks[0])  # type: ignore[union-attr]
        self.key = str(group.attrs["key"])
        from_parent = [column.name for column in survey.columns if column.aliases]
        extra_key = [] if self.key.lower() in {c.name.lower() for c in survey.columns} else [self.key]
        values = read_parent_columns(parent, [*from_parent, *extra_key, *BOOKKEEPING], start, stop)
        self.path, self.selected, self.duplicate_of = (values.pop(name) for name in BOOKKEEPING)
        self.columns: dict[str, NDArray[Any]] = values
        for name in extra_key:
            self.columns[name] = values[name].astype(numpy_dtype("str"))
        n = stop - start
        self.from_file = tuple(column for column in survey.columns if column.card)
        for column in self.from_file:
            self.columns[column.name] = np.full(n, missing_value(column.dtype), numpy_dtype(column.dtype))
        self.status = np.full(n, RowStatus.NOT_PROCESSED, np.uint8)
        self.reason = np.full(n, "", numpy_dtype("str"))
        self.signature = np.full((n, 2), MISSING_INTEGER, np.int64)

    def finished_columns(self) -> dict[str, NDArray[Any]]:
        """Everything per-row, duplicates marked."""
        repeats = (self.status == RowStatus.OK) & (self.duplicate_of >= 0)
        self.status[repeats] = RowStatus.DUPLICATE
        for row in np.flatnonzero(repeats):
            self.reason[row] = f"same {self.key} as row {self.duplicate_of[row]}"
        signatures = dict(zip(SIGNATURES, self.signature.T.copy(), strict=True))
        return {**self.columns, "status": self.status, "reason": self.reason, **signatures}


class ChunkRows:
    """Pixels of some rows of a unit; rows are counted from the first of them.

    Parameters
    ----------
    unit : UnitRows
    first, last : int
        Catalogue rows.
    """

    def __init__(self, unit: UnitRows, first: int, last: int) -> None:
        self.unit = unit
        self.first = first
        self.n_rows = last - first
        shape = (self.n_rows, unit.survey.grid.n_pixels)
        self.flux = np.full(shape, np.nan, np.float32)
        self.ivar = np.zeros(shape, np.float32)
        self.mask = np.zeros(shape, unit.survey.mask_dtype)
        self.offset = first - unit.start

    def rows_to_read(self) -> list[int]:
        """Rows of the chunk that have a file to open; the others get their status."""
        unit = self.unit
        at = slice(self.offset, self.offset + self.n_rows)
        selected, has_path = unit.selected[at], unit.path[at] != ""
        unit.status[at][~selected] = RowStatus.NOT_SELECTED
        without = np.flatnonzero(selected & ~has_path)
        unit.status[at][without] = RowStatus.NO_SPECTRUM
        unit.reason[self.offset + without] = "no path in the parent table"
        return [int(row) for row in np.flatnonzero(selected & has_path)]

    def path_of(self, row: int) -> str:
        """Path of a row of the chunk, relative to the root."""
        return str(self.unit.path[self.offset + row])

    def parent_values(self, row: int) -> dict[str, object]:
        """Parent values of a row of the chunk."""
        return {name: values[self.offset + row] for name, values in self.unit.columns.items()}

    def put(self, row: int, spectrum: Spectrum) -> None:
        """Place a spectrum, checked against the grid."""
        first, n = spectrum.first_pixel, len(spectrum.flux)
        n_pixels = self.flux.shape[1]
        if not (first >= 0 and first + n <= n_pixels and len(spectrum.ivar) == len(spectrum.mask) == n):
            raise SpectrumError(
                RowStatus.WRONG_SHAPE,
                f"expected pixels within 0 to {n_pixels - 1}, found {first} to {first + n - 1} "
                f"({len(spectrum.ivar)} of ivar, {len(spectrum.mask)} of mask)",
            )
        if not (spectrum.ivar > 0).any():
            raise SpectrumError(RowStatus.ZERO_IVAR, f"{self.path_of(row)}: no pixel with positive inverse variance")
        at = slice(first, first + n)
        self.flux[row, at] = spectrum.flux
        self.ivar[row, at] = spectrum.ivar
        self.mask[row, at] = spectrum.mask
        for column in self.unit.from_file:
            if (value := spectrum.cards.get(column.card)) is not None:
                self.unit.columns[column.name][self.offset + row] = value

    def clear(self, row: int) -> None:
        """Take a row's pixels back."""
        self.flux[row] = np.nan
        self.ivar[row] = 0
        self.mask[row] = 0

    def set_status(self, row: int, status: RowStatus, reason: str = "") -> None:
        """Say what became of a row."""
        self.unit.status[self.offset + row] = status
        self.unit.reason[self.offset + row] = reason

    def set_signature(self, row: int, size: int, mtime_ns: int) -> None:
        """Remember which file was read."""
        self.unit.signature[self.offset + row] = size, mtime_ns
