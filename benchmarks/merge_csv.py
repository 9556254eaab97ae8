"""A catalogue of 30 columns to ``.csv.gz``: the streaming writer against ``Table.write(format="csv")`` and gzip.

Astropy's side has all columns in memory before its clock starts, and compresses with zlib's level 6 as ``gzip`` does.

Run: ``python -m benchmarks.merge_csv [--rows 5000000] [--runs 5]``
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.csv
from astropy.table import Table

from benchmarks.generated_catalogue import blocks, report, run_sides, stream, thirty_columns
from catalogue.writers import writer_for


def with_astropy(path: Path, n_rows: int) -> None:
    made = blocks()
    columns = {}
    for column in thirty_columns().columns:
        values = np.concatenate([block[column.name] for block in stream(made, n_rows)])
        columns[column.name] = np.array(values.tolist()) if column.dtype == "str" else values
    plain = path.with_name(path.name + ".csv")
    start, cpu = time.perf_counter(), time.process_time()
    Table(columns, copy=False).write(plain, format="csv", overwrite=True)
    with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    plain.unlink()
    report(start, cpu)


def with_writer(path: Path, n_rows: int) -> None:
    made, model = blocks(), thirty_columns()
    start, cpu = time.perf_counter(), time.process_time()
    with writer_for("csv")(path, model, n_rows, {"DATE": "2026-01-01"}) as writer:
        for block in stream(made, n_rows):
            writer.write(block)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--side", choices=["astropy", "ours"])
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.side:
        {"astropy": with_astropy, "ours": with_writer}[options.side](options.path, options.rows)
    else:
        run_sides("benchmarks.merge_csv", ("astropy", "ours"), options.rows, options.runs, check)


if __name__ == "__main__":
    main()
