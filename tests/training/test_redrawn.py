from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from catalogue.training.dataset import TrainingSet, redrawn
from catalogue.training.instrument import load_instrument
from catalogue.training.observation import ObservationSettings
from catalogue.training.population import draw_population
from tests.factories.bundles import LAMOST_GRID, giant_spectra

ROWS = np.arange(40)
QUIET = ObservationSettings(sky_residual=0, cosmic_rays=0)


@pytest.fixture(scope="module")
def data():
    spectra = giant_spectra(40, seed=3)
    columns = {**spectra.columns, "snrg": np.geomspace(10, 200, 40)}
    survey = SimpleNamespace(name="lamost-lrs", grid=LAMOST_GRID, columns=())
    labels = draw_population(40, np.random.default_rng(0))
    return TrainingSet(
        replace(spectra, columns=columns), labels, survey, "0" * 64, noiseless=spectra.flux, observation=QUIET
    )


def test_noise_is_that_of_ivar_and_the_measured_excess(data):
    (batch,) = redrawn(data, ROWS, 1, seed=0)
    sigmas = ((batch.flux - data.noiseless) * np.sqrt(batch.ivar))[batch.ivar > 0]
    assert 1.0 <= sigmas.std() < 1.1 * np.sqrt(np.mean(load_instrument().excess ** 2))
    assert abs(sigmas.mean()) < 0.01


def test_every_star_gets_the_signal_to_noise_ratio_of_another(data):
    (batch,) = redrawn(data, ROWS, 1, seed=0)
    good = (data.spectra.ivar > 0).any(axis=1)
    factor = np.sqrt((data.spectra.ivar.max(axis=1) / batch.ivar.max(axis=1))[good])
    snrg = data.spectra.columns["snrg"]
    np.testing.assert_allclose(np.sort(snrg[good] / factor), np.sort(snrg)[good], rtol=1e-4)
    assert (factor != 1).sum() > 30


def test_a_pixel_without_ivar_gets_neither(data):
    ivar = data.spectra.ivar.copy()
    ivar[:, 700:720] = 0
    some = replace(data, spectra=replace(data.spectra, ivar=ivar))
    (batch,) = redrawn(some, ROWS, 1, seed=0)
    assert not batch.ivar[:, 700:720].any()
    np.testing.assert_array_equal(batch.flux[:, 700:720], data.noiseless[:, 700:720])


def test_draws_differ_and_repeat_with_the_seed(data):
    first, second = (batch.flux for batch in redrawn(data, ROWS[:5], 2, seed=1))
    again = next(iter(redrawn(data, ROWS[:5], 2, seed=1))).flux
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)


def test_nothing_is_drawn_where_the_flux_before_noise_is_unknown(data):
    assert list(redrawn(replace(data, noiseless=None), ROWS, 3, seed=0)) == []
