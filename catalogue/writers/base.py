"""What an output format has to offer. A new output format is one file beside this one."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import DataModel, numpy_dtype
from catalogue.writers.blocks import Blocks


class Writer(ABC):
    """Streams a catalogue, block of rows by block of rows, to one file or directory.

    The data goes to ``<path>.partial`` and appears under its name in :meth:`close`, complete or not at
    all. Bytes depend on the data, the data model and the provenance alone, not on the sizes of the blocks
    in which rows come: a format gets blocks of its own :attr:`block_rows`.

    A format implements :meth:`_write_block`, :meth:`_finish` and :meth:`_discard`. As a context manager a
    writer closes at the end and aborts on an exception.

    Parameters
    ----------
    path : Path
        Final path.
    data_model : DataModel
    n_rows : int
        Rows that will be written in all.
    provenance : mapping of str to str
        FITS-style keyword (at most 8 characters) to value, in order, written into the file's header.

    Attributes
    ----------
    format : str
        As written in ``output.formats``.
    suffix : str
        File name ending, as ``.csv.gz``.
    block_rows : int
        Rows of every block but the last.
    """

    format: ClassVar[str]
    suffix: ClassVar[str]
    block_rows: ClassVar[int]

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.data_model = data_model
        self.n_rows = n_rows
        self.provenance = dict(provenance)
        self.rows_written = 0
        self._blocks = Blocks(self.block_rows)
        self._ended = False

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows,)
            One array per data-model column in the column's dtype (``StringDType`` for strings), with the
            column's null where missing. The writer may hold on to them until it is closed.

        Raises
        ------
        ValueError
            If a column is missing, of another dtype or length, or there are more rows than announced.
        OSError
            If the disk is full. The writer has then removed what it wrote, as after any exception.
        """
        self._refuse_if_ended()
        try:
            rows = self._checked_rows(columns)
            self.rows_written += rows
            for block in self._blocks.add({column.name: columns[column.name] for column in self.data_model.columns}):
                self._write_block(block)
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Finish, flush to disk and rename into place.

        Raises
        ------
        ValueError
            If fewer or more than ``n_rows`` rows were written; nothing is left under either name then.
        """
        self._refuse_if_ended()
        try:
            if self.rows_written != self.n_rows:
                raise ValueError(f"{self.path}: expected {self.n_rows} rows, found {self.rows_written}")
            if (rest := self._blocks.rest()) is not None:
                self._write_block(rest)
            self._finish()
        except BaseException:
            self.abort()
            raise
        self._ended = True

    def abort(self) -> None:
        """Remove what was written. Does nothing after :meth:`close` or a second time."""
        if not self._ended:
            self._ended = True
            self._discard()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @abstractmethod
    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: :attr:`block_rows` of them, or fewer at the end."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete ``self.partial``, flush it to disk and rename it."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove ``self.partial``; must not fail if writing to it did."""

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise ValueError(f"{self.path}: the writer is closed or was aborted")

    def _checked_rows(self, columns: Mapping[str, NDArray[np.generic]]) -> int:
        rows = None
        for column in self.data_model.columns:
            if column.name not in columns:
                raise ValueError(f"{self.path}: column {column.name} is missing")
            values = columns[column.name]
            if values.dtype != numpy_dtype(column.dtype):
                raise ValueError(f"{self.path}: column {column.name}: expected {column.dtype}, found {values.dtype}")
            rows = len(values) if rows is None else rows
            if values.shape != (rows,):
                raise ValueError(f"{self.path}: column {column.name}: expected shape ({rows},), found {values.shape}")
        assert rows is not None  # a data model has columns
        if self.rows_written + rows > self.n_rows:
            raise ValueError(f"{self.path}: expected {self.n_rows} rows, found {self.rows_written + rows} or more")
        return rows


def publish(partial: Path, path: Path) -> None:
    """Flush a finished file to disk, give it its name, and flush the name.

    Parameters
    ----------
    partial, path : Path
        In one directory.
    """
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish_directory(partial: Path, path: Path) -> None:
    """Give a finished directory its name, in the place of any earlier one.

    Parameters
    ----------
    partial, path : Path
        In one directory.
    """
    earlier = path.with_name(path.name + ".earlier.partial")
    shutil.rmtree(earlier, ignore_errors=True)
    if path.exists():
        # A directory cannot be replaced in one step: a crash between the two leaves none, never half of one.
        path.rename(earlier)
    partial.rename(path)
    shutil.rmtree(earlier, ignore_errors=True)
