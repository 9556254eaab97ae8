"""CSV, plain or gzip: turned into Parquet once, since text has no rows that one could go to."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from isal import igzip

from catalogue.query.parquet import ParquetTable
from catalogue.query.table import BLOCK_ROWS, TableColumn, TableError

_TEXT_BLOCK = 16 << 20
_TYPES = {
    "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(), "uint8": pa.uint8(), "float32": pa.float32(),
    "float64": pa.float64(), "bool": pa.bool_(), "str": pa.string(),
}  # fmt: skip
_COLUMN_NUMBER = re.compile(r"CSV column #(\d+)")


class CsvTable(ParquetTable):
    """A CSV file by way of a temporary Parquet file, written in constant memory and removed with the table.

    Types, units and flag bits come from the description ``.csv.txt`` that our writer puts beside the file; without it
    types are those of the first rows, and a column in which a later row does not fit becomes text.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TableError
        If it is not a CSV file.
    """

    def __init__(self, path: Path) -> None:
        described = read_description(path)
        self._directory = tempfile.TemporaryDirectory(prefix="catalogue-csv-")
        copy = Path(self._directory.name) / "table.parquet"
        try:
            convert(path, copy, {name: facts["type"] for name, facts in described["columns"].items()})
            super().__init__(copy)
        except BaseException:
            self._directory.cleanup()
            raise
        self.columns = {name: _described(column, described) for name, column in self.columns.items()}
        self.attributes = dict(described["attributes"])

    def __getstate__(self) -> dict[str, Any]:
        # The copy stays with the table that made it; another process on the machine may read it meanwhile.
        return {name: value for name, value in self.__dict__.items() if name != "_directory"}


def convert(path: Path, copy: Path, types: dict[str, pa.DataType]) -> None:
    """Stream a CSV file into Parquet.

    Parameters
    ----------
    path : Path
        Plain or gzip, told by its first bytes.
    copy : Path
    types : dict of str to pyarrow.DataType
        Types that are known; the others are inferred.

    Raises
    ------
    TableError
        If the text is no table.
    """
    types = dict(types)
    while True:
        try:
            _stream(path, copy, types)
            return
        except pa.ArrowInvalid as error:
            match = _COLUMN_NUMBER.search(str(error))
            names = _header(path)
            if match is None or int(match[1]) >= len(names) or types.get(names[int(match[1])]) == pa.string():
                raise TableError(f"{path}: expected a CSV table: {error}") from error
            # A row that does not fit the type of the first rows: the column is text, whatever they looked like.
            types[names[int(match[1])]] = pa.string()
        except (OSError, EOFError) as error:
            raise TableError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> Any:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return igzip.open(path, "rb") if packed else path.open("rb")


def _header(path: Path) -> list[str]:
    with io.TextIOWrapper(_open(path), encoding="utf-8", newline="") as stream:
        return next(csv.reader(stream), [])


def _stream(path: Path, copy: Path, types: dict[str, pa.DataType]) -> None:
    with _open(path) as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(block_size=_TEXT_BLOCK, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, true_values=["True", "true", "T"],
                                                       false_values=["False", "false", "F"]),
        )  # fmt: skip
        schema = pa.schema([_without_null_type(field) for field in reader.schema])
        with pq.ParquetWriter(copy, schema, compression="lz4") as writer:
            for batch in reader:
                writer.write_batch(batch.cast(schema), row_group_size=BLOCK_ROWS)


def _without_null_type(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.string()) if pa.types.is_null(field.type) else field


def read_description(path: Path) -> dict[str, Any]:
    """What the ``.csv.txt`` beside a CSV file says.

    Returns
    -------
    dict
        ``columns``: name to ``type``, ``unit``, ``null`` and ``description``; ``flags``: list of (bit, name, level);
        ``statuses``: list of (value, name); ``attributes``. All empty if there is no such file.
    """
    found: dict[str, Any] = {"columns": {}, "flags": [], "statuses": [], "attributes": {}}
    description = path.with_name(path.name.removesuffix(".gz") + ".txt")
    if not description.is_file():
        return found
    lines = description.read_text(encoding="utf-8").splitlines()
    found["attributes"]["title"] = lines[0] if lines else ""
    part = "cards"
    for line in lines[1:]:
        words = re.split(" {2,}", line, maxsplit=4) if part == "columns" else line.split(maxsplit=3)
        if line.startswith("column ") and "description" in line:
            part = "columns"
        elif line.startswith("bits of FLAG"):
            part = "flags"
        elif line.startswith("values of "):
            part = "statuses"
        elif not words:
            continue
        elif part == "columns" and len(words) >= 4 and words[1] in _TYPES:
            name, kind, unit, null, *rest = words
            found["columns"][name] = {
                "type": _TYPES[kind],
                "unit": "" if unit == "-" else unit,
                "null": int(null) if null.lstrip("-").isdigit() else None,
                "description": rest[0] if rest else "",
            }
        elif part == "flags" and len(words) >= 3:
            found["flags"].append((int(words[0]), words[1], words[2]))
        elif part == "statuses" and len(words) >= 2:
            found["statuses"].append((int(words[0]), words[1]))
        elif part == "cards" and len(line) > 9 and line[8] == " " and words[0].isupper():
            found["attributes"][words[0]] = line[9:].strip()
    return found


def _described(column: TableColumn, described: dict[str, Any]) -> TableColumn:
    facts = described["columns"].get(column.name)
    if facts is None:
        return column
    attributes: dict[str, Any] = {}
    if column.name == "FLAG" and described["flags"]:
        attributes = {
            "flag_masks": [1 << bit for bit, _, _ in described["flags"]],
            "flag_meanings": " ".join(name for _, name, _ in described["flags"]),
            "flag_levels": " ".join(level for _, _, level in described["flags"]),
        }
    if column.name.upper() == "STATUS" and described["statuses"]:
        attributes = {
            "flag_values": [value for value, _ in described["statuses"]],
            "flag_meanings": " ".join(name for _, name in described["statuses"]),
        }
    return TableColumn(
        column.name, column.dtype, (), facts["unit"], "", facts["description"], facts["null"], attributes
    )
