"""Layout of ``spectra.zarr`` and of other row-aligned Zarr groups: creation, checks, access by rows.

Two-dimensional arrays have chunks of ``chunk_rows`` × all pixels; per-row arrays have chunks of one unit. Whoever
writes owns whole chunks: a range of rows that would share a chunk with somebody else is refused.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from catalogue.spectra.primitives import GRANULE_ROWS, MISSING_INTEGER, RowColumn, RowStatus
from catalogue.surveys import Survey

FLUX_CHUNK_BYTES = 64 * 2**20
SPECTRAL = ("flux", "ivar", "mask")


class StoreError(Exception):
    """A store that is not what it should be; the message names it, what was expected and what was found."""


@contextmanager
def _quiet_strings() -> Iterator[None]:
    """Variable-length strings are read by zarr-python and xarray alike, though their specification is a draft."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(specification|Consolidated metadata).*")
        yield


def choose_chunk_rows(n_rows: int, n_pixels: int) -> int:
    """Rows per chunk: 64 MiB of flux for a large survey, about eight chunks for a small one.

    Returns
    -------
    int
        A multiple of the 64 rows in which models compute.
    """
    largest = max(FLUX_CHUNK_BYTES // (4 * n_pixels) // GRANULE_ROWS, 1) * GRANULE_ROWS
    eighth = math.ceil(n_rows / 8 / GRANULE_ROWS) * GRANULE_ROWS
    return int(min(max(eighth, GRANULE_ROWS), largest))


def choose_unit_rows(n_rows: int, chunk_rows: int, most_units: int = 2000) -> int:
    """Rows per unit: one chunk, or as many as keep the number of units at ``most_units``."""
    chunks = max(math.ceil(n_rows / chunk_rows), 1)
    return chunk_rows * math.ceil(chunks / most_units)


def create_store(path: Path, survey: Survey, n_rows: int, chunk_rows: int, unit_rows: int, key: str) -> None:
    """Create an empty ``spectra.zarr``, replacing any other.

    Parameters
    ----------
    path : Path
    survey : Survey
        Grid, mask bits and per-row columns.
    n_rows, chunk_rows, unit_rows : int
    key : str
        Column that identifies a row.
    """
    if chunk_rows % GRANULE_ROWS or unit_rows % chunk_rows:
        raise StoreError(f"expected chunks of a multiple of {GRANULE_ROWS} rows and units of whole chunks, "
                         f"found {chunk_rows} and {unit_rows}")  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    attributes = {
        "title": f"Spectra of {survey.title}", "Conventions": "CF-1.11", "survey": survey.name,
        "grid": survey.grid.name, "key": key, "chunk_rows": chunk_rows, "unit_rows": unit_rows,
    }  # fmt: skip
    group = zarr.create_group(partial, zarr_format=3, attributes=attributes)
    pixels = survey.grid.n_pixels
    for name, dtype, facts in _spectral_arrays(survey):
        group.create_array(
            name, shape=(n_rows, pixels), chunks=(chunk_rows, pixels), dtype=dtype, fill_value=0,
            dimension_names=("row", "pixel"), attributes=facts, compressors=_codec(np.dtype(dtype).itemsize),
        )  # fmt: skip
    wavelength = group.create_array(
        "wavelength", shape=(pixels,), chunks=(pixels,), dtype="float64", dimension_names=("pixel",),
        attributes={"units": "Angstrom", "long_name": "vacuum wavelength", "standard_name": "radiation_wavelength"},
    )  # fmt: skip
    wavelength[:] = survey.grid.wavelength()
    columns = [
        RowColumn("status", "uint8", "", "what became of the row"),
        RowColumn("reason", "str", "", "why the row has no usable spectrum, or what is special about it"),
        RowColumn("file_size", "int64", "byte", "size of the file when it was read"),
        RowColumn("file_mtime_ns", "int64", "ns", "modification time of the file when it was read, since 1970"),
        *survey.columns,
    ]
    for column in columns:
        _create_row_array(group, column, n_rows, unit_rows)
    _finish(partial, path)


def _spectral_arrays(survey: Survey) -> list[tuple[str, str, dict[str, Any]]]:
    mask = {
        "long_name": "pixel mask",
        "coordinates": "wavelength",
        "flag_masks": [1 << bit.bit for bit in survey.mask_bits],
        "flag_meanings": " ".join(bit.name for bit in survey.mask_bits),
    }
    flux = {"units": survey.flux_unit, "long_name": "flux", "coordinates": "wavelength"}
    ivar = {"long_name": "inverse variance of the flux, 0 where there is no information", "coordinates": "wavelength"}
    return [("flux", "float32", flux), ("ivar", "float32", ivar), ("mask", survey.mask_dtype, mask)]


def _codec(itemsize: int) -> BloscCodec:
    return BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=itemsize)


def _create_row_array(group: zarr.Group, column: RowColumn, n_rows: int, unit_rows: int) -> None:
    facts: dict[str, Any] = {"long_name": column.description, "units": column.unit}
    attributes = {name: value for name, value in facts.items() if value}
    if column.name == "status":
        attributes["flag_values"] = [int(status) for status in RowStatus]
        attributes["flag_meanings"] = " ".join(status.name for status in RowStatus)
    text = column.dtype == "str"
    dtype: Any = np.dtypes.StringDType() if text else np.dtype(column.dtype)
    with _quiet_strings():
        group.create_array(
            column.name, shape=(n_rows,), chunks=(unit_rows,), dtype=dtype, fill_value=_fill(column),
            dimension_names=("row",), attributes=attributes,
            compressors="auto" if text else _codec(np.dtype(column.dtype).itemsize),
        )  # fmt: skip


def _fill(column: RowColumn) -> Any:
    if column.dtype.startswith("float"):
        return np.nan
    if column.dtype == "str":
        return ""
    return 0 if column.name == "status" else MISSING_INTEGER


def _finish(partial: Path, path: Path) -> None:
    with _quiet_strings():
        zarr.consolidate_metadata(partial)
    partial.rename(path)


def create_row_arrays(
    path: Path, columns: Sequence[RowColumn], n_rows: int, unit_rows: int, attributes: Mapping[str, Any]
) -> None:
    """Create a group of per-row arrays, or bring the number of rows of one that is there up to date.

    A group with other columns, chunks or attributes is replaced.
    """
    if path.is_dir():
        with _quiet_strings():
            group = zarr.open_group(path, mode="r+", use_consolidated=False)
            same = {name: array.chunks for name, array in group.arrays()} == dict.fromkeys(
                (column.name for column in columns), (unit_rows,)
            )
            if same and dict(group.attrs) == dict(attributes):
                if any(array.shape != (n_rows,) for _, array in group.arrays()):
                    for _, array in group.arrays():
                        array.resize((n_rows,))
                    zarr.consolidate_metadata(path)
                return
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.create_group(partial, zarr_format=3, attributes=dict(attributes))
    for column in columns:
        _create_row_array(group, column, n_rows, unit_rows)
    _finish(partial, path)


@lru_cache(maxsize=16)
def _open(path: str, version: int) -> zarr.Group:
    """Open a group; ``version`` changes with its metadata file, so that a replaced store is opened anew."""
    with _quiet_strings():
        return zarr.open_group(path, mode="r+", use_consolidated=False)


def open_group(path: Path) -> zarr.Group:
    """Open a store for reading and writing of rows.

    Raises
    ------
    StoreError
        If there is none.
    """
    try:
        version = (path / "zarr.json").stat().st_mtime_ns
    except FileNotFoundError as error:
        raise StoreError(f"{path}: expected a Zarr store, found none") from error
    return _open(str(path), version)


def read_rows(path: Path, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows ``start`` to ``stop`` (exclusive) of arrays, in native byte order.

    Raises
    ------
    StoreError
        If an array is missing or has fewer rows.
    """
    group = open_group(path)
    found = {}
    for name in names:
        with _quiet_strings():
            array = group.get(name)
            if not isinstance(array, zarr.Array) or array.shape[0] < stop:
                raise StoreError(f"{path}: expected {stop} rows of {name}, found {getattr(array, 'shape', None)}")
            found[name] = np.asarray(array[start:stop])
    return found


def write_rows(path: Path, columns: Mapping[str, NDArray[Any]], start: int) -> None:
    """Write rows from ``start`` on, which must be whole chunks or reach the end.

    Raises
    ------
    StoreError
        If another writer could own a part of a chunk.
    """
    group = open_group(path)
    for name, values in columns.items():
        with _quiet_strings():
            array = group[name]
            check_alignment(array.shape[0], array.chunks[0], start, start + len(values), f"{path}/{name}")
            # Zarr leaves out chunks of nothing but fill values: all-NaN would look like never written.
            array.with_config({"write_empty_chunks": True})[start : start + len(values)] = values


def check_alignment(n_rows: int, chunk_rows: int, start: int, stop: int, what: str) -> None:
    """Refuse a range of rows that shares a chunk with another range.

    Raises
    ------
    StoreError
    """
    if start % chunk_rows or (stop % chunk_rows and stop != n_rows) or stop > n_rows:
        raise StoreError(f"{what}: expected whole chunks of {chunk_rows} of {n_rows} rows, found {start} to {stop}")
