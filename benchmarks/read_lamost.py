"""LAMOST files to arrays on one core: ours, astropy and fitsio in a loop as people write them; decompression alone.

Run: ``python -m benchmarks.read_lamost DATA [--runs 7] [--plain]`` with DATA a directory of ``.fits.gz`` files in the
COADD layout. ``--plain`` compares decompressed copies. All sides read all files in turn, run by run, so that whatever
else the machine does hits them alike; the values are compared before anything is timed. Nothing here decides a
test.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fitsio
import numpy as np
from astropy.io import fits
from isal import igzip_lib

from catalogue.surveys.lamost import LamostLowResolution

VECTORS = ("FLUX", "IVAR", "ANDMASK", "ORMASK")
CARDS = ("OBSID", "RA", "DEC", "Z", "SNRG", "DATA_V", "COEFF0", "COEFF1")
SURVEY = LamostLowResolution()

Values = tuple[list[np.ndarray], list[object]]


def with_astropy(path: Path) -> Values:
    with fits.open(path) as hdus:
        table = hdus[1].data
        vectors = [np.array(table[name][0], dtype=np.float32) for name in VECTORS]
        return vectors, [hdus[0].header[name] for name in CARDS]


def with_fitsio(path: Path) -> Values:
    with fitsio.FITS(str(path)) as hdus:
        table = hdus[1].read(columns=list(VECTORS))
        header = hdus[0].read_header()
        return [table[name][0].astype(np.float32) for name in VECTORS], [header[name] for name in CARDS]


def with_catalogue(path: Path) -> object:
    return SURVEY.read(path)


def decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    return igzip_lib.decompress(content, igzip_lib.DECOMP_GZIP, 15, bufsize=int.from_bytes(content[-4:], "little"))


def require_equal(path: Path) -> None:
    """All three must give the same pixels and cards."""
    ours = SURVEY.read(path)
    for read in (with_astropy, with_fitsio):
        (flux, ivar, andmask, ormask), cards = read(path)
        np.testing.assert_array_equal(ours.flux, flux)
        np.testing.assert_array_equal(ours.ivar, ivar)
        np.testing.assert_array_equal(ours.mask, andmask.astype(np.uint16) | ormask.astype(np.uint16) << 8)
        names = ("file_obsid", "file_ra", "file_dec", "file_z", "file_snrg", "data_release")
        assert [ours.cards[name] for name in names] == [
            value.strip() if isinstance(value, str) else value for value in cards[:6]
        ]


def measure(paths: list[Path], runs: int) -> dict[str, list[float]]:
    """Seconds per pass over all files, side by side."""
    sides: dict[str, Callable[[Path], object]] = {
        "astropy.io.fits, loop": with_astropy,
        "fitsio, loop": with_fitsio,
        "catalogue": with_catalogue,
        "limit: read + ISA-L": decompressed,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, read in sides.items():
            start = time.perf_counter()
            for path in paths:
                read(path)
            if run:  # the first pass warms caches and imports
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    paths = sorted(arguments.data.glob("*.fits.gz"))
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.plain:
            for path in paths:
                (Path(scratch) / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
            paths = sorted(Path(scratch).glob("*.fits"))
        for path in paths:
            require_equal(path)
        seconds = measure(paths, arguments.runs)
    medians = {name: statistics.median(values) / len(paths) for name, values in seconds.items()}
    ours = medians["catalogue"]
    print(f"{len(paths)} files, median of {arguments.runs} runs on one core, values equal on all sides\n")
    print(f"{'':24} {'µs per file':>12} {'files per s':>12} {'against ours':>13}")
    for name, median in medians.items():
        print(f"{name:24} {median * 1e6:12.0f} {1 / median:12.0f} {median / ours:12.2f}×")


if __name__ == "__main__":
    main()
