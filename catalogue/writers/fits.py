"""FITS binary table, streamed, with CHECKSUM and DATASUM of what was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.spectra.primitives import RowStatus
from catalogue.writers.background import BackgroundFile
from catalogue.writers.base import Writer, publish
from catalogue.writers.fits_checksum import add_words, checksum_text
from catalogue.writers.rows import packed_rows, row_dtype

_FORMATS = {
    "int16": "1I",
    "int32": "1J",
    "int64": "1K",
    "uint8": "1B",
    "float32": "1E",
    "float64": "1D",
    "bool": "1L",
}
_RECORD = 2880
"""Bytes to which every part of a FITS file is padded."""


class FitsWriter(Writer):
    r"""One BINTABLE; units, nulls, UCDs and descriptions as TUNIT, TNULL, TUCD and TCOMM.

    Flag bits are named by the cards ``FLGNAMn`` with ``FLGLEVn`` and ``FLGCOMn``, statuses by ``STANAMn``. FITS
    allows ASCII only: other characters become escapes as ``\xfc`` here, and stay what they are in the other formats.
    A string longer than its column's width is an error.
    """

    format = "fits"
    suffix = ".fits"
    # 2880 rows are whole FITS records whatever the width of a row, so sums and writes stay aligned; a few
    # thousand rows of 200 bytes stay in the processor's cache while their columns are interleaved.
    block_rows = 4 * _RECORD

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._dtype = row_dtype(data_model)
        self._sum = 0
        primary = _primary(data_model, self.provenance)
        self._header_at = len(primary)
        self._file = BackgroundFile(self.partial)
        self._file.write(primary + self._header().tostring().encode("ascii"))

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        data = packed_rows(self.data_model, self._dtype, block).view(np.uint8)
        if remainder := data.nbytes % _RECORD:
            data = np.concatenate([data, np.zeros(_RECORD - remainder, np.uint8)])
        self._file.write(data.data)
        self._sum = add_words(self._sum, data)

    def _finish(self) -> None:
        """Write the checksums into the header, flush and rename."""
        header = self._header()
        header["DATASUM"] = str(self._sum)
        header["CHECKSUM"] = checksum_text(add_words(self._sum, header.tostring().encode("ascii")))
        self._file.overwrite(self._header_at, header.tostring().encode("ascii"))
        self._file.close()
        publish(self.partial, self.path)

    def _discard(self) -> None:
        self._file.discard()
        self.partial.unlink(missing_ok=True)

    def _header(self) -> fits.Header:
        header = fits.Header()
        header["XTENSION"] = ("BINTABLE", "binary table")
        header["BITPIX"] = 8
        header["NAXIS"] = 2
        header["NAXIS1"] = (self._dtype.itemsize, "bytes per row")
        header["NAXIS2"] = (self.n_rows, "rows, one per row of the parent table")
        header["PCOUNT"] = 0
        header["GCOUNT"] = 1
        header["TFIELDS"] = len(self.data_model.columns)
        header["EXTNAME"] = self.data_model.name.upper()
        header.update(_column_cards(self.data_model))
        header.update(_meaning_cards(self.data_model))
        _add_provenance(header, self.provenance)
        header["CHECKSUM"] = ("0" * 16, "sum of the unit")
        header["DATASUM"] = ("0", "sum of the data")
        return header


def _column_cards(data_model: DataModel) -> fits.Header:
    header = fits.Header()
    for number, column in enumerate(data_model.columns, start=1):
        header[f"TTYPE{number}"] = column.name
        header[f"TFORM{number}"] = f"{column.width}A" if column.dtype == "str" else _FORMATS[column.dtype]
        if column.unit:
            header[f"TUNIT{number}"] = column.unit
        if column.missing is not None:
            header[f"TNULL{number}"] = column.missing
        if column.ucd:
            header[f"TUCD{number}"] = column.ucd
        header[f"TCOMM{number}"] = _ascii(column.description)
    return header


def _meaning_cards(data_model: DataModel) -> fits.Header:
    header = fits.Header()
    for flag in data_model.flags:
        header[f"FLGNAM{flag.bit}"] = (flag.name, f"bit {flag.bit} of FLAG")
        header[f"FLGLEV{flag.bit}"] = flag.level
        header[f"FLGCOM{flag.bit}"] = _ascii(flag.description)
    if any(column.role == "status" for column in data_model.columns):
        for status in RowStatus:
            header[f"STANAM{int(status)}"] = (status.name, f"value {int(status)} of the status")
    return header


def _primary(data_model: DataModel, provenance: Mapping[str, str]) -> bytes:
    hdu = fits.PrimaryHDU()
    hdu.header["EXTEND"] = True
    hdu.header["TITLE"] = _ascii(data_model.title)
    _add_provenance(hdu.header, provenance)
    hdu.add_checksum(when="sum of the unit")
    return bytes(hdu.header.tostring().encode("ascii"))


def _add_provenance(header: fits.Header, provenance: Mapping[str, str]) -> None:
    for keyword, value in provenance.items():
        header[keyword] = _ascii(value)


def _ascii(text: str) -> str:
    """Text as a FITS card may hold it; whole values longer than a card are continued by astropy."""
    return " ".join(str(text).encode("ascii", "backslashreplace").decode("ascii").split())
