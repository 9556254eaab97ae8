"""Rows as FITS binary tables hold them: big-endian, fixed width, strings padded with NUL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel

_STORAGE = {
    "int16": ">i2",
    "int32": ">i4",
    "int64": ">i8",
    "uint8": "u1",
    "float32": ">f4",
    "float64": ">f8",
    "bool": "S1",
}


def row_dtype(data_model: DataModel) -> np.dtype[Any]:
    """Packed structured dtype of one row."""
    return np.dtype([(column.name, _storage(column)) for column in data_model.columns])


def packed_rows(data_model: DataModel, dtype: np.dtype[Any], block: Mapping[str, NDArray[Any]]) -> NDArray[np.void]:
    """Rows of a block, packed.

    Parameters
    ----------
    data_model : DataModel
    dtype : dtype
        Of :func:`row_dtype`.
    block : mapping of str to ndarray, shape (rows,)

    Returns
    -------
    ndarray of ``dtype``, shape (rows,)

    Raises
    ------
    ValueError
        If a string is longer than its column is wide.
    """
    rows = len(next(iter(block.values())))
    table = np.empty(rows, dtype)
    for column in data_model.columns:
        values = block[column.name]
        if column.dtype == "bool":
            table[column.name] = np.where(values, b"T", b"F")
        elif column.dtype == "str":
            table[column.name] = ascii_text(column, values)
        else:
            table[column.name] = values
    return table


def ascii_text(column: Column, values: NDArray[Any]) -> NDArray[np.bytes_]:
    r"""Text in the printable ASCII that FITS allows; other characters become escapes as ``\xfc``.

    Parameters
    ----------
    column : Column
        Of dtype ``str``.
    values : ndarray of StringDType, shape (rows,)

    Returns
    -------
    ndarray of bytes, shape (rows,)

    Raises
    ------
    ValueError
        If a value is longer than the column's width.
    """
    # One byte more than allowed, which must stay empty: cheaper than asking for all lengths first.
    kind = f"S{column.width + 1}"
    try:
        text = values.astype(kind)
    except UnicodeEncodeError:
        escaped = [value.encode("ascii", "backslashreplace").decode("ascii") for value in values.tolist()]
        values = np.array(escaped, np.dtypes.StringDType())
        text = values.astype(kind)
    if text.view(np.uint8).reshape(len(text), column.width + 1)[:, column.width].any():
        longest = max(values.tolist(), key=len)
        raise ValueError(
            f"column {column.name}: expected at most {column.width} characters, its width in the data model, "
            f"found {len(longest)}: {longest!r}"
        )
    return text


def _storage(column: Column) -> str:
    return f"S{column.width}" if column.dtype == "str" else _STORAGE[column.dtype]
