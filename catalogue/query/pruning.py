"""Which rows a question to the sky can concern at all, from what the file says without being read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from catalogue.query.formats import format_of, open_table

UNTOUCHED = "arrays_as_opened"
"""Encoding of a dataset: names of its Dask arrays as they were opened. Any change of order or number makes others."""


def remember_arrays(dataset: xarray.Dataset) -> None:
    """Note which arrays are those of the file, so that :func:`rows_near` knows them again."""
    arrays = {name: getattr(variable.data, "name", None) for name, variable in dataset.variables.items()}
    dataset.encoding[UNTOUCHED] = arrays


def rows_near(
    dataset: xarray.Dataset, names: tuple[str, str], centre_ra: float, centre_dec: float, radius: float
) -> NDArray[np.int64] | None:
    """Rows that may lie within a cone, as ranges.

    Parameters
    ----------
    dataset : Dataset
    names : (str, str)
        Columns of right ascension and declination.
    centre_ra, centre_dec, radius : float
        Degrees.

    Returns
    -------
    ndarray of int64, shape (ranges, 2), or None
        First row and end of each range; None if nothing is known, as for other formats than Parquet and for datasets
        that are no longer the whole file in its order.
    """
    opened = dataset.encoding.get(UNTOUCHED, {})
    if any(opened.get(name) is None or opened[name] != _array_name(dataset, name) for name in names):
        return None
    source = Path(dataset.encoding.get("source", ""))
    if not source.is_file() or format_of(source) != "parquet":
        return None
    table = open_table(source)
    longitude, latitude = (table.limits(name) for name in names)
    if longitude is None or latitude is None:
        return None
    # The test is of what lies outside, so that parts without limits (NaN) stay.
    outside = (latitude.low > centre_dec + radius) | (latitude.high < centre_dec - radius)
    width = _half_width(centre_dec, radius)
    if width < 180:
        low, high = (centre_ra - width) % 360, (centre_ra + width) % 360
        beyond = (longitude.low > high) | (longitude.high < low)
        between = (longitude.low > high) & (longitude.high < low)
        in_turn = (longitude.low >= 0) & (longitude.high <= 360)
        outside |= in_turn & (beyond if low <= high else between)
    kept = np.flatnonzero(~outside)
    return np.stack([latitude.first[kept], latitude.first[kept + 1]], axis=1)


def _array_name(dataset: xarray.Dataset, name: str) -> Any:
    return getattr(dataset.variables[name].data, "name", None)


def _half_width(dec: float, radius: float) -> float:
    """Half width in right ascension of a cap; 180 where it holds a pole."""
    if abs(dec) + radius >= 90:
        return 180.0
    return float(np.degrees(np.arcsin(min(1.0, np.sin(np.radians(radius)) / np.cos(np.radians(dec)))))) + 1e-9
