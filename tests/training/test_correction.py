from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from catalogue.models.base import SpectraBatch
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
