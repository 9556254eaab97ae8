"""Codecs for spectra, measured on real ones: size, speed of writing and reading; and what rounding bits does to ages.

Run: ``python -m benchmarks.codecs DATA [--copies 4] [--runs 5] [--bundle spt-lamost]`` with DATA holding
``lamost/dr10/*.fits.gz``, ``lamost/dr10_stellar_subset.csv`` and ``apogee/apstar/*.fits``. One thread, one chunk in
memory; copies of the few APOGEE spectra get noise of their own, so that a codec does not find the copies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numcodecs import blosc

from benchmarks.timing import median_seconds
from catalogue.models import InferenceSettings, SpectraBatch, find_bundle, load_model
from catalogue.spectra.primitives import Spectrum
from catalogue.surveys import Survey, load_survey

SHUFFLES = {"none": blosc.NOSHUFFLE, "byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}
CODECS = [("lz4", 1, "byte"), ("lz4", 1, "bit"), ("lz4", 5, "bit"), ("zstd", 1, "byte"), ("zstd", 1, "bit")]
CODECS += [("zstd", 3, "byte"), ("zstd", 3, "bit"), ("zstd", 9, "bit"), ("zlib", 1, "byte")]


def chunk(survey: Survey, spectra: list[Spectrum], copies: int) -> dict[str, np.ndarray]:
    """Spectra on the survey's grid, repeated with noise of their own from the second time on."""
    n, random = survey.grid.n_pixels, np.random.default_rng(0)
    rows = len(spectra) * copies
    flux, ivar = np.full((rows, n), np.nan, np.float32), np.zeros((rows, n), np.float32)
    mask = np.zeros((rows, n), survey.mask_dtype)
    for row in range(rows):
        one = spectra[row % len(spectra)]
        inside = slice(one.first_pixel, one.first_pixel + one.flux.size)
        flux[row, inside], ivar[row, inside], mask[row, inside] = one.flux, one.ivar, one.mask
        if row >= len(spectra):
            sigma = np.where(ivar[row] > 0, 1 / np.sqrt(np.maximum(ivar[row], 1e-30)), 0)
            flux[row] += (sigma * random.standard_normal(n)).astype(np.float32)
            ivar[row] *= random.uniform(0.8, 1.2, n).astype(np.float32)
    return {"flux": flux, "ivar": ivar, "mask": mask}


def _each(work: Callable[[Any], object], arrays: Mapping[str, Any]) -> None:
    for values in arrays.values():
        work(values)


def measure(name: str, arrays: dict[str, np.ndarray], runs: int) -> None:
    """Print size and speeds of every codec, for each array and for all."""
    total = sum(values.nbytes for values in arrays.values())
    print(f"\n{name}: {len(arrays['flux'])} spectra, {total / 1e6:.0f} MB; GB/s of what is stored, one thread")
    print(f"  {'codec':16s} {'flux':>7s} {'ivar':>7s} {'mask':>7s} {'all':>7s}   {'write':>6s} {'read':>6s}")
    for family, level, shuffle in CODECS:
        codec = blosc.Blosc(family, level, SHUFFLES[shuffle])
        packed = {key: codec.encode(values) for key, values in arrays.items()}
        for key, values in arrays.items():
            back = np.frombuffer(codec.decode(packed[key]), values.dtype).reshape(values.shape)
            assert np.array_equal(back, values, equal_nan=values.dtype.kind == "f")
        write = median_seconds(partial(_each, codec.encode, arrays), runs)
        read = median_seconds(partial(_each, codec.decode, packed), runs)
        shares = [len(packed[key]) / values.nbytes for key, values in arrays.items()]
        size = sum(map(len, packed.values()))
        row = " ".join(f"{share:7.3f}" for share in [*shares, size / total])
        label = f"{family} {level} {shuffle}"
        print(f"  {label:16s} {row}   {total / write / 1e9:6.2f} {total / read / 1e9:6.2f}", flush=True)


def rounding(arrays: dict[str, np.ndarray], redshift: np.ndarray, bundle: str) -> None:
    """Print what fewer bits of flux and ivar save, and how far they move ages and masses."""
    model = load_model(find_bundle(bundle, Path.cwd()))
    settings, rows = InferenceSettings(device="cpu", passes=100), len(redshift)
    flux, ivar, mask = (arrays[key][:rows] for key in ("flux", "ivar", "mask"))
    codec = blosc.Blosc("lz4", 1, blosc.BITSHUFFLE)
    columns = {"z": redshift, "file_z": redshift}

    def predict(some_flux: np.ndarray, some_ivar: np.ndarray) -> dict[str, np.ndarray]:
        return model.predict(SpectraBatch(0, some_flux, some_ivar, mask, np.ones(rows, bool), columns), settings)

    exact = predict(flux, ivar)
    kept = np.isfinite(exact["age"])
    print(f"\nrounded bits, lz4 1 bit: {kept.sum()} real spectra with ages, {bundle}, T = 100")
    print("  bits kept   flux    ivar   largest |Δflux|/σ   |Δage|/error: median, largest   |Δmass|/error: largest")
    for bits in (23, 14, 12, 10, 9, 8, 7, 6):
        rounder = numcodecs.BitRound(bits)
        rounded = [
            np.frombuffer(rounder.decode(rounder.encode(values)), np.float32).reshape(values.shape)
            for values in (flux, ivar)
        ]
        shares = [len(codec.encode(values)) / values.nbytes for values in rounded]
        good = ivar > 0
        moved = (np.abs(rounded[0] - flux) * np.sqrt(ivar))[good].max()
        found = predict(*rounded)
        shifts = [np.abs(found[key] - exact[key])[kept] / exact[f"{key}_error"][kept] for key in ("age", "mass")]
        print(
            f"  {bits:9d} {shares[0]:7.3f} {shares[1]:7.3f} {moved:19.4f} {np.median(shifts[0]):18.2e}"
            f" {shifts[0].max():12.2e} {shifts[1].max():22.2e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bundle", default="spt-lamost")
    options = parser.parse_args()
    blosc.set_nthreads(1)
    lamost, apogee = load_survey("lamost-lrs"), load_survey("apogee")
    read = [lamost.read(path) for path in sorted((options.data / "lamost" / "dr10").glob("*.fits.gz"))]
    arrays = chunk(lamost, read, options.copies)
    measure("LAMOST", arrays, options.runs)
    stars = [apogee.read(path) for path in sorted((options.data / "apogee" / "apstar").glob("*.fits"))]
    measure("APOGEE", chunk(apogee, stars, 60 * options.copies), options.runs)
    redshift = np.array([float(one.cards["file_z"]) for one in read])
    rounding(arrays, redshift, options.bundle)


if __name__ == "__main__":
    main()
