from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from catalogue.models import BundleError, InferenceSettings
from catalogue.models.label_mixture import LabelMixture, MixturePosterior, fit_mixture
from catalogue.models.spt import SpectralTransformer
from catalogue.pipeline.verification.plain_fit import PlainFit
from tests.factories.bundles import giant_spectra, tiny_spt_bundle

SCALE = (0.2, 0.08)


def _stars(number: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (stars, 2) and labels (stars, 2) with a curved relation and scatter."""
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(number, 2))
    first = 0.8 * parameters[:, 0] - 0.3 * parameters[:, 1] ** 2 + 0.2 * rng.normal(size=number)
    return parameters, np.stack([first, -0.7 * first + 0.2 * rng.normal(size=number)], axis=1)


@pytest.fixture(scope="module")
def mixture() -> LabelMixture:
    return fit_mixture(*_stars())


def _ask(mixture: LabelMixture, estimates: np.ndarray, errors: float, prior: float = 4.0) -> np.ndarray:
    posterior = MixturePosterior(mixture, prior * torch.eye(2), SCALE, torch.device("cpu"))
    information = torch.eye(2).expand(len(estimates), 2, 2) / errors**2
    return posterior(torch.from_numpy(estimates), information).numpy()


def test_precise_parameters_give_the_labels_that_stars_of_them_have(mixture):
    parameters, labels = _stars()
    # an estimate is drawn to the prior's mean, 0, as the fit's would be
    found = _ask(mixture, parameters / (1 + 0.01**2 / 4.0), 0.01)
    assert np.std(found - labels, axis=0) == pytest.approx([0.2, np.hypot(0.2, 0.14)], rel=0.1)


def test_parameters_that_nothing_is_known_of_give_the_middle_of_the_sample(mixture):
    found = _ask(mixture, np.zeros((1, 2)), 1e3)
    _, labels = _stars()
    # of relative errors the least mean has the median weighted with the inverse of the label
    for column, value in enumerate(found[0]):
        order = np.argsort(labels[:, column])
        weight = 10.0 ** (-SCALE[column] * labels[order, column])
        middle = labels[order, column][np.searchsorted(np.cumsum(weight), weight.sum() / 2)]
        assert value == pytest.approx(middle, abs=0.06)


def test_the_fits_prior_is_taken_out_again(mixture):
    errors, truth = 0.5, np.array([[1.2, -0.4], [0.3, 0.8]])
    wide = _ask(mixture, truth / (1 + errors**2 / 400.0), errors, prior=400.0)
    narrow = _ask(mixture, truth / (1 + errors**2 / 1.0), errors, prior=1.0)
    np.testing.assert_allclose(wide, narrow, atol=1e-3)


def test_a_second_program_finds_the_same(mixture):
    rng = np.random.default_rng(3)
    estimates, errors = rng.normal(size=(5, 2)), 0.3
    weights = {name: values.astype(np.float64) for name, values in mixture.arrays().items()}
    plain = PlainFit.__new__(PlainFit)
    plain.learnt, plain.information = {"prior": 4.0 * np.eye(2)}, np.eye(2) / errors**2
    per_label = np.log(10.0) * np.array(SCALE)
    expected = [plain.mixture_labels(weights, row, per_label) for row in estimates]
    np.testing.assert_allclose(_ask(mixture, estimates, errors), expected, atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours_and_nan_stays_in_its_row(mixture):
    estimates = np.random.default_rng(4).normal(size=(4, 2))
    alone = _ask(mixture, estimates[:1], 0.3)
    estimates[2] = np.nan
    together = _ask(mixture, estimates, 0.3)
    np.testing.assert_allclose(together[:1], alone, atol=1e-12)
    assert np.isfinite(together[[0, 1, 3]]).all()
    assert not np.isfinite(together[2]).all()


def test_bytes_of_a_row_do_not_depend_on_where_it_stands(mixture):
    rng = np.random.default_rng(4)
    estimates, order = rng.normal(size=(70, 2)), rng.permutation(70)
    there = _ask(mixture, estimates, 0.3)
    estimates[order[5]] = np.nan
    elsewhere = _ask(mixture, estimates[order], 0.3)
    kept = np.arange(70) != 5
    assert elsewhere[kept].tobytes() == there[order][kept].tobytes()


def test_arrays_restore_the_mixture_and_other_shapes_are_named(mixture):
    again = LabelMixture.from_arrays(mixture.arrays(), 2, 2)
    assert torch.equal(again.covariances, mixture.covariances)
    with pytest.raises(ValueError, match=r"mixture\.means: expected shape \(120, 5\), found \(120, 4\)"):
        LabelMixture.from_arrays(mixture.arrays(), 3, 2)
    with pytest.raises(KeyError, match=r"mixture\.weights"):
        LabelMixture.from_arrays({}, 2, 2)


def test_stars_without_a_parameter_or_too_few_are_refused():
    parameters, labels = _stars(100)
    with pytest.raises(ValueError, match="20 Gaussians needs as many stars, found 19"):
        fit_mixture(parameters[:19], labels[:19])
    parameters[3, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_mixture(parameters, labels)


def test_a_bundle_with_a_share_answers_between_its_network_and_the_mixture(tmp_path):
    spectra, settings = giant_spectra(6, seed=5), InferenceSettings(8, 1, "cpu", 1)
    found = {}
    for share in (0.0, 0.4, 0.8):
        bundle = tiny_spt_bundle(tmp_path / str(share), fits=True, mixture_share=share)
        assert ("mixture.weights" in bundle.weights) == (share > 0)
        found[share] = SpectralTransformer(bundle).predict(spectra, settings)["log_age"]
    assert np.abs(found[0.8] - found[0.0]).max() > 0.1
    np.testing.assert_allclose(found[0.4], (found[0.0] + found[0.8]) / 2, atol=1e-5)


def test_a_share_without_a_mixture_or_without_a_fit_is_no_bundle(tmp_path):
    bundle = tiny_spt_bundle(tmp_path / "whole", fits=True, mixture_share=0.4)
    weights = {name: values for name, values in bundle.weights.items() if name != "mixture.means"}
    with pytest.raises(BundleError, match=r"mixture\.means"):
        SpectralTransformer(dataclasses.replace(bundle, weights=weights))
    with pytest.raises(BundleError, match="mixture_share needs parameters that are estimated by a fit"):
        SpectralTransformer(tiny_spt_bundle(tmp_path / "without", mixture_share=0.4))
