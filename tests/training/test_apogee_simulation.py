"""The simulated APOGEE survey and the training of its networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from catalogue.models.apogee_continuum import ApogeeContinuum, read_continuum_pixels
from catalogue.models.latent_network import frequency_grid
from catalogue.training.apogee_simulation import (
    RESPONSES,
    label_patterns,
    peak_frequency,
    seismic_parameters,
    simulate_oscillations,
    simulate_spectra,
    standard_labels,
)
from tests.factories.apogee import giants

MEAN, SPREAD = np.full(7514, 0.95), np.full(7514, 0.02)


def test_the_sun_has_solar_oscillations():
    one = {"logg": np.array([4.438]), "teff": np.array([5780.0]), "mass": np.array([1.0])}
    sun = dataclasses.replace(giants(1), **one)
    numax, separation = seismic_parameters(sun)
    assert numax[0] == pytest.approx(3076.0)
    assert separation[0] == pytest.approx(135.146)


def test_power_peaks_at_numax_and_has_no_background():
    labels, frequency = giants(40), frequency_grid()
    found = simulate_oscillations(labels, frequency, 1)
    assert found.log_power.shape == (40, 2092)
    inside = (found.numax > 8) & (found.numax < 200)
    assert np.median(np.abs(peak_frequency(found.log_power, frequency) / found.numax - 1)[inside]) < 0.05
    far = np.abs(frequency - found.numax[:, None]) > 0.9 * found.numax[:, None]
    assert np.exp(found.log_power[far]).mean() == pytest.approx(1.0, abs=0.05)


def test_clump_and_giant_branch_differ_in_their_modes():
    labels, frequency = giants(2), frequency_grid()
    for name in ("teff", "logg", "mass"):
        getattr(labels, name)[:] = {"teff": 4700, "logg": 2.5, "mass": 1.2}[name]
    smooth = simulate_oscillations(labels, frequency, 1, independent=1e6).log_power
    assert np.abs(smooth[0] - smooth[1]).max() > 0.3


def test_patterns_are_orthogonal_and_fixed():
    patterns = np.stack(list(label_patterns().values()))
    np.testing.assert_allclose(patterns @ patterns.T / 7514, np.eye(len(RESPONSES)), atol=1e-10)
    np.testing.assert_array_equal(patterns, np.stack(list(label_patterns().values())))


def test_spectra_respond_to_every_label_by_its_share():
    labels = giants(60)
    batch = simulate_spectra(labels, MEAN, SPREAD, 3)
    pixels = ApogeeContinuum(read_continuum_pixels())(batch.flux, batch.ivar, batch.mask).double().numpy()
    standard = standard_labels(labels)
    for name, (_, _, share) in RESPONSES.items():
        if share < 0.2:
            continue
        strength = (pixels - pixels.mean(0)) @ label_patterns()[name] / 7514 / 0.02
        slope = np.polyfit(standard[name], strength, 1)[0]
        assert slope == pytest.approx(share, rel=0.4), name


def test_spectra_are_as_ingest_would_store_them():
    batch = simulate_spectra(giants(5), MEAN, SPREAD, 3, first_row=64)
    assert batch.first_row == 64
    assert batch.flux.dtype == batch.ivar.dtype == np.float32
    gap = batch.ivar[0] == 0
    assert gap.sum() == 8575 - 7514
    assert np.isnan(batch.flux[:, gap]).all()
    assert np.isfinite(batch.flux[:, ~gap]).all()
    assert (batch.mask[:, gap] == 1).all()
    again = simulate_spectra(giants(5), MEAN, SPREAD, 3)
    np.testing.assert_array_equal(again.flux, batch.flux)
