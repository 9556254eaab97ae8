"""A limited number of spectra for the page, chosen and read without going through the whole store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from catalogue.report.schema import readable_unit
from catalogue.spectra.primitives import is_usable

MOST_CHUNKS = 16
"""Chunks of the spectra store that are decoded at most: one chunk is tens of megabytes."""


@dataclass(frozen=True)
class ExampleSpectra:
    """Spectra of some rows.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Catalogue rows, ascending.
    wavelength : ndarray of float64, shape (pixels,)
    flux, error : ndarray of float32, shape (n, pixels)
        NaN where a pixel carries no information.
    wavelength_unit, flux_unit : str
    """

    rows: NDArray[np.int64]
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    error: NDArray[np.float32]
    wavelength_unit: str
    flux_unit: str


def choose_rows(
    candidates: NDArray[np.int64], priority: NDArray[np.uint64], count: int, chunk_rows: int
) -> NDArray[np.int64]:
    """Rows to show: in order of priority, out of as few chunks as is allowed.

    Parameters
    ----------
    candidates : ndarray of int64, shape (n,)
    priority : ndarray of uint64, shape (n,)
        Lowest first; uniform numbers make a uniform choice.
    count : int
    chunk_rows : int
        Rows per chunk of the store.

    Returns
    -------
    ndarray of int64
        At most ``count`` rows, ascending.
    """
    ordered = candidates[np.argsort(priority)]
    chunks: set[int] = set()
    chosen: list[int] = []
    for row in ordered.tolist():
        if len(chosen) == count:
            break
        if row // chunk_rows in chunks or len(chunks) < MOST_CHUNKS:
            chunks.add(row // chunk_rows)
            chosen.append(row)
    return np.array(sorted(chosen), np.int64)


def read_spectra(path: Path, candidates: NDArray[np.int64], priority: NDArray[np.uint64], count: int) -> ExampleSpectra:
    """Read the spectra of some of the candidate rows.

    Parameters
    ----------
    path : Path
        ``spectra.zarr``.
    candidates, priority : ndarray, shape (n,)
        See :func:`choose_rows`; rows without a usable spectrum are left out.
    count : int
        Spectra at most.

    Raises
    ------
    ValueError
        If the store has fewer rows than the catalogue.
    """
    store = zarr.open_group(path, mode="r")
    arrays: dict[str, zarr.Array] = {name: store[name] for name in ("flux", "ivar", "status", "wavelength")}  # type: ignore[misc]
    flux, ivar, status, wavelength = arrays.values()
    if len(candidates) and candidates.max() >= flux.shape[0]:
        raise ValueError(f"{path}: expected more than {candidates.max()} rows, found {flux.shape[0]}")
    usable = is_usable(_read_by_chunk(status, candidates))
    rows = choose_rows(candidates[usable], priority[usable], count, flux.chunks[0])
    values, weights = (_read_by_chunk(array, rows) for array in (flux, ivar))
    known = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    error = np.full_like(values, np.nan)
    error[known] = 1.0 / np.sqrt(weights[known])
    return ExampleSpectra(
        rows,
        np.asarray(wavelength[:], np.float64),
        np.where(known, values, np.nan).astype(np.float32),
        error.astype(np.float32),
        readable_unit(str(wavelength.attrs.get("units", "Angstrom"))),
        readable_unit(str(flux.attrs.get("units", ""))),
    )


def _read_by_chunk(array: zarr.Array, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array, one decoded chunk at a time, so that memory stays at one chunk."""
    result = np.empty((len(rows), *array.shape[1:]), array.dtype)
    chunk_rows = array.chunks[0]
    for chunk in np.unique(rows // chunk_rows):
        here = np.flatnonzero(rows // chunk_rows == chunk)
        start = int(chunk) * chunk_rows
        block = np.asarray(array[start : min(start + chunk_rows, array.shape[0])])
        result[here] = block[rows[here] - start]
    return result
