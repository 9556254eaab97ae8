"""A FITS binary table read block of rows by block of rows, plain or gzip, in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from isal import igzip
from numpy.typing import NDArray

from catalogue.spectra.table_source import ParentError, TableSource

_BLOCK = 2880
_LARGEST_HEADER = 2000 * _BLOCK
_FORMAT = re.compile(r"\s*(\d*)([LXBIJKAEDCMPQ])")
_KINDS = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_OPAQUE = {"X": 0.125, "C": 8, "M": 16, "P": 8, "Q": 16}
_UNSIGNED_OFFSETS = {"B": -128, "I": 1 << 15, "J": 1 << 31, "K": 1 << 63}


@dataclass(frozen=True, slots=True)
class _Column:
    """One column as its cards describe it; ``dtype`` is None for what has no scalar value per row."""

    name: str
    code: str
    form: str
    dtype: str | None
    scale: float
    zero: float
    null: int | None


class FitsTable(TableSource):
    """First binary table with columns of a FITS file.

    Parameters
    ----------
    path : Path
        Plain or gzip, told by the first bytes.

    Raises
    ------
    ParentError
        If there is no binary table or the file ends within the headers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as stream:
            header, self._offset = self._find_table(stream)
        self.n_rows = int(header["NAXIS2"])
        self._width = int(header["NAXIS1"])
        self._columns, self._dtype = _describe(path, header)
        self.names = tuple(column.name for column in self._columns)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of ``rows`` rows in order; see :meth:`TableSource.batches`."""
        wanted = []
        for name in names:
            index = self.names.index(name)
            column = self._columns[index]
            if column.dtype is None:
                raise ParentError(f"{self.path}: column {name}: expected one value per row, found format {column.form}")
            wanted.append((name, f"f{index}", column))
        with _open(self.path) as stream:
            _skip(stream, self._offset, self.path)
            for start in range(0, self.n_rows, rows):
                n = min(rows, self.n_rows - start)
                content = stream.read(n * self._width)
                if len(content) < n * self._width:
                    whole = start + len(content) // self._width
                    raise ParentError(f"{self.path}: expected {self.n_rows} rows, the file ends in row {whole}")
                records = np.frombuffer(content, self._dtype, n)
                yield {name: _to_arrow(records[field], column) for name, field, column in wanted}

    def _find_table(self, stream: BinaryIO) -> tuple[Any, int]:
        offset = 0
        while True:
            header, length = _read_header(stream, self.path, offset)
            if header is None:
                raise ParentError(f"{self.path}: expected a binary table, found none in the file's HDUs")
            offset += length
            if header.get("XTENSION", "").strip() == "BINTABLE" and header.get("TFIELDS", 0) > 0:
                return header, offset
            axes = [int(header[f"NAXIS{i}"]) for i in range(1, int(header["NAXIS"]) + 1)]
            elements = int(np.prod(axes, dtype=np.int64)) + int(header.get("PCOUNT", 0)) if axes else 0
            size = abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * elements
            size += -size % _BLOCK
            _skip(stream, size, self.path)
            offset += size


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return igzip.open(path, "rb") if compressed else path.open("rb")


def _skip(stream: BinaryIO, n_bytes: int, path: Path) -> None:
    if stream.seekable() and not isinstance(stream, igzip.GzipFile):
        stream.seek(n_bytes, 1)
        return
    while n_bytes > 0:
        piece = stream.read(min(n_bytes, 1 << 20))
        if not piece:
            raise ParentError(f"{path}: the file ends before its table")
        n_bytes -= len(piece)


def _read_header(stream: BinaryIO, path: Path, offset: int) -> tuple[Any, int]:
    """Next header and its length in bytes, or None at the end of the file."""
    from astropy.io import fits

    text = b""
    while True:
        block = stream.read(_BLOCK)
        if not block and not text:
            return None, 0
        text += block
        if len(block) < _BLOCK or len(text) > _LARGEST_HEADER:
            raise ParentError(f"{path}: the header at byte {offset} has no END")
        if any(block[i : i + 8] == b"END     " for i in range(0, _BLOCK, 80)):
            break
    try:
        return fits.Header.fromstring(text.decode("latin-1")), len(text)
    except (ValueError, OSError) as error:
        raise ParentError(f"{path}: the header at byte {offset} cannot be read: {error}") from error


def _describe(path: Path, header: Any) -> tuple[list[_Column], np.dtype[Any]]:
    columns = []
    fields: list[tuple[str, str]] = []
    for i in range(1, int(header["TFIELDS"]) + 1):
        form = str(header.get(f"TFORM{i}", ""))
        match = _FORMAT.match(form)
        if match is None:
            raise ParentError(f"{path}: TFORM{i} is {form!r}, which is no format of a binary table")
        count, code = int(match[1] or 1), match[2]
        scalar: str | None = None
        if code == "A":
            width, scalar = count, f"S{count}" if count else None
        elif code in _OPAQUE:
            width = -(-count // 8) if code == "X" else int(count * _OPAQUE[code])
        else:
            width = count * np.dtype(_KINDS[code]).itemsize
            scalar = _KINDS[code] if count == 1 else None
        null = header.get(f"TNULL{i}")
        columns.append(
            _Column(
                str(header.get(f"TTYPE{i}", f"col{i}")).strip(),
                code,
                form.strip(),
                scalar,
                header.get(f"TSCAL{i}", 1),
                header.get(f"TZERO{i}", 0),
                int(null) if null is not None and code in "BIJK" else None,
            )
        )
        fields.append((f"f{i - 1}", scalar or f"V{width}"))
    dtype = np.dtype(fields)
    if dtype.itemsize != header["NAXIS1"]:
        raise ParentError(f"{path}: columns take {dtype.itemsize} bytes per row, NAXIS1 says {header['NAXIS1']}")
    return columns, dtype


def _to_arrow(values: NDArray[Any], column: _Column) -> pa.Array:
    """Native values, null where TNULL, NaN or an undefined logical says so."""
    if column.code == "A":
        return _decoded(np.ascontiguousarray(values))
    if column.code == "L":
        return pa.array(values == b"T", mask=(values != b"T") & (values != b"F"))
    native = values.astype(values.dtype.newbyteorder("="))
    null = None if column.null is None else native == column.null
    if column.scale == 1 and column.zero == _UNSIGNED_OFFSETS.get(column.code):
        return pa.array(_with_offset(native, column), mask=null)
    if column.scale != 1 or column.zero != 0:
        native = native * float(column.scale) + float(column.zero)
    return pa.array(native, mask=null)


def _with_offset(values: NDArray[Any], column: _Column) -> NDArray[Any]:
    """Integers of the other signedness, which FITS stores shifted."""
    if column.code == "B":
        return (values.astype(np.int16) - 128).astype(np.int8)
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return unsigned ^ unsigned.dtype.type(_UNSIGNED_OFFSETS[column.code])


def _decoded(values: NDArray[np.bytes_]) -> pa.Array:
    raw = pa.array(values)
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:
        # The standard allows ASCII alone, but tables are seen with UTF-8 and with Latin-1.
        text = pa.array([_text(value) for value in values.tolist()], pa.string())
    return pc.utf8_trim_whitespace(text)


def _text(value: bytes) -> str:
    value = value.split(b"\0")[0]
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
