"""The three layouts of LAMOST low-resolution files, told apart by structure.

``COADD``
    Empty primary HDU and a one-row binary table with vector columns FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK (DR9 and
    later). The primary header has NAXIS = 0 and yet NAXIS1 and NAXIS2.
``WAVELENGTH``
    Primary image (5, N): flux, ivar, wavelength, andmask, ormask (DR3 to DR8).
``SUBCONTINUUM``
    Primary image (5, N) whose row 2 is the flux over a continuum (DR1 and DR2): the wavelength is in COEFF0 and COEFF1
    alone.

DATA_V is not a guide: files that say "LAMOST DR8" exist in two layouts.
"""

from __future__ import annotations

import enum
import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.spectra.primitives import RowStatus, SpectrumError
from catalogue.surveys.regular_fits import (
    BLOCK,
    Cards,
    IrregularFileError,
    header_end,
    truncated,
)

IMAGE_ROWS = 5
_VECTORS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
_SCALING = ("BSCALE", "BZERO")
CARDS = ("OBSID", "RA", "DEC", "Z", "SNRG", "SN_G", "DATA_V", "COEFF0", "COEFF1", "EXTEN0")

CardValue = int | float | str | None


class Layout(enum.Enum):
    """Where a file keeps its five vectors; see the module."""

    COADD = "coadd"
    FIVE_ROWS = "five rows"


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file holds, unchecked and unconverted.

    Attributes
    ----------
    layout : Layout
    cards : dict
        Values of :data:`CARDS` in the primary header, None where there is none.
    flux, ivar, third, andmask, ormask : ndarray of shape (n,)
        Big-endian float32 views where the file was read by position. ``third`` is the wavelength in Å, or the flux
        over a continuum.
    """

    layout: Layout
    cards: dict[str, CardValue]
    flux: NDArray[np.floating]
    ivar: NDArray[np.floating]
    third: NDArray[np.floating]
    andmask: NDArray[np.floating]
    ormask: NDArray[np.floating]


def parse_by_position(content: bytes, name: str) -> FileContent:
    """Take a regular file apart by offsets.

    Parameters
    ----------
    content : bytes
        The whole file, decompressed.
    name : str
        For messages.

    Raises
    ------
    SpectrumError
        ``UNREADABLE``, ``TRUNCATED`` or ``WRONG_SHAPE``.
    IrregularFileError
        If the file may be good, but is not of the form that can be read by position.
    """
    if not content.startswith(b"SIMPLE  ="):
        if len(content) < BLOCK and b"SIMPLE  =".startswith(content[:9]):
            raise truncated(name, len(content), BLOCK, "header")
        raise SpectrumError(RowStatus.UNREADABLE, f"{name}: not FITS: starts with {content[:9]!r}")
    end = header_end(content, 0, name)
    header = Cards(content[:end])
    axes = header.integer("NAXIS")
    if axes == 2:
        vectors = _image_rows(content, header, end, name)
        layout = Layout.FIVE_ROWS
    elif axes == 0:
        vectors = _table_vectors(content, end, name)
        layout = Layout.COADD
    else:
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected an image of 2 axes or none, found NAXIS = {axes}")
    cards = {keyword: header.value(keyword) for keyword in CARDS}
    return FileContent(layout, cards, *vectors)


def parse_with_astropy(content: bytes, name: str) -> FileContent:
    """Take any FITS file apart that astropy can read.

    Gives what :func:`parse_by_position` gives for every file that both can read.

    Raises
    ------
    SpectrumError
        ``UNREADABLE``, ``TRUNCATED`` or ``WRONG_SHAPE``.
    """
    # Imported here because most runs never need it and it takes a third of a second.
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                return _from_hdus(hdus, name)
    except (SpectrumError, MemoryError):
        raise
    except Exception as error:
        # astropy raises almost anything for a damaged header; the content is in memory, so it cannot be the disk.
        raise SpectrumError(RowStatus.UNREADABLE, f"{name}: not readable as FITS: {error}") from error


def _image_rows(content: bytes, header: Cards, start: int, name: str) -> list[NDArray[np.floating]]:
    if any(keyword in header for keyword in _SCALING) or header.integer("BITPIX") != -32:
        raise IrregularFileError("scaled, or not float32")
    n, rows = header.integer("NAXIS1"), header.integer("NAXIS2")
    if rows != IMAGE_ROWS or n < 1:
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected an image (5, N), found ({rows}, {n})")
    _require(content, start + 4 * n * rows, "image", name)
    return list(np.frombuffer(content, ">f4", n * rows, start).reshape(rows, n))


def _table_vectors(content: bytes, start: int, name: str) -> list[NDArray[np.floating]]:
    end = header_end(content, start, name)
    width, offsets, lengths = _table_layout(content[start:end])
    if len(set(lengths)) > 1:
        found = ", ".join(f"{column} {n}" for column, n in zip(_VECTORS, lengths, strict=True))
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected vectors of one length, found {found}")
    _require(content, end + width, "table", name)
    return [np.frombuffer(content, ">f4", n, end + offset) for offset, n in zip(offsets, lengths, strict=True)]


@lru_cache(maxsize=256)
def _table_layout(content: bytes) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Row width in bytes, and the offset in bytes and the length of each of the five vectors.

    Cached because the headers of all tables of one length are the same bytes.
    """
    header = Cards(content)
    integers = {
        keyword: header.integer(keyword) for keyword in ("BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "TFIELDS")
    }
    regular = {"BITPIX": 8, "NAXIS": 2, "NAXIS2": 1, "PCOUNT": 0}
    if not content.startswith(b"XTENSION= 'BINTABLE'") or any(integers[k] != v for k, v in regular.items()):
        raise IrregularFileError("not a table of one row")
    if not 0 < integers["TFIELDS"] < 100 or b"TSCAL" in content or b"TZERO" in content:
        raise IrregularFileError("no columns, too many, or scaled")
    found: dict[str, tuple[int, int]] = {}
    offset = 0
    for number in range(1, integers["TFIELDS"] + 1):
        form = header.value(f"TFORM{number}")
        label = header.value(f"TTYPE{number}")
        if not isinstance(form, str) or not isinstance(label, str):
            raise IrregularFileError(f"column {number} without name or format")
        count, kind = form.strip()[:-1], form.strip()[-1:]
        if kind != "E" or not count.isdigit() or label.strip().upper() in found:
            raise IrregularFileError(f"column {label} has format {form}")
        found[label.strip().upper()] = (offset, int(count))
        offset += 4 * int(count)
    if offset != integers["NAXIS1"] or not all(vector in found and found[vector][1] for vector in _VECTORS):
        raise IrregularFileError("columns do not add up")
    return offset, tuple(found[v][0] for v in _VECTORS), tuple(found[v][1] for v in _VECTORS)


def _require(content: bytes, end: int, where: str, name: str) -> None:
    end += -end % BLOCK
    if len(content) < end:
        raise truncated(name, len(content), end, where)


def _from_hdus(hdus: Any, name: str) -> FileContent:
    header = hdus[0].header
    cards: dict[str, CardValue] = {}
    for keyword in CARDS:
        value = header.get(keyword)
        usable = isinstance(value, int | float | str) and not isinstance(value, bool)
        cards[keyword] = value if usable else None
    for hdu in hdus:
        _require_data(hdu, name)
    if header["NAXIS"] == 0:
        return FileContent(Layout.COADD, cards, *_coadd_vectors(hdus, name))
    image = hdus[0].data
    if image is None or image.ndim != 2 or image.shape[0] != IMAGE_ROWS:
        found = None if image is None else image.shape
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected an image (5, N), found {found}")
    return FileContent(Layout.FIVE_ROWS, cards, *image)


def _require_data(hdu: Any, name: str) -> None:
    """Refuse an HDU whose data end early, which astropy reports by a warning alone."""
    place = hdu.fileinfo()
    expected = place["datLoc"] + hdu.size
    place["file"].seek(0, 2)
    found = place["file"].tell()
    if found < expected:
        raise truncated(name, found, expected, f"HDU {hdu.name or 0}")


def _coadd_vectors(hdus: Any, name: str) -> list[NDArray[np.floating]]:
    for hdu in hdus[1:]:
        if hasattr(hdu, "columns") and set(_VECTORS) <= {column.upper() for column in hdu.columns.names}:
            break
    else:
        raise SpectrumError(
            RowStatus.WRONG_SHAPE, f"{name}: expected a table with columns {', '.join(_VECTORS)}, found none"
        )
    if len(hdu.data) != 1:
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected a table of 1 row, found {len(hdu.data)}")
    vectors = [np.asarray(hdu.data[vector][0]) for vector in _VECTORS]
    if len({vector.shape for vector in vectors}) > 1 or vectors[0].ndim != 1:
        shapes = ", ".join(f"{v} {a.shape}" for v, a in zip(_VECTORS, vectors, strict=True))
        raise SpectrumError(RowStatus.WRONG_SHAPE, f"{name}: expected vectors of one length, found {shapes}")
    return vectors
