from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from catalogue.models.components import ComponentInputs, ComponentSettings, _kept, fit_components
from catalogue.models.preprocessing import GridSettings
from tests.factories.bundles import LAMOST_GRID, giant_spectra

SETTINGS = ComponentSettings.model_validate(
    {"grid": GridSettings.of(LAMOST_GRID).model_dump(), "windows": [[4200.0, 5200.0]], "n_components": 5}
)


@pytest.fixture(scope="module")
def stars():
    return giant_spectra(130, seed=11)


@pytest.fixture(scope="module")
def inputs(stars) -> ComponentInputs:
    return fit_components(SETTINGS, stars, seed=0)


def test_components_are_orthonormal_and_features_have_unit_spread(inputs, stars):
    components = inputs.learnt.components
    torch.testing.assert_close(components @ components.T, torch.eye(5), atol=1e-4, rtol=0)
    prepared = inputs.prepare(stars)
    features = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    torch.testing.assert_close(features.std(dim=0), torch.ones(5), atol=1e-3, rtol=0)
    assert inputs.n_features == 5


def test_a_refit_is_the_same_and_signs_do_not_flip(inputs, stars):
    again = fit_components(SETTINGS, stars, seed=0).arrays()
    assert all(np.array_equal(again[name], values) for name, values in inputs.arrays().items())
    other = fit_components(SETTINGS, stars, seed=1)
    overlap = (other.learnt.components[0] * inputs.learnt.components[0]).sum()
    assert float(overlap) > 0.99


def test_arrays_and_settings_restore_the_inputs(inputs, stars):
    restored = ComponentInputs.from_arrays(inputs.settings(), inputs.arrays())
    one, other = inputs.prepare(stars), restored.prepare(stars)
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(
        inputs.features(one.pixels, one.good, one.noise), restored.features(other.pixels, other.good, other.noise)
    )
    with pytest.raises(ValueError, match=r"expected shape \(7, "):
        ComponentInputs.from_arrays({**inputs.settings(), "n_components": 7}, inputs.arrays())
    with pytest.raises(KeyError, match=r"inputs\.mean"):
        ComponentInputs.from_arrays(inputs.settings(), {})


def test_masked_pixels_are_filled_from_the_components_not_from_the_mean(inputs, stars):
    prepared = inputs.prepare(stars)
    good = prepared.good.clone()
    good[:, 300:600] = False
    masked = torch.where(good, prepared.pixels, 0.0)
    truth = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    refined = (inputs.features(masked, good, prepared.noise) - truth).square().mean()
    crude_settings = {**inputs.settings(), "refinements": 0}
    crude = ComponentInputs.from_arrays(crude_settings, inputs.arrays()).features(masked, good, prepared.noise)
    assert refined < 0.5 * (crude - truth).square().mean()


def test_one_training_spectrum_in_a_hundred_exceeds_the_references(inputs, stars):
    prepared = inputs.prepare(stars)
    residual, distance = inputs.residual_and_distance(
        prepared, inputs.features(prepared.pixels, prepared.good, prepared.noise)
    )
    for values, reference in zip((residual, distance), inputs.learnt.references, strict=True):
        assert 0.97 < float((values <= reference).float().mean()) < 1
        assert float(values.median()) == pytest.approx(1.0, abs=0.35)


def test_noise_alone_does_not_make_a_star_novel(inputs):
    stars = giant_spectra(64, seed=12)
    rng = np.random.default_rng(0)
    sigma = np.median(stars.flux, axis=1, keepdims=True) / 6
    flux = (stars.flux + sigma * rng.normal(size=stars.flux.shape)).astype(np.float32)
    variance = 1 / np.maximum(stars.ivar, 1e-12) + sigma**2
    ivar = np.where(stars.ivar > 0, 1 / variance, 0).astype(np.float32)
    found = []
    for batch in (stars, dataclasses.replace(stars, flux=flux, ivar=ivar)):
        prepared = inputs.prepare(batch)
        found.append(inputs.novelty(prepared, inputs.features(prepared.pixels, prepared.good, prepared.noise)))
    assert float(found[1].median()) < 1.3 * float(found[0].median())


def test_unusable_rows_do_not_count(stars):
    usable = stars.usable.copy()
    usable[100:] = False
    flux = stars.flux.copy()
    flux[100:] = 1e9
    some = dataclasses.replace(stars, flux=flux, usable=usable)
    few = giant_spectra(130, seed=11)
    few = dataclasses.replace(
        few, flux=few.flux[:100], ivar=few.ivar[:100], mask=few.mask[:100], usable=few.usable[:100],
        columns={name: values[:100] for name, values in few.columns.items()},
    )  # fmt: skip
    one, other = fit_components(SETTINGS, some, 0), fit_components(SETTINGS, few, 0)
    torch.testing.assert_close(one.learnt.mean, other.learnt.mean)
    assert not one.prepare(some).usable[100:].any()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_spectra_are_refused_with_the_numbers(count):
    with pytest.raises(ValueError, match=rf"5 components need more usable spectra.*found {count} of {count}"):
        fit_components(SETTINGS, giant_spectra(count), seed=0)


def test_both_units_of_pixels_are_offered(stars):
    spread = fit_components(SETTINGS.model_copy(update={"standardise": "spread"}), stars, 0)
    prepared = spread.prepare(stars)
    assert float(prepared.pixels.square().mean()) == pytest.approx(1.0, abs=0.1)
    noise = fit_components(SETTINGS, stars, 0).prepare(stars)
    assert float(noise.noise[noise.good].median()) == pytest.approx(1.0, abs=0.1)


def test_distances_are_mean_squares_in_units_of_noise_and_spread(inputs, stars):
    prepared = inputs.prepare(stars)
    features = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    learnt = inputs.learnt
    noise, good = prepared.noise.double(), prepared.good
    deviation = prepared.pixels - (features * learnt.component_scale) @ learnt.components
    sigma = (deviation / (noise**2 + learnt.residual_variance).sqrt()).clamp(-5, 5)
    residual = torch.stack([row[kept].square().mean() for row, kept in zip(sigma, good, strict=True)])
    share = (noise**2 @ learnt.components.double().square().T) / learnt.component_scale**2
    distance = (features**2 / (share + learnt.signal_variance)).mean(dim=1)
    found = inputs.residual_and_distance(prepared, features)
    torch.testing.assert_close(found[0].double(), residual.double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(found[1].double(), distance.double(), rtol=1e-3, atol=0)
    larger = torch.maximum(residual / learnt.references[0], distance / learnt.references[1])
    torch.testing.assert_close(inputs.novelty(prepared, features).double(), larger.double(), rtol=1e-3, atol=0)


def test_a_cosmic_ray_counts_for_little_where_residuals_are_rejected(inputs, stars):
    rejecting = ComponentInputs.from_arrays({**inputs.settings(), "refinements": 2, "rejection": 4.0}, inputs.arrays())
    plain = ComponentInputs.from_arrays({**inputs.settings(), "refinements": 2}, inputs.arrays())
    prepared = inputs.prepare(stars)
    hit = prepared.pixels.clone()
    hit[:, 500] += 40 * (prepared.noise[:, 500] + inputs.learnt.residual_variance[500].sqrt())
    moved = []
    for model in (plain, rejecting):
        before, after = (model.coefficients(x, prepared.good, prepared.noise) for x in (prepared.pixels, hit))
        moved.append(float((after - before).square().mean()))
    assert moved[1] < 0.1 * moved[0]


def test_residuals_are_kept_up_to_the_limit_and_vanish_at_twice_it():
    residual = torch.tensor([0.0, 3.0, -4.0, 6.0, -7.9, 8.0, -1e9])
    kept = _kept(residual, torch.full((7,), 4.0))
    torch.testing.assert_close(kept, torch.tensor([0.0, 3.0, -4.0, 2.0, -0.1, 0.0, 0.0]))


def test_the_unit_of_a_pixel_is_its_real_scatter_where_that_is_known(stars):
    rng = np.random.default_rng(1)
    sigma = np.where(stars.ivar > 0, 1 / np.sqrt(np.maximum(stars.ivar, 1e-20)), 0)
    noise = sigma * rng.normal(size=stars.flux.shape)
    noise[:, 1000:1100] *= 3
    noisy = dataclasses.replace(stars, flux=(stars.flux + noise).astype(np.float32))
    told, untold = (fit_components(SETTINGS, noisy, 0, pure) for pure in (stars, None))
    ratio = told.learnt.scale / untold.learnt.scale
    assert float(ratio.max()) == pytest.approx(3, rel=0.35)
    assert float(ratio.median()) == pytest.approx(1, rel=0.15)


def test_rejection_needs_a_second_look():
    with pytest.raises(ValueError, match="needs refinements"):
        type(SETTINGS).model_validate({**SETTINGS.model_dump(), "refinements": 0, "rejection": 4})


def test_a_network_without_any_input_is_refused():
    with pytest.raises(ValueError, match="needs an input"):
        type(SETTINGS).model_validate({**SETTINGS.model_dump(), "passed_on": 0})


def test_more_components_than_there_are_cannot_be_passed_on():
    with pytest.raises(ValueError, match="of 5 components 6 cannot be passed on"):
        type(SETTINGS).model_validate({**SETTINGS.model_dump(), "passed_on": 6})


def test_a_regression_of_other_terms_is_refused(inputs):
    settings = {**inputs.settings(), "noise_bands": 2, "parameters": ["teff"]}
    arrays = {**inputs.arrays(), "inputs.parameter_weights": np.zeros((7, 1), np.float32)}
    with pytest.raises(
        ValueError, match=r"parameter_weights: expected shape \(\d+, 1\) from the settings, found \(7, 1\)"
    ):
        ComponentInputs.from_arrays(settings, arrays)


def test_no_spectrum_at_all_is_prepared_to_nothing(inputs, stars):
    prepared = inputs.prepare(stars.take(np.arange(0)))
    assert prepared.pixels.shape == (0, inputs.learnt.mean.numel())
