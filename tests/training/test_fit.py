from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch

from catalogue.config import ConfigurationError
from catalogue.models.base import LabelScale
from catalogue.models.bundle import load_bundle
from catalogue.models.spt import SpectralTransformer
from catalogue.training import train as training
from catalogue.training.dataset import TrainingSet
from catalogue.training.evaluate import summarise
from catalogue.training.fit import CheckpointError, DivergedError, FitSettings, Targets, _Loop, _to, fit
from catalogue.training.labels import LabelError
from catalogue.training.losses import LossName
from catalogue.training.population import draw_population
from catalogue.training.simulate import repeat_visits
from catalogue.training.train import TrainingConfiguration, predict_rows, train_on
from tests.factories.bundles import LAMOST_GRID, TINY_ARCHITECTURE, TINY_PREPROCESSING, giant_spectra

SETTINGS = FitSettings(epochs=4, batch=16, threads=1, seed=5, noise=0.2, masked_stretches=1)


@pytest.fixture(scope="module")
def prepared():
    spectra = giant_spectra(60, seed=1)
    inputs = SpectralTransformer.fit_inputs(spectra, LAMOST_GRID, TINY_PREPROCESSING, 0)
    labels = draw_population(60, np.random.default_rng(0))
    scale = LabelScale.fit(labels.physical())
    physical = labels.physical()
    targets = Targets(
        scale.to_network(physical),
        scale.covariance_to_network(physical, labels.covariance()),
        np.log(physical).std(axis=0),
    )
    return inputs, inputs.prepare(spectra), targets


def _fit(prepared, settings, **more):
    inputs, pixels, targets = prepared
    rows = np.arange(60)
    return fit(SpectralTransformer, TINY_ARCHITECTURE, inputs, pixels, targets, rows[:45], rows[45:], settings, **more)


@pytest.mark.parametrize("loss", get_args(LossName))
def test_training_lowers_the_training_loss(prepared, loss):
    settings = FitSettings(epochs=25, batch=15, threads=1, loss=loss, noise=0, masked_stretches=0, patience=25)
    history = _fit(prepared, settings).history
    assert history[-1]["training"] < history[0]["training"]


def test_same_seed_gives_the_same_network(prepared):
    first, second = (_fit(prepared, SETTINGS).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(prepared, tmp_path):
    whole = _fit(prepared, SETTINGS)

    def stop(epoch, *_):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(prepared, SETTINGS, checkpoint=tmp_path, progress=stop)
    resumed = _fit(prepared, SETTINGS, checkpoint=tmp_path)
    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert resumed.history == whole.history
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_fit_that_ended_early_is_the_same_when_it_is_called_again(prepared, tmp_path):
    # no epoch is better than the first where nothing changes
    settings = SETTINGS.model_copy(update={"epochs": 9, "patience": 2, "learning_rate": 1e-30})
    first, again = (_fit(prepared, settings, checkpoint=tmp_path) for _ in range(2))
    assert len(first.history) == 3
    assert again.history == first.history
    for key, value in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value), key


def test_without_validation_rows_the_last_of_all_epochs_is_kept(prepared):
    inputs, pixels, targets = prepared
    settings = SETTINGS.model_copy(update={"patience": 1})
    told = []
    result = fit(
        SpectralTransformer, TINY_ARCHITECTURE, inputs, pixels, targets, np.arange(60), None, settings,
        lambda *what: told.append(what),
    )  # fmt: skip
    assert result.best_epoch == 3
    assert [(epoch, of, kind) for epoch, of, kind, _ in told] == [(n, 4, "training") for n in (1, 2, 3, 4)]
    assert all("validation" not in line for line in result.history)


@pytest.mark.parametrize("validation", [None, np.arange(45, 60)])
def test_a_fit_without_a_finite_loss_is_refused(prepared, validation):
    inputs, pixels, targets = prepared
    nowhere = replace(targets, mean=np.full_like(targets.mean, np.nan))
    with pytest.raises(DivergedError, match="no finite loss in 4 epochs"):
        fit(SpectralTransformer, TINY_ARCHITECTURE, inputs, pixels, nowhere, np.arange(45), validation, SETTINGS)


def test_a_checkpoint_of_other_settings_is_refused(prepared, tmp_path):
    _fit(prepared, SETTINGS, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        _fit(prepared, SETTINGS.model_copy(update={"learning_rate": 0.1}), checkpoint=tmp_path)


def test_a_checkpoint_of_other_observations_is_refused(prepared, tmp_path):
    draws = torch.zeros(2, 60, prepared[0].n_features)
    _fit(prepared, SETTINGS, checkpoint=tmp_path, redrawn=draws)
    with pytest.raises(CheckpointError, match="other data"):
        _fit(prepared, SETTINGS, checkpoint=tmp_path, redrawn=draws + 1)


def test_a_checkpoint_of_other_spectra_or_other_things_to_learn_is_refused(prepared, tmp_path):
    inputs, spectra, targets = prepared
    _fit(prepared, SETTINGS, checkpoint=tmp_path)
    other_spectra = replace(spectra, pixels=spectra.pixels + 1)
    others = replace(targets, others={"numax": np.ones(60)})
    other_spread = replace(targets, spread=targets.spread + 1)
    for changed in ((inputs, other_spectra, targets), (inputs, spectra, others), (inputs, spectra, other_spread)):
        with pytest.raises(CheckpointError, match="other data"):
            _fit(changed, SETTINGS, checkpoint=tmp_path)


def _training_set(stars=60):
    survey = SimpleNamespace(name="lamost-lrs", grid=LAMOST_GRID, columns=())
    labels = draw_population(stars, np.random.default_rng(0))
    return TrainingSet(giant_spectra(stars, seed=1), labels, survey, "0" * 64)


def _configuration(**changes):
    values = {
        "name": "tiny", "store": "spectra.zarr", "labels": "labels.csv", "fit": SETTINGS,
        "preprocessing": TINY_PREPROCESSING, "architecture": TINY_ARCHITECTURE, "passes": 4, **changes,
    }  # fmt: skip
    return TrainingConfiguration(**values)


def test_a_trained_bundle_predicts_and_says_what_it_holds_for(tmp_path):
    data = _training_set()
    trained = train_on(_configuration(), data, np.arange(60), tmp_path / "bundle")
    description = load_bundle(tmp_path / "bundle").description
    assert description.training["set_digest"] == "0" * 64
    assert set(description.domain) == {"teff", "logg", "feh"}
    assert description.novelty_limit == 1.0
    assert description.training["stars"] < 60
    assert all(factor > 0 for factor in description.architecture["calibration"]["data"])
    predictions = predict_rows(trained.bundle.path, data.spectra)
    assert np.isfinite(predictions["age"]).all()


def test_learning_stopping_and_calibration_have_different_stars():
    data = _training_set()
    twice = replace(data, labels=repeat_visits(data.labels, 2))
    parts = training.stars_apart(_configuration(), twice, np.arange(120))
    stars = [set(twice.labels.star[part].tolist()) for part in parts]
    assert sum(map(len, stars)) == len(set.union(*stars)) == 60
    assert all(stars)


def test_a_step_sees_one_of_a_stars_observations_at_random(prepared):
    inputs, pixels, targets = prepared
    loop = _Loop(SpectralTransformer, TINY_ARCHITECTURE, inputs, _to(pixels, targets, torch.device("cpu")), SETTINGS,
                 torch.arange(60))  # fmt: skip
    star = torch.arange(60.0).expand(3, 60)
    loop.redrawn = torch.stack([star, torch.arange(3.0)[:, None].expand(3, 60)], dim=2)
    rows = torch.arange(10, 60)
    seen = loop._augmented(rows)
    assert torch.equal(seen[:, 0], rows.float())
    assert set(seen[:, 1].tolist()) == {0.0, 1.0, 2.0}


def test_parameters_are_learnt_beside_the_labels_and_leave_no_trace(tmp_path):
    data = _training_set()
    configuration = _configuration(auxiliary=("teff", "feh"))
    trained = train_on(configuration, data, np.arange(60), tmp_path / "bundle")
    assert trained.result.network.output.out_features == 7
    assert trained.bundle.weights["output.weight"].shape[0] == 5
    assert trained.bundle.description.architecture["auxiliary"] == 0


def test_an_unknown_parameter_is_refused(tmp_path):
    data = _training_set()
    unknown = replace(data, labels=replace(data.labels, n_fe=np.full(60, np.nan)))
    with pytest.raises(LabelError, match="n_fe is unknown or the same for all"):
        train_on(_configuration(auxiliary=("teff", "n_fe")), unknown, np.arange(60), tmp_path / "bundle")


def test_parameters_for_a_model_that_learns_none_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="learns no auxiliary parameters"):
        train_on(_configuration(model="astronn_bcnn", auxiliary=("teff",)), _training_set(), np.arange(60), tmp_path)


def test_fewer_stars_than_components_are_refused(tmp_path):
    few = _configuration(preprocessing={**TINY_PREPROCESSING, "n_components": 8})
    with pytest.raises(LabelError, match="8 components need more training stars, found 9"):
        train_on(few, _training_set(9), np.arange(9), tmp_path / "bundle")


def test_a_required_state_without_stars_is_refused(monkeypatch):
    data = _training_set()
    only = replace(data, labels=replace(data.labels, state=np.full(60, "RGB")))
    monkeypatch.setattr(training, "simulate_training_set", lambda configuration: only)
    configuration = _configuration(store=None, labels=None, simulation={}, require_states=("RGB", "RC"))
    with pytest.raises(LabelError, match=r"no star of state 'RC'.*states found: RGB"):
        training.training_set(configuration)


def test_one_source_of_spectra_is_needed():
    with pytest.raises(ValueError, match="either store and labels, or simulation"):
        _configuration(simulation={})


def test_summary_of_known_errors():
    truth = np.array([[2.0, 1.0], [4.0, 1.0]])
    predictions = {"age": np.array([2.2, 3.6]), "mass": np.array([1.05, 1.05])}
    summary = summarise(predictions, truth)
    assert summary["age_delta_p"] == pytest.approx(10.0)
    assert summary["mass_bias"] == pytest.approx(5.0)
