"""Every shipped bundle is what its committed configuration makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import catalogue
from catalogue.cli.learning import TRAINING_PATHS
from catalogue.config import load_section
from catalogue.models.bundle import load_bundle
from catalogue.training.train import TrainingConfiguration, recorded_configuration

ROOT = Path(catalogue.__file__).parents[1]
BUNDLES = {
    "spt_lamost": "spt-lamost",
    "astronn_bcnn": "astronn-bcnn-apogee-simulated",
    "latent_age": "latent-age-apogee-simulated",
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_shipped_bundle_was_made_with_the_committed_configuration(name, monkeypatch, tmp_path):
    for variable in ("APOKASC", "APOGEE_PIXELS"):
        monkeypatch.setenv(variable, str(tmp_path))
    path = ROOT / "configs" / "training" / f"{name}.yaml"
    expected = load_section(TrainingConfiguration, path, None, paths=TRAINING_PATHS)
    description = load_bundle(ROOT / "catalogue" / "models" / "shipped" / BUNDLES[name]).description
    # settings that are younger than the bundle are not in it
    assert_within(description.training["configuration"], recorded_configuration(expected))
    assert_within(expected.model_dump(mode="json")["architecture"], description.architecture)
    for key in ("name", "version", "passes", "seed", "citation", "notes"):
        assert getattr(description, key) == getattr(expected, key)


def assert_within(given, expected, path=""):
    for key, value in given.items():
        if isinstance(value, dict):
            assert_within(value, expected[key], f"{path}{key}.")
        elif f"{path}{key}" != "fit.threads":  # where it was made, not how
            assert value == expected[key], f"{path}{key}"
