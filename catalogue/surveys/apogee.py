"""SDSS/APOGEE: apStar, asStar and aspcapStar files, and allStar as the parent table.

All spectra lie on one grid of 8,575 pixels, in the star's rest frame and in vacuum. The layout of a file is
found from its structure: extension 3 holds integers (the pixel mask) in apStar and asStar files, and the
best-fitting model, in floating point, in aspcapStar files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from catalogue.spectra.primitives import FlagBit, PixelGrid, RowColumn, RowStatus, Spectrum, SpectrumError
from catalogue.surveys.apogee_files import read_by_offset, read_with_astropy
from catalogue.surveys.base import Survey
from catalogue.surveys.regular_fits import IrregularFileError

_PIXEL_MASK: tuple[tuple[int, str, str, bool], ...] = (
    (0, "BADPIX", "marked bad in the bad-pixel mask, or strongly affected by one that is", True),
    (1, "CRPIX", "cosmic ray", True),
    (2, "SATPIX", "saturated", True),
    (3, "UNFIXABLE", "cannot be repaired", True),
    (4, "BADDARK", "bad in the dark frame", True),
    (5, "BADFLAT", "bad in the flat field", True),
    (6, "BADERR", "error undefined or very high", True),
    (7, "NOSKY", "no sky measured", True),
    (8, "LITTROW_GHOST", "in the Littrow ghost", False),
    (9, "PERSIST_HIGH", "in a region of high persistence", False),
    (10, "PERSIST_MED", "in a region of medium persistence", False),
    (11, "PERSIST_LOW", "in a region of low persistence", False),
    (12, "SIG_SKYLINE", "near a sky line that is strong against the object", False),
    (13, "SIG_TELLURIC", "near a telluric line of significant absorption", False),
    (14, "NOT_ENOUGH_PSF", "less than half of the fibre's profile is in good pixels", True),
    (16, "FERRE_MASK", "not used in the fit of stellar parameters", False),
)


def _parent(name: str, dtype: str, unit: str = "", description: str = "", *aliases: str) -> RowColumn:
    return RowColumn(name, dtype, unit, description, aliases or (name,))


_COLUMNS: tuple[RowColumn, ...] = (
    _parent("apogee_id", "str", "", "Star identifier, not unique in allStar"),
    _parent("telescope", "str", "", "Telescope: apo25m, lco25m or apo1m"),
    _parent("field", "str", "", "Field name"),
    _parent("file", "str", "", "Name of the apStar or asStar file"),
    _parent("location_id", "int32", "", "Field number; 1 is the 1-metre telescope"),
    _parent("ra", "float64", "deg", "Right ascension, J2000"),
    _parent("dec", "float64", "deg", "Declination, J2000"),
    _parent("snr", "float32", "", "Median signal-to-noise ratio per pixel"),
    _parent("snrev", "float32", "", "Signal-to-noise ratio per pixel, revised for persistence"),
    _parent("starflag", "int64", "", "Bitwise OR of the visits' star flags"),
    _parent("andflag", "int64", "", "Bitwise AND of the visits' star flags"),
    _parent("aspcapflag", "int64", "", "ASPCAP flags: 32 bits up to DR16, 64 bits in DR17"),
    _parent("extratarg", "int32", "", "Not in the main survey: bits 0 NOT_MAIN to 4 DUPLICATE"),
    _parent("nvisits", "int32", "", "Number of combined visits"),
    _parent("vhelio_avg", "float32", "km/s", "Average heliocentric radial velocity"),
    _parent("vscatter", "float32", "km/s", "Scatter of the visits' radial velocities"),
    _parent("teff", "float32", "K", "ASPCAP effective temperature"),
    _parent("teff_err", "float32", "K", "Error of teff"),
    _parent("logg", "float32", "dex(cm/s2)", "ASPCAP surface gravity"),
    _parent("logg_err", "float32", "dex(cm/s2)", "Error of logg"),
    _parent("m_h", "float32", "dex", "ASPCAP [M/H]"),
    _parent("m_h_err", "float32", "dex", "Error of m_h"),
    _parent("alpha_m", "float32", "dex", "ASPCAP [α/M]"),
    _parent("alpha_m_err", "float32", "dex", "Error of alpha_m"),
    _parent("fe_h", "float32", "dex", "ASPCAP [Fe/H]"),
    _parent("fe_h_err", "float32", "dex", "Error of fe_h"),
    _parent("c_fe", "float32", "dex", "ASPCAP [C/Fe]"),
    _parent("n_fe", "float32", "dex", "ASPCAP [N/Fe]"),
    _parent("mg_fe", "float32", "dex", "ASPCAP [Mg/Fe]"),
    _parent("gaiaedr3_source_id", "int64", "", "Gaia EDR3 source identifier (DR17 parent tables)"),
    RowColumn("file_apogee_id", "str", "", "Object identifier in the file", card="file_apogee_id"),
    RowColumn("file_ra", "float64", "deg", "Right ascension in the file", card="file_ra"),
    RowColumn("file_dec", "float64", "deg", "Declination in the file", card="file_dec"),
    RowColumn("file_snr", "float32", "", "Signal-to-noise ratio in the file", card="file_snr"),
    RowColumn("file_nvisits", "int32", "", "Number of combined visits in the file", card="file_nvisits"),
    RowColumn("file_layout", "str", "", "apstar or aspcapstar, by structure", card="file_layout"),
)


class Apogee(Survey):
    """SDSS APOGEE and APOGEE-2, data releases 13 to 17."""

    name: ClassVar[str] = "apogee"
    title: ClassVar[str] = "SDSS APOGEE"
    grid: ClassVar[PixelGrid] = PixelGrid("apogee", 8575, 4.179, 6e-6)
    mask_dtype: ClassVar[str] = "uint32"
    mask_bits: ClassVar[tuple[FlagBit, ...]] = tuple(FlagBit(*bit) for bit in _PIXEL_MASK)
    flux_unit: ClassVar[str] = "1e-17 erg s-1 cm-2 Angstrom-1"
    default_key: ClassVar[str] = "apogee_id"
    key_is_unique: ClassVar[bool] = False
    default_path: ClassVar[str] = "{telescope}/{field}/{file}"
    columns: ClassVar[tuple[RowColumn, ...]] = _COLUMNS
    # As allStar tables write them up to DR16; DR17 has NaN.
    null_values: ClassVar[tuple[float, ...]] = (-9999.0, -9999.99, -999.99, -99.9990005493)
    reader_version: ClassVar[int] = 1

    def read(self, path: Path) -> Spectrum:
        """Read the combined spectrum of one apStar, asStar or aspcapStar file.

        Row 0 of a file of several visits is the pixel-weighted combination, and a file of one visit has
        the one row (DR13) or the combination and the visit, again with the combination first (DR17): so
        row 0 is right for all of them. Only that row of the flux, error and mask extensions is read.

        Parameters
        ----------
        path : Path

        Returns
        -------
        Spectrum
            8,575 pixels of float32 flux and ivar and uint32 mask bits, all as published. ``ivar`` is 0
            where flux or error is not finite, the error is not positive or says "unknown"
            (``apogee_files.UNKNOWN_ERROR``). aspcapStar files carry no mask: theirs is 0.

        Raises
        ------
        SpectrumError
        """
        try:
            return read_by_offset(path, self.grid)
        except IrregularFileError:
            return read_with_astropy(path, self.grid)
        except IsADirectoryError as error:
            raise SpectrumError(RowStatus.UNREADABLE, f"{path.name}: is a directory") from error

    def contradiction(self, row: Mapping[str, object], spectrum: Spectrum) -> str | None:
        """Compare the identifiers of the parent row and of the file, where both have one."""
        expected = str(row.get("apogee_id", "")).strip()
        found = str(spectrum.cards.get("file_apogee_id", "")).strip()
        if expected and found and expected.upper() != found.upper():
            return f"APOGEE_ID: parent row has {expected}, file has {found}"
        return None
