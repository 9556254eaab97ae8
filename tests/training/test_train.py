from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.models import InferenceSettings, load_bundle, load_model
from catalogue.models.label_mixture import fit_mixture
from catalogue.models.spectrum_fit import SpectrumModel
from catalogue.training.train import TrainingConfiguration, stars_apart, train, training_set

pytest.importorskip("bossbrain")

PARAMETERS = ["teff", "logg", "feh", "alpha_fe", "c_fe", "n_fe"]


def test_a_trained_bundle_has_the_mixture_of_the_stars_that_it_learnt_from_each_counted_once(tmp_path):
    configuration = TrainingConfiguration.model_validate({
        "name": "small",
        "simulation": {"stars": 120, "visits": 2, "seed": 3},
        "companions": {"stars": 300, "scattered": True, "seed": 4},
        "draws": 1,
        "held_out": 0.1,
        "preprocessing": {
            "n_components": 24, "passed_on": 0, "noise_bands": 1, "estimator": "fit", "parameters": PARAMETERS,
        },
        "architecture": {"width": 16, "hidden": 8, "heads": 2, "head_width": 8, "mixture_share": 0.5},
        "fit": {"epochs": 1, "batch": 32},
    })  # fmt: skip
    bundle = load_bundle(train(configuration, tmp_path / "bundle"))
    data = training_set(configuration)
    learn, _, _ = stars_apart(configuration, data, np.arange(len(data)))
    _, once = np.unique(data.labels.star[learn], return_index=True)
    labels = data.labels.take(learn[once])
    scale = bundle.description.architecture["label_scale"]
    wanted = fit_mixture(
        SpectrumModel.from_arrays(bundle.weights)
        .standardised(torch.from_numpy(np.stack([getattr(labels, name) for name in PARAMETERS], axis=1)))
        .numpy(),
        (np.log10(labels.physical()) - scale["offset"]) / scale["scale"],
    )
    for name, values in wanted.arrays().items():
        np.testing.assert_array_equal(bundle.weights[name], values, err_msg=name)
    found = load_model(bundle.path).predict(data.spectra, InferenceSettings(8, 0, "cpu"))
    assert np.isfinite(found["age"]).all()
