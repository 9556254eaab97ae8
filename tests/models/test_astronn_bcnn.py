"""The Bayesian network: its passes, its errors, its bundle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from catalogue.models.astronn_bcnn import AstroNNArchitecture, AstroNNBayesian, AstroNNNetwork, label_loss
from catalogue.models.astronn_passes import AstroNNPasses, moments
from catalogue.models.base import InferenceSettings, LabelScale
from catalogue.models.bundle import BundleError, save_bundle
from catalogue.models.dropout import DropoutPasses
from catalogue.spectra.primitives import GRANULE_ROWS
from tests.factories.apogee import flat_inputs, spectra_batch, tiny_bcnn

CPU = InferenceSettings(device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return AstroNNBayesian(tiny_bcnn(tmp_path_factory.mktemp("bcnn") / "tiny"))


@pytest.mark.parametrize(
    ("n_pixels", "kernel", "pool", "filters"), [(7514, 8, 4, (2, 4)), (101, 8, 4, (2, 4)), (64, 5, 3, (3, 2))]
)
def test_arranged_passes_equal_the_plain_engine(n_pixels, kernel, pool, filters):
    """Same masks, same numbers: the arrangement for matrix units is a matter of speed only."""
    torch.manual_seed(n_pixels)
    settings = AstroNNArchitecture(n_pixels=n_pixels, kernel=kernel, pool=pool, filters=filters, hidden=(9, 7))
    network = AstroNNNetwork(settings).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    spectra = torch.randn(64, n_pixels)
    arranged = AstroNNPasses(network, 3, 11, torch.device("cpu"))(spectra)
    plain = DropoutPasses(network, (n_pixels,), 3, 11)(spectra)
    assert arranged.std(dim=0).min() > 0
    torch.testing.assert_close(arranged, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_without_dropout_every_pass_is_the_network():
    network = AstroNNNetwork(AstroNNArchitecture(n_pixels=80, dropout=0.0, hidden=(5, 4))).eval()
    spectra = torch.randn(64, 80)
    samples = AstroNNPasses(network, 2, 0, torch.device("cpu"))(spectra)
    torch.testing.assert_close(samples[0], samples[1])
    torch.testing.assert_close(samples[0], network(spectra), rtol=1e-5, atol=1e-6)


def test_shapes_are_those_of_astronn():
    network = AstroNNNetwork(AstroNNArchitecture())
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if name.endswith("weight")}
    assert shapes["hidden1.weight"] == (196, 7512)
    assert shapes["conv2.weight"] == (4, 2, 8)
    assert shapes["hidden2.weight"] == (96, 196)


def test_moments_follow_astronn():
    samples = torch.tensor([[[1.0, np.log(4.0)]], [[3.0, np.log(1.0)]]])
    mean, model, predictive = moments(samples, 1)
    assert mean[0, 0] == 2.0
    assert model[0, 0] == pytest.approx(1.0)  # population variance
    assert predictive[0, 0] == pytest.approx(2.0)  # geometric, not 2.5


def test_errors_combine_in_quadrature_and_scale_with_the_labels(model):
    batch = spectra_batch(20)
    found = model.predict(batch, CPU)
    for label in ("age", "mass"):
        total, passes, data = (found[f"{label}_{kind}_error"] for kind in ("total", "model", "predictive"))
        np.testing.assert_allclose(total[batch.usable] ** 2, (passes**2 + data**2)[batch.usable], rtol=1e-5)
    samples = torch.zeros(2, 1, 4)
    samples[0, 0, :2] = 1.0
    values = model.summarise(model.moments(samples).numpy())[:, 0]
    np.testing.assert_allclose(values[[0, 2, 3]], [1.5, 1.5, 3.0])  # age, scale 3
    np.testing.assert_allclose(values[[4, 6, 7]], [0.25, 0.25, 0.5])  # mass, scale 0.5


def test_rows_without_spectrum_are_nan_and_the_others_are_not(model):
    batch = spectra_batch(20)
    found = model.predict(batch, CPU)
    assert list(found) == [output.name for output in model.outputs]
    for name, values in found.items():
        assert values.dtype == np.float32
        if not name.endswith("_correct"):
            np.testing.assert_array_equal(np.isnan(values), ~batch.usable, err_msg=name)


def test_results_do_not_depend_on_batches(model):
    batch = spectra_batch(3 * GRANULE_ROWS + 5)
    whole = model.predict(batch, CPU)
    parts = [
        model.predict(batch.take(slice(first, first + size)), dataclasses.replace(CPU, granules=1))
        for first, size in ((0, GRANULE_ROWS), (GRANULE_ROWS, 2 * GRANULE_ROWS), (3 * GRANULE_ROWS, 5))
    ]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]), err_msg=name)


def test_bytes_do_not_depend_on_which_other_rows_have_a_spectrum(model):
    batch = spectra_batch(5 * GRANULE_ROWS + 5)
    some = batch.usable & (np.arange(len(batch)) % 23 == 1)
    flux = np.where(some[:, None], batch.flux, np.float32(np.nan))
    whole, scattered = (model.predict(b, CPU) for b in (batch, dataclasses.replace(batch, usable=some, flux=flux)))
    for name, values in whole.items():
        np.testing.assert_array_equal(scattered[name], np.where(some, values, np.nan), err_msg=name)


def test_seed_and_passes_are_settings(model):
    batch = spectra_batch(3)
    default = model.predict(batch, CPU)["age"]
    np.testing.assert_array_equal(default, model.predict(batch, dataclasses.replace(CPU, passes=5, seed=3))["age"])
    assert (default != model.predict(batch, dataclasses.replace(CPU, seed=4))["age"])[batch.usable].all()
    assert (default != model.predict(batch, dataclasses.replace(CPU, passes=6))["age"])[batch.usable].all()


def test_empty_batch_and_star_without_any_usable_pixel(model):
    assert len(model.predict(spectra_batch(0), CPU)["age"]) == 0
    batch = spectra_batch(2)
    batch.mask[1] = 1
    found = model.predict(batch, CPU)
    assert np.isnan(found["age"][1])
    assert found["bad_fraction"][0] < 0.05


def test_softplus_keeps_labels_positive(tmp_path):
    model = AstroNNBayesian(tiny_bcnn(tmp_path / "a", activation="softplus"))
    values = model.summarise(model.moments(torch.full((2, 1, 4), -30.0)).numpy())
    assert 0 < values[0, 0] < 1e-10


def test_corrections_of_age(tmp_path):
    bundle = tiny_bcnn(tmp_path / "a", age_linear=(0.5, 0.8))
    knots = {"lowess.prediction": np.array([1.0, 2.0, 4.0]), "lowess.age": np.array([1.0, 3.0, 5.0])}
    bundle = save_bundle(tmp_path / "b", bundle.description, {**bundle.weights, **knots})
    model = AstroNNBayesian(bundle)
    np.testing.assert_allclose(model._linear(np.array([0.5, 8.5])), [0, 10])
    np.testing.assert_allclose(model._lowess(np.array([0.0, 1.5, 3.0, 6.0])), [-1, 2, 4, 7])
    assert np.isnan(
        AstroNNBayesian(tiny_bcnn(tmp_path / "c")).predict(spectra_batch(2), CPU)["age_linear_correct"]
    ).all()


def test_loss_skips_missing_labels_and_adds_their_errors():
    raw = torch.tensor([[1.0, 2.0, 0.0, np.log(3.0)]])
    one = 0.5 * ((2 - 1) ** 2 / (1 + 0.25) + np.log(1.25))
    other = 0.5 * ((4 - 2) ** 2 / (3 + 1) + np.log(4))
    error = torch.tensor([[0.5, 1.0]])
    assert float(label_loss(raw, torch.tensor([[2.0, 4.0]]), error)) == pytest.approx((one + other) / 2)
    for missing in (-9999.0, np.nan):
        labels = torch.tensor([[2.0, missing]])
        assert float(label_loss(raw, labels, torch.tensor([[0.5, np.nan]]))) == pytest.approx(one)


def test_trainable_round_trip(tmp_path):
    batch = spectra_batch(10)
    from catalogue.surveys.apogee import Apogee

    inputs = AstroNNBayesian.fit_inputs(batch, Apogee.grid, {}, 0)
    prepared = inputs.prepare(batch)
    assert abs(float(prepared.pixels[torch.from_numpy(batch.usable)].mean())) < 1e-3
    features = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    architecture = {"hidden": (6, 4)}
    network = AstroNNBayesian.network(architecture, inputs.n_features).eval()
    raw = network(features)
    targets = {"mean": torch.ones(10, 2), "covariance": torch.diag_embed(torch.full((10, 2), 0.04))}
    expected = label_loss(raw, targets["mean"], torch.full((10, 2), 0.2))
    assert float(AstroNNBayesian.loss(architecture, raw, targets)) == pytest.approx(float(expected))
    positive = torch.cat([torch.nn.functional.softplus(raw[:, :2]), raw[:, 2:]], dim=1)
    expected = label_loss(positive, targets["mean"], torch.full((10, 2), 0.2))
    softplus = {**architecture, "activation": "softplus"}
    assert float(AstroNNBayesian.loss(softplus, raw, targets)) == pytest.approx(float(expected))
    description = tiny_bcnn(tmp_path / "x").description.model_copy(update={"architecture": architecture})
    bundle = AstroNNBayesian.to_bundle(
        tmp_path / "y", description, inputs, network, LabelScale(False, (0.0, 0.0), (1.0, 1.0))
    )
    assert np.isfinite(AstroNNBayesian(bundle).predict(batch, CPU)["age"][batch.usable]).all()
    with pytest.raises(ValueError, match="logarithmic"):
        AstroNNBayesian.to_bundle(tmp_path / "z", description, inputs, network, LabelScale(True, (0, 0), (1, 1)))


@pytest.mark.parametrize("activation", ["linear", "softplus"])
def test_a_new_network_starts_at_the_mean_labels(activation):
    architecture = {"hidden": (6, 4), "activation": activation}
    network = AstroNNBayesian.network(architecture, 7514).eval()
    mean = torch.tensor([2.0, 7.0])
    AstroNNBayesian.start(architecture, network, mean)
    answer = network(torch.zeros(1, 7514))[0, :2]
    found = torch.nn.functional.softplus(answer) if activation == "softplus" else answer
    torch.testing.assert_close(found, mean)


def test_noise_is_the_error_over_the_continuum():
    batch = spectra_batch(2)
    prepared = flat_inputs("standardise").prepare(batch)
    where = prepared.good[0].numpy()
    assert 5 / 680 / 0.05 < prepared.noise[0].numpy()[where].mean() < 5 / 480 / 0.05 * 1.2
    assert not prepared.noise[0].numpy()[~where].any()


def test_damaged_bundle_is_refused(tmp_path):
    bundle = tiny_bcnn(tmp_path / "a")
    weights = {key: value for key, value in bundle.weights.items() if key != "hidden2.bias"}
    with pytest.raises(BundleError, match=r"hidden2\.bias"):
        AstroNNBayesian(save_bundle(tmp_path / "b", bundle.description, weights))
