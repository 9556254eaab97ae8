"""The chain as a script: apStar files to a row-matched table of ages and masses, in the style of the DR17 scripts.

Written for the benchmark after the published description of those scripts: three passes over whole arrays in memory,
one process, one star at a time until the network, which runs T times over every batch with dropout on. It leaves out
their defects, and is kinder than they are where that is free: bit tests are vectorised, torch may use all threads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from torch import nn

from benchmarks.continuum import one_star
from catalogue.models.apogee_continuum import N_PIXELS

BATCH = 64
BAD_STARFLAG = 1 << 0 | 1 << 3 | 1 << 4


def continuum_pass(parent: Path, root: Path, pixels: np.ndarray, output: Path) -> None:
    """All spectra normalised, one file after the other, into one array and one FITS file."""
    names = fits.getdata(parent)["FILE"]
    spectra = np.zeros((len(names), N_PIXELS), dtype=np.float32)
    good = np.zeros(len(names), dtype=np.uint8)
    for row, name in enumerate(names):
        try:
            with fits.open(root / name) as hdus:
                flux, error, mask = (np.atleast_2d(hdus[k].data)[0] for k in (1, 2, 3))
        except (OSError, FileNotFoundError):
            continue
        flux, error, mask = flux.astype(float), error.astype(float), mask.astype(np.int64)
        nothing = ~np.isfinite(flux) | ~np.isfinite(error) | (error >= 1e9)
        flux[nothing], error[nothing] = 1.0, 1e20
        mask[nothing] |= 1
        spectra[row] = one_star(flux, error**-2.0, mask, pixels)
        good[row] = 1
    fits.HDUList([fits.PrimaryHDU(spectra), fits.ImageHDU(good)]).writeto(output, overwrite=True)


def network_pass(
    parent: Path, spectra: Path, network: nn.Module, mean: np.ndarray, scale: np.ndarray, passes: int, output: Path
) -> None:
    """Ages and masses with errors, T passes over batches, of all spectra in memory."""
    with fits.open(spectra) as hdus:
        flux, good = hdus[0].data.astype(np.float32), hdus[1].data.astype(bool)
    starflag = fits.getdata(parent)["STARFLAG"]
    samples = np.zeros((passes, len(flux), 4), np.float32)
    inputs = flux - mean
    network.train()
    with torch.inference_mode():
        for start in range(0, len(flux), BATCH):
            batch = torch.from_numpy(inputs[start : start + BATCH])
            for t in range(passes):
                samples[t, start : start + BATCH] = network(batch).numpy()
    values, log_variance = np.logaddexp(0, samples[..., :2]), samples[..., 2:]
    average, model = values.mean(axis=0) * scale, values.std(axis=0) * scale
    predictive = np.exp(0.5 * log_variance.mean(axis=0)) * scale
    total = np.sqrt(model**2 + predictive**2)
    bad = ~good | (starflag & BAD_STARFLAG != 0)
    for array in (average, model, total):
        array[bad] = np.nan
    columns: dict[str, NDArray[np.float64]] = {}
    for k, name in enumerate(("age", "mass")):
        columns |= {name: average[:, k], f"{name}_total_error": total[:, k], f"{name}_model_error": model[:, k]}
    Table(columns).write(output, format="fits", overwrite=True)


def compile_pass(parent: Path, ages: Path, output: Path) -> None:
    """One table, row-matched to the parent."""
    star, age = Table.read(parent), Table.read(ages)
    kept = ["APOGEE_ID", "LOCATION_ID", "TELESCOPE", "FIELD", "RA", "DEC", "SNR", "STARFLAG", "ASPCAPFLAG", "TEFF"]
    table = star[kept]
    for name in age.colnames:
        values = np.array(age[name])
        values[~np.isfinite(values)] = np.nan
        table[name] = values
    for name in ("age", "mass"):
        outside = (table[name] < 0.1) | (table[name] > 20)
        for column in (name, f"{name}_total_error", f"{name}_model_error"):
            table[column][outside] = np.nan
    table.write(output, format="fits", overwrite=True)
