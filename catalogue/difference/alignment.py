"""Which row of one table belongs to which row of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.query.table import Table, TableError

KEY_NAMES = ("obsid", "apogee_id", "sdss_id", "specobjid", "source_id", "gaia_source_id", "gaiaedr3_source_id", "uid")
"""Names of identifiers, compared without case, for tables that say of no column that it identifies the row."""
_MAIN_IDENTIFIER = "meta.id;meta.main"


@dataclass(frozen=True)
class Alignment:
    """Rows that belong together.

    Attributes
    ----------
    how : str
        ``"row"``: row i to row i; ``"key"``: joined.
    key : pair of str or None
        Columns that identify rows in the first and in the second table.
    first, second : ndarray of int64, shape (matched,) or None
        Rows of the pairs, in the order of the first table; None if row i belongs to row i.
    matched, only_first, only_second : int
        Numbers of rows. Rows without a key have no partner.
    repeated : int
        Rows of the first table whose key occurs in an earlier row; the n-th is paired with the n-th of the second.
    """

    how: str
    key: tuple[str, str] | None
    first: NDArray[np.int64] | None
    second: NDArray[np.int64] | None
    matched: int
    only_first: int
    only_second: int
    repeated: int = 0


def find_key(first: Table, second: Table, key: str | None) -> tuple[str, str] | None:
    """Columns by which rows are told apart.

    Parameters
    ----------
    first, second : Table
    key : str or None
        A name for both tables, or ``"name in first=name in second"``; None looks for one.

    Raises
    ------
    TableError
        If a column that was named is not there.
    """
    if key is not None:
        names = key.split("=", 1) if "=" in key else [key, key]
        return (_named(first, names[0].strip()), _named(second, names[1].strip()))
    found = [_identifier(table) for table in (first, second)]
    if found[0] and found[1]:
        return (found[0], found[1])
    # One table may say what the key is, the other have it under the same name.
    for name in filter(None, found):
        if all(name.lower() in map(str.lower, table.columns) for table in (first, second)):
            return (_named(first, name), _named(second, name))
    return None


def _named(table: Table, name: str) -> str:
    if name in table.columns:
        return name
    match = next((column for column in table.columns if column.lower() == name.lower()), None)
    if match is None:
        raise TableError(f"{table.path}: expected the key column {name}, there are {', '.join(table.columns)}")
    return match


def _identifier(table: Table) -> str | None:
    for name, column in table.columns.items():
        if column.attributes.get("role") == "key" or column.ucd == _MAIN_IDENTIFIER:
            return name
    lower = {name.lower(): name for name in reversed(table.columns)}
    return next((lower[name] for name in KEY_NAMES if name in lower), None)


def align(first: Table, second: Table, key: str | None = None) -> Alignment:
    """Pair the rows of two tables.

    Parameters
    ----------
    first, second : Table
    key : str or None
        See :func:`find_key`.

    Raises
    ------
    TableError
        If the tables have no common key and differ in length, so that nothing says which rows belong together.
    """
    names = find_key(first, second, key)
    if names is None:
        if first.n_rows != second.n_rows:
            raise TableError(
                f"{first.path} has {first.n_rows} rows and {second.path} {second.n_rows}, and no common key column was "
                "found: name one"
            )
        return Alignment("row", None, None, None, first.n_rows, 0, 0)
    if first.n_rows == second.n_rows and _same_keys(first, second, names):
        return Alignment("row", names, None, None, first.n_rows, 0, 0)
    one, other = (_all_keys(table, name) for table, name in zip((first, second), names, strict=True))
    if one.dtype != other.dtype:
        one, other = (keys.astype(np.dtypes.StringDType()) for keys in (one, other))
    rows, partners, repeated = join(one, other, _known(one, first, names[0]), _known(other, second, names[1]))
    return Alignment(
        "key", names, rows, partners, len(rows), first.n_rows - len(rows), second.n_rows - len(rows), repeated
    )


def _same_keys(first: Table, second: Table, names: tuple[str, str]) -> bool:
    for start in range(0, first.n_rows, first.block_rows):
        stop = min(start + first.block_rows, first.n_rows)
        one = _plain(first.read([names[0]], start, stop)[names[0]], first, names[0])
        other = _plain(second.read([names[1]], start, stop)[names[1]], second, names[1])
        if one.dtype != other.dtype:
            one, other = (keys.astype(np.dtypes.StringDType()) for keys in (one, other))
        if not np.array_equal(one, other):
            return False
    return True


def _all_keys(table: Table, name: str) -> NDArray[Any]:
    parts = [_plain(block[name], table, name) for _, block in table.blocks([name])]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _plain(keys: NDArray[Any], table: Table, name: str) -> NDArray[Any]:
    """Keys as int64 or as text without outer blanks."""
    if keys.ndim != 1 or keys.dtype.kind not in "iuT":
        if keys.dtype.kind == "f" and keys.ndim == 1 and np.array_equal(keys, np.rint(keys)):
            return keys.astype(np.int64)
        raise TableError(f"{table.path}: column {name}: expected whole numbers or text as key, found {keys.dtype}")
    return np.asarray(np.strings.strip(keys)) if keys.dtype.kind == "T" else keys.astype(np.int64)


def _known(keys: NDArray[Any], table: Table, name: str) -> NDArray[np.bool_]:
    null = table.columns[name].null
    if keys.dtype.kind == "T":
        missing = keys == ""
        return np.asarray(~missing if null is None else ~(missing | (keys == str(null))))
    return np.ones(len(keys), bool) if null is None else np.asarray(keys != null)


def join(
    first: NDArray[Any], second: NDArray[Any], first_known: NDArray[np.bool_], second_known: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Pair equal keys, the n-th occurrence with the n-th.

    Parameters
    ----------
    first, second : ndarray, shape (n,), (m,)
        Keys of one dtype.
    first_known, second_known : ndarray of bool
        Rows that have a key.

    Returns
    -------
    rows, partners : ndarray of int64, shape (matched,)
        Ascending rows of ``first``, and rows of ``second``.
    repeated : int
        Known keys of ``first`` that occur earlier in it.
    """
    rows, partners = np.flatnonzero(first_known), np.flatnonzero(second_known)
    _, codes = np.unique(np.concatenate([first[rows], second[partners]]), return_inverse=True)
    one, other = codes[: len(rows)].astype(np.int64), codes[len(rows) :].astype(np.int64)
    # Key and occurrence together identify a row on each side.
    width = max(len(rows), len(partners), 1) + 1
    one, other = one * width + occurrence(one), other * width + occurrence(other)
    _, at_one, at_other = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    order = np.argsort(at_one)
    return rows[at_one[order]], partners[at_other[order]], len(rows) - len(np.unique(codes[: len(rows)]))


def occurrence(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurred before, shape ``(n,)``."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    counts = np.diff(np.r_[starts, len(ordered)])
    result = np.empty(len(codes), np.int64)
    result[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return result


class PairedBlocks:
    """Blocks of paired rows of two tables.

    Row-matched tables are read side by side. For joined ones, the numbers of the second are put into temporary files
    first and its text is kept in memory, so that its rows can be taken in any order.

    Parameters
    ----------
    first, second : Table
    alignment : Alignment
    directory : Path
        For temporary files.
    """

    def __init__(self, first: Table, second: Table, alignment: Alignment, directory: Path) -> None:
        self.first, self.second, self.alignment, self.directory = first, second, alignment, directory

    def __call__(
        self, names: Sequence[str], partners: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
        """Rows of the first and second table, and columns of both, block by block."""
        rows, others = self.alignment.first, self.alignment.second
        spilled = None if others is None else self._spill(partners)
        for start in range(0, self.first.n_rows, self.first.block_rows):
            stop = min(start + self.first.block_rows, self.first.n_rows)
            if rows is None or others is None or spilled is None:
                both = np.arange(start, stop)
                yield both, both, self.first.read(names, start, stop), self.second.read(partners, start, stop)
                continue
            low, high = np.searchsorted(rows, [start, stop])
            if low == high:
                continue
            here, there = rows[low:high], others[low:high]
            block = self.first.read(names, start, stop)
            taken = {name: values[here - start] for name, values in block.items()}
            yield here, there, taken, {name: np.asarray(values[there]) for name, values in spilled.items()}

    def _spill(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {}
        for number, name in enumerate(names):
            column = self.second.columns[name]
            shape = (self.second.n_rows, *column.shape)
            if column.dtype.kind == "T" or not self.second.n_rows:
                columns[name] = np.empty(shape, column.dtype)
            else:
                columns[name] = np.memmap(self.directory / f"{number}.bin", column.dtype, "w+", shape=shape)
        for start, block in self.second.blocks(names):
            for name, values in block.items():
                columns[name][start : start + len(values)] = values
        return columns
