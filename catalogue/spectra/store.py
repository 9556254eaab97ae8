"""Row-aligned Zarr groups: creation, checks, and access to blocks of rows.

``spectra.zarr`` and the predictions are such groups: every array but ``wavelength`` has rows along its first axis,
one per row of the parent table. Two-dimensional arrays have chunks of ``chunk_rows`` rows and all pixels, per-row
arrays of ``unit_rows`` rows, so that a unit owns whole chunks of all of them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from catalogue.spectra.primitives import GRANULE_ROWS, MISSING_INTEGER, RowColumn, RowStatus
from catalogue.surveys.base import Survey

LAYOUT_VERSION = 1
_CHUNK_BYTES = 64 << 20
_LEAST_CHUNKS = 8
PIXEL_ARRAYS = ("flux", "ivar", "mask")
_FEW_ARRAYS = 4
"""Arrays that are read one after the other; of more, so many at a time."""

# Measured on real spectra with one thread: bit shuffle and LZ4 take flux to 1/1.43 at 2 GB/s in and 4 GB/s out, where
# Zstandard takes it to 1/1.48 at 0.3 and 1 GB/s. Noise does not compress, whatever the codec.
_PIXEL_CODEC = BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")
_NUMBER_CODEC = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
_STRING_CODEC = ZstdCodec(level=3)


class StoreError(Exception):
    """A store that is not what it should be, or a write that would damage it."""


def choose_chunk_rows(n_rows: int, n_pixels: int) -> int:
    """Rows per chunk of the two-dimensional arrays.

    Parameters
    ----------
    n_rows : int
        Rows of the parent table.
    n_pixels : int

    Returns
    -------
    int
        A multiple of 64: as many rows as take 64 MiB of float32, fewer where the survey would not fill 8 chunks.
    """
    largest = max(1, _CHUNK_BYTES // (4 * n_pixels * GRANULE_ROWS))
    wanted = -(-n_rows // (_LEAST_CHUNKS * GRANULE_ROWS))
    return GRANULE_ROWS * max(1, min(largest, wanted))


def choose_unit_rows(n_rows: int, chunk_rows: int, most_units: int = 2000) -> int:
    """Rows per unit of work: whole chunks, and at most ``most_units`` units."""
    chunks = -(-n_rows // chunk_rows)
    return chunk_rows * max(1, -(-chunks // most_units))


def create_store(path: Path, survey: Survey, n_rows: int, chunk_rows: int, unit_rows: int, key: str) -> None:
    """Create an empty ``spectra.zarr``, replacing any other; it appears complete or not at all.

    Parameters
    ----------
    path : Path
    survey : Survey
    n_rows : int
    chunk_rows : int
        Multiple of 64.
    unit_rows : int
        Multiple of ``chunk_rows``.
    key : str
        Column that identifies a row; a string column is added if it is none of the survey's.

    Raises
    ------
    StoreError
        If the numbers do not fit one another.
    """
    if chunk_rows < 1 or chunk_rows % GRANULE_ROWS or unit_rows < 1 or unit_rows % chunk_rows:
        raise StoreError(
            f"expected chunk_rows to be a multiple of {GRANULE_ROWS} and unit_rows one of chunk_rows, "
            f"found {chunk_rows} and {unit_rows}"
        )
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.create_group(partial, zarr_format=3)
    group.attrs.update(
        {
            "title": f"Spectra of {survey.title}",
            "Conventions": "CF-1.11",
            "layout_version": LAYOUT_VERSION,
            "survey": survey.name,
            "reader_version": survey.reader_version,
            "grid": survey.grid.name,
            "key": key,
            "n_rows": n_rows,
            "chunk_rows": chunk_rows,
            "unit_rows": unit_rows,
            "coordinates": "wavelength",
        }
    )
    _create_pixel_arrays(group, survey, n_rows, chunk_rows)
    for column in _bookkeeping_columns() + _row_columns(survey, key):
        _create_row_array(group, column, n_rows, unit_rows)
    _describe_status(group["status"])
    _finish(partial, path)


def create_row_arrays(
    path: Path,
    columns: Sequence[Any],
    n_rows: int,
    unit_rows: int,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create a group of per-row arrays, or bring an existing one to ``n_rows`` rows.

    Values stay when rows are added; a group with other columns, types, chunks or attributes is replaced, since its
    values are of no use.

    Parameters
    ----------
    path : Path
    columns : sequence
        Objects with ``name``, ``dtype``, ``unit`` and ``description``.
    n_rows, unit_rows : int
    attributes : mapping, optional
        Attributes of the group.
    """
    if path.is_dir() and _resized(path, columns, n_rows, unit_rows, attributes or {}):
        return
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(partial, zarr_format=3)
    group.attrs.update({**(attributes or {}), "n_rows": n_rows, "unit_rows": unit_rows})
    for column in columns:
        _create_row_array(group, column, n_rows, unit_rows)
    _finish(partial, path)


def open_store(path: Path, mode: str = "r") -> zarr.Group:
    """Open a group of this module.

    Raises
    ------
    StoreError
        If it is missing or of another layout.
    """
    try:
        changed_ns = (path / "zarr.json").stat().st_mtime_ns
        group = _opened(str(path), mode, changed_ns)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: expected a Zarr group, found none: {error}") from error
    version = group.attrs.get("layout_version", LAYOUT_VERSION)
    if version != LAYOUT_VERSION:
        raise StoreError(f"{path}: expected layout version {LAYOUT_VERSION}, found {version}")
    return group


def read_rows(store: Path | zarr.Group, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows ``start`` to ``stop`` of some arrays.

    Parameters
    ----------
    store : Path or zarr.Group
    names : sequence of str
        Array names, or their only match ignoring case; returned under the names asked for.
    start, stop : int

    Returns
    -------
    dict of str to ndarray
        Shape ``(stop - start,)`` or ``(stop - start, pixels)``; strings as ``StringDType``.

    Raises
    ------
    StoreError
        If an array is missing or shorter.
    """
    arrays = [_array(store, name) for name in names] if isinstance(store, zarr.Group) else _opened_arrays(store, names)
    for name, array in zip(names, arrays, strict=True):
        if not 0 <= start <= stop <= array.shape[0]:
            raise StoreError(f"{array.store_path}: {name} has rows 0 to {array.shape[0]}, asked for {start} to {stop}")
    if len(arrays) < _FEW_ARRAYS:
        values = [np.asarray(array[start:stop]) for array in arrays]
    else:
        # With small arrays most of the time goes by in Zarr's event loop.
        with ThreadPoolExecutor(_FEW_ARRAYS) as pool:
            values = list(pool.map(lambda array: np.asarray(array[start:stop]), arrays))
    return dict(zip(names, values, strict=True))


def write_rows(store: Path | zarr.Group, values: Mapping[str, NDArray[Any]], start: int) -> None:
    """Write whole chunks of rows from ``start`` on.

    Parameters
    ----------
    store : Path or zarr.Group
    values : mapping of str to ndarray
    start : int

    Raises
    ------
    StoreError
        If an array is missing, or the rows are not whole chunks of it (see :func:`check_alignment`).
    """
    group = store if isinstance(store, zarr.Group) else open_store(store, "r+")
    for name, rows in values.items():
        array = _array(group, name)
        stop = start + len(rows)
        check_alignment(array, start, stop)
        if stop > start:
            # Missing chunks of pixels save files; a missing chunk of per-row values would look like "never written".
            array.with_config({"write_empty_chunks": array.ndim == 1})[start:stop] = rows


def check_alignment(array: zarr.Array, start: int, stop: int) -> None:
    """Refuse rows that are not whole chunks: two writers in one chunk lose data without a word.

    Raises
    ------
    StoreError
        If ``start`` is not the first row of a chunk, or ``stop`` neither the last of one nor of the array.
    """
    rows, total = array.chunks[0], array.shape[0]
    if start % rows or not (stop % rows == 0 or stop == total) or not 0 <= start <= stop <= total:
        raise StoreError(
            f"{array.store_path}: expected whole chunks of {rows} rows within {total}, found rows {start} to {stop}"
        )


def fill_value(dtype: str) -> Any:
    """Value of rows that were never written: NaN, -9999, 0 for unsigned integers, or the empty string."""
    if dtype == "str":
        return ""
    kind = np.dtype(dtype).kind
    if kind == "f":
        return float("nan")
    return MISSING_INTEGER if kind == "i" else 0


def _bookkeeping_columns() -> list[RowColumn]:
    return [
        RowColumn("status", "uint8", "", "What became of the row"),
        RowColumn("reason", "str", "", "Why the row has no usable spectrum, expected and found"),
        RowColumn("file_size", "int64", "byte", "Size of the file when it was read"),
        RowColumn("file_mtime_ns", "int64", "1e-9 s", "Modification time of the file when it was read, since 1970"),
    ]


def _row_columns(survey: Survey, key: str) -> list[RowColumn]:
    columns = list(survey.columns)
    if key.lower() not in {column.name.lower() for column in columns}:
        columns.append(RowColumn(key, "str", "", "Key of the parent table"))
    return columns


def _create_pixel_arrays(group: zarr.Group, survey: Survey, n_rows: int, chunk_rows: int) -> None:
    n_pixels = survey.grid.n_pixels
    ivar_unit = f"({survey.flux_unit})^-2" if survey.flux_unit else "1"
    described: dict[str, tuple[str, dict[str, Any]]] = {
        "flux": ("float32", {"long_name": "Flux on the survey's own pixels", "units": survey.flux_unit or "1"}),
        "ivar": (
            "float32",
            {"long_name": "Inverse variance of flux, 0 where there is no information", "units": ivar_unit},
        ),
        "mask": (
            survey.mask_dtype,
            {
                "long_name": "Mask bits of the survey",
                "flag_masks": [1 << bit.bit for bit in survey.mask_bits],
                "flag_meanings": " ".join(bit.name for bit in survey.mask_bits),
                "flag_descriptions": {bit.name: bit.description for bit in survey.mask_bits},
            },
        ),
    }
    for name, (dtype, attributes) in described.items():
        group.create_array(
            name,
            shape=(n_rows, n_pixels),
            chunks=(chunk_rows, n_pixels),
            dtype=dtype,
            fill_value=float("nan") if name == "flux" else 0,
            compressors=[_PIXEL_CODEC],
            dimension_names=("row", "pixel"),
            attributes=attributes,
        )
    wavelength = group.create_array(
        "wavelength",
        shape=(n_pixels,),
        chunks=(n_pixels,),
        dtype="float64",
        compressors=[_NUMBER_CODEC],
        dimension_names=("pixel",),
        attributes={"long_name": "Vacuum wavelength", "units": "Angstrom", "standard_name": "radiation_wavelength"},
    )
    wavelength[:] = survey.grid.wavelength()


def _create_row_array(group: zarr.Group, column: Any, n_rows: int, unit_rows: int) -> None:
    attributes = {"long_name": column.description or column.name}
    if column.dtype != "str":
        attributes["units"] = column.unit or "1"
    if column.dtype.startswith("int"):
        attributes["comment"] = f"{MISSING_INTEGER} where missing"
    group.create_array(
        column.name,
        shape=(n_rows,),
        chunks=(unit_rows,),
        dtype=column.dtype,
        fill_value=fill_value(column.dtype),
        compressors=[_STRING_CODEC if column.dtype == "str" else _NUMBER_CODEC],
        dimension_names=("row",),
        attributes=attributes,
    )


def _describe_status(status: Any) -> None:
    status.attrs.update(
        {
            "flag_values": [int(value) for value in RowStatus],
            "flag_meanings": " ".join(value.name.lower() for value in RowStatus),
            "flag_descriptions": {value.name.lower(): value.meaning for value in RowStatus},
        }
    )
    status.attrs.pop("units", None)


def _resized(path: Path, columns: Sequence[Any], n_rows: int, unit_rows: int, attributes: Mapping[str, Any]) -> bool:
    """Bring an existing group to ``n_rows`` rows if its arrays are the wanted ones."""
    try:
        group = open_store(path, "r+")
    except StoreError:
        return False
    arrays = dict(group.arrays())
    wanted = {column.name: np.dtype(column.dtype) for column in columns if column.dtype != "str"}
    same = set(arrays) == {column.name for column in columns} and all(
        arrays[name].dtype == dtype for name, dtype in wanted.items()
    )
    if not same or any(array.chunks != (unit_rows,) for array in arrays.values()):
        return False
    facts = {**attributes, "n_rows": n_rows, "unit_rows": unit_rows}
    if {**group.attrs, "n_rows": n_rows} != facts:
        return False
    if group.attrs["n_rows"] == n_rows and all(array.shape == (n_rows,) for array in arrays.values()):
        return True
    for array in arrays.values():
        array.resize((n_rows,))
    group.attrs.put(facts)
    _consolidate(path)
    return True


@lru_cache(maxsize=16)
def _opened(path: str, mode: str, changed_ns: int) -> zarr.Group:
    # The metadata's time is part of the cache's key, so that a store that was replaced or resized is opened anew.
    return zarr.open_group(path, mode=mode, zarr_format=3)  # type: ignore[arg-type]


def _opened_arrays(store: Path, names: Sequence[str]) -> list[zarr.Array]:
    open_store(store)
    changed_ns = (store / "zarr.json").stat().st_mtime_ns
    return [_opened_array(str(store), changed_ns, name) for name in names]


@lru_cache(maxsize=256)
def _opened_array(path: str, changed_ns: int, name: str) -> zarr.Array:
    # Looking an array up takes as long as reading a unit of it.
    return _array(_opened(path, "r", changed_ns), name)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    found = group.get(name)
    if found is None:
        same = [candidate for candidate in group.array_keys() if candidate.lower() == name.lower()]
        found = group.get(same[0]) if len(same) == 1 else None
    if not isinstance(found, zarr.Array):
        raise StoreError(f"{group.store_path}: expected an array {name}, found {', '.join(sorted(group.array_keys()))}")
    return found


def _finish(partial: Path, path: Path) -> None:
    """Consolidate a complete group and give it its name."""
    _consolidate(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _consolidate(path: Path) -> None:
    with warnings.catch_warnings():
        # Metadata in one file is not yet in the format's text, but zarr-python and xarray read it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
