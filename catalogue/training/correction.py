"""Where the emulated spectra differ from real ones, and what to multiply them with.

The table `lamost_emulator_correction.csv` beside this module has one row per bin of two native pixels in the rest
frame: the mean relative difference of continuum-normalised real LAMOST giants from their emulated counterparts, and
its slopes with temperature and metallicity. Beyond the table's ends and in its gaps nothing is corrected.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catalogue.models.base import SpectraBatch
from catalogue.models.preprocessing import GridSettings, Preprocessing, PreprocessingSettings, redshift
from catalogue.spectra.primitives import PixelGrid
from catalogue.training.emulator import WAVELENGTH_AIR, air_to_vacuum

_PATH = Path(__file__).parent / "lamost_emulator_correction.csv"
_BIN = 2
_LARGEST = 0.3
"""Most that a pixel is corrected by; more is a defect of a spectrum and not of the emulator."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class EmulatorCorrection:
    """Relative differences by wavelength.

    Attributes
    ----------
    log10_wavelength : ndarray of float64, shape (bins,)
        Vacuum, rest frame.
    terms : ndarray of float64, shape (3, bins)
        Coefficients of :func:`_design`.
    """

    log10_wavelength: Values
    terms: Values

    def factors(self, log10_wavelength: Values, teff: Values, feh: Values) -> NDArray[np.float32]:
        """What emulated spectra are multiplied with, shape (stars, wavelengths)."""
        step = 3.0 * _BIN * 1e-4
        gaps = np.flatnonzero(np.diff(self.log10_wavelength) > step)
        edges = np.concatenate([[-1], gaps, [len(self.log10_wavelength) - 1]])
        columns = np.zeros((len(self.terms), len(log10_wavelength)))
        for first, last in zip(edges[:-1] + 1, edges[1:] + 1, strict=True):
            x = self.log10_wavelength[first:last]
            for column, values in zip(columns, self.terms[:, first:last], strict=True):
                column += np.interp(log10_wavelength, x, values, left=0.0, right=0.0)
        change = np.clip(_design(teff, feh) @ columns, -_LARGEST, _LARGEST)
        return np.asarray(1.0 + change, dtype=np.float32)


@functools.cache
def load_correction() -> EmulatorCorrection:
    """The correction that the package carries."""
    data = np.loadtxt(_PATH, delimiter=",", skiprows=1).T
    return EmulatorCorrection(data[0], data[1:])


def save_correction(correction: EmulatorCorrection, path: Path = _PATH) -> None:
    """Write the table."""
    rows = np.column_stack([correction.log10_wavelength, correction.terms.T])
    header = "log10_wavelength,difference,difference_teff,difference_feh"
    np.savetxt(path, rows, ["%.4f", "%.4f", "%.4f", "%.4f"], ",", header=header, comments="")


def measure_correction(
    spectra: SpectraBatch, grid: PixelGrid, settings: dict[str, object], emulated: NDArray[np.float32]
) -> EmulatorCorrection:
    """Measure real spectra against emulated ones.

    Parameters
    ----------
    spectra : SpectraBatch
        Real giants with columns ``teff`` and ``feh``.
    grid : PixelGrid
    settings : dict
        Fields of :class:`~catalogue.models.preprocessing.PreprocessingSettings`.
    emulated : ndarray of float32, shape (rows, grid pixels)
        The same stars, emulated at the survey's resolution on the native lattice at rest, without noise.
    """
    preprocessing = Preprocessing(PreprocessingSettings.model_validate({"grid": GridSettings.of(grid), **settings}))
    real = preprocessing(spectra.flux, spectra.ivar, spectra.mask, redshift(spectra))
    ivar = np.where(emulated > 0, 1e6, 0.0).astype(np.float32)
    model = preprocessing(emulated, ivar, np.zeros_like(spectra.mask), np.zeros(len(emulated)))
    good = real.good & model.good & (model.flux > 0.05)
    difference = torch.where(good, real.flux / model.flux.clamp(min=0.05) - 1.0, 0.0).double().numpy()
    # a star counts by its noise, but never so much that a few decide: they differ among themselves by some per cent
    variance = (real.variance / model.flux.clamp(min=0.05).square()).double().numpy() + 0.03**2
    weight = np.where(good.numpy(), 1.0 / variance, 0.0)
    design = _design(spectra.columns["teff"].astype(float), spectra.columns["feh"].astype(float))
    starts = np.arange(0, preprocessing.n_pixels, _BIN)
    total = np.add.reduceat(weight, starts, axis=1)
    mean = np.add.reduceat(weight * difference, starts, axis=1) / np.maximum(total, 1e-12)
    for _ in range(3):
        terms = _regress(design, mean, total)
        left = np.abs(mean - design @ terms)
        total = np.where(left > 4 * np.median(left, axis=0), 0.0, total)
    return EmulatorCorrection(np.log10(preprocessing.wavelength[starts]), terms)


def rest_wavelengths() -> Values:
    """log10 vacuum wavelengths of the emulator's pixels."""
    return np.asarray(np.log10(air_to_vacuum(WAVELENGTH_AIR)))


def _regress(design: Values, values: Values, weight: Values) -> Values:
    """Weighted least squares of every column, the slopes held small."""
    normal = np.einsum("sp,si,sj->pij", weight, design, design)
    typical = weight.sum(axis=0)
    normal[:, 1, 1] += 0.05 * typical
    normal[:, 2, 2] += 0.05 * typical
    normal[:, range(3), range(3)] += 1e-9
    right = np.einsum("sp,si,sp->pi", weight, design, values)
    return np.asarray(np.linalg.solve(normal, right[:, :, None])[:, :, 0].T)


def _design(teff: Values, feh: Values) -> Values:
    """Constant, temperature and metallicity of every star, held within the range of the stars measured."""
    warm = np.clip((teff - 4750.0) / 250.0, -1.5, 1.5)
    rich = np.clip((feh + 0.1) / 0.25, -2.0, 2.0)
    return np.stack([np.ones_like(warm), warm, rich], axis=1)
