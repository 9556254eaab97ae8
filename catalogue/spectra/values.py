"""Conversion of parent columns to the store's types, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalogue.spectra.primitives import MISSING_INTEGER

ARROW_TYPES: dict[str, pa.DataType] = {
    "float64": pa.float64(),
    "float32": pa.float32(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "int16": pa.int16(),
    "str": pa.string(),
}
STRINGS = np.dtypes.StringDType()
_MISSING_WORDS = ("", "nan", "null", "none", "na", "n/a", "--", "-", "\\n")
_EXACT = {pa.float16(): 1 << 11, pa.float32(): 1 << 24, pa.float64(): 1 << 53}
"""Integers beyond this are not all representable in a type: an obsid in float32 is another star's."""
_WHOLE = r"^([+-]?[0-9]+)(\.0*)?$"
_PADDED = r"^\s*[+-]?0[0-9]+\s*$"


class ConversionError(ValueError):
    """A value that the wanted type cannot hold.

    Parameters
    ----------
    dtype : str
        Wanted type.
    row : int
        Index within the block.
    value : object
    """

    def __init__(self, dtype: str, row: int, value: object) -> None:
        super().__init__(f"expected {dtype}, found {value!r}")
        self.dtype = dtype
        self.row = row
        self.value = value


def store_dtype(kind: pa.DataType) -> str:
    """Narrowest store type that holds every value of an Arrow type."""
    if pa.types.is_dictionary(kind):
        return store_dtype(kind.value_type)
    if pa.types.is_boolean(kind) or kind in (pa.int8(), pa.uint8(), pa.int16()):
        return "int16"
    if kind in (pa.uint16(), pa.int32()):
        return "int32"
    if pa.types.is_integer(kind):
        return "int64"
    if kind in (pa.float16(), pa.float32()):
        return "float32"
    return "float64" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "str"


def missing_value(dtype: str) -> Any:
    """Value of a missing entry: NaN, -9999 or the empty string."""
    if dtype == "str":
        return ""
    return MISSING_INTEGER if dtype.startswith("int") else float("nan")


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """NumPy type in memory, variable-length for strings."""
    return STRINGS if dtype == "str" else np.dtype(dtype)


def convert(values: pa.Array, dtype: str, nulls: tuple[float, ...] = ()) -> pa.Array:
    """Bring a block of a column to a store type, with the store's missing values in place of nulls.

    Parameters
    ----------
    values : pyarrow.Array
        Strings, integers, floats, logicals, or dictionaries of them.
    dtype : str
        A key of :data:`ARROW_TYPES`.
    nulls : tuple of float
        Numbers that mean "missing" where the wanted type is floating-point.

    Returns
    -------
    pyarrow.Array
        Without nulls.

    Raises
    ------
    ConversionError
        If a value is not of the type: a text in a column of numbers, a fraction or an inexact number in a
        column of integers, an integer out of range.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if dtype == "str":
        return pc.fill_null(pc.utf8_trim_whitespace(values.cast(pa.string())), "")
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int16())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return _from_text(values.cast(pa.string()), dtype, nulls)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        values = _checked(values, lambda array: array.cast(pa.float64()), dtype)
    if dtype.startswith("int"):
        return _to_integer(values, dtype)
    return _to_float(values, dtype, nulls)


def has_padded_numbers(values: pa.Array) -> bool:
    """Whether a block of text holds digits behind a zero: ``007`` is an identifier, another one than ``7``."""
    return pa.types.is_string(values.type) and bool(pc.any(pc.match_substring_regex(values, _PADDED)).as_py())


def to_numpy(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """NumPy array of a column without nulls, strings as ``StringDType``."""
    if pa.types.is_string(values.type):
        return np.array(values.to_pylist(), dtype=STRINGS)
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def _from_text(text: pa.Array, dtype: str, nulls: tuple[float, ...]) -> pa.Array:
    text = pc.utf8_trim_whitespace(text)
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(_MISSING_WORDS))
    text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    if dtype.startswith("float"):
        return _to_float(_checked(text, lambda array: array.cast(pa.float64()), dtype), dtype, nulls)
    whole = pc.replace_substring_regex(text, _WHOLE, r"\1")
    # Arrow does not read a leading plus sign.
    whole = pc.replace_substring_regex(whole, r"^\+", "")
    return _to_integer(_checked(whole, lambda array: array.cast(pa.int64()), dtype), dtype)


def _to_float(values: pa.Array, dtype: str, nulls: tuple[float, ...]) -> pa.Array:
    numbers = np.array(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    for null in nulls:
        # A column of float32 holds the null as rounded to it: -9999.99 arrives as -9999.990234375.
        numbers[(numbers == null) | (numbers == np.float32(null))] = np.nan
    with np.errstate(over="ignore"):
        return pa.array(numbers.astype(dtype))


def _to_integer(values: pa.Array, dtype: str) -> pa.Array:
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        bad = np.isfinite(numbers) & ((numbers != np.floor(numbers)) | (np.abs(numbers) > _EXACT[values.type]))
        bad |= np.isinf(numbers)
        if bad.any():
            row = int(bad.argmax())
            raise ConversionError(dtype, row, float(numbers[row]))
        missing = np.isnan(numbers)
        values = pa.array(np.where(missing, 0, numbers).astype(np.int64), mask=missing)
    target = ARROW_TYPES[dtype]
    return pc.fill_null(_checked(values, lambda array: array.cast(target), dtype), MISSING_INTEGER)


def _checked(values: pa.Array, cast: Callable[[pa.Array], pa.Array], dtype: str) -> pa.Array:
    """Cast a block; if that fails, find the first value at which it does."""
    try:
        return cast(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for row in range(len(values)):
            try:
                cast(values.slice(row, 1))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise ConversionError(dtype, row, values[row].as_py()) from error
        raise
