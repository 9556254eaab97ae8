"""Opening what a run leaves behind."""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray

from catalogue.query.backend import CatalogueBackend
from catalogue.query.formats import format_of
from catalogue.query.pruning import remember_arrays
from catalogue.query.selection import BLOCK_ROWS, ROW, ROW_NUMBER, row_numbers


def open(path: str | Path) -> xarray.Dataset:
    """Open a catalogue, predictions or a spectra store lazily.

    Parameters
    ----------
    path : str or Path
        FITS, Parquet, CSV (plain or gzip) or a Zarr group, told by what lies there. A CSV file is turned into a
        temporary Parquet file first, because text cannot be read lazily.

    Returns
    -------
    Dataset
        Backed by Dask, along ``row`` (and ``pixel``), with CF attributes and the coordinate ``row_number``; see
        :class:`catalogue.query.CatalogueAccessor` for what it can be asked as ``.cat``.

    Raises
    ------
    TableError
        If nothing is there or it cannot be read.
    """
    where = Path(path).expanduser()
    if format_of(where) == "zarr":
        with warnings.catch_warnings():
            # Variable-length text has no final specification in Zarr 3; every reader that we know reads it.
            warnings.simplefilter("ignore")
            dataset = xarray.open_zarr(where, chunks={})
    else:
        dataset = xarray.open_dataset(where, engine=CatalogueBackend, chunks={})
    if ROW_NUMBER in dataset.data_vars:
        # A table in another order than the catalogue's names the rows itself.
        dataset = dataset.set_coords(ROW_NUMBER)
    if ROW in dataset.sizes and ROW_NUMBER not in dataset.variables:
        first = next((variable for variable in dataset.variables.values() if variable.dims == (ROW,)), None)
        chunk = first.chunks[0][0] if first is not None and first.chunks and first.chunks[0] else BLOCK_ROWS
        dataset = dataset.assign_coords({ROW_NUMBER: row_numbers(dataset.sizes[ROW], chunk)})
    dataset.encoding["source"] = str(where)
    remember_arrays(dataset)
    return dataset
