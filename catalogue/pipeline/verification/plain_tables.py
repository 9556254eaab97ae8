"""Single rows of tables read a second way: the csv module, astropy, pyarrow and zarr, none of our readers."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

Row = dict[str, Any]


def rows_of_table(path: Path, rows: Sequence[int]) -> dict[int, Row]:
    """Some rows of a FITS, Parquet, Zarr or delimited text table, by number, with the names that the table uses.

    Values of text tables are text; what is missing elsewhere is None, NaN or a masked value, as its library says.

    Parameters
    ----------
    path : Path
    rows : sequence of int
        Increasing.
    """
    if path.is_dir():
        return _zarr_rows(path, rows)
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked:
            start = unpacked.read(9)
    if start.startswith(b"SIMPLE"):
        return _fits_rows(path, rows)
    return _parquet_rows(path, rows) if start.startswith(b"PAR1") else _text_rows(path, rows)


def _fits_rows(path: Path, rows: Sequence[int]) -> dict[int, Row]:
    with fits.open(path, memmap=True) as hdus:
        table = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
        nulls = {column.name: column.null for column in table.columns if column.null not in (None, "")}

        def cell(row: int, name: str) -> Any:
            value = table.data[row][name]
            return None if name in nulls and np.ndim(value) == 0 and value == nulls[name] else value

        return {row: {name: cell(row, name) for name in table.columns.names} for row in rows}


def _parquet_rows(path: Path, rows: Sequence[int]) -> dict[int, Row]:
    import pyarrow.parquet as pq

    found = {}
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = [row for row in rows if first <= row < first + count]
            if inside:
                table = file.read_row_group(group)
                found.update({row: table.slice(row - first, 1).to_pylist()[0] for row in inside})
            first += count
    return found


def _zarr_rows(path: Path, rows: Sequence[int]) -> dict[int, Row]:
    arrays: dict[str, Any] = dict(zarr.open_group(path, mode="r").arrays())
    return {row: {name: array[row].item() for name, array in arrays.items()} for row in rows}


def _text_rows(path: Path, rows: Sequence[int]) -> dict[int, Row]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (
        gzip.open(path) if packed else path.open("rb") as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
    ):
        lines = (line for line in text if not line.startswith("#"))
        header = next(lines)
        delimiter = max(",\t|;", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        wanted = set(rows)
        return {
            number: dict(zip(names, cells, strict=False))
            for number, cells in _until(csv.reader(lines, delimiter=delimiter), max(wanted, default=-1))
            if number in wanted
        }


def _until(lines: Iterator[list[str]], last: int) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines that are not empty, up to ``last``."""
    number = 0
    for cells in lines:
        if number > last:
            return
        if cells:
            yield number, cells
            number += 1
