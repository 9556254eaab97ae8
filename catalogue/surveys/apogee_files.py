"""Reading APOGEE files: by offsets where they are plain FITS, with astropy where they are not.

Both readers give the same spectrum for every file that both can read.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogue.spectra.primitives import PixelGrid, RowStatus, Spectrum, SpectrumError
from catalogue.surveys.regular_fits import BLOCK, CARD, Cards, IrregularFileError, read_promised

UNKNOWN_ERROR = 1e9
"""Errors at least this large (1e-17 erg/s/cm²/Å) are the pipelines' way to say that a pixel holds nothing.

DR13 files have 1e10 in the gaps, DR17 files some 1e13 where every visit was masked; either is many orders
above any flux of the survey.
"""

_CARDS: dict[str, tuple[str, ...]] = {
    "file_apogee_id": ("OBJID", "OBJ"),
    "file_ra": ("RA",),
    "file_dec": ("DEC",),
    "file_snr": ("SNR",),
    "file_nvisits": ("NVISITS",),
}


@dataclass(frozen=True, slots=True)
class _Extension:
    """Row 0 of one image extension, with the file's bytes order, and its grid cards."""

    row: NDArray[np.generic]
    log10_first: float | None
    log10_step: float | None


def read_by_offset(path: Path, grid: PixelGrid) -> Spectrum:
    """Read a plain FITS file by its offsets, without opening what is not needed.

    Raises
    ------
    SpectrumError
    IrregularFileError
        If the file needs the general reader; raised before anything is decided about it.
    """
    descriptor = _open(path)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise SpectrumError(RowStatus.EMPTY_FILE, f"{path.name}: zero bytes")
        primary, offset = _primary_header(descriptor, path, size)
        extensions = []
        for number in (1, 2, 3):
            extension, offset = _image_row(descriptor, offset, size, path, number)
            extensions.append(extension)
    finally:
        os.close(descriptor)
    cards = {name: _first_card(primary, keywords) for name, keywords in _CARDS.items()}
    return _spectrum(path, grid, extensions, cards)


def read_with_astropy(path: Path, grid: PixelGrid) -> Spectrum:
    """Read any FITS file that astropy can read, compressed ones included.

    Raises
    ------
    SpectrumError
    """
    from astropy.io import fits
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VerifyWarning)
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
                header = hdus[0].header
                extensions = [_astropy_row(hdus[number], path, number) for number in (1, 2, 3)]
                cards = {name: _astropy_card(header, keywords) for name, keywords in _CARDS.items()}
    except SpectrumError:
        raise
    except FileNotFoundError as error:
        raise SpectrumError(RowStatus.NO_SPECTRUM, f"{path.name}: no such file") from error
    except EOFError as error:
        raise SpectrumError(RowStatus.TRUNCATED, f"{path.name}: compressed data end early") from error
    except IndexError as error:
        raise SpectrumError(RowStatus.TRUNCATED, f"{path.name}: expected extensions 1 to 3: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise SpectrumError(RowStatus.UNREADABLE, f"{path.name}: not FITS: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SpectrumError(RowStatus.UNREADABLE, f"{path.name}: damaged FITS: {error}") from error
    return _spectrum(path, grid, extensions, cards)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SpectrumError(RowStatus.NO_SPECTRUM, f"{path.name}: no such file") from error


def _truncated(path: Path, size: int, expected: int, where: str) -> SpectrumError:
    return SpectrumError(
        RowStatus.TRUNCATED, f"{path.name}: expected at least {expected} bytes ({where}), found {size}"
    )


def _primary_header(descriptor: int, path: Path, size: int) -> tuple[Cards, int]:
    """Primary header without data, and the offset of what follows."""
    header = read_promised(descriptor, path.name, size, 6 * BLOCK)
    if not header.startswith(b"SIMPLE  ="):
        raise IrregularFileError(f"{path.name}: no SIMPLE")
    while (end := _end_of_header(header)) < 0:
        more = read_promised(descriptor, path.name, size, 6 * BLOCK, len(header))
        if not more:
            raise _truncated(path, size, len(header) + BLOCK, "primary header")
        header += more
    if len(header) < end:
        raise _truncated(path, size, end, "primary header")
    cards = _cards(header[:end])
    if cards.integer("NAXIS") != 0:
        raise IrregularFileError(f"{path.name}: data in the primary unit")
    return cards, end


def _image_row(descriptor: int, offset: int, size: int, path: Path, number: int) -> tuple[_Extension, int]:
    """First row of the image extension that starts at ``offset``, and the offset of the next."""
    header = read_promised(descriptor, path.name, size, BLOCK, offset)
    if len(header) < BLOCK:
        raise _truncated(path, size, offset + BLOCK, f"header of extension {number}")
    if not header.startswith(b"XTENSION= 'IMAGE   '") or _end_of_header(header) != BLOCK:
        raise IrregularFileError(f"{path.name}: extension {number} is no image with a header of one block")
    cards = _cards(header)
    bits, axes, width = (cards.integer(keyword) for keyword in ("BITPIX", "NAXIS", "NAXIS1"))
    plain = axes in (1, 2) and bits in (8, 16, 32, 64, -32, -64) and width >= 1
    rows = cards.integer("NAXIS2") if axes == 2 else 1
    if not plain or rows < 1 or "BZERO" in cards or "BSCALE" in cards:
        raise IrregularFileError(f"{path.name}: extension {number} is no plain image")
    start, row_bytes = offset + BLOCK, abs(bits) // 8 * width
    end = start + row_bytes * rows
    if size < end:
        raise _truncated(path, size, end, f"data of extension {number}")
    content = read_promised(descriptor, path.name, size, row_bytes, start)
    dtype = np.dtype(f">{'f' if bits < 0 else 'u'}{abs(bits) // 8}")
    grid_cards = (_number(cards, keyword) for keyword in ("CRVAL1", "CDELT1"))
    return _Extension(np.frombuffer(content, dtype), *grid_cards), end + -end % BLOCK


def _end_of_header(header: bytes) -> int:
    """Length in bytes of the header up to its last block, or -1 if END is not in it."""
    position = header.find(b"END" + b" " * 77)
    while position >= 0 and position % CARD:
        position = header.find(b"END" + b" " * 77, position + 1)
    return -1 if position < 0 else (position // BLOCK + 1) * BLOCK


def _cards(header: bytes) -> Cards:
    if not header.isascii():
        raise IrregularFileError("a header that is not ASCII")
    return Cards(header)


def _number(cards: Cards, keyword: str) -> float | None:
    value = cards.value(keyword)
    return float(value) if isinstance(value, int | float) else None


def _first_card(cards: Cards, keywords: tuple[str, ...]) -> float | int | str | None:
    """Value of the first of ``keywords`` that the header has."""
    return next((cards.value(keyword) for keyword in keywords if keyword in cards), None)


def _astropy_row(hdu: object, path: Path, number: int) -> _Extension:
    data = getattr(hdu, "data", None)
    if not isinstance(data, np.ndarray) or data.dtype.names or data.ndim not in (1, 2) or data.size == 0:
        found = "nothing" if data is None else f"{data.dtype} {data.shape}"
        raise SpectrumError(
            RowStatus.WRONG_SHAPE, f"{path.name}: expected an image in extension {number}, found {found}"
        )
    row = np.atleast_2d(data)[0]
    header = hdu.header  # type: ignore[attr-defined]
    if row.dtype.kind == "i":
        row = row.view(np.dtype(row.dtype.str.replace("i", "u")))
    values = []
    for keyword in ("CRVAL1", "CDELT1"):
        value = header.get(keyword)
        values.append(float(value) if isinstance(value, int | float) else None)
    return _Extension(row, *values)


def _astropy_card(header: Mapping[str, object], keywords: tuple[str, ...]) -> float | int | str | None:
    for keyword in keywords:
        if keyword in header:
            value = header[keyword]
            return value if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    return None


def _spectrum(
    path: Path,
    grid: PixelGrid,
    extensions: list[_Extension],
    cards: Mapping[str, float | int | str | None],
) -> Spectrum:
    """Check shapes and grid, and turn errors into inverse variances."""
    flux, error, third = (extension.row for extension in extensions)
    for number, extension in enumerate(extensions, start=1):
        _check_grid(path, grid, number, extension)
    if flux.dtype.kind != "f" or error.dtype.kind != "f":
        raise SpectrumError(
            RowStatus.WRONG_SHAPE,
            f"{path.name}: expected floating-point flux and error, found {flux.dtype} and {error.dtype}",
        )
    is_apstar = third.dtype.kind == "u"
    mask = third.astype(np.uint32) if is_apstar else np.zeros(grid.n_pixels, np.uint32)
    flux32 = flux.astype(np.float32)
    ivar = _inverse_variance(flux32, error, zero_is_missing=not is_apstar)
    if not np.isfinite(flux32).any():
        raise SpectrumError(RowStatus.ALL_NAN, f"{path.name}: no finite flux in {grid.n_pixels} pixels")
    if not ivar.any():
        raise SpectrumError(
            RowStatus.ZERO_IVAR, f"{path.name}: no pixel with 0 < error < {UNKNOWN_ERROR:g} and finite flux"
        )
    known = {name: value for name, value in cards.items() if value is not None}
    known["file_layout"] = "apstar" if is_apstar else "aspcapstar"
    return Spectrum(flux32, ivar, mask, 0, known)


def _check_grid(path: Path, grid: PixelGrid, number: int, extension: _Extension) -> None:
    if extension.row.size != grid.n_pixels:
        raise SpectrumError(
            RowStatus.WRONG_SHAPE,
            f"{path.name}: expected {grid.n_pixels} pixels in extension {number}, found {extension.row.size}",
        )
    if extension.log10_first is None or extension.log10_step is None:
        raise SpectrumError(RowStatus.MISSING_CARD, f"{path.name}: extension {number} has no numeric CRVAL1 and CDELT1")
    shift = (extension.log10_first - grid.log10_first) / grid.log10_step
    stretch = (extension.log10_step - grid.log10_step) / grid.log10_step * grid.n_pixels
    if abs(shift) > 0.01 or abs(stretch) > 0.01:
        raise SpectrumError(
            RowStatus.WRONG_SHAPE,
            f"{path.name}: expected log10 λ = {grid.log10_first} + {grid.log10_step:g} i, "
            f"extension {number} has {extension.log10_first} + {extension.log10_step:g} i",
        )


def _inverse_variance(
    flux: NDArray[np.float32], error: NDArray[np.generic], *, zero_is_missing: bool
) -> NDArray[np.float32]:
    """1/error², and 0 where the pixel holds nothing.

    aspcapStar files have exact zeros in the gaps between the detectors: ``zero_is_missing`` says so.
    """
    sigma = error.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ivar = (1.0 / np.square(sigma)).astype(np.float32)
        holds = np.isfinite(flux) & np.isfinite(ivar) & (sigma > 0) & (sigma < UNKNOWN_ERROR)
    if zero_is_missing:
        holds &= flux != 0
    return np.where(holds, ivar, np.float32(0.0))
