"""A catalogue of 5 million rows and 30 columns to FITS: the streaming writer against ``astropy.table.Table.write``.

Astropy's side has all columns in memory before its clock starts; ours gets them block by block. Our file has checksums,
astropy's does not.

Run: ``python -m benchmarks.merge_fits [--rows 5000000] [--runs 5]``
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits

from benchmarks.generated_catalogue import compare_sides, measure_writer, report, table_in_memory


def with_astropy(path: Path, n_rows: int) -> None:
    table = table_in_memory(n_rows)
    start, cpu = time.perf_counter(), time.process_time()
    table.write(path, format="fits", overwrite=True)
    report(start, cpu)


def check(theirs: Path, ours: Path) -> None:
    with fits.open(theirs) as first, fits.open(ours, checksum=True) as second:
        assert second[1].verify_datasum() == second[1].verify_checksum() == 1
        for name in first[1].columns.names:
            for start in range(0, len(first[1].data), 500_000):
                a, b = (hdus[1].data[name][start : start + 500_000] for hdus in (first, second))
                assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


if __name__ == "__main__":
    ours = partial(measure_writer, "fits")
    compare_sides("benchmarks.merge_fits", __doc__, {"astropy": with_astropy, "ours": ours}, check)
