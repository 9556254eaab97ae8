"""One unit of ingest: the files of some parent rows into the spectra store.

Everything here is plain paths and row numbers, so that a unit can run in any process. Every row ends with a status
and, if it is not usable, a reason that names the file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from catalogue.spectra.digests import ColumnDigest
from catalogue.spectra.parent import BOOKKEEPING, parent_facts, read_parent_columns
from catalogue.spectra.paths import SpectraRoot
from catalogue.spectra.primitives import RowStatus, SpectrumError
from catalogue.spectra.reuse import EarlierRows
from catalogue.spectra.store import PIXEL_ARRAYS, open_store, write_rows
from catalogue.spectra.unit_rows import SIGNATURES, ChunkRows, UnitRows
from catalogue.surveys import load_survey
from catalogue.surveys.base import Survey

_SAMPLE_ROWS = 16
_MOST_THREADS = 16


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What became of a unit.

    Attributes
    ----------
    start, stop : int
    counts : dict of str to int
        Rows by the name of their status.
    digest : str
        SHA-256, hexadecimal, over names, types and values of all arrays of the rows but the files' sizes and times,
        so that a file that was only touched changes nothing downstream.
    seconds : float
    bytes_read : int
        Bytes of the files that were opened.
    n_reused : int
        Rows that were taken from an earlier store.
    """

    start: int
    stop: int
    counts: dict[str, int]
    digest: str
    seconds: float
    bytes_read: int
    n_reused: int = 0


def ingest_unit(
    store: Path,
    parent: Path,
    survey_name: str,
    root: Path,
    start: int,
    stop: int,
    *,
    reuse: tuple[str, str] | None = None,
    threads: int | None = None,
) -> IngestSummary:
    """Read the files of rows ``start`` to ``stop`` into a store.

    Parameters
    ----------
    store : Path
        ``spectra.zarr``.
    parent : Path
        Imported parent table.
    survey_name : str
    root : Path
        Directory of the spectra, out of which no path may lead.
    start, stop : int
        Whole units of the store.
    reuse : (store, parent), optional
        An earlier store and its parent table: rows whose parent values, path and file (size and time) are the same
        there are copied instead of read.
    threads : int, optional
        Files in flight. By default 1 to 16, as many as it takes to fill the time that a file system lets us wait.

    Returns
    -------
    IngestSummary

    Raises
    ------
    OSError
        If the file system does not answer, which is worth a retry. A missing or damaged file is a row status instead.
    StoreError, ParentError
        If store and parent do not fit.

    Notes
    -----
    Holds the pixels of two chunks: one being filled, one being written.
    """
    began = time.perf_counter()
    if not root.is_dir():
        # Without this a root that is not mounted would turn every row into "no spectrum".
        raise FileNotFoundError(f"{root}: the directory of the spectra is not there")
    unit = UnitRows(load_survey(survey_name), open_store(store, "r+"), parent, start, stop)
    earlier = None if reuse is None else EarlierRows(Path(reuse[0]), Path(reuse[1]), unit.survey, unit.key)
    reader = _Reader(unit.survey, SpectraRoot(root))
    digest = ColumnDigest()
    n_reused = _ingest_chunks(unit, reader, earlier, digest, threads)
    columns = unit.finished_columns()
    write_rows(unit.group, columns, start)
    digest.update({name: values for name, values in columns.items() if name not in SIGNATURES})
    counts = Counter(RowStatus(int(value)).name for value in columns["status"])
    return IngestSummary(
        start, stop, dict(counts), digest.hexdigest(), time.perf_counter() - began, reader.bytes_read, n_reused
    )


def input_digest(parent: Path, root: SpectraRoot, start: int, stop: int) -> str:
    """Digest of everything that decides what :func:`ingest_unit` gives for some rows, without opening a file.

    Parameters
    ----------
    parent : Path
        Imported parent table.
    root : SpectraRoot
    start, stop : int

    Returns
    -------
    str
        SHA-256, hexadecimal, over the rows' survey columns, keys, paths, selection and duplicates, and the size and
        modification time of each selected row's file (or that there is none).

    Raises
    ------
    OSError
        If the file system does not answer.
    """
    facts = parent_facts(parent)
    names = dict.fromkeys([*facts["survey_columns"], facts["key"], *BOOKKEEPING])
    columns = read_parent_columns(parent, list(names), start, stop)
    signatures = np.full((stop - start, 2), -1, np.int64)
    for row in np.flatnonzero(columns["selected"] & (columns["path"] != "")):
        try:
            _, found = root.locate(str(columns["path"][row]))
        except SpectrumError as error:
            signatures[row] = -2, int(error.status)
        else:
            signatures[row] = found.st_size, found.st_mtime_ns
    digest = ColumnDigest()
    digest.update({**columns, "file": signatures})
    return digest.hexdigest()


def _ingest_chunks(
    unit: UnitRows,
    reader: _Reader,
    earlier: EarlierRows | None,
    digest: ColumnDigest,
    threads: int | None,
) -> int:
    """Fill and write the chunks of a unit, each being written while the next is filled; returns the rows reused."""
    n_reused = 0
    with ThreadPoolExecutor(threads or _MOST_THREADS) as pool, ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for first in range(unit.start, unit.stop, unit.chunk_rows):
            chunk = ChunkRows(unit, first, min(first + unit.chunk_rows, unit.stop))
            pending = chunk.rows_to_read()
            if earlier is not None:
                taken = earlier.copy_into(chunk, pending, reader.root)
                n_reused += len(taken)
                pending = [row for row in pending if row not in taken]
            _read_files(chunk, pending, reader, pool, threads)
            if written is not None:
                written.result()
            written = writer.submit(_finish_chunk, chunk, unit.group, digest)
        if written is not None:
            written.result()
    return n_reused


class _Reader:
    """Reads one row's file into a chunk."""

    def __init__(self, survey: Survey, root: SpectraRoot) -> None:
        self.survey = survey
        self.root = root
        self.bytes_read = 0

    def read(self, chunk: ChunkRows, row: int) -> int:
        """Read a row; returns the size of its file."""
        path = chunk.path_of(row)
        size = 0
        try:
            full, facts = self.root.locate(path)
            # Before reading: a file that is replaced meanwhile keeps the older time and is found stale.
            chunk.set_signature(row, facts.st_size, facts.st_mtime_ns)
            size = facts.st_size
            spectrum = self.survey.read(Path(full))
            chunk.put(row, spectrum)
            mismatch = self.survey.contradiction(chunk.parent_values(row), spectrum)
            if mismatch is not None:
                chunk.clear(row)
                raise SpectrumError(RowStatus.KEY_MISMATCH, f"{path}: {mismatch}")
            chunk.set_status(row, RowStatus.OK)
        except SpectrumError as error:
            chunk.set_status(row, error.status, error.reason)
        except Exception as error:
            error.add_note(f"while reading {path} for row {chunk.first + row}")
            raise
        return size


def _read_files(
    chunk: ChunkRows, rows: Sequence[int], reader: _Reader, pool: ThreadPoolExecutor, threads: int | None
) -> None:
    """Read the files of some rows, several at a time where that pays."""

    def read_some(some: Sequence[int]) -> int:
        return sum(reader.read(chunk, row) for row in some)

    elapsed, busy = time.perf_counter(), time.thread_time()
    reader.bytes_read += read_some(rows[:_SAMPLE_ROWS])
    elapsed, busy = time.perf_counter() - elapsed, time.thread_time() - busy
    rest = rows[_SAMPLE_ROWS:]
    if threads is None:
        # A core that decompresses all the time gains nothing from threads, which then only wait for one another.
        threads = min(_MOST_THREADS, max(1, round(elapsed / max(busy, 1e-6))))
    if threads == 1:
        reader.bytes_read += read_some(rest)
        return
    # One share per thread, interleaved so that all of them end at about the same time.
    reader.bytes_read += sum(pool.map(read_some, [rest[i::threads] for i in range(threads)]))


def _finish_chunk(chunk: ChunkRows, group: zarr.Group, digest: ColumnDigest) -> None:
    pixels = {name: getattr(chunk, name) for name in PIXEL_ARRAYS}
    write_rows(group, pixels, chunk.first)
    digest.update(pixels)
