from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from catalogue.models import InferenceSettings, find_bundle, load_bundle, model_class
from catalogue.pipeline.verification.plain_spt import PlainTransformer
from tests.factories.bundles import giant_spectra, tiny_spt_bundle

PASSES, SEED = 6, 3


def bundle_of(kind, directory):
    if kind == "shipped":
        return load_bundle(find_bundle("spt-lamost", directory))
    if kind == "fit":
        return tiny_spt_bundle(directory, fits=True, attention="none")
    if kind == "untold":
        return tiny_spt_bundle(directory, fits=True, told=False, mixture_share=0.4)
    if kind == "mixture":
        return tiny_spt_bundle(directory, fits=True, mixture_share=0.4)
    return tiny_spt_bundle(directory, attention=kind)


@pytest.mark.parametrize("kind", ["shipped", "hadamard", "none", "fit", "mixture", "untold"])
def test_the_second_program_agrees_with_the_first(tmp_path, kind):
    bundle = bundle_of(kind, tmp_path)
    spectra = giant_spectra(3, seed=5)
    # pixels that lie 6 sigma too low count for less, those that lie at 0 for nothing
    spectra.flux[1, 1000:1100:10] -= 6 / np.sqrt(spectra.ivar[1, 1000:1100:10].clip(min=1e-12))
    spectra.flux[1, 1105:1200:10] = 0
    sigma = 10 / np.sqrt(spectra.ivar[2].clip(min=1e-12))  # and one spectrum that says little
    spectra.flux[2] += np.where(spectra.ivar[2] > 0, sigma, 0) * np.random.default_rng(0).normal(size=sigma.size)
    spectra.ivar[2] /= 100
    fast = model_class("spt")(bundle).predict(spectra, InferenceSettings(PASSES, SEED, "cpu", 1))
    plain = PlainTransformer(bundle, PASSES, SEED)
    for row in range(3):
        columns = {"z": float(spectra.columns["z"][row])}
        found = plain.predict(spectra.flux[row], spectra.ivar[row], spectra.mask[row], columns)
        assert {"age", "mass", "novelty"} < found.keys()
        for name, value in found.items():
            near_zero = 1e-5 if name == "log_age" else None  # at 1 Gyr
            assert value == pytest.approx(float(np.asarray(fast[name])[row]), rel=1e-4, abs=near_zero), name


@pytest.fixture(scope="module")
def fitting(tmp_path_factory):
    return tiny_spt_bundle(tmp_path_factory.mktemp("fit"), fits=True)


CHANGES = {"weights": 1.2, "scatter": 2.0, "prior": 1e-3, "limits": 0.2, "variance": 20.0, "excess": 1.2}


@pytest.mark.parametrize(("name", "factor"), CHANGES.items(), ids=CHANGES)
def test_other_numbers_of_the_fit_are_seen(fitting, name, factor):
    array = f"inputs.fit.{name}"
    other = dataclasses.replace(fitting, weights={**fitting.weights, array: fitting.weights[array] * factor})
    plain = [PlainTransformer(bundle, PASSES, SEED) for bundle in (fitting, other)]
    spectra, apart = giant_spectra(4, seed=5), []
    for row in range(4):
        columns = {"z": float(spectra.columns["z"][row])}
        one, two = (p.predict(spectra.flux[row], spectra.ivar[row], spectra.mask[row], columns) for p in plain)
        apart.append(abs(two["age"] / one["age"] - 1))
    assert max(apart) > 2e-4  # twice what agrees
