"""Reading apStar files: the combined spectrum by offsets against astropy, as people write it.

Run: ``python -m benchmarks.apogee_read FOLDER [--repeat 5]`` with a folder of apStar files; to it come a file of 2 and
one of 30 visits, written on the spot. Files are in the page cache: this is the cost of the reader, not of the disk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

from benchmarks.timing import median_seconds
from catalogue.surveys.apogee import Apogee
from tests.factories.apogee import write_apstar

LOOPS = 20


def as_people_write_it(path: Path) -> tuple[np.ndarray, ...]:
    """Row 0 of three extensions and the same cards, to the same native arrays."""
    with fits.open(path) as hdus:
        flux, error, mask = (np.atleast_2d(hdus[k].data)[0] for k in (1, 2, 3))
        header = hdus[0].header
        _ = [header.get(card) for card in ("OBJID", "RA", "DEC", "SNR", "NVISITS")]
        with np.errstate(all="ignore"):
            ivar = np.where(np.isfinite(flux) & (error > 0) & (error < 1e9), 1 / error.astype("f8") ** 2, 0)
        return flux.astype("f4"), ivar.astype("f4"), mask.astype("u4")


def seconds(read: Callable[[Path], object], path: Path, repeat: int) -> float:
    return median_seconds(lambda: [read(path) for _ in range(LOOPS)], repeat) / LOOPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    survey = Apogee()
    with tempfile.TemporaryDirectory() as scratch:
        made = [write_apstar(Path(scratch) / f"apStar-made-{n}-visits.fits", n_visits=n) for n in (2, 30)]
        print(f"{'file':44s} {'astropy':>9s} {'ours':>9s}  ratio   (µs per file, median of {options.repeat})")
        for path in [*sorted(options.folder.glob("apStar*.fits")), *made]:
            spectrum, theirs = survey.read(path), as_people_write_it(path)
            for ours, other in zip((spectrum.flux, spectrum.ivar, spectrum.mask), theirs, strict=True):
                np.testing.assert_array_equal(ours, other)
            slow = seconds(as_people_write_it, path, options.repeat)
            fast = seconds(survey.read, path, options.repeat)
            print(f"{path.name:44s} {slow * 1e6:9.0f} {fast * 1e6:9.0f} {slow / fast:6.1f} ×")


if __name__ == "__main__":
    main()
