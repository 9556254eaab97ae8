from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.models import InferenceSettings, load_bundle, load_model
from catalogue.models.label_mixture import fit_mixture
from catalogue.models.spectrum_fit import SpectrumModel
from catalogue.training import train as training
from catalogue.training.train import TrainingConfiguration, stars_apart, train, training_set

pytest.importorskip("bossbrain")

PARAMETERS = ["teff", "logg", "feh", "alpha_fe", "c_fe", "n_fe"]
SMALL = {
    "name": "small",
    "simulation": {"stars": 300, "visits": 2, "seed": 3},
    "companions": {"stars": 300, "scattered": True, "seed": 4},
    "draws": 1,
    "held_out": 0.1,
    "preprocessing": {
        "n_components": 24, "passed_on": 0, "noise_bands": 1, "estimator": "fit", "parameters": PARAMETERS,
    },
    "architecture": {"width": 16, "hidden": 8, "heads": 2, "head_width": 8, "mixture_share": 0.5},
    "fit": {"epochs": 2, "batch": 32, "threads": 1},
}  # fmt: skip


def _configuration(**changes) -> TrainingConfiguration:
    return TrainingConfiguration.model_validate({**SMALL, **changes})


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)  # the fit does so in the first of several trainings in a process
    return training_set(_configuration())


@pytest.fixture(scope="module")
def bundles(data, tmp_path_factory):
    """Trained on some of the stars, and once more on all of them."""
    folder = tmp_path_factory.mktemp("bundles")
    return [load_bundle(train(_configuration(relearn=again), folder / str(again))) for again in (False, True)]


def _mixture(bundle, data, rows):
    """What the mixture of the stars of some rows is, each star counted once."""
    _, once = np.unique(data.labels.star[rows], return_index=True)
    labels = data.labels.take(rows[once])
    scale = bundle.description.architecture["label_scale"]
    parameters = torch.from_numpy(np.stack([getattr(labels, name) for name in PARAMETERS], axis=1))
    return fit_mixture(
        SpectrumModel.from_arrays(bundle.weights).standardised(parameters).numpy(),
        (np.log10(labels.physical()) - scale["offset"]) / scale["scale"],
    ).arrays()


def test_a_trained_bundle_has_the_mixture_of_the_stars_that_it_learnt_from_each_counted_once(bundles, data):
    learn, _, _ = stars_apart(_configuration(), data, np.arange(len(data)))
    for bundle, rows in zip(bundles, (learn, np.arange(len(data))), strict=True):
        for name, values in _mixture(bundle, data, rows).items():
            np.testing.assert_array_equal(bundle.weights[name], values, err_msg=name)
        found = load_model(bundle.path).predict(data.spectra, InferenceSettings(8, 0, "cpu"))
        assert np.isfinite(found["age"]).all()


def test_a_network_that_has_learnt_from_all_stars_keeps_the_errors_that_stars_held_out_have_told(bundles):
    some, everyone = (bundle.description for bundle in bundles)
    assert everyone.architecture["calibration"] == some.architecture["calibration"]
    for name in ("age_delta_p", "mass_delta_p", "unseen_stars", "validation_loss", "best_epoch"):
        assert name not in everyone.metrics
        assert everyone.metrics[f"before_relearning_{name}"] == some.metrics[name]
    assert (some.training["stars"], everyone.training["stars"]) == (240, 300)
    assert not np.array_equal(bundles[0].weights["hidden.weight"], bundles[1].weights["hidden.weight"])


WHOLE = _configuration(relearn=True)
EARLY = _configuration(
    relearn=True, fit={"epochs": 9, "batch": 32, "threads": 1, "patience": 2, "learning_rate": 1e-30}
)
"""Its first fit ends after three epochs, as nothing changes."""


@pytest.fixture
def simulated(data, monkeypatch):
    monkeypatch.setattr(training, "training_set", lambda configuration: data)


@pytest.mark.usefixtures("simulated")
def test_the_second_fit_is_as_long_as_the_first_and_sees_every_star(tmp_path, data, monkeypatch):
    seen = []

    def fit(*given):
        result = original(*given)
        seen.append((given[5], given[6], len(result.history), result.best_epoch))
        return result

    original = training.fit
    monkeypatch.setattr(training, "fit", fit)
    train(EARLY, tmp_path / "bundle")
    (learnt, stopped, first, best), (everyone, nobody, second, last) = seen
    learn, stop, calibrate = (set(part.tolist()) for part in stars_apart(EARLY, data, np.arange(len(data))))
    assert (set(learnt.tolist()), set(stopped.tolist())) == (learn, stop)
    assert set(everyone.tolist()) == learn | stop | calibrate
    assert nobody is None
    assert (first, best) == (3, 0)
    assert (second, last) == (3, 2)


class BrokenOffError(Exception):
    pass


def _break_off_after(epochs):
    """A progress that breaks off when it is told of so many epochs."""
    told = []

    def progress(*epoch):
        told.append(epoch)
        if len(told) == epochs:
            raise BrokenOffError

    return progress


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(("configuration", "second"), [(WHOLE, 2), (EARLY, 4)], ids=["whole", "early"])
def test_an_interruption_of_either_fit_leaves_no_trace(tmp_path, configuration, second):
    undisturbed = load_bundle(train(configuration, tmp_path / "undisturbed"))
    path = tmp_path / "bundle"
    for epochs in (1, second):  # in the first fit, and in the second
        with pytest.raises(BrokenOffError):
            train(configuration, path, _break_off_after(epochs))
    assert (tmp_path / "bundle.training" / "all-stars" / "state.json").exists()
    train(configuration, path)
    resumed = load_bundle(path)
    for name, values in undisturbed.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], values, err_msg=name)
    assert not path.with_name("bundle.training").exists()
