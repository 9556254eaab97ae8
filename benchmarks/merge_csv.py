"""A catalogue of 30 columns to ``.csv.gz``: the streaming writer against ``Table.write(format="csv")`` and gzip.

Astropy's side has all columns in memory before its clock starts, and compresses with zlib's level 6 as ``gzip`` does.

Run: ``python -m benchmarks.merge_csv [--rows 5000000] [--runs 5]``
"""

from __future__ import annotations

import gzip
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.csv

from benchmarks.generated_catalogue import compare_sides, measure_writer, report, table_in_memory, thirty_columns


def with_astropy(path: Path, n_rows: int) -> None:
    table = table_in_memory(n_rows)
    plain = path.with_name(path.name + ".csv")
    start, cpu = time.perf_counter(), time.process_time()
    table.write(plain, format="csv", overwrite=True)
    with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    plain.unlink()
    report(start, cpu)


def check(theirs: Path, ours: Path) -> None:
    """Same values, read in pieces; the spelling of a number may differ."""
    with gzip.open(theirs) as first, gzip.open(ours) as second:
        tables = [pyarrow.csv.read_csv(stream) for stream in (first, second)]
    assert tables[0].column_names == tables[1].column_names
    assert tables[0].num_rows == tables[1].num_rows
    for column in thirty_columns().columns:
        a, b = (table[column.name].to_numpy() for table in tables)
        if column.is_float:
            assert np.array_equal(a.astype(column.dtype), b.astype(column.dtype), equal_nan=True), column.name
        else:
            assert np.array_equal(a, b), column.name


if __name__ == "__main__":
    ours = partial(measure_writer, "csv")
    compare_sides("benchmarks.merge_csv", __doc__, {"astropy": with_astropy, "ours": ours}, check)
