"""What every room agrees on: row status, pixel grid, mask bits, one spectrum.

This module imports nothing of the project, so that surveys, models and the
pipeline can all speak of the same things without importing one another.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GRANULE_ROWS = 64
"""Rows of the fixed-shape micro-batches in which every model computes.

A granule starts at a multiple of this number of *catalogue* rows, so that a row meets the same
neighbours in the same matrix shapes whatever the chunk size, the number of workers or the order.
"""


class RowStatus(enum.IntEnum):
    """What became of one row of the parent table.

    Every row of every store carries exactly one status. The value 0 is what an
    unwritten chunk reads as, so "not yet processed" can never look like
    "processed and missing". Values are published (they are the CF flag values
    of ``status``) and never reused.
    """

    NOT_PROCESSED = 0
    OK = 1
    NO_SPECTRUM = 2
    NOT_SELECTED = 3
    UNREADABLE = 4
    TRUNCATED = 5
    EMPTY_FILE = 6
    WRONG_SHAPE = 7
    ALL_NAN = 8
    ZERO_IVAR = 9
    MISSING_CARD = 10
    KEY_MISMATCH = 11
    DUPLICATE = 12
    OUTSIDE_ROOT = 13
    SET_ASIDE = 14

    @property
    def usable(self) -> bool:
        """Whether the row holds a spectrum that a model may be applied to."""
        return self in (RowStatus.OK, RowStatus.DUPLICATE)

    @property
    def meaning(self) -> str:
        """One sentence for reports and CF attributes."""
        return _MEANINGS[self]


_MEANINGS: dict[RowStatus, str] = {
    RowStatus.NOT_PROCESSED: "not yet processed",
    RowStatus.OK: "spectrum read and usable",
    RowStatus.NO_SPECTRUM: "no spectrum: no path in the parent table or no such file",
    RowStatus.NOT_SELECTED: "not selected by the run's selection; its file was not opened",
    RowStatus.UNREADABLE: "file cannot be read as the survey's format",
    RowStatus.TRUNCATED: "file ends early",
    RowStatus.EMPTY_FILE: "file has zero bytes",
    RowStatus.WRONG_SHAPE: "arrays have a shape or lie on a grid that the survey does not use",
    RowStatus.ALL_NAN: "no finite flux",
    RowStatus.ZERO_IVAR: "no pixel with a positive inverse variance",
    RowStatus.MISSING_CARD: "a header card that is needed is missing or not a number",
    RowStatus.KEY_MISMATCH: "the file is of another object than the parent row",
    RowStatus.DUPLICATE: "usable, and its key occurs earlier in the parent table",
    RowStatus.OUTSIDE_ROOT: "path leaves the survey's root and was refused",
    RowStatus.SET_ASIDE: "its unit of work failed repeatedly and was set aside",
}

USABLE_STATUSES: tuple[RowStatus, ...] = tuple(status for status in RowStatus if status.usable)


def is_usable(status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Vectorised :attr:`RowStatus.usable`.

    Parameters
    ----------
    status : ndarray of uint8, any shape

    Returns
    -------
    ndarray of bool, same shape
    """
    return np.isin(status, [int(s) for s in USABLE_STATUSES])


@dataclass(frozen=True, slots=True)
class FlagBit:
    """One named bit of a mask or flag.

    Attributes
    ----------
    bit : int
        Zero-based bit number.
    name : str
        Upper-case name as the survey spells it.
    description : str
    bad : bool
        Whether the pixel (or row) must not be used.
    """

    bit: int
    name: str
    description: str
    bad: bool = True


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """A log-linear wavelength grid: ``log10(wavelength/Å) = log10_first + log10_step · i``.

    Attributes
    ----------
    name : str
        Identity of the grid; a model bundle states the grid that it was trained on.
    n_pixels : int
    log10_first, log10_step : float
        In dex of Ångström, vacuum.
    """

    name: str
    n_pixels: int
    log10_first: float
    log10_step: float

    def wavelength(self) -> NDArray[np.float64]:
        """Vacuum wavelength of every pixel in Å, shape ``(n_pixels,)``."""
        return np.asarray(10.0 ** (self.log10_first + self.log10_step * np.arange(self.n_pixels)))


@dataclass(frozen=True, slots=True)
class RowColumn:
    """A per-row value that the spectra store carries beside the spectra.

    Attributes
    ----------
    name : str
        Name in the store, in the survey's terms (``teff``, ``snrg``).
    dtype : str
        ``"float64"``, ``"float32"``, ``"int64"``, ``"int32"``, ``"int16"`` or ``"str"``.
    unit : str
        FITS-standard unit string, empty if dimensionless.
    description : str
    aliases : tuple of str
        Names under which parent tables hold it; the first match, ignoring case, is taken.
        Empty if it only comes from the file.
    card : str
        Key of :attr:`Spectrum.cards` if the value comes from the file instead of the parent.

    Notes
    -----
    A missing value is NaN for floats, ``-9999`` (:data:`MISSING_INTEGER`) for
    integers and the empty string for strings.
    """

    name: str
    dtype: str
    unit: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    card: str = ""


MISSING_INTEGER = -9999


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One spectrum as read from its file, on a stretch of the survey's native grid.

    Attributes
    ----------
    flux, ivar : ndarray, shape (n,), any float dtype and byte order
        ``ivar`` is 0 where the pixel carries no information.
    mask : ndarray of integers, shape (n,)
        Survey mask bits, already in the store's bit layout.
    first_pixel : int
        Index on the survey's grid of element 0.
    cards : mapping
        File values named by the survey (keys of :attr:`RowColumn.card`).
    """

    flux: NDArray[np.floating]
    ivar: NDArray[np.floating]
    mask: NDArray[np.integer]
    first_pixel: int = 0
    cards: Mapping[str, float | int | str] = field(default_factory=dict)


class SpectrumError(Exception):
    """A spectrum that cannot be used; it becomes the row's status and is never retried.

    Parameters
    ----------
    status : RowStatus
        A status that is not usable.
    reason : str
        What was expected and what was found, for the ``reason`` column.
    """

    def __init__(self, status: RowStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[RowStatus, str]]:
        return (type(self), (self.status, self.reason))
