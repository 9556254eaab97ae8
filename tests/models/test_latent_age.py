"""The encoder-decoder, its loss, and the model built on it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from catalogue.models.base import InferenceSettings
from catalogue.models.bundle import BundleError, save_bundle
from catalogue.models.latent_age import LatentAge
from catalogue.models.latent_network import (
    LatentArchitecture,
    LatentNetwork,
    SameConv1d,
    SameConvTranspose1d,
    frequency_grid,
    frequency_weight,
    latent_loss,
)
from catalogue.spectra.primitives import GRANULE_ROWS
from tests.factories.apogee import spectra_batch, tiny_latent
from tests.factories.real import REAL, needs_real

CPU = InferenceSettings(device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return LatentAge(tiny_latent(tmp_path_factory.mktemp("latent") / "tiny"))


def stars(n, **columns):
    random = np.random.default_rng(0)
    stellar = {"teff": random.normal(4700, 200, n).astype("f4"), "fe_h": random.normal(0, 0.3, n).astype("f4")}
    return spectra_batch(n, columns={**stellar, **columns})


def test_shapes_are_the_released_ones():
    network = LatentNetwork(LatentArchitecture())
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if name.endswith("weight")}
    assert shapes["encoder.hidden.weight"] == (16, 60096)
    assert shapes["decoder.hidden.weight"] == (8368, 5)
    assert shapes["decoder.conv3.weight"] == (16, 1, 32)
    assert sum(v.numel() for v in network.encoder.state_dict().values()) == pytest.approx(0.98e6, rel=0.01)
    with torch.no_grad():
        power, mean, log_variance = network(torch.zeros(2, 7514))
    assert power.shape == (2, 2092)
    assert mean.shape == log_variance.shape == (2, 5)


@pytest.mark.parametrize(("length", "kernel", "stride"), [(7514, 8, 2), (3757, 8, 2), (10, 3, 1), (9, 4, 3)])
def test_same_padding_is_kerass(length, kernel, stride):
    """Keras pads so that the output has ceil(length/stride) positions, the odd pixel on the right."""
    layer = SameConv1d(1, 1, kernel, stride=stride, bias=False)
    torch.nn.init.ones_(layer.weight)
    found = layer(torch.arange(1.0, length + 1).view(1, 1, -1))[0, 0].detach().numpy()
    out = -(-length // stride)
    total = max((out - 1) * stride + kernel - length, 0)
    padded = np.pad(np.arange(1.0, length + 1), (total // 2, total - total // 2))
    np.testing.assert_allclose(found, [padded[i * stride : i * stride + kernel].sum() for i in range(out)])


@pytest.mark.parametrize(("length", "kernel", "stride"), [(523, 32, 2), (2092, 32, 1), (7, 3, 2)])
def test_same_transposed_is_the_gradient_of_same(length, kernel, stride):
    forward = SameConv1d(1, 1, kernel, stride=stride, bias=False)
    backward = SameConvTranspose1d(1, 1, kernel, stride=stride, bias=False)
    backward.weight.data.copy_(forward.weight.data)
    wide = torch.randn(1, 1, length * stride, requires_grad=True)
    narrow = torch.randn(1, 1, length)
    (expected,) = torch.autograd.grad((forward(wide) * narrow).sum(), wide)
    torch.testing.assert_close(backward(narrow), expected, rtol=1e-4, atol=1e-5)


def test_decoder_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2089"):
        LatentNetwork(LatentArchitecture(n_frequencies=2089))


def test_loss_terms():
    power, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    weight = torch.tensor([[1.0, 2.0]])
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, np.log(2.0)]])
    expected_kl = 0.5 * (1.0 + (2.0 - 1.0 - np.log(2.0)))
    terms = (power, target, weight, mean, log_variance)
    assert float(latent_loss(*terms)) == pytest.approx(9.0 + expected_kl)
    assert float(latent_loss(*terms, reduction="mean")) == pytest.approx(4.5 + expected_kl)
    assert float(latent_loss(*terms, kl_weight=0.0)) == pytest.approx(9.0)


def test_the_latent_vector_is_drawn_in_training_only():
    network = LatentNetwork(LatentArchitecture(decoder_start=8, n_frequencies=32, encoder_filters=(2, 2)))
    spectra = torch.randn(2, 7514)
    drawn, again = (network.train()(spectra)[0] for _ in range(2))
    assert not torch.equal(drawn, again)
    power, mean, _ = network.eval()(spectra)
    assert torch.equal(power, network.decoder(mean))


def test_weight_peaks_at_numax():
    frequency = np.array([10.0, 50.0, 100.0, 200.0])
    weight = frequency_weight(frequency, np.array([50.0, 100.0]))
    assert weight[0, 1] == weight[1, 2] == 2.0
    assert weight[0, 3] == pytest.approx(1.0, abs=1e-6)
    separation = 0.263 * 50.0**0.772
    assert frequency_weight(np.array([50 + 2 * separation]), np.array([50.0]))[0, 0] == pytest.approx(1 + np.exp(-0.5))


@needs_real
@pytest.mark.real
def test_frequency_grid_is_the_published_one():
    published = np.loadtxt(REAL / "apogee" / "psd_frequency_grid.csv")
    np.testing.assert_allclose(frequency_grid(), published, rtol=1e-5)


def test_latent_numbers_for_every_spectrum_and_ages_where_teff_and_metallicity_are(model):
    batch = stars(30)
    batch.columns["teff"][5] = np.nan
    batch.columns["fe_h"][6] = np.nan
    batch.columns["teff"][7] = -9999.0
    batch.columns["fe_h"][8] = -999.99
    found = model.predict(batch, CPU)
    assert list(found) == [output.name for output in model.outputs]
    assert list(found)[:9] == ["z0", "z1", "z2", "z3", "z4", "log_age", "log_age_error", "age", "age_error"]
    for i in range(5):
        np.testing.assert_array_equal(np.isfinite(found[f"z{i}"]), batch.usable)
    aged = batch.usable.copy()
    aged[5:9] = False
    for name in ("log_age", "log_age_error", "age", "age_error"):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(found[name]), aged)


def test_ages_are_the_forests_of_the_latent_numbers(model):
    batch = stars(10)
    found = model.predict(batch, CPU)
    features = np.column_stack([*(found[f"z{i}"] for i in range(5)), batch.columns["teff"], batch.columns["fe_h"]])
    expected = model.forest.predict(features[batch.usable].astype(float))
    np.testing.assert_allclose(found["age"][batch.usable], expected["age"], rtol=1e-6)


def test_results_do_not_depend_on_batches(model):
    batch = stars(2 * GRANULE_ROWS + 9)
    whole = model.predict(batch, CPU)
    cut = 64
    parts = [model.predict(batch.take(part), CPU) for part in (slice(0, cut), slice(cut, len(batch)))]
    one_by_one = model.predict(batch, dataclasses.replace(CPU, granules=1))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]), err_msg=name)
        np.testing.assert_array_equal(values, one_by_one[name], err_msg=name)


def test_bytes_do_not_depend_on_which_other_rows_have_a_spectrum(model):
    batch = stars(5 * GRANULE_ROWS + 5)
    some = batch.usable & (np.arange(len(batch)) % 23 == 1)
    whole, scattered = (model.predict(b, CPU) for b in (batch, dataclasses.replace(batch, usable=some)))
    for name, values in whole.items():
        np.testing.assert_array_equal(scattered[name], np.where(some, values, np.nan), err_msg=name)


def test_no_rows_and_no_usable_rows(model):
    assert len(model.predict(stars(0), CPU)["age"]) == 0
    batch = stars(4)
    batch.usable[:] = False
    assert all(np.isnan(values).all() for values in model.predict(batch, CPU).values())


def test_bundle_without_forest_gives_latent_numbers_only(tmp_path):
    model = LatentAge(tiny_latent(tmp_path / "a", with_forest=False))
    found = model.predict(stars(3), CPU)
    assert np.isfinite(found["z0"][:3]).all()
    assert np.isnan(found["age"]).all()


def test_reconstruction_is_the_decoders(model):
    assert model.reconstruct(np.zeros((3, 5))).shape == (3, 32)


def test_damaged_bundles_are_refused(tmp_path):
    bundle = tiny_latent(tmp_path / "a")
    without = {key: value for key, value in bundle.weights.items() if key != "forest.value"}
    with pytest.raises(BundleError, match=r"forest\.value"):
        LatentAge(save_bundle(tmp_path / "b", bundle.description, without))
    narrow = {**bundle.weights, "forest.bias_slope": np.zeros(6)}
    with pytest.raises(BundleError, match=r"damaged|7 features"):
        LatentAge(save_bundle(tmp_path / "c", bundle.description, narrow))
