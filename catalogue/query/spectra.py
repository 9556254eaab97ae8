"""Rows of a catalogue beside their spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from catalogue.query.opening import open as open_dataset
from catalogue.query.selection import BLOCK_ROWS, ROW, take_rows
from catalogue.query.table import TableError

SPECTRA_ARRAYS = ("flux", "ivar", "mask", "reason")


def with_spectra(rows: xarray.Dataset, path: Path) -> xarray.Dataset:
    """Add the spectra of ``rows``, and the ``reason`` of those that have none.

    Parameters
    ----------
    rows : Dataset
        With the coordinate ``row_number``.
    path : Path
        ``spectra.zarr``; its row i is row i of the catalogue.

    Raises
    ------
    TableError
        If there is no such store, it has fewer rows, or its keys are others than the catalogue's.
    """
    if not path.is_dir():
        raise TableError(f"{path}: expected the spectra store of the catalogue, found none; name it with store=")
    store = open_dataset(path)
    numbers = np.asarray(rows["row_number"].values)
    if len(numbers) and numbers.max() >= store.sizes["row"]:
        raise TableError(f"{path}: expected more than {numbers.max()} rows, found {store.sizes['row']}")
    spectra = take_rows(store, numbers)
    _check_keys(rows, spectra, str(store.attrs.get("key", "")), path)
    arrays = {name: spectra[name] for name in SPECTRA_ARRAYS if name in spectra and name not in rows}
    combined = rows.assign({name: (array.dims, array.data, array.attrs) for name, array in arrays.items()})
    return combined.assign_coords(wavelength=store["wavelength"])


def _check_keys(rows: xarray.Dataset, spectra: xarray.Dataset, key: str, path: Path) -> None:
    """Refuse a store whose keys contradict the catalogue's; spectra of other stars would look like these."""
    ours = next((str(name) for name in rows.variables if str(name).lower() == key.lower()), None)
    theirs = next((str(name) for name in spectra.variables if str(name).lower() == key.lower()), None)
    if ours is None or theirs is None:
        return
    for start in range(0, rows.sizes[ROW], BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        first, second = (_text(part[block].values) for part in (rows[ours], spectra[theirs]))
        wrong = np.flatnonzero(first != second)
        if len(wrong):
            number, at = int(rows["row_number"][start + wrong[0]]), wrong[0]
            raise TableError(f"{path}: row {number} has {key} {second[at]}, the catalogue has {first[at]}")


def _text(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values).astype(np.dtypes.StringDType())
