"""From the value of an expression to a column in its dtype, with missing values marked as the column says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels.parts import Column
from catalogue.spectra.primitives import MISSING_INTEGER


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Dtype of a column in memory; ``str`` is numpy's variable-length string."""
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)


def column_values(column: Column, value: NDArray[Any], blank: NDArray[np.bool_] | None, rows: int) -> NDArray[Any]:
    """Column of a catalogue.

    Parameters
    ----------
    column : Column
    value : ndarray, shape (rows,) or ()
        As its expression gives it, not changed.
    blank : ndarray of bool, shape (rows,) or (), or None
        Rows to be marked as missing.
    rows : int

    Returns
    -------
    ndarray, shape (rows,)
        In the column's dtype, not shared with ``value``.

    Raises
    ------
    ValueError
        If a value does not fit the dtype: text for a number, a fraction or an out-of-range number for an integer,
        NaN for an integer column without a missing value.
    """
    value = np.broadcast_to(value, (rows,))
    textual = value.dtype.kind in "OSTU"
    if textual != (column.dtype == "str"):
        raise ValueError(f"expected {column.dtype}, found {value.dtype}")
    if column.is_integer:
        result = _integers(column, value)
    else:
        if column.dtype == "bool" and value.dtype.kind != "b":
            raise ValueError(f"expected bool, found {value.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):
            result = value.astype(numpy_dtype(column.dtype))
    if blank is not None:
        result[np.broadcast_to(blank, (rows,))] = missing_value(column)
    return result


def missing_value(column: Column) -> Any:
    """What marks a missing value in a column; None if nothing does."""
    if column.is_float:
        return np.nan
    return "" if column.dtype == "str" else column.missing


def _integers(column: Column, value: NDArray[Any]) -> NDArray[Any]:
    dtype = np.dtype(column.dtype)
    missing = np.zeros(value.shape, bool)
    if value.dtype.kind == "f":
        missing = np.isnan(value)
    elif column.missing is not None and column.missing != MISSING_INTEGER and value.dtype.kind == "i":
        # Stores mark missing integers in one way, a product may in another.
        missing = value == MISSING_INTEGER
    if missing.any() and column.missing is None:
        raise ValueError(f"expected integers, found missing values in {missing.sum()} rows and no missing value set")
    present = value if not missing.any() else np.where(missing, value.dtype.type(0), value)
    if value.dtype.kind != dtype.kind or value.dtype.itemsize > dtype.itemsize:
        _check_range(present, dtype)
    result = present.astype(dtype)
    if missing.any():
        result[missing] = column.missing
    return result


def _check_range(values: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if values.dtype.kind == "b" or not values.size:
        return
    bounds = np.iinfo(dtype)
    low, high = values.min(), values.max()
    if low < bounds.min or high > bounds.max:
        raise ValueError(f"expected values from {bounds.min} to {bounds.max} ({dtype}), found {low} to {high}")
    if values.dtype.kind == "f" and (fractions := values != np.trunc(values)).any():
        raise ValueError(f"expected integers, found {values[fractions][0]}")
