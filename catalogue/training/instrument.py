"""How LAMOST low-resolution spectra look, measured on real ones and kept as a small table.

The table `lamost_instrument.csv` beside this module has one row per bin of 48 native pixels:

=============== ========================================================================================
log10_wavelength centre of the bin, dex of Å in vacuum, observed frame
noise            median over stars of log10(S/N per pixel / SNRG)
noise_1, noise_2 its principal components over stars, each times the standard deviation of its score
shape            median over stars of log10(smooth flux / (smooth emulated flux * Planck function of the star's
                 Teff)), itself smoothed within each arm, 0 on average
shape_1..shape_4 its principal components, scaled likewise: response, flux calibration and reddening
excess           robust scatter of high-pass residuals over that from ``ivar``, at least 1 (sky residuals)
missing          fraction of pixels with zero inverse variance
andmask, ormask  fraction of pixels with any bit of the mask set
=============== ========================================================================================

and `lamost_snrg.csv` has the quantiles of SNRG of the giants measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

LOG10_FIRST = 3.5682
LOG10_STEP = 1e-4
BIN_PIXELS = 48
ARMS_JOIN = 5950.0
"""Å, where the flux of LAMOST's two arms is joined: real giants have steps of 1 % there, either way, and the shape is
smoothed on each side by itself. (5950 leaves the least; 5850, half way of their overlap, a tenth more.)
"""

SMOOTHING_BINS = 6.0
"""Standard deviation of the smoothing of the shape, 0.029 dex or about 350 Å.

Response, flux calibration and reddening are smooth on this scale. What is left on smaller ones are the lines that the
emulator does not get right, which simulated spectra must not have a second time, at random.
"""

_DIRECTORY = Path(__file__).parent
Values = NDArray[np.float64]


@dataclass(frozen=True)
class InstrumentTable:
    """The columns above, each of shape ``(bins,)`` or ``(components, bins)``, and the quantiles of SNRG."""

    log10_wavelength: Values
    noise: Values
    noise_components: Values
    shape: Values
    shape_components: Values
    excess: Values
    missing: Values
    andmask: Values
    ormask: Values
    snrg_quantiles: Values


def load_instrument() -> InstrumentTable:
    """The table that the package carries."""
    path = _DIRECTORY / "lamost_instrument.csv"
    names = path.read_text().splitlines()[0].split(",")
    data = dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1).T, strict=True))
    quantiles = np.loadtxt(_DIRECTORY / "lamost_snrg.csv", delimiter=",", skiprows=1)[:, 1]
    return InstrumentTable(
        log10_wavelength=data["log10_wavelength"],
        noise=data["noise"],
        noise_components=np.stack([data[name] for name in names if name.startswith("noise_")]),
        shape=data["shape"],
        shape_components=np.stack([data[name] for name in names if name.startswith("shape_")]),
        excess=data["excess"],
        missing=data["missing"],
        andmask=data["andmask"],
        ormask=data["ormask"],
        snrg_quantiles=quantiles,
    )


def save_instrument(table: InstrumentTable, directory: Path) -> None:
    """Write the two CSV files of a table."""
    columns: dict[str, Values] = {}
    for field in fields(table):
        value = getattr(table, field.name)
        stem = field.name.removesuffix("_components")
        if field.name == "snrg_quantiles":
            continue
        if value.ndim == 1:
            columns[stem] = value
        else:
            columns |= {f"{stem}_{k + 1}": row for k, row in enumerate(value)}
    rows = np.stack(list(columns.values()), axis=1)
    header = ",".join(columns)
    np.savetxt(directory / "lamost_instrument.csv", rows, "%.5g", ",", header=header, comments="")
    quantiles = np.stack([np.linspace(0, 1, len(table.snrg_quantiles)), table.snrg_quantiles], axis=1)
    np.savetxt(directory / "lamost_snrg.csv", quantiles, "%.4g", ",", header="quantile,snrg", comments="")


def measure_instrument(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    masks: Sequence[NDArray[np.integer]],
    emulated: NDArray[np.float32],
    teff: Values,
    snrg: Values,
) -> InstrumentTable:
    """Measure the table on real spectra on the native grid.

    Parameters
    ----------
    flux, ivar : ndarray of float32, shape (stars, pixels)
    masks : (andmask, ormask), each ndarray of integers, shape (stars, pixels)
    emulated : ndarray of float32, shape (stars, pixels)
        Continuum-normalised spectra of the same stars from the emulator, at their redshifts: the lines of a star are
        no part of the response.
    teff, snrg : ndarray, shape (stars,)
        K; S/N per pixel in g.
    """
    bins = flux.shape[1] // BIN_PIXELS
    used = bins * BIN_PIXELS
    centre = LOG10_FIRST + LOG10_STEP * (BIN_PIXELS * (np.arange(bins) + 0.5) - 0.5)

    def blocks(array: NDArray[Any]) -> NDArray[Any]:
        return array[:, :used].reshape(len(array), bins, BIN_PIXELS)

    smooth: NDArray[np.float64] = np.asarray(median_filter(flux, (1, 49)), np.float64)
    valid = (ivar > 0) & (smooth > 0)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # a bin without a good pixel takes its neighbour's value
        per_pixel: NDArray[np.float64] = np.where(valid, smooth * np.sqrt(np.maximum(ivar, 0)), np.nan)
        snr: NDArray[np.float64] = np.nanmedian(blocks(per_pixel), axis=2)
        noise = _fill(np.log10(snr / snrg[:, None]))
        lines: NDArray[np.float64] = np.asarray(median_filter(emulated, (1, 49)), np.float64)
        ratio = np.where(valid & (lines > 0), smooth / np.maximum(lines, 1e-6), np.nan)
        level = np.log10(np.nanmedian(blocks(ratio), axis=2))
    shape = _smoothed(_fill(level - log10_planck(centre, teff)), centre)
    shape -= np.median(shape, axis=1, keepdims=True)
    noisy = snrg < np.quantile(snrg, 0.4)
    residual = np.where(valid, (flux - median_filter(flux, (1, 9))) * np.sqrt(np.maximum(ivar, 0)), np.nan)[noisy]
    scatter = np.nanmedian(np.abs(blocks(residual)), axis=(0, 2))
    noise_mean, noise_components = _components(noise, 2)
    shape_mean, shape_components = _components(shape, 4)
    return InstrumentTable(
        log10_wavelength=centre,
        noise=noise_mean,
        noise_components=noise_components,
        shape=shape_mean,
        shape_components=shape_components,
        excess=np.maximum(scatter / np.nanmedian(scatter), 1.0),
        missing=blocks(ivar <= 0).mean(axis=(0, 2)),
        andmask=blocks(masks[0] > 0).mean(axis=(0, 2)),
        ormask=blocks(masks[1] > 0).mean(axis=(0, 2)),
        snrg_quantiles=np.quantile(snrg, np.linspace(0, 1, 21)),
    )


def log10_planck(log10_wavelength: Values, teff: Values) -> Values:
    """log10 of the Planck function per unit wavelength up to a constant, shape ``(stars, wavelengths)``."""
    metres = 10.0**log10_wavelength * 1e-10
    exponent = 0.0143877688 / (metres[None, :] * teff[:, None])
    return np.asarray(-5.0 * log10_wavelength[None, :] - np.log10(np.expm1(exponent)))


def _smoothed(values: Values, log10_wavelength: Values) -> Values:
    """Smooth rows along wavelength, each arm by itself, by local straight lines with Gaussian weights.

    A weighted mean would flatten the slopes at the ends of the arms.
    """
    result = np.empty_like(values)
    blue = 10.0**log10_wavelength < ARMS_JOIN
    for arm in (blue, ~blue):
        position = np.arange(arm.sum(), dtype=np.float64)
        offset = position[None, :] - position[:, None]
        weight = np.exp(-0.5 * (offset / SMOOTHING_BINS) ** 2)
        zeroth, first, second = (np.sum(weight * offset**power, axis=1, keepdims=True) for power in range(3))
        kernel = weight * (second - first * offset) / (zeroth * second - first**2)
        result[:, arm] = values[:, arm] @ kernel.T
    return result


def _components(values: Values, number: int) -> tuple[Values, Values]:
    """Median, and leading principal components times the robust standard deviation of their scores."""
    middle = np.median(values, axis=0)
    centred = np.clip(values - middle, *np.quantile(values - middle, [0.01, 0.99]))
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ directions[:number].T
    spread = 1.4826 * np.median(np.abs(scores - np.median(scores, axis=0)), axis=0)
    return middle, directions[:number] * spread[:, None]


def _fill(values: Values) -> Values:
    """Missing bins take the nearest known value of the same star."""
    result = values.copy()
    positions = np.arange(values.shape[1])
    for row in result:
        known = np.isfinite(row)
        row[:] = np.interp(positions, positions[known], row[known]) if known.any() else 0.0
    return result
