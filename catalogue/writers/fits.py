"""FITS binary table, streamed, with CHECKSUM and DATASUM of what was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel
from catalogue.writers.base import Writer, check_rows

_FORMATS = {
    "int16": ("1I", ">i2"),
    "int32": ("1J", ">i4"),
    "int64": ("1K", ">i8"),
    "uint8": ("1B", "u1"),
    "float32": ("1E", ">f4"),
    "float64": ("1D", ">f8"),
    "bool": ("1L", "S1"),
}
_BLOCK = 2880


class FitsWriter(Writer):
    """One BINTABLE; units, nulls, UCDs and descriptions as TUNIT, TNULL, TUCD and TCOMM.

    FITS allows ASCII only: other characters become ``?`` here, and stay what they are in the other formats. A string
    longer than its column's width is an error.
    """

    format = "fits"
    suffix = ".fits"

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._dtype = np.dtype([(column.name, _storage(column)) for column in data_model.columns])
        self._sum = 0
        self._carry = b""
        self._bytes = 0
        self._primary = _primary(data_model, provenance)
        self._stream = self.partial.open("wb")
        self._stream.write(self._primary)
        self._header_at = self._stream.tell()
        self._stream.write(_bytes(_table_header(data_model, self._dtype, n_rows)))

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows."""
        rows = len(next(iter(columns.values())))
        table = np.empty(rows, self._dtype)
        for column in self.data_model.columns:
            table[column.name] = _stored(column, columns[column.name])
        self._append(table.tobytes())
        self.rows_written += rows

    def _append(self, data: bytes) -> None:
        self._stream.write(data)
        self._bytes += len(data)
        data = self._carry + data
        whole = len(data) - len(data) % 4
        self._sum = _ones_complement_sum(data[:whole], self._sum)
        self._carry = data[whole:]

    def close(self) -> None:
        """Pad, write the checksums into the header, flush and rename."""
        check_rows(self)
        self._append(b"\0" * (-self._bytes % _BLOCK))
        header = _table_header(self.data_model, self._dtype, self.n_rows)
        header["DATASUM"] = (str(self._sum), "sum of the data")
        header["CHECKSUM"] = ("0" * 16, "sum of the unit")
        total = _ones_complement_sum(_bytes(header), self._sum)
        header["CHECKSUM"] = (_encode_checksum(total), "sum of the unit")
        self._stream.seek(self._header_at)
        self._stream.write(_bytes(header))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.partial.replace(self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._stream.close()
        self.partial.unlink(missing_ok=True)


def _storage(column: Column) -> str:
    return f"S{column.width}" if column.dtype == "str" else _FORMATS[column.dtype][1]


def _stored(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    if column.dtype == "bool":
        return np.where(values, b"T", b"F")
    if column.dtype != "str":
        return values
    texts = [text.encode("ascii", "replace") for text in values.tolist()]
    longest = max(texts, key=len, default=b"")
    if len(longest) > column.width:
        raise ValueError(f"column {column.name}: expected at most {column.width} bytes, found {longest!r}")
    return np.array(texts, f"S{column.width}")


def _primary(data_model: DataModel, provenance: Mapping[str, str]) -> bytes:
    hdu = fits.PrimaryHDU()
    hdu.header["TITLE"] = data_model.title
    for keyword, value in provenance.items():
        hdu.header[keyword] = value
    hdu.add_checksum(when="checksum of this header")
    return _bytes(hdu.header)


def _table_header(data_model: DataModel, dtype: np.dtype[Any], n_rows: int) -> fits.Header:
    header = fits.Header()
    header["XTENSION"] = ("BINTABLE", "binary table")
    header["BITPIX"] = 8
    header["NAXIS"] = 2
    header["NAXIS1"] = (dtype.itemsize, "bytes per row")
    header["NAXIS2"] = (n_rows, "rows, one per row of the parent table")
    header["PCOUNT"] = 0
    header["GCOUNT"] = 1
    header["TFIELDS"] = len(data_model.columns)
    header["EXTNAME"] = data_model.name.upper()
    for number, column in enumerate(data_model.columns, start=1):
        header[f"TTYPE{number}"] = column.name
        header[f"TFORM{number}"] = f"{column.width}A" if column.dtype == "str" else _FORMATS[column.dtype][0]
        if column.unit:
            header[f"TUNIT{number}"] = column.unit
        if column.missing is not None:
            header[f"TNULL{number}"] = column.missing
        if column.ucd:
            header[f"TUCD{number}"] = column.ucd
        header[f"TCOMM{number}"] = column.description
    for flag in data_model.flags:
        header[f"HIERARCH FLAG BIT{flag.bit}"] = f"{flag.name} ({flag.level}): {flag.description}"[:60]
    header["CHECKSUM"] = ("0" * 16, "sum of the unit")
    header["DATASUM"] = ("0", "sum of the data")
    return header


def _bytes(header: fits.Header) -> bytes:
    return header.tostring().encode("ascii")


def _ones_complement_sum(data: bytes, start: int) -> int:
    """32-bit ones' complement sum of big-endian words, FITS Standard 4.0, appendix J."""
    total = start + int(np.frombuffer(data, ">u4").sum(dtype=np.uint64)) if data else start
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encode_checksum(total: int) -> str:
    """ASCII encoding of the complement of a sum, FITS Standard 4.0, appendix J.

    Each byte becomes four characters that add up to it, moved away from punctuation in pairs.
    """
    excluded = {*range(0x3A, 0x41), *range(0x5B, 0x61)}
    characters = np.empty((4, 4), np.int64)
    for position, byte in enumerate((~total & 0xFFFFFFFF).to_bytes(4, "big")):
        quarters = [byte // 4 + ord("0")] * 4
        quarters[0] += byte % 4
        while any(quarter in excluded for quarter in quarters):
            for first in (0, 2):
                if quarters[first] in excluded or quarters[first + 1] in excluded:
                    quarters[first] += 1
                    quarters[first + 1] -= 1
        characters[:, position] = quarters
    encoded = "".join(chr(character) for character in characters.ravel())
    # The value starts one byte into a four-byte word of the card, so the characters are rotated by one.
    return encoded[-1] + encoded[:-1]
