"""Spectra read a second way: astropy and one loop over the pixels, nothing shared with the fast readers.

Each reader gives flux, ivar and mask on the survey's whole grid, or None for a file that has no usable spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

LARGEST_APOGEE_ERROR = 1e9
"""Errors from here on mean "unknown"."""
Pixels = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.unsignedinteger]]


def read_lamost(path: Path) -> Pixels | None:
    """A LAMOST low-resolution file of any release."""
    with fits.open(path) as hdus:
        header = hdus[0].header
        if len(hdus) > 1 and hdus[1].name == "COADD":
            row = hdus[1].data[0]
            flux, ivar, andmask, ormask = (row[name] for name in ("FLUX", "IVAR", "ANDMASK", "ORMASK"))
        else:
            flux, ivar, _, andmask, ormask = hdus[0].data[:5]
        first = round((header["COEFF0"] - 3.5682) / 1e-4)
        grid = _empty(4096, np.uint16)
        for pixel in range(len(flux)):
            bits = _byte(andmask[pixel]) | _byte(ormask[pixel]) << 8
            _place(grid, first + pixel, float(flux[pixel]), float(ivar[pixel]), bits)
    return grid if (grid[1] > 0).any() else None


def read_apogee(path: Path) -> Pixels | None:
    """The combined spectrum of an apStar or asStar file, or an aspcapStar file."""
    with fits.open(path) as hdus:
        flux, error, third = (np.atleast_2d(hdus[number].data)[0] for number in (1, 2, 3))
    has_mask = third.dtype.kind in "iu"
    grid = _empty(8575, np.uint32)
    for pixel in range(len(flux)):
        sigma = float(error[pixel])
        known = 0 < sigma < LARGEST_APOGEE_ERROR and (has_mask or flux[pixel] != 0)
        bits = int(third[pixel]) % 2**32 if has_mask else 0
        _place(grid, pixel, float(flux[pixel]), 1.0 / sigma**2 if known else 0.0, bits)
        grid[0][pixel] = flux[pixel]  # infinite ones are kept, as everything is that the file has
    return grid if (grid[1] > 0).any() else None


READERS: dict[str, Callable[[Path], Pixels | None]] = {"lamost-lrs": read_lamost, "apogee": read_apogee}
"""By survey; one that is not here is compared with its own reader."""


def _empty(n_pixels: int, mask: type[np.unsignedinteger]) -> Pixels:
    return np.full(n_pixels, np.nan, np.float32), np.zeros(n_pixels, np.float32), np.zeros(n_pixels, mask)


def _place(grid: Pixels, pixel: int, flux: float, ivar: float, bits: int) -> None:
    """One pixel; without a finite flux or a positive inverse variance it tells nothing."""
    grid[0][pixel] = flux if math.isfinite(flux) else math.nan
    grid[1][pixel] = ivar if math.isfinite(flux) and math.isfinite(ivar) and ivar > 0 else 0.0
    grid[2][pixel] = bits


def _byte(value: float) -> int:
    """A mask value; what is no integer of eight bits counts as NODATA."""
    number = float(value)
    return int(number) if number in range(256) else 1 << 5
