from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from catalogue.models.spt import SpectralTransformer
from catalogue.training import evaluate as evaluation
from catalogue.training import train as training
from catalogue.training.dataset import TrainingSet, redrawn, split_by_star
from catalogue.training.evaluate import EvaluationConfiguration, evaluate, summarise
from catalogue.training.observation import ObservationSettings
from catalogue.training.observe import observe
from catalogue.training.population import draw_population
from catalogue.training.train import observe_once, observes_alike, predict_rows, train_on
from tests.factories.bundles import LAMOST_GRID, TINY_PREPROCESSING, giant_spectra
from tests.training.test_fit import _configuration

STARS = 70  # more than a granule, and not a multiple of one


@pytest.fixture(scope="module")
def inputs():
    return SpectralTransformer.fit_inputs(giant_spectra(60, seed=5), LAMOST_GRID, TINY_PREPROCESSING, 0)


@pytest.fixture
def data(inputs, monkeypatch):
    """Stars of which every training has inputs learnt from others, and the flux before noise."""
    spectra = giant_spectra(STARS, seed=3)
    spectra = replace(spectra, columns={**spectra.columns, "snrg": np.geomspace(20, 200, STARS)})
    survey = SimpleNamespace(name="lamost-lrs", grid=LAMOST_GRID, columns=())
    labels = draw_population(STARS, np.random.default_rng(0))
    made = TrainingSet(
        spectra, labels, survey, "0" * 64, noiseless=spectra.flux.copy(), observation=ObservationSettings()
    )
    monkeypatch.setattr(evaluation, "training_set", lambda configuration: made)

    def learn(configuration, survey):
        settings = {**TINY_PREPROCESSING, **configuration.preprocessing}
        return inputs if settings == TINY_PREPROCESSING else SpectralTransformer.fit_inputs(
            giant_spectra(60, seed=5), LAMOST_GRID, settings, 0
        )  # fmt: skip

    monkeypatch.setattr(training, "learn_inputs", learn)
    return made


def test_splits_and_variants_share_what_was_observed_once(data, tmp_path, monkeypatch):
    observed, shared = [], []

    def count(inputs, data, rows, draws, seed):
        observed.append(len(rows))
        return observe(inputs, data, rows, draws, seed)

    def train(*arguments, observed):
        shared.append(observed)
        return train_on(*arguments, observed=observed)

    monkeypatch.setattr(training, "observe", count)
    monkeypatch.setattr(evaluation, "train_on", train)
    ablations = {
        "no attention": {"architecture": {"attention": "none"}},
        "few components": {"preprocessing": {"n_components": 3}},
        "other loss": {"fit": {"loss": "mse"}},
    }
    configuration = EvaluationConfiguration(
        training=_configuration(draws=2), folds=3, baselines=(), ablations=ablations, learning_curve=(0.5,)
    )
    evaluate(None, configuration, tmp_path)
    assert observed == [STARS, STARS]
    assert len(shared) == 7
    assert [seen is shared[0] for seen in shared] == [True] * 4 + [False] + [True] * 2


def test_a_split_of_an_evaluation_is_a_training_on_the_same_observations(data, tmp_path):
    configuration = _configuration(draws=2)
    result = evaluate(
        None, EvaluationConfiguration(training=configuration, folds=2, baselines=()), tmp_path / "evaluation"
    )
    folds = split_by_star(data.labels, 2, 0)
    observed = observe_once(configuration, data)
    trained = train_on(configuration, data, np.flatnonzero(folds != 0), tmp_path / "bundle", observed=observed)
    test = np.flatnonzero(folds == 0)
    expected = summarise(predict_rows(trained.bundle.path, data.spectra.take(test)), data.labels.physical()[test])
    assert {name: result["methods"][0][name] for name in expected} == expected


def test_no_star_that_is_not_trained_on_reaches_the_fit(data, tmp_path):
    configuration, rows = _configuration(draws=2), np.arange(50)
    flux, noiseless = data.spectra.flux.copy(), data.noiseless.copy()
    flux[50:] *= 1.5
    noiseless[50:, ::2] *= 0.5
    labels = replace(data.labels, age=np.where(np.arange(STARS) < 50, data.labels.age, 0.1))
    changed = replace(data, spectra=replace(data.spectra, flux=flux), noiseless=noiseless, labels=labels)
    found = []
    for number, stars in enumerate((data, changed)):
        observed = observe_once(configuration, stars)
        found.append((observed, train_on(configuration, stars, rows, tmp_path / str(number), observed=observed)))
    (before, one), (after, other) = found
    assert not torch.equal(before.draws[:, 50:], after.draws[:, 50:])
    assert one.result.history == other.result.history
    assert all(np.array_equal(one.bundle.weights[key], other.bundle.weights[key]) for key in one.bundle.weights)


def test_observations_are_those_of_the_redrawn_spectra_whatever_the_number_of_threads(data, inputs):
    rows, before = np.arange(STARS), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(observe(inputs, data, rows, 2, 0))
    finally:
        torch.set_num_threads(before)
    one, other = found
    assert torch.equal(one.draws, other.draws)
    assert torch.equal(one.features, other.features)
    for seen, spectra in zip(one.draws, redrawn(data, rows, 2, 0), strict=True):
        prepared = inputs.prepare(spectra)
        expected = inputs.features(prepared.pixels, prepared.good, prepared.noise)
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert one.draws.dtype == torch.float32


def test_some_rows_of_what_was_observed(data, inputs):
    ivar = data.spectra.ivar.copy()
    ivar[7] = 0
    observed = observe(inputs, replace(data, spectra=replace(data.spectra, ivar=ivar)), np.arange(STARS), 2, 0)
    assert not observed.usable[7]
    rows = np.array([3, 7, 60])
    some = observed.take(rows)
    assert some.usable.tolist() == observed.usable[rows].tolist()
    assert torch.equal(some.draws, observed.draws[:, rows])
    assert torch.equal(some.features, observed.features[rows])
    assert torch.equal(some.prepared.pixels, observed.prepared.pixels[rows])


def test_without_the_flux_before_noise_there_are_no_draws(data, inputs):
    assert observe(inputs, replace(data, noiseless=None), np.arange(STARS), 2, 0).draws is None


@pytest.mark.parametrize("change", [{"draws": 3}, {"seed": 1}, {"preprocessing": {}}, {"companions": {}}])
def test_other_observations_are_not_shared(change):
    assert observes_alike(_configuration(), _configuration(passes=8, architecture={}))
    assert not observes_alike(_configuration(), _configuration(**change))
