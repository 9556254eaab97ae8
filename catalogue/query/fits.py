"""FITS binary tables by ranges of rows: mapped slices, turned into native byte order as they are read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from catalogue.query.table import Table, TableColumn, TableError

_FORM = re.compile(r"^(\d*)([LXBIJKAEDCMPQ])(\d*)")
_KINDS = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16"}
_SHIFTED = {"B": (-128, "i1"), "I": (1 << 15, "u2"), "J": (1 << 31, "u4"), "K": (1 << 63, "u8")}
_NOT_PROVENANCE = re.compile(r"^(SIMPLE|BITPIX|NAXIS\d*|EXTEND|XTENSION|PCOUNT|GCOUNT|TFIELDS|EXTNAME|CHECKSUM|DATASUM"
                         r"|T(TYPE|FORM|UNIT|NULL|UCD|COMM|DIM|DISP|SCAL|ZERO)\d+|FLG(NAM|LEV|COM)\d+|STANAM\d+"
                         r"|COMMENT|HISTORY|)$")  # fmt: skip


@dataclass(frozen=True)
class _Stored:
    """How a column lies in the file."""

    code: str
    scale: float
    zero: float
    shape: tuple[int, ...]
    null: int | None = None


class FitsTable(Table):
    """First binary table with columns of a FITS file.

    Columns of variable length are left out. A gzip file has no random access: it is unpacked into memory.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TableError
        If there is no binary table or the file ends before its last row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: bytes | None = None
        try:
            with (
                warnings.catch_warnings(),
                fits.open(path, memmap=False, lazy_load_hdus=True, disable_image_compression=True) as hdus,
            ):
                # What astropy would warn of, a cut file above all, is an error of ours below.
                warnings.simplefilter("ignore", AstropyUserWarning)
                primary = hdus[0].header
                table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and len(hdu.columns)), None)
                if table is None:
                    raise TableError(f"{path}: expected a binary table, found none")
                header, self._offset = table.header, int(table.fileinfo()["datLoc"])
        except (OSError, ValueError, TypeError) as error:
            raise TableError(f"{path}: expected a FITS file: {error}") from error
        self.n_rows = int(header["NAXIS2"])
        self._stored: dict[str, _Stored] = {}
        self.columns = {}
        self._dtype = self._describe(header)
        self._check_size()
        self.attributes = {**_provenance(primary), **_provenance(header), "name": header.get("EXTNAME", "")}

    def _describe(self, header: fits.Header) -> np.dtype[Any]:
        fields: list[tuple[Any, ...]] = []
        for number in range(1, int(header["TFIELDS"]) + 1):
            name = str(header.get(f"TTYPE{number}", f"col{number}")).strip()
            field, stored = _layout(header, number)
            fields.append((f"f{number}", *field))
            if stored is not None:
                self._stored[name] = stored
                self.columns[name] = _column(header, number, name, stored, field)
        dtype = np.dtype(fields)
        if dtype.itemsize != header["NAXIS1"]:
            raise TableError(f"{self.path}: columns take {dtype.itemsize} bytes a row, NAXIS1 says {header['NAXIS1']}")
        self._fields = {
            str(header.get(f"TTYPE{number}", f"col{number}")).strip(): f"f{number}"
            for number in range(1, int(header["TFIELDS"]) + 1)
        }
        return dtype

    def _check_size(self) -> None:
        needed = self._offset + self.n_rows * self._dtype.itemsize
        with self.path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        if packed:
            import gzip

            with gzip.open(self.path) as unpacked:
                self._content = unpacked.read(needed)
        size = len(self._content) if self._content is not None else self.path.stat().st_size
        if size < needed:
            whole = max(0, size - self._offset) // self._dtype.itemsize
            raise TableError(f"{self.path}: expected {self.n_rows} rows, the file ends in row {whole}")

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows ``start`` to ``stop``; see :meth:`Table.read`."""
        records = self._records(start, stop)
        return {
            name: _native(np.asarray(records[self._fields[name]]), self._stored[name], self.columns[name])
            for name in names
        }

    def _records(self, start: int, stop: int) -> NDArray[Any]:
        if start == stop:
            return np.empty(0, self._dtype)
        offset = self._offset + start * self._dtype.itemsize
        if self._content is not None:
            return np.frombuffer(self._content, self._dtype, stop - start, offset)
        # A map for each slice: what has been read can leave memory with it.
        return np.memmap(self.path, self._dtype, "r", offset, (stop - start,))


def _layout(header: fits.Header, number: int) -> tuple[tuple[Any, ...], _Stored | None]:
    """Field of the record, without its name, and how to read it; None for what has no fixed shape."""
    form = str(header[f"TFORM{number}"]).strip()
    match = _FORM.match(form)
    if match is None:
        raise TableError(f"TFORM{number}: expected a binary table format, found {form!r}")
    count, code = int(match[1] or 1), match[2]
    scale, zero = float(header.get(f"TSCAL{number}", 1)), float(header.get(f"TZERO{number}", 0))
    if code in "PQ" or count == 0 or code == "X":
        width = {"P": 8 * count, "Q": 16 * count, "X": -(-count // 8)}.get(code, 0)
        return (f"V{width}",), None
    if code == "A":
        width = int(match[3] or count)
        shape: tuple[int, ...] = (count // width,) if width and count // width > 1 else ()
        return (f"S{width}", *((shape,) if shape else ())), _Stored(code, 1, 0, shape)
    shape = () if count == 1 else _dimensions(header.get(f"TDIM{number}"), count)
    null = header.get(f"TNULL{number}") if code in "BIJK" else None
    stored = _Stored(code, scale, zero, shape, None if null is None else int(null))
    return (_KINDS[code], *((shape,) if shape else ())), stored


def _dimensions(text: str | None, count: int) -> tuple[int, ...]:
    """Shape of a vector column, slowest axis first, from ``TDIM``."""
    sizes = [int(part) for part in re.findall(r"\d+", text or "")]
    return tuple(reversed(sizes)) if sizes and int(np.prod(sizes)) == count else (count,)


def _column(header: fits.Header, number: int, name: str, stored: _Stored, field: tuple[Any, ...]) -> TableColumn:
    dtype = _native_dtype(stored, field[0])
    # TNULL is the value as it is stored, before the shift that makes it one of the other signedness.
    null = stored.null + int(stored.zero) if stored.null is not None and dtype.kind in "iu" else None
    attributes: dict[str, Any] = {}
    if name == "FLAG":
        attributes = _flag_attributes(header)
    if name.upper() == "STATUS" and (statuses := _numbered(header, "STANAM")):
        attributes = {"flag_values": list(statuses), "flag_meanings": " ".join(map(str, statuses.values()))}
    return TableColumn(
        name,
        dtype,
        stored.shape,
        str(header.get(f"TUNIT{number}", "")),
        str(header.get(f"TUCD{number}", "")),
        str(header.get(f"TCOMM{number}", header.comments[f"TTYPE{number}"] if f"TTYPE{number}" in header else "")),
        null,
        attributes,
    )


def _numbered(header: fits.Header, prefix: str) -> dict[int, Any]:
    """Values of the cards ``<prefix><n>``, by n."""
    cards = {key[len(prefix) :]: value for key, value in header.items() if key.startswith(prefix)}
    return {int(number): cards[number] for number in sorted(filter(str.isdigit, cards), key=int)}


def _flag_attributes(header: fits.Header) -> dict[str, Any]:
    names, levels = _numbered(header, "FLGNAM"), _numbered(header, "FLGLEV")
    if not names:
        return {}
    return {
        "flag_masks": [1 << bit for bit in names],
        "flag_meanings": " ".join(map(str, names.values())),
        "flag_levels": " ".join(str(levels.get(bit, "info")) for bit in names),
    }


def _native_dtype(stored: _Stored, kind: str) -> np.dtype[Any]:
    if stored.code == "A":
        return np.dtypes.StringDType()
    if stored.code == "L":
        return np.dtype(bool)
    if (stored.scale, stored.zero) == (1, _SHIFTED.get(stored.code, (None,))[0]):
        return np.dtype(_SHIFTED[stored.code][1])
    if (stored.scale, stored.zero) != (1, 0):
        return np.dtype(np.float64)
    return np.dtype(kind).newbyteorder("=")


def _native(values: NDArray[Any], stored: _Stored, column: TableColumn) -> NDArray[Any]:
    if stored.code == "A":
        return _text(values)
    if stored.code == "L":
        return np.asarray(values == b"T")
    if (stored.scale, stored.zero) == (1, 0):
        return values.astype(column.dtype)
    if column.dtype.kind in "iu":
        # Integers of the other signedness are stored with their highest bit turned.
        shifted = values.astype(values.dtype.newbyteorder("=")).view(column.dtype)
        return np.asarray(shifted ^ np.array(1 << (8 * column.dtype.itemsize - 1), f"u{column.dtype.itemsize}").view(
            column.dtype
        ))  # fmt: skip
    scaled = values.astype(np.float64) * stored.scale + stored.zero
    return scaled if stored.null is None else np.where(values == stored.null, np.nan, scaled)


def _text(values: NDArray[Any]) -> NDArray[Any]:
    """Text without padding; UTF-8, or Latin-1 where it is not that."""
    flat = values.ravel()
    try:
        decoded = np.char.decode(flat, "utf-8")
    except UnicodeDecodeError:
        decoded = np.char.decode(flat, "latin-1")
    return np.strings.rstrip(decoded).astype(np.dtypes.StringDType()).reshape(values.shape)


def _provenance(header: fits.Header) -> dict[str, Any]:
    return {key: value for key, value in header.items() if not _NOT_PROVENANCE.match(key)}
