from __future__ import annotations

import json
import re

import numpy as np
import pytest

from catalogue.models import BundleError
from catalogue.models.bundle import SHIPPED
from catalogue.training import evaluate as evaluation
from catalogue.training import train as training
from catalogue.training.evaluate import EvaluationConfiguration, evaluate
from tests.training.test_fit import _configuration, _training_set

_PARTS = {
    "folds": 2,
    "baselines": ("ridge",),
    "ablations": {"no attention": {"architecture": {"attention": "none"}}},
    "learning_curve": (0.5,),
    "regions": 2,
}


@pytest.fixture
def stars(monkeypatch):
    data = _training_set()
    data.spectra.columns["snrg"] = np.full(60, 50.0)
    monkeypatch.setattr(evaluation, "training_set", lambda configuration: data)
    return data


def test_every_part_is_reported_and_no_star_is_missing(stars, tmp_path):
    said = []
    result = evaluate(None, EvaluationConfiguration(training=_configuration(), **_PARTS), tmp_path, said.append)
    assert [(row["method"], row["fold"]) for row in result["methods"]] == [
        ("model", 0), ("ridge", 0), ("model", 1), ("ridge", 1),
    ]  # fmt: skip
    assert [row["variant"] for row in result["variants"]] == ["no attention", "0.5 of the stars"]
    assert len(result["regions"]) == 2
    assert sum(row["spectra"] for row in result["bins"] if row["by"] == "age") <= 60
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    page = (tmp_path / "index.html").read_text()
    assert all(text in page for text in ("ridge", "no attention", "Wavelength regions", "2 splits by star"))


def test_the_page_tells_nothing_of_what_was_not_run(stars, tmp_path):
    evaluate(None, EvaluationConfiguration(training=_configuration(), folds=2, baselines=()), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "Ablations" not in page
    assert "Wavelength" not in page
    heading, _, row = (tmp_path / "table.md").read_text().splitlines()
    assert "age: Δ_P, %" in heading
    assert heading.count("|") == row.count("|")


def test_exchanging_regions_leaves_the_spectra_as_they_were(stars, tmp_path):
    before = stars.spectra.flux.copy(), stars.spectra.ivar.copy()
    configuration = EvaluationConfiguration(
        training=_configuration(), **{**_PARTS, "ablations": {}, "learning_curve": ()}
    )
    evaluate(None, configuration, tmp_path)
    np.testing.assert_array_equal(stars.spectra.flux, before[0])
    np.testing.assert_array_equal(stars.spectra.ivar, before[1])


def test_an_evaluation_that_is_broken_off_has_told_what_it_knew(stars, tmp_path):
    def stop(text):
        if text.startswith("fold 1, ridge"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(None, EvaluationConfiguration(training=_configuration(), **_PARTS), tmp_path, stop)
    known = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["fold"] for row in known["methods"]] == [0, 0]


def test_an_ablation_of_the_preprocessing_learns_its_inputs_anew(stars, tmp_path, monkeypatch):
    learnt = []

    def learn(configuration, survey):
        learnt.append(configuration.preprocessing.get("n_components"))

    monkeypatch.setattr(training, "learn_inputs", learn)
    few = {"few components": {"preprocessing": {"n_components": 3}}, "other loss": {"fit": {"loss": "mse"}}}
    configuration = EvaluationConfiguration(training=_configuration(), folds=2, baselines=(), ablations=few)
    evaluate(None, configuration, tmp_path)
    assert learnt == [_configuration().preprocessing["n_components"], 3]


def test_a_bundle_of_another_survey_is_refused_before_any_training(stars, tmp_path):
    configuration = EvaluationConfiguration(training=_configuration(), folds=2, baselines=())
    with pytest.raises(BundleError, match=r"is for survey apogee, training\.survey is lamost-lrs"):
        evaluate(SHIPPED / "latent-age-apogee-simulated", configuration, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_progress_is_told_in_few_digits(stars, tmp_path):
    said = []
    configuration = EvaluationConfiguration(training=_configuration(), folds=2, baselines=())
    evaluate(None, configuration, tmp_path, said.append)
    assert said[0].startswith("fold 0: age_delta_p ")
    assert not re.search(r"[0-9]\.[0-9]{4}", said[0])
