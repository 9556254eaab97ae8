from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from catalogue.models import InferenceSettings, load_model
from catalogue.models.components import ComponentInputs, ComponentSettings, fit_components
from catalogue.models.preprocessing import GridSettings
from catalogue.models.spectrum_fit import Polynomial, SpectrumFit, SpectrumModel, exponents, fit_spectrum_model
from tests.factories.bundles import LAMOST_GRID, TINY_FIT, TINY_PREPROCESSING, giant_spectra, tiny_spt_bundle
from tests.factories.watched_device import WatchedDevice

CPU = torch.device("cpu")
INFERENCE = InferenceSettings(device="cpu")
PIXELS, COMPONENTS, PARAMETERS, EXCESS = 300, 6, 2, 1.5
SCATTER = np.array([8.0, 0.2, 8.0, 0.2, 0.2, 0.2])
"""Of the components: two of them say little, however well they are measured."""
SETTINGS = {"grid": GridSettings.of(LAMOST_GRID).model_dump(), **TINY_PREPROCESSING, **TINY_FIT}
NAMES = [field.name for field in fields(SpectrumModel)]


class Stars:
    """Spectra whose components are a cubic polynomial in the parameters, with scatter, and pixels with noise."""

    def __init__(self, count: int, sigma: float, seed: int) -> None:
        law, rng = np.random.default_rng(1), np.random.default_rng(seed)
        components = np.linalg.qr(law.normal(size=(PIXELS, COMPONENTS)))[0].T
        orders = exponents(PARAMETERS)
        weights = law.normal(size=(len(orders), COMPONENTS)) * np.array([3.0, 8.0, 0.8, 0.3])[orders.sum(axis=1), None]
        self.parameters = rng.normal(size=(count, PARAMETERS))
        terms = np.prod(self.parameters[:, None] ** orders, axis=2)
        self.pure = (terms @ weights + rng.normal(size=(count, COMPONENTS)) * SCATTER) @ components
        self.noise = sigma * rng.uniform(0.5, 2.0, size=self.pure.shape)
        self.noisy = self.pure + EXCESS * self.noise * rng.normal(size=self.pure.shape)
        self.components = torch.from_numpy(components).float()

    def learn(self) -> SpectrumModel:
        pure, excess = torch.from_numpy(self.pure).float(), torch.full((PIXELS,), EXCESS)
        parameters = torch.from_numpy(self.parameters)
        return fit_spectrum_model(pure, torch.ones_like(pure) > 0, self.components, parameters, excess)


@pytest.fixture(scope="module")
def training() -> Stars:
    return Stars(3000, 1.0, seed=2)


@pytest.fixture(scope="module")
def learnt(training) -> SpectrumModel:
    return training.learn()


@pytest.fixture(scope="module")
def fit(training, learnt) -> SpectrumFit:
    return SpectrumFit(learnt, training.components)


def fitted(fit, stars, good=None):
    """Parameters in units of the training spectra, and the information in them."""
    pixels, noise = (torch.from_numpy(array).float() for array in (stars.noisy, stars.noise))
    good = torch.ones_like(pixels) > 0 if good is None else good
    return fit(pixels, good / fit.variance(noise))


def truth(stars, training):
    return (stars.parameters - training.parameters.mean(axis=0)) / training.parameters.std(axis=0, ddof=1)


def errors(learnt, training, parameters, weights):
    """Of the posterior in pixels, linear around the truth, with slopes from differences."""
    inverse, sigmas = np.linalg.inv(learnt.prior.double().numpy()), []
    polynomial, components = Polynomial(PARAMETERS, CPU), training.components.double().numpy()
    law, scatter = (array.double().numpy() for array in (learnt.weights, learnt.scatter))
    for row, weight in zip(parameters, weights, strict=True):
        ends = [polynomial(torch.from_numpy(row + sign * 1e-4 * np.eye(PARAMETERS)))[0].numpy() for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2e-4 @ law @ components[:, weight > 0]
        covariance = np.diag(1 / weight[weight > 0]) + components[:, weight > 0].T @ scatter @ components[:, weight > 0]
        sigmas.append(np.sqrt(np.diag(np.linalg.inv(slope @ np.linalg.solve(covariance, slope.T) + inverse))))
    return np.array(sigmas)


def test_terms_are_all_products_up_to_the_third_degree():
    assert [len(exponents(n)) for n in (1, 2, 6)] == [4, 10, 84]
    assert len(np.unique(exponents(6), axis=0)) == 84
    assert exponents(6).sum(axis=1).max() == 3
    values = torch.tensor([[2.0, 3.0]])
    terms = Polynomial(2, CPU)(values)[0][0]
    assert terms.tolist() == [1, 2, 3, 4, 6, 9, 8, 12, 18, 27]


def test_slopes_are_those_of_the_terms_also_at_zero():
    polynomial = Polynomial(4, CPU)
    parameters = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters[0] = 0.0
    parameters[1, 2] = 0.0
    slopes = polynomial(parameters)[1]
    for n in range(4):
        step = 1e-5 * torch.eye(4, dtype=torch.float64)[n]
        expected = (polynomial(parameters + step)[0] - polynomial(parameters - step)[0]) / 2e-5
        torch.testing.assert_close(slopes[:, n], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("masked", [0.0, 0.6])
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_planted_parameters_come_back_within_their_errors(fit, learnt, training, sigma, masked):
    stars = Stars(600, sigma, seed=3)
    good = np.random.default_rng(4).uniform(size=stars.noisy.shape) >= masked
    stars.noisy = np.where(good, stars.noisy, 1e6)  # whatever lies there
    true = truth(stars, training)
    weights = good / ((EXCESS * stars.noise) ** 2 + learnt.variance.double().numpy())
    found, information = (array.double().numpy() for array in fitted(fit, stars, torch.from_numpy(good)))
    expected = errors(learnt, training, true, weights)
    pull = (found - true) / expected
    assert np.abs(pull.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(pull.std(axis=0), 1.0, atol=0.12)
    # what the fit itself says of its errors, at the parameters that it found
    covariance = np.linalg.inv(information + np.linalg.inv(learnt.prior.double().numpy()))
    said = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(np.median(said / expected, axis=0), 1.0, atol=0.02)


def test_errors_are_those_of_information_and_prior_together(fit, learnt, training):
    _, information = fitted(fit, Stars(20, 3.0, seed=8))
    covariance = np.linalg.inv(information.double().numpy() + np.linalg.inv(learnt.prior.double().numpy()))
    np.testing.assert_allclose(fit.errors(information), np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), rtol=1e-5)


def test_the_largest_posterior_density_is_found(fit, learnt, training):
    stars = Stars(6, 1.0, seed=5)
    components, polynomial = training.components.double().numpy(), Polynomial(PARAMETERS, CPU)
    weights, scatter, prior = (array.double().numpy() for array in (learnt.weights, learnt.scatter, learnt.prior))
    found = fitted(fit, stars)[0]
    for row, start in enumerate(truth(stars, training)):
        variance = (EXCESS * stars.noise[row]) ** 2 + learnt.variance.double().numpy()
        covariance = np.diag(variance) + components.T @ scatter @ components

        def improbable(p, row=row, covariance=covariance):
            left = stars.noisy[row] - polynomial(torch.from_numpy(p)[None])[0].numpy()[0] @ weights @ components
            return left @ np.linalg.solve(covariance, left) + p @ np.linalg.solve(prior, p)

        best = minimize(improbable, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
        np.testing.assert_allclose(found[row], best.x, atol=2e-3)


def test_a_spectrum_without_a_good_pixel_is_given_the_mean_of_the_training_set(fit, training):
    stars = Stars(3, 1.0, seed=6)
    found, information = fitted(fit, stars, torch.tensor([[True], [False], [True]]).expand(3, PIXELS))
    assert found[1].tolist() == [0.0] * PARAMETERS
    assert not information[1].any()
    assert found[[0, 2]].abs().min() > 0


def test_a_spectrum_that_cannot_be_fitted_takes_no_other_with_it(fit):
    stars = Stars(5, 1.0, seed=7)
    expected = fitted(fit, stars)[0]
    stars.noisy[2, 5] = np.nan
    found = fitted(fit, stars)[0]
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


def test_parameters_stay_within_those_of_the_training_set(fit, learnt):
    stars = Stars(50, 0.1, seed=8)
    stars.noisy *= 30
    found = fitted(fit, stars)[0]
    assert ((found >= learnt.limits[0]) & (found <= learnt.limits[1])).all()
    assert ((found == learnt.limits[0]) | (found == learnt.limits[1])).any()


def test_what_cannot_be_learnt_is_refused(training):
    few = Stars(11, 1.0, seed=2)
    few.learn()
    for change, message in (
        (lambda p: np.where([True, False], 4.0, p), "finite and differ from star to star"),
        (lambda p: np.where(p == p.max(), np.nan, p), "finite and differ from star to star"),
    ):
        changed = Stars(11, 1.0, seed=2)
        changed.parameters = change(changed.parameters)
        with pytest.raises(ValueError, match=message):
            changed.learn()
    with pytest.raises(ValueError, match="polynomial of 10 terms needs more spectra, found 10"):
        Stars(10, 1.0, seed=2).learn()


def test_a_parameter_that_follows_from_another_is_refused():
    stars = Stars(100, 1.0, seed=2)
    stars.parameters[:, 1] = 2 * stars.parameters[:, 0] + 3
    with pytest.raises(ValueError, match="must be independent"):
        stars.learn()
    stars.parameters[:, 1] += 0.05 * np.random.default_rng(0).normal(size=100)
    assert torch.isfinite(fitted(SpectrumFit(stars.learn(), stars.components), stars)[0]).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_spt_bundle(tmp_path_factory.mktemp("fit"), fits=True)


@pytest.fixture(scope="module")
def spectra():
    spectra = giant_spectra(70, seed=1)
    spectra.usable[[3, 69]] = False
    spectra.ivar[5] = 0
    return spectra


def test_the_network_is_told_errors_that_grow_with_the_noise(bundle, spectra):
    inputs = ComponentInputs.from_arrays(bundle.description.preprocessing, bundle.weights)
    noisier = replace(spectra, ivar=spectra.ivar / 9)
    seen, blurred = (
        inputs.features(p.pixels, p.good, p.noise).numpy()[spectra.usable]
        for p in map(inputs.prepare, (spectra, noisier))
    )
    n = len(TINY_FIT["parameters"])
    assert seen.shape[1] == inputs.n_features == TINY_FIT["passed_on"] + TINY_FIT["noise_bands"] + 2 * n
    growth = np.exp(blurred - seen)[:, -n:]
    assert (growth >= 1).all()
    assert 1.5 < np.median(growth) <= 3.01


def test_errors_of_parameters_need_a_fit():
    with pytest.raises(ValueError, match="parameter_errors are those of a fit"):
        ComponentSettings.model_validate({**SETTINGS, "estimator": "regression"})


def test_a_fit_needs_spectra_without_noise():
    with pytest.raises(ValueError, match="learnt from spectra without noise, and there are none"):
        fit_components(ComponentSettings.model_validate(SETTINGS), giant_spectra(30), seed=0)


def test_arrays_and_settings_restore_the_fit(bundle, spectra):
    model = load_model(bundle.path)
    again = ComponentInputs.from_arrays(bundle.description.preprocessing, bundle.weights)
    for name, array in again.arrays().items():
        assert array.tobytes() == bundle.weights[name].tobytes(), name
    assert {f"inputs.fit.{name}" for name in NAMES} < again.arrays().keys()
    assert "inputs.parameter_weights" not in again.arrays()
    assert again.settings() == model.bundle.description.preprocessing
    one, other = (load_model(bundle.path).predict(spectra, INFERENCE) for _ in range(2))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_of_another_shape_or_none_is_refused_by_name(bundle, name):
    array = f"inputs.fit.{name}"
    wrong = {**bundle.weights, array: bundle.weights[array][:-1]}
    with pytest.raises(ValueError, match=rf"fit\.{name}: expected shape \(.*\) from the settings, found \("):
        ComponentInputs.from_arrays(bundle.description.preprocessing, wrong)
    missing = {key: value for key, value in bundle.weights.items() if key != array}
    with pytest.raises(KeyError, match=rf"inputs\.fit\.{name}"):
        ComponentInputs.from_arrays(bundle.description.preprocessing, missing)


def test_only_unusable_spectra_are_missing(bundle, spectra):
    found = load_model(bundle.path).predict(spectra, INFERENCE)
    expected = spectra.usable.copy()
    expected[5] = False
    for name, values in found.items():
        if name != "bad_fraction":
            np.testing.assert_array_equal(np.isfinite(values), expected, err_msg=name)


@pytest.mark.parametrize("rows", [[0], [68], [69, 1], list(range(69, -1, -1)), list(range(60, 70))])
def test_bytes_do_not_depend_on_what_is_predicted_beside_a_spectrum(bundle, spectra, rows):
    model = load_model(bundle.path)
    expected, found = (model.predict(batch, INFERENCE) for batch in (spectra, spectra.take(np.array(rows))))
    for name, values in found.items():
        assert values.tobytes() == expected[name][rows].tobytes(), name


def test_the_fit_computes_on_the_device_alone_and_lets_the_host_wait_for_nothing(bundle, spectra, monkeypatch):
    model = load_model(bundle.path)
    expected = model.predict(spectra, INFERENCE)
    with WatchedDevice().stand_in(monkeypatch) as device:
        found = model.predict(spectra, replace(INFERENCE, device="cuda", granules=1))
    assert device.faults == []
    assert device.waits == []
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-4, err_msg=name)
