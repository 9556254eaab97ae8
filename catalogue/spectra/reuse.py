"""Rows whose spectra an earlier store holds already, wherever the parent table has moved them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.spectra.keys import key_hashes
from catalogue.spectra.parent import read_parent_columns
from catalogue.spectra.paths import SpectraRoot
from catalogue.spectra.primitives import RowStatus, SpectrumError, is_usable
from catalogue.spectra.store import PIXEL_ARRAYS, open_store, read_rows
from catalogue.spectra.unit_rows import SIGNATURES, ChunkRows
from catalogue.surveys.base import Survey

_LEAST_SHARE = 16
_SMALL_CHUNK_ROWS = 512
"""A chunk of the earlier store with more rows is decoded only if at least 1/16 of them are wanted: below that, reading
the files is faster, and a shuffled table of a large survey would decode every chunk for every unit."""

_DECIDED_BY_FILE = (
    RowStatus.OK,
    RowStatus.UNREADABLE,
    RowStatus.TRUNCATED,
    RowStatus.EMPTY_FILE,
    RowStatus.WRONG_SHAPE,
    RowStatus.ALL_NAN,
    RowStatus.ZERO_IVAR,
    RowStatus.MISSING_CARD,
    RowStatus.KEY_MISMATCH,
    RowStatus.DUPLICATE,
)


class EarlierRows:
    """An earlier store from which unchanged rows are copied.

    A row is unchanged if a row with the same path has the same parent values there, and its file has the size and the
    modification time that are written there.

    Parameters
    ----------
    store, parent : Path
        The earlier store and the imported parent table that it was made from.
    survey : Survey
    key : str
        Nothing is taken from a store with another survey, reader version, grid or key, or without the survey's columns.
    """

    def __init__(self, store: Path, parent: Path, survey: Survey, key: str) -> None:
        self._parent = parent
        self._store = store
        self._group = open_store(store)
        facts = self._group.attrs
        same = (facts["survey"], facts["reader_version"], facts["grid"], facts["key"]) == (
            survey.name,
            survey.reader_version,
            survey.grid.name,
            key,
        )
        same &= {column.name for column in survey.columns} <= set(self._group.array_keys())
        self._applies = same and self._group["flux"].shape[1] == survey.grid.n_pixels  # type: ignore[union-attr]
        self._chunk_rows = int(facts["chunk_rows"])  # type: ignore[arg-type]

    def copy_into(self, chunk: ChunkRows, rows: Sequence[int], root: SpectraRoot) -> set[int]:
        """Copy what is unchanged into a chunk.

        Parameters
        ----------
        chunk : ChunkRows
        rows : sequence of int
            Rows of the chunk that have a file.
        root : SpectraRoot

        Returns
        -------
        set of int
            Those of ``rows`` that were copied.
        """
        if not self._applies or not rows:
            return set()
        here = np.asarray(rows)
        there = self._rows_with_paths(chunk.unit.path[chunk.offset + here])
        taken: set[int] = set()
        for number in np.unique(there[there >= 0] // self._chunk_rows):
            inside = (there >= 0) & (there // self._chunk_rows == number)
            wanted = np.count_nonzero(inside)
            if self._chunk_rows <= _SMALL_CHUNK_ROWS or wanted * _LEAST_SHARE >= self._chunk_rows:
                taken |= self._copy_chunk(chunk, here[inside], there[inside], int(number), root)
        return taken

    def _rows_with_paths(self, paths: NDArray[Any]) -> NDArray[np.int64]:
        """Earlier row with each path, -1 if there is none."""
        import pyarrow as pa

        facts = self._parent.stat()
        ordered, order = _paths_of(self._parent, facts.st_mtime_ns, facts.st_size)
        hashes, _ = key_hashes(pa.array(paths.tolist(), pa.string()))
        at = np.searchsorted(ordered, hashes)
        found = np.full(len(hashes), -1, np.int64)
        within = at < len(ordered)
        matches = np.flatnonzero(within)[ordered[at[within]] == hashes[within]]
        found[matches] = order[at[matches]]
        return found

    def _copy_chunk(
        self,
        chunk: ChunkRows,
        here: NDArray[np.int64],
        there: NDArray[np.int64],
        number: int,
        root: SpectraRoot,
    ) -> set[int]:
        """Copy rows out of one chunk of the earlier store."""
        start = number * self._chunk_rows
        stop = min(start + self._chunk_rows, int(self._group["flux"].shape[0]))  # type: ignore[union-attr]
        unit = chunk.unit
        per_row = [*unit.columns, "status", "reason", *SIGNATURES]
        if not self._has_chunks(per_row, start):
            return set()
        earlier = read_rows(self._group, per_row, start, stop)
        earlier["path"] = read_parent_columns(self._parent, ["path"], start, stop)["path"]
        at = there - start
        from_file = {column.name for column in unit.from_file}
        same = np.isin(earlier["status"][at], _DECIDED_BY_FILE)
        same &= earlier["path"][at] == unit.path[chunk.offset + here]
        for name, values in unit.columns.items():
            if name not in from_file:
                same &= _equal(earlier[name][at], values[chunk.offset + here])
        for i in np.flatnonzero(same):
            expected = tuple(int(earlier[name][at[i]]) for name in SIGNATURES)
            same[i] = _signature(root, chunk.path_of(int(here[i]))) == expected
        here, at = here[same], at[same]
        if not len(here):
            return set()
        status = earlier["status"][at]
        was_usable = is_usable(status)
        if was_usable.any() and not self._has_chunks(("flux", "ivar"), start):
            return set()
        for name in from_file:
            unit.columns[name][chunk.offset + here] = earlier[name][at]
        unit.status[chunk.offset + here] = np.where(status == RowStatus.DUPLICATE, RowStatus.OK, status)
        unit.reason[chunk.offset + here[~was_usable]] = earlier["reason"][at[~was_usable]]
        for column, name in enumerate(SIGNATURES):
            unit.signature[chunk.offset + here, column] = earlier[name][at]
        if was_usable.any():
            for name in PIXEL_ARRAYS:
                getattr(chunk, name)[here] = read_rows(self._group, [name], start, stop)[name][at]
        return set(here.tolist())

    def _has_chunks(self, names: Sequence[str], row: int) -> bool:
        """Whether the chunks of a row are on disk; a missing one would be read as rows without values."""
        for name in names:
            array: Any = self._group[name]
            tail = ("0",) * (array.ndim - 1)
            if not self._store.joinpath(array.name.strip("/"), "c", str(row // array.chunks[0]), *tail).is_file():
                return False
        return True


def _signature(root: SpectraRoot, path: str) -> tuple[int, int] | None:
    try:
        _, facts = root.locate(path)
    except SpectrumError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _equal(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    equal = left == right
    if left.dtype.kind == "f":
        equal |= np.isnan(left) & np.isnan(right)
    return np.asarray(equal)


@lru_cache(maxsize=1)
def _paths_of(parent: Path, mtime_ns: int, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sorted hashes of the paths of an imported table, and their rows; rows without a path are left out."""
    hashes, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    first = 0
    with pq.ParquetFile(parent) as source:
        for number in range(source.num_row_groups):
            paths = source.read_row_group(number, columns=["path"]).column(0).combine_chunks()
            block, missing = key_hashes(paths)
            hashes.append(block[~missing])
            rows.append(first + np.flatnonzero(~missing))
            first += len(block)
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(rows)[order]
