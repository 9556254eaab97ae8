"""LAMOST low-resolution spectra (R about 1800, 3690 to 9100 Å), all releases from DR1 on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from catalogue.spectra.primitives import (
    MISSING_INTEGER,
    FlagBit,
    PixelGrid,
    RowColumn,
    RowStatus,
    Spectrum,
    SpectrumError,
)
from catalogue.surveys.base import Survey
from catalogue.surveys.lamost_files import FileContent, Layout, parse_by_position, parse_with_astropy
from catalogue.surveys.regular_fits import IrregularFileError, read_whole

_GRID = PixelGrid("lamost-lrs", n_pixels=4096, log10_first=3.5682, log10_step=1e-4)
"""The lattice of every published file. The longest has 3909 pixels and one file starts at pixel 158, so that 4067
pixels hold any of them; 4096 is the next round number, with which 4096 rows of float32 are chunks of 64 MiB."""

_LATTICE_TOLERANCE = 0.01
"""Pixels by which a file's grid may leave the lattice; COEFF0 and COEFF1 have at least 5 digits."""
_WAVELENGTH_TOLERANCE = 0.1
"""Pixels by which stored wavelengths, rounded to float32, may differ from COEFF0 and COEFF1."""
_LARGEST_FILE = 16 << 20
"""Bytes that no file exceeds after decompression; the published ones have about 110 kB."""
_LARGEST_MASK = 255
_OR_SHIFT = 8
_NODATA = 1 << 5

_MASK_NAMES = (
    ("BADCCD", "bad pixel on the CCD"),
    ("BADPROFILE", "bad profile in the extraction"),
    ("NOSKY", "no sky information at this wavelength"),
    ("BRIGHTSKY", "sky level too high"),
    ("BADCENTER", "fibre trace outside the CCD"),
    ("NODATA", "no good data"),
)
_AND_BITS = tuple(
    FlagBit(bit, f"AND_{name}", f"in all exposures: {text}", bad=bit != 3)
    for bit, (name, text) in enumerate(_MASK_NAMES)
)
_OR_BITS = tuple(
    FlagBit(bit + _OR_SHIFT, f"OR_{name}", f"in at least one exposure: {text}", bad=False)
    for bit, (name, text) in enumerate(_MASK_NAMES)
)


def _parent(name: str, dtype: str, unit: str, description: str, *more: str) -> RowColumn:
    return RowColumn(name, dtype, unit, description, aliases=(name, *more))


def _file(name: str, dtype: str, unit: str, description: str) -> RowColumn:
    return RowColumn(name, dtype, unit, description, card=name)


class LamostLowResolution(Survey):
    """Reader of LAMOST low-resolution files and vocabulary of the "LRS stellar" catalogues.

    Parameters
    ----------
    position_tolerance : float
        Arcseconds by which a file's RA and DEC may differ from the parent row's where OBSID cannot be compared
        (DR1 and DR2 files have none). Our choice: 5″ is wider than a fibre (3.3″) and than proper motions over the
        survey, and far below the distance of fibres.

    Notes
    -----
    The names of the mask bits are from memory of the survey's documentation, not verified; the bits are stored as
    they are, andmask in bits 0 to 7 and ormask in bits 8 to 15. A mask value that is no integer from 0 to 255 sets
    NODATA. No bit but those of andmask counts as bad, and BRIGHTSKY does not.
    """

    name: ClassVar[str] = "lamost-lrs"
    title: ClassVar[str] = "LAMOST low-resolution survey"
    grid: ClassVar[PixelGrid] = _GRID
    mask_dtype: ClassVar[str] = "uint16"
    mask_bits: ClassVar[tuple[FlagBit, ...]] = _AND_BITS + _OR_BITS
    flux_unit: ClassVar[str] = ""
    default_key: ClassVar[str] = "obsid"
    key_is_unique: ClassVar[bool] = True
    # The tables write the date of the directory with dashes, the directories without.
    default_path: ClassVar[str] = "{obsdate:%Y%m%d}/{planid}/spec-{lmjd}-{planid}_sp{spid:02d}-{fiberid:03d}.fits.gz"
    columns: ClassVar[tuple[RowColumn, ...]] = (
        _parent("obsid", "int64", "", "LAMOST observation identifier"),
        _parent("ra", "float64", "deg", "Right ascension, J2000", "objra"),
        _parent("dec", "float64", "deg", "Declination, J2000", "objdec"),
        _parent("snrg", "float64", "", "Signal-to-noise ratio in the g band", "sn_g"),
        _parent("teff", "float64", "K", "Effective temperature of the parent catalogue"),
        _parent("logg", "float64", "", "Surface gravity of the parent catalogue, log10 cm/s2"),
        _parent("feh", "float64", "", "Metallicity [Fe/H] of the parent catalogue, dex"),
        _parent("z", "float64", "", "Redshift of the parent catalogue"),
        _parent("class", "str", "", "Spectral class of the parent catalogue"),
        _parent("subclass", "str", "", "Spectral subclass of the parent catalogue"),
        _file("file_obsid", "int64", "", "OBSID in the file's header"),
        _file("file_ra", "float64", "deg", "RA in the file's header"),
        _file("file_dec", "float64", "deg", "DEC in the file's header"),
        _file("file_z", "float64", "", "Redshift Z in the file's header"),
        _file("file_snrg", "float64", "", "SNRG (DR1 and DR2: SN_G) in the file's header"),
        _file("data_release", "str", "", "DATA_V in the file's header"),
    )
    null_values: ClassVar[tuple[float, ...]] = (-9999.0,)
    reader_version: ClassVar[int] = 1

    def __init__(self, position_tolerance: float = 5.0) -> None:
        self.position_tolerance = position_tolerance

    def read(self, path: Path) -> Spectrum:
        """Read a file of any layout, plain or gzip; see :meth:`Survey.read`.

        Non-finite flux is stored as NaN with ivar 0; ivar that is negative or not finite becomes 0.
        """
        content = read_whole(path, _LARGEST_FILE)
        try:
            parsed = parse_by_position(content, path.name)
        except IrregularFileError:
            parsed = parse_with_astropy(content, path.name)
        return spectrum_of(parsed, path.name)

    def contradiction(self, row: Mapping[str, object], spectrum: Spectrum) -> str | None:
        """Compare OBSID where both have it, positions otherwise; see :meth:`Survey.contradiction`."""
        expected, found = row.get("obsid"), spectrum.cards.get("file_obsid")
        if isinstance(expected, int | np.integer) and expected != MISSING_INTEGER and found is not None:
            return None if int(expected) == found else f"expected OBSID {expected}, the file has {found}"
        values = (row.get("ra"), row.get("dec"), *(spectrum.cards.get(k) for k in ("file_ra", "file_dec")))
        position = [float(v) if isinstance(v, int | float | np.number) else math.nan for v in values]
        distance = _separation(*position)
        if distance > self.position_tolerance:
            return (
                f"expected RA, DEC {position[0]:.5f}, {position[1]:.5f}, the file has {position[2]:.5f}, "
                f"{position[3]:.5f}: {distance:.1f} arcsec apart, more than {self.position_tolerance:g}"
            )
        return None


def spectrum_of(parsed: FileContent, name: str) -> Spectrum:
    """Check a file's content and put it on the survey's lattice.

    Parameters
    ----------
    parsed : FileContent
    name : str
        File name for messages.

    Raises
    ------
    SpectrumError
        ``MISSING_CARD``, ``WRONG_SHAPE``, ``ALL_NAN`` or ``ZERO_IVAR``.
    """
    first_pixel = _first_pixel(parsed, name)
    flux, ivar = parsed.flux.astype(np.float32), parsed.ivar.astype(np.float32)
    finite = np.isfinite(flux)
    if not finite.all():
        if not finite.any():
            raise SpectrumError(RowStatus.ALL_NAN, f"{name}: no finite flux in {flux.size} pixels")
        flux[~finite] = np.nan
    informative = finite & (ivar > 0) & np.isfinite(ivar)
    if not informative.any():
        raise SpectrumError(
            RowStatus.ZERO_IVAR, f"{name}: no pixel of {flux.size} with finite flux and positive inverse variance"
        )
    ivar[~informative] = 0
    return Spectrum(flux, ivar, _mask(parsed), first_pixel, _cards(parsed))


def _first_pixel(parsed: FileContent, name: str) -> int:
    """Index on the lattice of the file's first pixel, having compared everything that tells the wavelength."""
    start, step = parsed.cards["COEFF0"], parsed.cards["COEFF1"]
    for keyword, value in (("COEFF0", start), ("COEFF1", step)):
        if not isinstance(value, int | float) or not math.isfinite(value):
            found = "no such card" if value is None else repr(value)
            raise SpectrumError(RowStatus.MISSING_CARD, f"{name}: expected a number in {keyword}, found {found}")
    assert isinstance(start, int | float)
    assert isinstance(step, int | float)
    n = parsed.flux.size
    offset = (start - _GRID.log10_first) / _GRID.log10_step
    stretch = (step - _GRID.log10_step) / _GRID.log10_step * n
    first = round(offset) if abs(offset) < 1e9 else -1
    if abs(offset - first) > _LATTICE_TOLERANCE or abs(stretch) > _LATTICE_TOLERANCE:
        raise SpectrumError(
            RowStatus.WRONG_SHAPE,
            f"{name}: expected a grid on log10 λ = 3.5682 + 0.0001 i, found {start} + {step} i",
        )
    if first < 0 or first + n > _GRID.n_pixels:
        raise SpectrumError(
            RowStatus.WRONG_SHAPE,
            f"{name}: expected pixels within 0 to {_GRID.n_pixels - 1}, found {first} to {first + n - 1}",
        )
    if _stores_wavelength(parsed):
        _check_wavelength(parsed, first, name)
    return first


def _stores_wavelength(parsed: FileContent) -> bool:
    """Whether the third vector is meant to be the wavelength; DR1 and DR2 have a normalised flux there."""
    if parsed.layout is Layout.COADD:
        return True
    label = parsed.cards["EXTEN0"]
    if isinstance(label, str) and ("wavelength" in label.lower() or "subcontinuum" in label.lower()):
        return "wavelength" in label.lower()
    # Without the label the values tell: normalised flux is about 1, wavelengths are thousands of Ångström.
    return bool(np.nanmedian(parsed.third) > 1000)


def _check_wavelength(parsed: FileContent, first: int, name: str) -> None:
    """Compare the stored wavelengths at both ends with the lattice."""
    for pixel in (0, parsed.third.size - 1):
        found = float(parsed.third[pixel])
        expected = 10 ** (_GRID.log10_first + _GRID.log10_step * (first + pixel))
        tolerance = _WAVELENGTH_TOLERANCE * _GRID.log10_step * math.log(10) * expected
        if not abs(found - expected) <= tolerance:
            raise SpectrumError(
                RowStatus.WRONG_SHAPE,
                f"{name}: expected wavelength {expected:.3f} at pixel {pixel} from COEFF0 and COEFF1, found {found}",
            )


def _mask(parsed: FileContent) -> NDArray[np.uint16]:
    """Andmask in the lower and ormask in the upper byte."""
    lower, upper = _byte(parsed.andmask), _byte(parsed.ormask)
    return np.asarray(lower | upper << _OR_SHIFT, np.uint16)


def _byte(stored: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Mask values as integers; what is no integer from 0 to 255 becomes NODATA."""
    values = stored.astype(np.float32)
    # NaN fails both comparisons.
    if values.min() >= 0 and values.max() <= _LARGEST_MASK:
        bits = values.astype(np.uint16)
        if not (bits != values).any():
            return bits
    good = (values >= 0) & (values <= _LARGEST_MASK)
    bits = np.where(good, values, 0).astype(np.uint16)
    bits[~good | (bits != values)] = _NODATA
    return bits


def _cards(parsed: FileContent) -> dict[str, float | int | str]:
    """File values under their store names; absent ones are left out."""
    cards = parsed.cards
    signal_to_noise = cards["SNRG"] if cards["SNRG"] is not None else cards["SN_G"]
    named = {"file_ra": cards["RA"], "file_dec": cards["DEC"], "file_z": cards["Z"], "file_snrg": signal_to_noise}
    found: dict[str, float | int | str] = {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and math.isfinite(value) and value not in LamostLowResolution.null_values
    }
    obsid = cards["OBSID"]
    if isinstance(obsid, str) and obsid.strip().isdigit():
        obsid = int(obsid)
    if isinstance(obsid, int) and abs(obsid) < 2**63 and obsid != MISSING_INTEGER:
        found["file_obsid"] = obsid
    release = cards["DATA_V"]
    if isinstance(release, str):
        found["data_release"] = release
    return found


def _separation(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Great-circle distance in arcseconds of two positions in degrees; 0 if one is NaN."""
    a1, d1, a2, d2 = (math.radians(value) for value in (ra1, dec1, ra2, dec2))
    haversine = math.sin((d2 - d1) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(max(0.0, haversine))))) * 3600
