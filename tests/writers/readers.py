"""Each format read by the tools that people use, brought to the conventions in memory."""

from __future__ import annotations

import gzip
import warnings

import fitsio
import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import xarray as xr
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from catalogue.datamodels import missing_value, numpy_dtype
from tests.factories.products import STRING


def astropy_table(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Table.read(path)


def from_astropy(path, model):
    table = astropy_table(path)
    columns = {}
    for column in model.columns:
        values = table[column.name]
        if isinstance(values, MaskedColumn):
            values = values.filled(missing_value(column)) if np.any(values.mask) else values.data.data
        columns[column.name] = np.asarray(values)
    return columns


def from_astropy_csv(path, model):
    table = Table.read(path, format="csv")
    columns = {}
    for column in model.columns:
        values = table[column.name]
        if isinstance(values, MaskedColumn):
            assert column.dtype == "str"
            values = values.filled("")
        # In CSV, astropy has no booleans.
        columns[column.name] = np.asarray(values) == "True" if column.dtype == "bool" else np.asarray(values)
    return columns


def from_fitsio(path, model):
    data = fitsio.read(path, ext=1)
    return {column.name: data[column.name] for column in model.columns}


def from_astropy_fits(path, model):
    with fits.open(path, checksum=True) as hdus:
        return {column.name: np.array(hdus[1].data[column.name]) for column in model.columns}


def _from_pandas(frame, model):
    columns = {}
    for column in model.columns:
        values = frame[column.name]
        if column.dtype == "str":
            values = values.astype(object).where(values.notna(), "")
        elif not frame.empty:
            assert values.dtype.kind == numpy_dtype(column.dtype).kind.replace("u", "i") or column.dtype == "uint8"
        columns[column.name] = values.to_numpy()
    return columns


def from_pandas_csv(path, model):
    # Until version 3, pandas rounds the last digit of a double unless it is told not to.
    exact = {} if int(pd.__version__.split(".")[0]) >= 3 else {"float_precision": "round_trip"}
    return _from_pandas(pd.read_csv(path, **exact), model)


def from_pandas_parquet(path, model):
    return _from_pandas(pd.read_parquet(path), model)


def from_arrow(table, model):
    columns = {}
    for column in model.columns:
        values = table[column.name]
        assert column.is_float or column.dtype == "str" or not values.null_count
        null = np.nan if column.is_float else ""
        columns[column.name] = np.array([null if value is None else value for value in values.to_pylist()])
    return columns


def from_arrow_csv(path, model):
    with gzip.open(path) as stream:
        return from_arrow(pyarrow.csv.read_csv(stream), model)


def from_arrow_parquet(path, model):
    return from_arrow(pq.read_table(path), model)


def from_xarray(path, model):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Zarr V3 specification.*")
        dataset = xr.open_zarr(path)
        return {column.name: dataset[column.name].to_numpy() for column in model.columns}


READERS = {
    "fits": (from_astropy, from_fitsio, from_astropy_fits),
    "csv": (from_pandas_csv, from_astropy_csv, from_arrow_csv),
    "parquet": (from_arrow_parquet, from_pandas_parquet, from_astropy),
    "zarr": (from_xarray,),
    "votable": (from_astropy,),
}


def same_values(found, expected, column):
    """Whether a column as read equals it as written, to the last bit."""
    if column.dtype == "str":
        text = [value.decode("ascii") if isinstance(value, bytes) else str(value) for value in found.tolist()]
        return text == np.asarray(expected).astype(STRING).tolist()
    dtype = numpy_dtype(column.dtype)
    return np.array_equal(found.astype(dtype), expected, equal_nan=column.is_float)
