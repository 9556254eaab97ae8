"""The simulated APOGEE survey and the training of its networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from catalogue.models.apogee_continuum import ApogeeContinuum, read_continuum_pixels
from catalogue.models.astronn_bcnn import AstroNNArchitecture
from catalogue.models.latent_network import LatentArchitecture, frequency_grid
from catalogue.training.apogee_simulation import (
    RESPONSES,
    label_patterns,
    peak_frequency,
    seismic_parameters,
    simulate_oscillations,
    simulate_spectra,
    standard_labels,
)
from catalogue.training.apogee_training import TrainingSettings, train_astronn, train_latent_network
from catalogue.training.labels import LabelTable

MEAN, SPREAD = np.full(7514, 0.95), np.full(7514, 0.02)


def giants(n, seed=0):
    random = np.random.default_rng(seed)
    names = np.array([str(i) for i in range(n)])
    mass = random.uniform(0.9, 1.8, n)
    return LabelTable(
        key=names,
        star=names,
        age=10 * mass**-3,
        age_error=np.full(n, 0.5),
        mass=mass,
        mass_error=np.full(n, 0.05),
        age_mass_correlation=np.zeros(n),
        state=np.where(np.arange(n) % 2, "RC", "RGB"),
        teff=random.normal(4700, 150, n),
        logg=random.uniform(1.9, 3.0, n),
        feh=random.normal(0, 0.2, n),
        alpha_fe=random.normal(0.04, 0.03, n),
        c_fe=random.normal(0, 0.05, n),
        n_fe=random.normal(0.2, 0.05, n),
    )


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


def test_training_lowers_the_loss_of_both_networks(capsys):
    labels, frequency = giants(96), frequency_grid(32)
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.normal(0, 1, (96, 64)).astype("f4"))
    pixels[:, :16] = torch.from_numpy((8 * (labels.mass - 1.3))[:, None].astype("f4"))
    sizes = {"encoder_filters": (4, 4), "decoder_filters": (2, 2), "decoder_depth": 2, "decoder_kernel": 4}
    small = LatentArchitecture(n_pixels=64, n_frequencies=32, decoder_start=8, bottleneck=4, **sizes)
    power = np.outer(labels.mass - 1.3, np.linspace(-3, 3, 32))
    settings = TrainingSettings(epochs=30, batch=16, learning_rate=1e-2, kl_weight=1e-3)
    numax = np.full(96, 2.1)
    network = train_latent_network(pixels, power, frequency, numax, small, settings)
    assert not network.training
    architecture = AstroNNArchitecture(n_pixels=64, hidden=(8, 6), dropout=0.1)
    train_astronn(pixels, labels.physical(), np.full((96, 2), 0.1), architecture, settings)
    losses = [float(line.split("loss")[1]) for line in capsys.readouterr().err.splitlines() if "loss" in line]
    assert len(losses) == 60
    assert losses[29] < 0.7 * losses[0]
    assert losses[59] < losses[30]
