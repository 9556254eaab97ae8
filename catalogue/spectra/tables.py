"""Text and Parquet tables read in blocks of rows, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from isal import igzip

from catalogue.spectra.fits_table import FitsTable
from catalogue.spectra.table_source import ParentError, TableSource

_DELIMITERS = (",", "\t", "|", ";")
_TEXT_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20


def open_table(path: Path) -> TableSource:
    """Table at ``path``: FITS, Parquet or delimited text, plain or gzip, told by its first bytes.

    Raises
    ------
    ParentError
        If the file is missing, empty or damaged.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
        if start[:2] == b"\x1f\x8b":
            with igzip.open(path, "rb") as unpacked:
                start = unpacked.read(9)
        if start.startswith(b"SIMPLE"):
            return FitsTable(path)
        return ParquetTable(path) if start.startswith(b"PAR1") else TextTable(path)
    except FileNotFoundError as error:
        raise ParentError(f"{path}: no such file") from error
    except EOFError as error:
        raise ParentError(f"{path}: the compressed file ends early") from error
    except igzip.BadGzipFile as error:
        raise ParentError(f"{path}: damaged gzip data: {error}") from error


class ParquetTable(TableSource):
    """A Parquet file.

    Raises
    ------
    ParentError
        If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._schema = pa.parquet.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ParentError(f"{path}: not readable as Parquet: {error}") from error
        self.names = tuple(self._schema.names)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of at most ``rows`` rows; see :meth:`TableSource.batches`."""
        for name in names:
            kind = self._schema.field(name).type
            if pa.types.is_nested(kind):
                raise ParentError(f"{self.path}: column {name}: expected one value per row, found {kind}")
        try:
            with pa.parquet.ParquetFile(self.path) as source:
                # Group by group: a reader of several keeps what it has read of all of them until it is closed.
                for group in range(source.num_row_groups):
                    for batch in source.iter_batches(rows, row_groups=[group], columns=list(names)):
                        yield {name: batch.column(name) for name in names}
        except (pa.ArrowInvalid, OSError) as error:
            raise ParentError(f"{self.path}: not readable as Parquet: {error}") from error


class TextTable(TableSource):
    """Delimited text with a line of column names, behind any lines that start with ``#``.

    The delimiter is the one of comma, tab, bar and semicolon that occurs most often in the line of names. Values
    arrive as strings, so that a 64-bit identifier never passes through floating point.

    Raises
    ------
    ParentError
        If there is no line of names, or a name occurs twice.
    """

    typed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._comments = 0
        with _open(path) as stream:
            while (line := stream.readline(_LONGEST_HEADER)).startswith(b"#"):
                self._comments += 1
        text = line.decode("utf-8-sig", "replace").strip("\r\n")
        if not text.strip():
            raise ParentError(f"{path}: expected a line of column names, found an empty file")
        if "\0" in text or len(line) == _LONGEST_HEADER:
            raise ParentError(f"{path}: expected FITS, Parquet or text with a line of column names, found binary data")
        self._delimiter = max(_DELIMITERS, key=text.count)
        self.names = tuple(name.strip().strip('"').strip() for name in text.split(self._delimiter))

    def batches(self, names: Sequence[str], rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of rows as strings; see :meth:`TableSource.batches`."""
        for name in names:
            if self.names.count(name) > 1:
                raise ParentError(f"{self.path}: column {name} occurs {self.names.count(name)} times")
        read = pa.csv.ReadOptions(
            use_threads=False,
            block_size=_TEXT_BLOCK,
            skip_rows=self._comments + 1,
            column_names=[f"{i}" for i in range(len(self.names))],
        )
        labels = {name: f"{self.names.index(name)}" for name in names}
        convert = pa.csv.ConvertOptions(
            # Bytes, because not every table is UTF-8.
            column_types={label: pa.binary() for label in labels.values()},
            include_columns=list(labels.values()),
            strings_can_be_null=False,
        )
        parse = pa.csv.ParseOptions(delimiter=self._delimiter)
        try:
            with _open(self.path) as stream:
                for batch in pa.csv.open_csv(stream, read, parse, convert):
                    yield {name: _decoded(batch.column(label)) for name, label in labels.items()}
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error) or "Could not skip" in str(error):
                return
            raise ParentError(f"{self.path}: {error}") from error
        except EOFError as error:
            raise ParentError(f"{self.path}: the compressed file ends early") from error
        except igzip.BadGzipFile as error:
            raise ParentError(f"{self.path}: damaged gzip data: {error}") from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return igzip.open(path, "rb") if compressed else path.open("rb")


def _decoded(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([value.decode("latin-1") for value in values.to_pylist()], pa.string())
