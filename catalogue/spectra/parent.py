"""The parent table: imported once, streaming, into ``parent.parquet`` whose row i is row i of the table."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.spectra.digests import ColumnDigest
from catalogue.spectra.keys import key_hashes, repeated_keys
from catalogue.spectra.parent_columns import ImportPlan, plan_import
from catalogue.spectra.paths import PathTemplate
from catalogue.spectra.table_source import ParentError, TableSource
from catalogue.spectra.tables import open_table
from catalogue.spectra.values import (
    ARROW_TYPES,
    ConversionError,
    convert,
    has_padded_numbers,
    missing_value,
    numpy_dtype,
    to_numpy,
)
from catalogue.surveys.base import Survey

__all__ = ["ParentError", "ParentSummary", "import_parent", "read_parent_columns", "read_parent_rows"]

BOOKKEEPING = ("path", "selected", "duplicate_of")
IMPORT_VERSION = 2
"""Raised whenever the same table could be imported with other values, so that runs import it anew."""
_METADATA = b"catalogue"
_BATCH_ROWS = 16384


@dataclass(frozen=True, slots=True)
class ParentSummary:
    """What was imported.

    Attributes
    ----------
    n_rows : int
    digest : str
        SHA-256, hexadecimal, over names, types and values of all imported columns.
    key : str
        Name of the key column in the imported table.
    columns : tuple of str
        All imported columns.
    n_selected, n_duplicates : int
        Rows that are selected, and rows whose key occurred earlier.
    """

    n_rows: int
    digest: str
    key: str
    columns: tuple[str, ...]
    n_selected: int
    n_duplicates: int


def import_parent(
    source: Path,
    destination: Path,
    *,
    survey: Survey,
    key: str,
    template: str,
    root: Path | None = None,
    rows_per_group: int,
    select: str | None = None,
    extra_columns: Sequence[str] = (),
) -> ParentSummary:
    """Bring a parent table into the form that units read.

    Parameters
    ----------
    source : Path
        FITS (first binary table), Parquet or delimited text; FITS and text may be gzip.
    destination : Path
        Parquet file; appears complete or not at all.
    survey : Survey
        Its parent columns are taken by their aliases, ignoring case; those that the table lacks are missing values.
    key : str
        Column that identifies a row: a store column of the survey or any column of the table.
    template : str
        Path template over the table's columns.
    root : Path, optional
        Not looked at: paths are confined to the root where files are opened.
    rows_per_group : int
    select : str, optional
        Condition over store columns and the table's columns; rows that fail it are kept and marked.
    extra_columns : sequence of str
        More columns to keep, under the names given here, matched ignoring case.

    Returns
    -------
    ParentSummary

    Raises
    ------
    ParentError
        If the table cannot be read, columns are missing (with close matches), or a value is not of its column's
        type (with file, row and column).
    """
    table = open_table(source)
    plan = plan_import(table, survey, key, PathTemplate(template), select, tuple(extra_columns))
    if taken := [column.name for column in plan.stored if column.name.lower() in BOOKKEEPING]:
        raise ParentError(f"{table.path}: column {', '.join(taken)}: the import has a column of that name; rename it")
    partial = destination.with_name(destination.name + ".partial")
    try:
        while True:
            try:
                summary = _write(table, plan, survey, partial, rows_per_group)
                break
            except _TooNarrowError as error:
                plan = plan.widened(error.column)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return summary


class _TooNarrowError(Exception):
    """The type guessed for a text column does not hold all its values."""

    def __init__(self, column: str) -> None:
        self.column = column


def _write(table: TableSource, plan: ImportPlan, survey: Survey, partial: Path, rows_per_group: int) -> ParentSummary:
    digest = ColumnDigest()
    # An array that grows in place: joining pieces at the end would hold the hashes twice.
    hashes, missing = array("Q"), array("b")
    n_rows = n_selected = 0
    schema = _schema(plan, survey)
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        groups = _Groups(writer, schema, rows_per_group)
        for block in table.batches(plan.source_columns, _BATCH_ROWS):
            columns = _columns_of(block, plan, survey, table.path, n_rows)
            n = len(columns["path"])
            digest.update({name: columns[name] for name in schema.names if name != "duplicate_of"})
            if survey.key_is_unique:
                block_hashes, block_missing = key_hashes(columns[plan.key])
                hashes.frombytes(block_hashes.tobytes())
                missing.frombytes(block_missing.tobytes())
            n_selected += int(np.count_nonzero(columns["selected"].to_numpy(zero_copy_only=False)))
            n_rows += n
            groups.add(pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema))
        groups.finish()
    # The sort below needs as much as Arrow keeps for blocks that will not come.
    pa.default_memory_pool().release_unused()
    rows, earlier = repeated_keys(np.frombuffer(hashes, np.uint64), np.frombuffer(missing, bool))
    if len(rows):
        _mark_duplicates(partial, rows, earlier)
    digest.update({"duplicate_of": pa.array(np.concatenate([rows, earlier]))})
    return ParentSummary(
        n_rows, digest.hexdigest(), plan.key, tuple(schema.names), n_selected, len(rows)
    )  # fmt: skip


def _schema(plan: ImportPlan, survey: Survey) -> pa.Schema:
    fields = [pa.field(column.name, ARROW_TYPES[column.dtype]) for column in plan.stored]
    fields += [pa.field("path", pa.string()), pa.field("selected", pa.bool_()), pa.field("duplicate_of", pa.int64())]
    facts = {
        "survey": survey.name,
        "key": plan.key,
        "survey_columns": [column.name for column in plan.stored if column.role == "survey"],
        "extra_columns": [column.name for column in plan.stored if column.role == "extra"],
    }
    return pa.schema(fields, metadata={_METADATA: json.dumps(facts).encode()})


def _columns_of(
    block: dict[str, pa.Array], plan: ImportPlan, survey: Survey, path: Path, first_row: int
) -> dict[str, pa.Array]:
    n = len(next(iter(block.values())))
    columns: dict[str, pa.Array] = {}
    for column in plan.columns:
        if column.source is None:
            absent = np.full(n, missing_value(column.dtype), numpy_dtype(column.dtype))
            columns[column.name] = pa.array(absent.tolist(), ARROW_TYPES[column.dtype])
            continue
        if column.guessed and column.role == "extra" and has_padded_numbers(block[column.source]):
            raise _TooNarrowError(column.name)
        try:
            columns[column.name] = convert(block[column.source], column.dtype, survey.null_values)
        except ConversionError as error:
            if column.guessed:
                raise _TooNarrowError(column.name) from error
            raise ParentError(
                f"{path}: row {first_row + error.row}, column {column.source}: expected {column.dtype}, "
                f"found {error.value!r}"
            ) from error
    values = {name: block[source].to_pylist() for name, source in plan.template_sources.items()}
    columns["path"] = pa.array(plan.template.fill_rows(values), pa.string())
    columns["selected"] = _selected(columns, plan, path, n)
    columns["duplicate_of"] = pa.array(np.full(n, -1, np.int64))
    return columns


def _selected(columns: dict[str, pa.Array], plan: ImportPlan, path: Path, n: int) -> pa.Array:
    if plan.select is None:
        return pa.array(np.ones(n, bool))
    namespace = {needed: to_numpy(columns[name]) for needed, name in plan.select_names.items()}
    try:
        result = plan.select.evaluate(namespace)
    except ValueError as error:
        raise ParentError(f"{path}: select: {error}") from error
    if result.dtype.kind != "b":
        raise ParentError(f"{path}: select: expected a condition, found values of type {result.dtype}")
    return pa.array(np.broadcast_to(result, n).copy())


class _Groups:
    """Collects batches of any length into row groups of a fixed one."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema, rows: int) -> None:
        self.writer = writer
        self.schema = schema
        self.rows = rows
        self.pending: list[pa.RecordBatch] = []
        self.n_pending = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.pending.append(batch)
        self.n_pending += batch.num_rows
        if self.n_pending >= self.rows:
            table = pa.Table.from_batches(self.pending, self.schema)
            whole = self.n_pending // self.rows * self.rows
            self.writer.write_table(table.slice(0, whole), row_group_size=self.rows)
            self.pending = table.slice(whole).to_batches()
            self.n_pending -= whole

    def finish(self) -> None:
        if self.n_pending:
            self.writer.write_table(pa.Table.from_batches(self.pending, self.schema), row_group_size=self.rows)


def _mark_duplicates(path: Path, rows: NDArray[np.int64], earlier: NDArray[np.int64]) -> None:
    """Rewrite a table with ``duplicate_of`` filled in, row group by row group."""
    marked = path.with_name(path.name + ".marked")
    try:
        with pq.ParquetFile(path) as source, pq.ParquetWriter(
            marked, source.schema_arrow, compression="zstd"
        ) as writer:  # fmt: skip
            start = 0
            for number in range(source.num_row_groups):
                group = source.read_row_group(number)
                values = np.full(group.num_rows, -1, np.int64)
                first, last = np.searchsorted(rows, (start, start + group.num_rows))
                values[rows[first:last] - start] = earlier[first:last]
                at = group.schema.get_field_index("duplicate_of")
                writer.write_table(group.set_column(at, group.schema.field(at), pa.array(values)), group.num_rows)
                start += group.num_rows
        marked.replace(path)
    finally:
        marked.unlink(missing_ok=True)


def read_parent_columns(parent: Path, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Columns of some rows of an imported table.

    Parameters
    ----------
    parent : Path
        What :func:`import_parent` wrote.
    names : sequence of str
        Names in it, or their only match ignoring case; returned under the names asked for.
    start, stop : int

    Returns
    -------
    dict of str to ndarray, shape (stop - start,)
        ``StringDType`` for strings; missing values as in the store.

    Raises
    ------
    ParentError
        If a column is not there, or the table has fewer rows.
    """
    facts = parent.stat()
    metadata = _metadata_of(parent, facts.st_mtime_ns, facts.st_size)
    found = {name: _matching(name, metadata.schema.to_arrow_schema().names, parent) for name in names}
    if not 0 <= start <= stop <= metadata.num_rows:
        raise ParentError(f"{parent}: expected rows within 0 to {metadata.num_rows}, asked for {start} to {stop}")
    ends = _group_ends(parent, facts.st_mtime_ns, facts.st_size)
    groups = list(range(bisect_right(ends, start), bisect_left(ends, stop) + 1)) if start < stop else []
    offset = start - (ends[groups[0] - 1] if groups and groups[0] else 0)
    with pq.ParquetFile(parent, metadata=metadata) as source:
        table = source.read_row_groups(groups, columns=sorted(set(found.values())), use_threads=False)
    table = table.slice(offset, stop - start)
    return {name: to_numpy(table.column(column).combine_chunks()) for name, column in found.items()}


def read_parent_rows(parent: Path, start: int, stop: int, survey: Survey) -> dict[str, NDArray[Any]]:
    """Every store column of some rows: the parent's values, and missing values for what comes from files."""
    names = [column.name for column in survey.columns if column.aliases]
    values = read_parent_columns(parent, names, start, stop)
    for column in survey.columns:
        if not column.aliases:
            values[column.name] = np.full(stop - start, missing_value(column.dtype), numpy_dtype(column.dtype))
    return values


def parent_facts(parent: Path) -> dict[str, Any]:
    """What an imported table is: ``survey``, ``key``, ``survey_columns`` and ``extra_columns``.

    Raises
    ------
    ParentError
        If :func:`import_parent` did not write it.
    """
    file = parent.stat()
    metadata = _metadata_of(parent, file.st_mtime_ns, file.st_size).metadata or {}
    if _METADATA not in metadata:
        raise ParentError(f"{parent}: not an imported parent table")
    facts: dict[str, Any] = json.loads(metadata[_METADATA])
    return facts


@lru_cache(maxsize=4)
def _metadata_of(parent: Path, mtime_ns: int, size: int) -> pq.FileMetaData:
    # Time and size are part of the cache's key: an import may replace the file within one process.
    return pq.read_metadata(parent)


@lru_cache(maxsize=4)
def _group_ends(parent: Path, mtime_ns: int, size: int) -> list[int]:
    """Row behind the last one of every row group."""
    metadata = _metadata_of(parent, mtime_ns, size)
    return list(accumulate(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)))


def _matching(name: str, names: Sequence[str], parent: Path) -> str:
    if name in names:
        return name
    same = [candidate for candidate in names if candidate.lower() == name.lower()]
    if len(same) != 1:
        raise ParentError(f"{parent}: no column {name}; columns: {', '.join(names)}")
    return same[0]
