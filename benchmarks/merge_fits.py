"""A catalogue of 5 million rows and 30 columns to FITS: the streaming writer against ``astropy.table.Table.write``.

Astropy's side has all columns in memory before its clock starts; ours gets them block by block. Our file has checksums,
astropy's does not.

Run: ``python -m benchmarks.merge_fits [--rows 5000000] [--runs 5]``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.generated_catalogue import blocks, report, run_sides, stream, thirty_columns
from catalogue.writers import writer_for


def with_astropy(path: Path, n_rows: int) -> None:
    made = blocks()
    columns = {}
    for column in thirty_columns().columns:
        values = np.concatenate([block[column.name] for block in stream(made, n_rows)])
        columns[column.name] = np.array(values.tolist()) if column.dtype == "str" else values
    start, cpu = time.perf_counter(), time.process_time()
    Table(columns, copy=False).write(path, format="fits", overwrite=True)
    report(start, cpu)


def with_writer(path: Path, n_rows: int) -> None:
    made, model = blocks(), thirty_columns()
    start, cpu = time.perf_counter(), time.process_time()
    with writer_for("fits")(path, model, n_rows, {"DATE": "2026-01-01"}) as writer:
        for block in stream(made, n_rows):
            writer.write(block)
    report(start, cpu)


def check(theirs: Path, ours: Path) -> None:
    with fits.open(theirs) as first, fits.open(ours, checksum=True) as second:
        assert second[1].verify_datasum() == second[1].verify_checksum() == 1
        for name in first[1].columns.names:
            for start in range(0, len(first[1].data), 500_000):
                a, b = (hdus[1].data[name][start : start + 500_000] for hdus in (first, second))
                assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


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
        run_sides("benchmarks.merge_fits", ("astropy", "ours"), options.rows, options.runs, check)


if __name__ == "__main__":
    main()
