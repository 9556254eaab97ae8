"""Rows of a lazy dataset by a mask, chunk by chunk: chunks without a chosen row are never read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import numpy as np
import xarray
from numpy.typing import NDArray

ROW = "row"
ROW_NUMBER = "row_number"
"""Coordinate: the row of the catalogue file, which selections keep."""
BLOCK_ROWS = 131072
_GATHERED_ROWS = 1_000_000
"""Most rows that are gathered before they are put into another order."""


def row_numbers(rows: int, chunk: int) -> xarray.Variable:
    """The coordinate :data:`ROW_NUMBER`, lazily."""
    numbers = da.arange(rows, chunks=max(1, chunk), dtype=np.int64)
    return xarray.Variable((ROW,), numbers, {"long_name": "row of the catalogue, counted from 0"})


def row_blocks(
    dataset: xarray.Dataset, names: list[str], wanted: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    """Some columns block by block, in order, the next being read while one is worked on.

    Parameters
    ----------
    dataset : Dataset
    names : list of str
        Columns along :data:`ROW`.
    wanted : ndarray of int64, shape (ranges, 2), optional
        Blocks that none of these ranges of rows touches are left out.

    Yields
    ------
    int, list of ndarray
        First row of the block and the values of the columns.
    """
    rows = dataset.sizes[ROW]
    bounds = _bounds(dataset[names[0]], rows) if names else []
    if wanted is not None:
        bounds = [(start, stop) for start, stop in bounds if ((wanted[:, 0] < stop) & (wanted[:, 1] > start)).any()]
    columns = dataset[names]

    def load(bound: tuple[int, int]) -> list[NDArray[Any]]:
        # One computation for all columns: what they have in common is read once.
        loaded = columns.isel({ROW: slice(*bound)}).compute()
        return [np.asarray(loaded[name].values) for name in names]

    with ThreadPoolExecutor(1) as ahead:
        pending = [ahead.submit(load, bound) for bound in bounds[:1]]
        for number, (start, _) in enumerate(bounds):
            values = pending.pop().result()
            pending = [ahead.submit(load, bound) for bound in bounds[number + 1 : number + 2]]
            yield start, values


def _bounds(array: xarray.DataArray, rows: int) -> list[tuple[int, int]]:
    """Row ranges of whole chunks, at least a block of rows each."""
    sizes = array.chunksizes.get(ROW) or (BLOCK_ROWS,) * (rows // BLOCK_ROWS) + ((rows % BLOCK_ROWS,) if rows else ())
    bounds, start, stop = [], 0, 0
    for size in sizes:
        stop += size
        if stop - start >= BLOCK_ROWS or stop == rows:
            if stop > start:
                bounds.append((start, stop))
            start = stop
    return bounds


def mask_of(dataset: xarray.Dataset, names: list[str], chosen: Callable[..., NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Evaluate a condition on columns block by block.

    Parameters
    ----------
    dataset : Dataset
    names : list of str
    chosen : callable
        Takes the values of the columns, gives a mask of their shape.

    Returns
    -------
    ndarray of bool, shape (rows,)
    """
    mask = np.zeros(dataset.sizes[ROW], bool)
    for start, values in row_blocks(dataset, names):
        mask[start : start + len(values[0])] = chosen(*values)
    return mask


def select_rows(dataset: xarray.Dataset, mask: NDArray[np.bool_]) -> xarray.Dataset:
    """The rows where a mask is True, still lazy.

    Parameters
    ----------
    dataset : Dataset
    mask : ndarray of bool, shape (rows,)

    Returns
    -------
    Dataset
        Same variables, coordinates and attributes; chunk sizes are known.

    Notes
    -----
    ``isel`` with millions of row numbers keeps them once per variable in the graph; here all variables share one mask
    of a byte per row.
    """
    shared: dict[tuple[int, ...], tuple[da.Array, NDArray[np.int64], tuple[int, ...]]] = {}
    chosen = {}
    for name, variable in dataset.variables.items():
        if ROW not in variable.dims:
            chosen[name] = variable
        elif not isinstance(variable.data, da.Array):
            chosen[name] = variable.isel({ROW: np.flatnonzero(mask)})
        else:
            chosen[name] = _select_variable(variable, mask, shared)
    coordinates = {name: chosen.pop(name) for name in dataset.coords}
    result = xarray.Dataset(chosen, coordinates, dataset.attrs)
    result.encoding = dict(dataset.encoding)
    return result


def take_rows(dataset: xarray.Dataset, rows: NDArray[np.int64]) -> xarray.Dataset:
    """Rows by number, in any order and as often as they are asked for; each chunk is read once.

    Parameters
    ----------
    dataset : Dataset
    rows : ndarray of int64, shape (n,)
    """
    total = dataset.sizes[ROW]
    if len(rows) == total and np.array_equal(rows, np.arange(total)):
        return dataset
    distinct, inverse = np.unique(rows, return_inverse=True)
    mask = np.zeros(total, bool)
    mask[distinct] = True
    selected = select_rows(dataset, mask)
    if np.array_equal(inverse, np.arange(len(distinct))):
        return selected
    result = _in_order(selected, inverse) if len(inverse) <= _GATHERED_ROWS else selected.isel({ROW: inverse})
    result.encoding = dict(dataset.encoding)
    return result


def _in_order(dataset: xarray.Dataset, order: NDArray[np.int64]) -> xarray.Dataset:
    """Few rows in another order: gathered in one piece, where ``isel`` would plan every piece for every variable."""
    variables = {}
    for name, variable in dataset.variables.items():
        if ROW not in variable.dims or not isinstance(variable.data, da.Array):
            variables[name] = variable.isel({ROW: order}) if ROW in variable.dims else variable
            continue
        axis = variable.dims.index(ROW)
        whole = variable.data.rechunk({axis: -1})
        sizes = tuple((len(order),) if number == axis else size for number, size in enumerate(whole.chunks))
        picked = whole.map_blocks(_take, order, axis, chunks=sizes, dtype=whole.dtype, meta=whole._meta)
        variables[name] = xarray.Variable(variable.dims, picked, variable.attrs, variable.encoding)
    coordinates = {name: variables.pop(name) for name in dataset.coords}
    return xarray.Dataset(variables, coordinates, dataset.attrs)


def _take(values: NDArray[Any], order: NDArray[np.int64], axis: int) -> NDArray[Any]:
    return values[(slice(None),) * axis + (order,)]


def _select_variable(variable: xarray.Variable, mask: NDArray[np.bool_], shared: dict[Any, Any]) -> xarray.Variable:
    axis = variable.dims.index(ROW)
    array: da.Array = variable.data
    sizes = array.chunks[axis]
    if sizes not in shared:
        lazy = da.from_array(mask, chunks=(sizes,))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        counts = np.array([int(mask[a:b].sum()) for a, b in itertools.pairwise(starts)], np.int64)
        kept = np.flatnonzero(counts) if counts.any() else np.arange(min(1, len(counts)))
        shared[sizes] = (lazy.blocks[kept] if len(kept) else lazy, kept, tuple(int(count) for count in counts[kept]))
    lazy, kept, counts = shared[sizes]
    if not len(sizes):
        return variable
    blocks = array.blocks[(slice(None),) * axis + (kept,)]
    letters = "".join(chr(ord("a") + number) for number in range(array.ndim))
    picked = da.blockwise(
        _pick, letters, blocks, letters, lazy, letters[axis], axis=axis, adjust_chunks={letters[axis]: counts},
        dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype),
    )  # fmt: skip
    return xarray.Variable(variable.dims, picked, variable.attrs, variable.encoding)


def _pick(values: NDArray[Any], mask: NDArray[np.bool_], axis: int) -> NDArray[Any]:
    return np.compress(mask, values, axis=axis) if values.dtype.kind != "T" else values[mask]
