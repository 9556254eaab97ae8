"""``catalogue train``: what is wrong with its configuration is told in words, with exit code 2."""

from __future__ import annotations

import pytest
import torch
import yaml
from typer.testing import CliRunner

from catalogue.cli import app
from catalogue.training import train as training
from tests.factories.bundles import TINY_ARCHITECTURE, TINY_PREPROCESSING
from tests.training.test_fit import _training_set

CONFIGURATION = {
    "name": "tiny",
    "store": "spectra.zarr",
    "labels": "labels.csv",
    "preprocessing": TINY_PREPROCESSING,
    "architecture": TINY_ARCHITECTURE,
    "fit": {"epochs": 3, "batch": 16, "threads": 1},
    "passes": 4,
}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run the command on 60 stars with some keys set."""
    monkeypatch.setattr(training, "training_set", lambda configuration: _training_set())
    torch.set_num_threads(1)  # the fit does so in the first of several trainings in a process
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(CONFIGURATION))

    def command(*overrides):
        sets = [part for override in overrides for part in ("--set", override)]
        return CliRunner().invoke(app, ["train", str(tmp_path / "train.yaml"), str(tmp_path / "bundle"), *sets])

    return command


def refused(result) -> str:
    """What a command that was refused said, on one line."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.stderr.split())


def test_preprocessing_that_contradicts_itself_is_refused(train):
    said = refused(train("preprocessing.refinements=0", "preprocessing.rejection=4"))
    assert said.startswith("catalogue: ")
    assert "rejection" in said


def test_a_training_is_not_continued_with_other_settings(train, tmp_path, monkeypatch):
    checkpoint = tmp_path / "bundle.training"
    with monkeypatch.context() as patched:
        patched.setattr(training, "load_model", lambda path: 1 / 0)
        assert isinstance(train().exception, ZeroDivisionError)
    assert checkpoint.is_dir()
    assert "other settings or other data" in refused(train("fit.learning_rate=0.5"))
    assert train().exit_code == 0
    assert not checkpoint.exists()
