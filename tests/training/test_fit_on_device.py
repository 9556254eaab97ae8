"""Training on a device with memory of its own: what a GPU would refuse, found without one."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
from catalogue.models.astronn_bcnn import AstroNNBayesian
from catalogue.models.base import LabelScale
from catalogue.models.device import DeviceError
from catalogue.models.latent_age import LatentAge
from catalogue.models.spt import SpectralTransformer
from catalogue.surveys import load_survey
from catalogue.training import fit as training
from catalogue.training.fit import FitSettings, Targets, chosen_precision, fit
from tests.factories.apogee import spectra_batch
from tests.factories.bundles import LAMOST_GRID, TINY_ARCHITECTURE, TINY_PREPROCESSING, giant_spectra
from tests.factories.watched_device import DEVICE, WatchedDevice

STARS = 24
SETTINGS = FitSettings(epochs=2, batch=8, threads=1, seed=5, noise=0.2, masked_stretches=1, learning_rate=1e-3)
LATENT = {
    "n_frequencies": 16, "decoder_start": 4, "encoder_filters": (4, 4), "decoder_filters": (2, 2),
    "decoder_depth": 2, "decoder_kernel": 4,
}  # fmt: skip


def spt():
    spectra = giant_spectra(STARS, seed=1)
    inputs = SpectralTransformer.fit_inputs(spectra, LAMOST_GRID, TINY_PREPROCESSING, 0)
    others = {"auxiliary": np.random.default_rng(2).normal(size=(STARS, 2))}
    others["auxiliary"][3, 1] = np.nan
    return SpectralTransformer, {**TINY_ARCHITECTURE, "auxiliary": 2}, inputs, spectra, others


def apogee(model, architecture, others):
    spectra = spectra_batch(STARS)
    inputs = ApogeeInputs.fit(ApogeeInputSettings(normalisation="standardise"), spectra, load_survey("apogee").grid)
    return model, architecture, inputs, spectra, others


def bcnn():
    return apogee(AstroNNBayesian, {"hidden": (8, 6), "activation": "softplus"}, {})


def latent():
    random = np.random.default_rng(3)
    return apogee(LatentAge, LATENT, {"log_power": random.normal(size=(STARS, 16)), "numax": np.full(STARS, 60.0)})


def fitted(made, settings=SETTINGS, **more):
    """Network after two epochs, and the losses."""
    model, architecture, inputs, spectra, others = made
    random = np.random.default_rng(4)
    physical = np.column_stack([random.uniform(1, 12, STARS), random.uniform(0.8, 2, STARS)])
    scale = LabelScale.fit(physical)
    covariance = scale.covariance_to_network(physical, np.tile(np.diag([0.5, 0.01]), (STARS, 1, 1)))
    targets = Targets(scale.to_network(physical), covariance, np.log(physical).std(axis=0), others)
    rows = np.arange(STARS)
    return fit(
        model, architecture, inputs, inputs.prepare(spectra), targets, rows[:16], rows[16:], settings, **more
    )  # fmt: skip


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr("catalogue.training.fit.choose_device", lambda name, setting: DEVICE)
    # of which torch knows no device ``meta``
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **more: contextlib.nullcontext())
    return WatchedDevice()


@pytest.mark.parametrize("make", [spt, bcnn, latent])
def test_a_network_is_trained_on_the_device_as_on_the_cpu(make, device):
    made = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalogue.training.fit.choose_device", lambda name, setting: torch.device("cpu"))
        expected = fitted(made)
    with device:
        found = fitted(made)
        state = {key: value.cpu() for key, value in found.network.state_dict().items()}
    assert device.faults == []
    for key, value in expected.network.state_dict().items():
        assert type(state[key]) is torch.Tensor
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("make", [spt, bcnn, latent])
def test_a_network_learns_in_half_precision_as_in_full(make):
    made, losses = make(), []
    for precision in ("float32", "bfloat16"):
        settings = SETTINGS.model_copy(update={"device": "cpu", "precision": precision})
        result = fitted(made, settings)
        assert all(value.dtype == torch.float32 for value in result.network.state_dict().values())
        losses.append([epoch["validation"] for epoch in result.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    assert losses[0] != losses[1]


def test_networks_learn_from_other_draws_on_the_device(device):
    made = spt()
    draws = torch.randn(2, STARS, made[2].n_features)
    with device:
        assert np.isfinite(fitted(made, redrawn=draws).history[-1]["training"])


def test_an_interrupted_fit_goes_on_upon_the_device(device, tmp_path, monkeypatch):
    """Its state is read from disk to where the network is."""
    read, asked = training.load_file, []

    def load_file(path, device):
        asked.append(device)
        return {key: value.to(device) for key, value in read(path).items()}

    def stop(epoch, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "load_file", load_file)
    made = spt()
    with device:
        whole = fitted(made).network.state_dict()
        with pytest.raises(KeyboardInterrupt):
            fitted(made, checkpoint=tmp_path, progress=stop)
        resumed = fitted(made, checkpoint=tmp_path).network.state_dict()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert asked == [str(DEVICE)]


@pytest.mark.parametrize(
    ("fast", "precision", "expected"),
    [
        (True, "auto", "bfloat16"),
        (False, "auto", "float32"),
        (False, "bfloat16", "bfloat16"),
        (True, "float32", "float32"),
    ],
)
def test_half_precision_is_chosen_where_the_gpu_has_it(fast, precision, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert chosen_precision(precision, torch.device("cuda")) == expected
    assert chosen_precision("auto", torch.device("cpu")) == "float32"


def test_training_on_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"fit\.device: expected a CUDA device for 'cuda', this process sees 0"):
        fitted(spt(), SETTINGS.model_copy(update={"device": "cuda"}))
