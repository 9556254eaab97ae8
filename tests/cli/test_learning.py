"""``catalogue train``: what is wrong with its configuration is told in words, with exit code 2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "sbt", "unknown model kind 'sbt'; installed: "),
        ("survey", "lamost", "survey: unknown survey 'lamost'; installed: "),
        ("store", "nowhere.zarr", "nowhere.zarr"),
        ("labels", "nowhere.csv", "nowhere.csv: no such file"),
        ("simulation", "{}", "give either store and labels, or simulation"),
    ],
)
def test_names_that_lead_nowhere_are_refused(tmp_path, key, value, message):
    (tmp_path / "labels.csv").write_text("obsid,age,age_error,mass,mass_error\n1,2.0,0.2,1.1,0.1\n")
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**CONFIGURATION, key: yaml.safe_load(value)}))
    said = refused(CliRunner().invoke(app, ["train", str(tmp_path / "train.yaml"), str(tmp_path / "bundle")]))
    assert message in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("architecture.wide=3", "architecture.wide: unknown key"),
        ("architecture.width=0", "architecture.width: Input should be greater than"),
        ("preprocessing.components=3", "preprocessing.components: unknown key"),
        ("fit.epoch=3", "fit.epoch: unknown key; did you mean epochs?"),
    ],
)
def test_a_wrong_key_is_named_with_its_section(train, override, message):
    said = refused(train(override))
    assert message in said
    assert "pydantic" not in said


def test_what_is_printed_says_what_it_is(train):
    done = train()
    assert done.exit_code == 0
    assert "epoch 3 of 3: validation loss " in done.output
    assert "age_delta_p" in done.output


@pytest.mark.parametrize("stars", [2, 3, 9])
def test_too_few_stars_are_refused(train, monkeypatch, stars):
    monkeypatch.setattr(training, "training_set", lambda configuration: _training_set(stars))
    assert "found" in refused(train("preprocessing.n_components=8"))


def test_labels_that_are_all_the_same_are_refused(train, monkeypatch):
    data = _training_set()
    same = replace(data, labels=replace(data.labels, age=np.full(60, 5.0)))
    monkeypatch.setattr(training, "training_set", lambda configuration: same)
    assert "label 0 is the same in all" in refused(train())
