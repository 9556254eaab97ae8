"""What an output format has to offer. A new output format is one file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import DataModel


class Writer(ABC):
    """Streams a catalogue, block of rows by block of rows, to one file or directory.

    The data goes to ``<path>.partial`` and appears under its name in :meth:`close`, complete or not at
    all. Bytes depend on the data, the data model and the provenance alone, not on the block sizes.

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
    """

    format: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.data_model = data_model
        self.n_rows = n_rows
        self.provenance = dict(provenance)
        self.rows_written = 0

    @abstractmethod
    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows,)
            One array per data-model column in the column's dtype (``StringDType`` for strings), with the
            column's null where missing.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish, flush to disk and rename into place.

        Raises
        ------
        ValueError
            If fewer or more than ``n_rows`` rows were written.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written."""


def check_rows(writer: Writer) -> None:
    """Refuse to finish with another number of rows than was announced.

    Raises
    ------
    ValueError
    """
    if writer.rows_written != writer.n_rows:
        raise ValueError(f"{writer.path}: expected {writer.n_rows} rows, found {writer.rows_written}")
