"""Parquet files by ranges of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.query.table import BLOCK_ROWS, Limits, Table, TableColumn, TableError


class ParquetTable(Table):
    """One Parquet file. Columns of nested types are left out.

    Parameters
    ----------
    path : Path

    Raises
    ------
    TableError
        If it is not a Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{path}: expected a Parquet file: {error}") from error
        schema = self._metadata.schema.to_arrow_schema()
        self.n_rows = self._metadata.num_rows
        self._places = {self._metadata.schema.column(i).path: i for i in range(self._metadata.num_columns)}
        groups = [self._metadata.row_group(index).num_rows for index in range(self._metadata.num_row_groups)]
        self._first_rows = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        if groups:
            # Whole row groups, as many as make a block.
            self.block_rows = groups[0] * max(1, BLOCK_ROWS // max(groups[0], 1))
            if any(rows != groups[0] for rows in groups[:-1]):
                self.block_sizes = _joined(groups)
        facts = {key.decode(): value.decode("utf-8", "replace") for key, value in (schema.metadata or {}).items()}
        self.columns = {
            field.name: column for field in schema if (column := _column(field, facts, self._nullable(field.name)))
        }
        self.attributes = {
            key: value for key, value in facts.items()
            if key not in ("flags", "statuses", "ARROW:schema", "pandas") and not key.startswith("table::")
        }  # fmt: skip

    def limits(self, name: str) -> Limits | None:
        """Limits of every row group, from the footer; see :meth:`Table.limits`."""
        index = self._places.get(name)
        if index is None:
            return None
        limits = []
        for group in range(self._metadata.num_row_groups):
            statistics = self._metadata.row_group(group).column(index).statistics
            known = statistics is not None and statistics.has_min_max
            limits.append((float(statistics.min), float(statistics.max)) if known else (np.nan, np.nan))
        low, high = np.array(limits, float).reshape(-1, 2).T
        return Limits(self._first_rows, low, high)

    def _nullable(self, name: str) -> bool:
        """Whether some row group says that it holds nulls, or does not say."""
        index = self._places.get(name)
        if index is None:
            return True
        for group in range(self._metadata.num_row_groups):
            statistics = self._metadata.row_group(group).column(index).statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                return True
        return False

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows ``start`` to ``stop``; see :meth:`Table.read`."""
        if start == stop:
            return {name: np.empty(0, self.columns[name].dtype) for name in names}
        first, last = np.searchsorted(self._first_rows, [start, stop - 1], side="right") - 1
        try:
            # The footer is read once; the file is opened for each read, since readers are not made for threads.
            with pq.ParquetFile(self.path, metadata=self._metadata) as file:
                table = file.read_row_groups(range(first, last + 1), columns=list(names), use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{self.path}: rows {start} to {stop} cannot be read: {error}") from error
        table = table.slice(start - int(self._first_rows[first]), stop - start)
        return {name: to_numpy(table[name], self.columns[name]) for name in names}


def _joined(groups: Sequence[int]) -> tuple[int, ...]:
    """Rows of blocks of whole row groups, each of at most the usual number of rows where its groups allow."""
    blocks = [groups[0]]
    for rows in groups[1:]:
        if blocks[-1] + rows <= BLOCK_ROWS:
            blocks[-1] += rows
        else:
            blocks.append(rows)
    return tuple(blocks)


def _column(field: pa.Field, facts: dict[str, str], nullable: bool) -> TableColumn | None:
    """Description of a field by its metadata, or None for a nested type."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        dtype: np.dtype[Any] = np.dtypes.StringDType()
    elif pa.types.is_boolean(kind):
        dtype = np.dtype(bool)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
    elif pa.types.is_timestamp(kind):
        dtype = np.dtype("datetime64[ns]")
    else:
        return None
    own = {key.decode(): value.decode("utf-8", "replace") for key, value in (field.metadata or {}).items()}
    stated = own.get("null_value")
    null = int(stated) if stated else None
    if null is None and dtype.kind in "iu" and nullable:
        null = int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)
    attributes = {key: own[key] for key in ("source", "role") if key in own}
    return TableColumn(
        field.name,
        dtype,
        (),
        own.get("unit", ""),
        own.get("ucd", ""),
        own.get("description", ""),
        null,
        {**attributes, **_meanings(field.name, own.get("role", ""), facts)},
    )


def _meanings(name: str, role: str, facts: dict[str, str]) -> dict[str, Any]:
    if name == "FLAG" and "flags" in facts:
        flags = json.loads(facts["flags"])
        return {
            "flag_masks": [1 << flag["bit"] for flag in flags],
            "flag_meanings": " ".join(flag["name"] for flag in flags),
            "flag_levels": " ".join(flag["level"] for flag in flags),
        }
    if role == "status" and "statuses" in facts:
        statuses = json.loads(facts["statuses"])
        return {"flag_values": list(statuses.values()), "flag_meanings": " ".join(statuses)}
    return {}


def to_numpy(values: pa.ChunkedArray, column: TableColumn) -> NDArray[Any]:
    """Arrow values as the column's dtype; nulls as NaN, the column's null, False, or the empty string."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if column.dtype.kind == "T":
        return np.array(values.fill_null("").to_pylist(), np.dtypes.StringDType())
    if values.null_count and column.dtype.kind in "iub":
        values = values.fill_null(False if column.dtype.kind == "b" else column.null)
    return np.asarray(values.to_numpy()).astype(column.dtype, copy=False)
