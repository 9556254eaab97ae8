"""The sky that a catalogue covers, as an IVOA MOC. Needs ``mocpy`` (extra ``hats``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COVERAGE_ORDER = 8
"""Pixels of 0.23 degrees: finer than a plate, coarser than the distance of stars in a sparse field."""


def coverage_of(counts: NDArray[np.integer]) -> Any:
    """Coverage of a catalogue: every pixel of order 8 that holds a row.

    Parameters
    ----------
    counts : ndarray, shape (786432,)
        Rows per nested pixel of :data:`COVERAGE_ORDER`.

    Returns
    -------
    mocpy.MOC
    """
    from mocpy import MOC

    pixels = np.flatnonzero(counts).astype(np.uint64)
    if not len(pixels):
        return MOC.new_empty(COVERAGE_ORDER)
    depth = np.full(len(pixels), COVERAGE_ORDER, np.uint8)
    return MOC.from_healpix_cells(pixels, depth, COVERAGE_ORDER)


def write_coverage(path: Path, coverage: Any, provenance: Mapping[str, str]) -> None:
    """Write a MOC as FITS (IVOA MOC 2.0), with the date of the run instead of the clock's.

    Parameters
    ----------
    path : Path
    coverage : mocpy.MOC
    provenance : mapping of str to str
    """
    hdus = coverage.serialize("fits")
    for hdu in hdus:
        hdu.header.remove("DATE", ignore_missing=True)
    for keyword in ("DATE", "CREATOR", "PRODUCT", "PRODVER"):
        if keyword in provenance:
            hdus[1].header[keyword] = provenance[keyword]
    hdus.writeto(path, overwrite=True)
