"""What an expression may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Value: TypeAlias = Any
"""An array with one element per row, a scalar, a tuple of scalars or None."""


def is_missing(values: Value) -> NDArray[np.bool_]:
    """Where values are NaN; False for anything that cannot be NaN.

    Parameters
    ----------
    values : array_like

    Returns
    -------
    ndarray of bool, shape of ``values``
    """
    array = np.asarray(values)
    return np.isnan(array) if array.dtype.kind in "fc" else np.zeros(array.shape, bool)


def outside(interval: tuple[float, float] | None, values: Value) -> NDArray[np.bool_]:
    """Where values are not known to lie in a closed interval.

    Parameters
    ----------
    interval : pair of float, or None
        None is an interval that nobody declared: nothing is said to lie outside it.
    values : array_like

    Returns
    -------
    ndarray of bool, shape of ``values``
        True where the value is missing, below or above, and nowhere if ``interval`` is None.
    """
    array = np.asarray(values)
    if interval is None:
        return np.zeros(array.shape, bool)
    low, high = interval
    return ~((array >= low) & (array <= high))


def above(limit: float | None, values: Value) -> NDArray[np.bool_]:
    """Where values exceed a limit: nowhere if the limit is None, and not where they are missing.

    Parameters
    ----------
    limit : float or None
    values : array_like

    Returns
    -------
    ndarray of bool, shape of ``values``
    """
    array = np.asarray(values)
    return np.zeros(array.shape, bool) if limit is None else np.asarray(array > limit)


def bit(values: Value, *numbers: int) -> NDArray[np.bool_]:
    """Where any of the numbered bits of an integer column is set.

    Parameters
    ----------
    values : array_like of integers
    *numbers : int
        Zero-based bit numbers.

    Returns
    -------
    ndarray of bool, shape of ``values``
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"bit() takes an integer column, found {array.dtype}")
    width = array.dtype.itemsize * 8
    if not numbers or not all(isinstance(number, int) and 0 <= number < width for number in numbers):
        raise TypeError(f"bit() takes bit numbers from 0 to {width - 1}, found {numbers}")
    unsigned = array.view(f"u{array.dtype.itemsize}")
    return np.asarray((unsigned & sum({1 << number for number in numbers})) != 0)


def _strings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``numpy.strings`` function take object and fixed-width columns alike."""

    def apply(values: Value, *arguments: str) -> Any:
        return function(np.asarray(values).astype(np.dtypes.StringDType()), *arguments)

    return apply


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isfinite": np.isfinite,
    "isinf": np.isinf,
    "isnan": is_missing,
    "where": np.where,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "radians": np.radians,
    "degrees": np.degrees,
    "hypot": np.hypot,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "clip": np.clip,
    "outside": outside,
    "above": above,
    "bit": bit,
    "startswith": _strings(np.strings.startswith),
    "endswith": _strings(np.strings.endswith),
    "contains": _strings(lambda values, part: np.strings.find(values, part) >= 0),
    "strip": _strings(np.strings.strip),
    "lower": _strings(np.strings.lower),
    "upper": _strings(np.strings.upper),
}
"""What an expression may call."""

CONSTANTS: dict[str, float] = {"nan": float("nan"), "inf": float("inf")}
"""Names that always mean a number."""
