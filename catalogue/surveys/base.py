"""What a survey has to say about itself. A new survey is one file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from catalogue.spectra.primitives import FlagBit, PixelGrid, RowColumn, Spectrum


class Survey(ABC):
    """Readers, grid, mask bits and parent-table vocabulary of one survey.

    Attributes
    ----------
    name : str
        As written after ``survey:`` in a run configuration.
    title : str
        For reports.
    grid : PixelGrid
        The one native grid of all its spectra.
    mask_dtype : str
        Unsigned integer dtype of the store's ``mask``.
    mask_bits : tuple of FlagBit
        Meaning of each mask bit.
    flux_unit : str
        FITS-standard unit string of ``flux``.
    default_key : str
        Column that identifies a row when the configuration names none.
    key_is_unique : bool
        Whether a repeated key means that a row is a duplicate (``DUPLICATE``).
    default_path : str
        The survey's official tree as a path template, used when the configuration gives none.
    columns : tuple of RowColumn
        Per-row values that go into the store: from the parent table (``aliases``) or the file (``card``).
    null_values : tuple of float
        Values that the survey's tables use for "missing" in floating-point columns; stored as NaN.
    reader_version : int
        Raised whenever :meth:`read` could return something else for the same file; part of every
        ingest digest, so that stale chunks are found.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    grid: ClassVar[PixelGrid]
    mask_dtype: ClassVar[str]
    mask_bits: ClassVar[tuple[FlagBit, ...]]
    flux_unit: ClassVar[str]
    default_key: ClassVar[str]
    key_is_unique: ClassVar[bool]
    default_path: ClassVar[str]
    columns: ClassVar[tuple[RowColumn, ...]]
    null_values: ClassVar[tuple[float, ...]] = ()
    reader_version: ClassVar[int]

    @abstractmethod
    def read(self, path: Path) -> Spectrum:
        """Read one file.

        Raises
        ------
        SpectrumError
            With the row status and a reason stating expected and found. Nothing else is
            raised for a damaged file; an ``OSError`` other than "not found" (a sick file
            system) passes through, because it is worth a retry.
        """

    @abstractmethod
    def contradiction(self, row: Mapping[str, object], spectrum: Spectrum) -> str | None:
        """Why ``spectrum`` is not of the object in the parent ``row``, or None.

        Parameters
        ----------
        row : mapping
            Store columns of the row (names of :attr:`columns`), missing values as there.
        spectrum : Spectrum
        """
