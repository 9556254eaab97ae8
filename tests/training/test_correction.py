from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.reality_gap import correction_of, emulated, numbers
from catalogue.models.base import SpectraBatch
from catalogue.models.preprocessing import GridSettings, PreprocessingSettings
from catalogue.training.correction import EmulatorCorrection, load_correction, measure_correction, save_correction
from tests.factories.bundles import LAMOST_GRID, TINY_PREPROCESSING

_WINDOWS = {"windows": TINY_PREPROCESSING["windows"]}


def _lines(depth):
    wavelength = LAMOST_GRID.wavelength()
    lines = np.random.default_rng(0).uniform(4100, 6600, 60)
    absorbed = np.exp(-0.5 * ((wavelength[:, None] - lines) / 2.5) ** 2).sum(axis=1)
    return 1.0 - np.clip(depth[:, None] * absorbed, 0, 0.9)


def _stars(extra, rows=40):
    """Emulated stars, and real ones that are deeper at 4600 Å by ``extra``, on another continuum and with noise."""
    rng = np.random.default_rng(1)
    emulated = _lines(rng.uniform(0.2, 0.4, rows))
    wavelength = LAMOST_GRID.wavelength()
    bump = 1.0 + extra * np.exp(-0.5 * ((wavelength - 4600) / 8.0) ** 2)
    slope = 300 * np.exp(rng.normal(0, 0.3, (rows, 1)) * (wavelength - 5500) / 2000)
    flux = emulated * bump * slope
    sigma = flux.mean(axis=1, keepdims=True) / 150
    flux = flux + sigma * rng.normal(size=flux.shape)
    columns = {"z": np.zeros(rows), "teff": rng.uniform(4400, 5000, rows), "feh": rng.normal(-0.1, 0.2, rows)}
    ivar = np.broadcast_to(1 / sigma**2, flux.shape)
    mask = np.zeros(flux.shape, np.uint16)
    spectra = SpectraBatch(0, flux.astype(np.float32), ivar.astype(np.float32), mask, np.ones(rows, bool), columns)
    return spectra, emulated.astype(np.float32)


def test_a_difference_between_real_and_emulated_spectra_is_measured():
    spectra, emulated = _stars(extra=-0.1)
    correction = measure_correction(spectra, LAMOST_GRID, _WINDOWS, emulated)
    at = np.log10(np.array([4600.0, 5100.0, 6300.0]))
    factors = correction.factors(at, np.array([4700.0]), np.array([-0.1]))[0]
    assert factors[0] == pytest.approx(0.9, abs=0.025)
    np.testing.assert_allclose(factors[1:], 1.0, atol=0.02)


def test_one_bad_spectrum_does_not_move_the_correction():
    spectra, emulated = _stars(extra=0.0)
    spectra.flux[3] *= 1 + 0.5 * np.sin(LAMOST_GRID.wavelength() / 9.0)
    correction = measure_correction(spectra, LAMOST_GRID, _WINDOWS, emulated)
    assert np.abs(correction.terms[0]).max() < 0.03


def test_nothing_is_corrected_outside_the_table_and_in_its_gaps():
    table = SimpleNamespace(x=np.array([3.60, 3.6002, 3.70, 3.7002]))
    correction = EmulatorCorrection(table.x, np.vstack([np.full(4, 0.1), np.zeros((2, 4))]))
    found = correction.factors(np.array([3.5, 3.6001, 3.65, 3.7001, 3.9]), np.array([4700.0]), np.array([0.0]))
    np.testing.assert_allclose(found[0], [1.0, 1.1, 1.0, 1.1, 1.0], rtol=1e-6)


def test_the_table_that_is_shipped_reads_back_and_is_small(tmp_path):
    correction = load_correction()
    save_correction(correction, tmp_path / "table.csv")
    assert np.loadtxt(tmp_path / "table.csv", delimiter=",", skiprows=1).shape == (len(correction.log10_wavelength), 4)
    factors = correction.factors(correction.log10_wavelength, np.array([4300.0, 5200.0]), np.array([-0.5, 0.3]))
    assert np.isfinite(factors).all()
    assert 0.69 < factors.min() < factors.max() < 1.31


def test_abundances_that_run_with_temperature_are_the_stars_and_no_slope_of_the_correction():
    """Carbon that falls by 0.1 dex per 250 K against the typical one, seen through the shipped mean difference.

    With typical abundances for all, the slope with Teff is 3.4, 1.5 and 1.5 % in the bands of CH and C2; fitted, it is
    0.3, 0.2 and 0.2 %.
    """
    if importlib.util.find_spec("bossbrain") is None:
        pytest.skip("needs the package bossbrain")
    settings = PreprocessingSettings(grid=GridSettings.of(LAMOST_GRID))
    spectra, carbon = _giants_with_running_carbon(40)
    typical = emulated(numbers(spectra), None, LAMOST_GRID.n_pixels)
    before = measure_correction(spectra, LAMOST_GRID, settings.model_dump(exclude={"grid"}), typical)
    after, offsets = correction_of(spectra, settings)
    for band in ((4290, 4330), (4640, 4740), (5080, 5165)):
        assert _slope(before, *band) > 0.01
        assert _slope(after, *band) < 0.006
    # what belongs to the emulator stays: a slope at 6400 Å
    assert _slope(after, 6380, 6420) == pytest.approx(_slope(before, 6380, 6420), rel=0.1)
    assert _slope(after, 6380, 6420) > 0.02
    np.testing.assert_allclose(offsets[:, 0] - carbon + carbon.mean(), 0.0, atol=0.12)


def _giants_with_running_carbon(rows):
    """'Real' giants out of the emulator, its error planted, and their offsets of [C/Fe] from the typical one."""
    rng = np.random.default_rng(0)
    columns = {"z": np.zeros(rows), "teff": rng.uniform(4300, 5000, rows), "feh": rng.normal(-0.1, 0.2, rows)}
    columns["logg"] = 2.5 + (columns["teff"] - 4750) / 700 + rng.normal(0, 0.2, rows)
    running = -0.1 * (columns["teff"] - 4650) / 250
    offsets = np.stack([running, np.zeros(rows), np.zeros(rows)], axis=1) + rng.normal(0, 0.03, (rows, 3))
    error = load_correction().terms * np.array([[1.0], [0.0], [0.0]])
    at = load_correction().log10_wavelength
    error[1] = 0.05 * np.exp(-0.5 * ((10**at - 6400) / 10) ** 2)
    clean = emulated(columns, EmulatorCorrection(at, error), LAMOST_GRID.n_pixels, offsets=offsets)
    flux = np.where(clean > 0, clean + rng.normal(0, 0.01, clean.shape), 0.0).astype(np.float32)
    ivar = np.where(clean > 0, 1e4, 0.0).astype(np.float32)
    mask = np.zeros(flux.shape, np.uint16)
    return SpectraBatch(0, flux, ivar, mask, np.ones(rows, bool), columns), offsets[:, 0]


def _slope(correction, low, high):
    wavelength = 10**correction.log10_wavelength
    return np.sqrt(np.mean(correction.terms[1, (wavelength >= low) & (wavelength < high)] ** 2))
