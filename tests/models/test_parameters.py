from __future__ import annotations

import pytest
import torch

from catalogue.models.components import ComponentInputs, fit_components
from catalogue.models.parameters import fit_parameters, terms
from tests.factories.bundles import giant_spectra
from tests.models.test_components import SETTINGS


def _components(rows=4000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 6, generator=generator), 0.3 * torch.randn(rows, 2, generator=generator)


def test_a_curved_relation_is_found():
    components, noise = _components()
    truth = components[:, :1] - 0.5 * components[:, 1:2] * components[:, 2:3] + 0.2 * noise[:, :1]
    weights = fit_parameters(components, noise, 7 + 3 * truth, curved=3)
    estimate = terms(components, noise, curved=3) @ weights
    standardised = (truth - truth.mean()) / truth.std()
    assert float((estimate - standardised).std()) < 0.02


@pytest.mark.parametrize("wrong", [torch.nan, 5.0])
def test_unknown_or_equal_parameters_are_refused(wrong):
    components, noise = _components(50)
    with pytest.raises(ValueError, match="finite and differ"):
        fit_parameters(components, noise, torch.full((50, 1), wrong), curved=3)


def test_inputs_estimate_parameters_and_survive_a_bundle():
    stars = giant_spectra(130, seed=11)
    depth = stars.flux[:, 1500:1600].std(axis=1) / stars.flux[:, 1500:1600].mean(axis=1)
    stars.columns["teff"] = depth.astype(float)
    settings = SETTINGS.model_copy(update={"noise_bands": 3, "parameters": ("teff",), "passed_on": 2})
    inputs = fit_components(settings, stars, seed=0)
    prepared = inputs.prepare(stars)
    features = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    assert features.shape == (130, inputs.n_features) == (130, 2 + 3 + 1)
    assert float(torch.corrcoef(torch.stack([features[:, -1], torch.tensor(depth)]))[0, 1]) > 0.8
    again = ComponentInputs.from_arrays(inputs.settings(), inputs.arrays())
    assert torch.equal(features, again.features(prepared.pixels, prepared.good, prepared.noise))


def test_a_parameter_that_is_no_column_is_named():
    settings = SETTINGS.model_copy(update={"noise_bands": 3, "parameters": ("n_fe",)})
    with pytest.raises(ValueError, match="n_fe"):
        fit_components(settings, giant_spectra(20), seed=0)


def test_parameters_need_to_know_the_noise():
    with pytest.raises(ValueError, match="needs noise_bands"):
        type(SETTINGS).model_validate({**SETTINGS.model_dump(), "parameters": ["teff"]})
