"""Training of the two APOGEE models by the way that ``catalogue train`` takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table

from catalogue.models import load_model
from catalogue.models.base import InferenceSettings
from catalogue.models.bundle import load_bundle
from catalogue.models.latent_age import LatentAge
from catalogue.models.latent_network import frequency_grid
from catalogue.spectra.ingest import ingest_unit
from catalogue.spectra.parent import import_parent
from catalogue.spectra.store import create_store
from catalogue.surveys import load_survey
from catalogue.training import train as training
from catalogue.training.apogee_simulation import simulate_oscillations, simulate_spectra
from catalogue.training.dataset import TrainingSet, load_training_set, read_oscillations
from catalogue.training.evaluate import EvaluationConfiguration, evaluate, summarise
from catalogue.training.fit import FitSettings
from catalogue.training.labels import LabelError
from catalogue.training.train import TrainingConfiguration, predict_rows, train_on
from tests.factories.apogee import giants, write_apstar

MEAN, SPREAD = np.full(7514, 0.95), np.full(7514, 0.02)
FIT = FitSettings(epochs=3, batch=16, threads=1, noise=0, masked_stretches=0, learning_rate=3e-3, average=0)
SMALL = {
    "latent_age": {
        "encoder_filters": (4, 4), "decoder_filters": (2, 2), "decoder_depth": 2, "decoder_kernel": 4,
        "forest": {"trees": 5, "stars": 40},
    },
    "astronn_bcnn": {"hidden": (8, 6), "activation": "softplus"},
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    labels = giants(64)
    spectra = simulate_spectra(labels, MEAN, SPREAD, 3)
    oscillations = simulate_oscillations(labels, frequency_grid(), 4)
    return TrainingSet(spectra, labels, load_survey("apogee"), "0" * 64, oscillations=oscillations)


def configuration(model, **changes):
    values = {
        "survey": "apogee", "model": model, "name": "tiny", "store": "spectra.zarr", "labels": "labels.csv",
        "fit": FIT, "architecture": SMALL[model], "passes": 4, **changes,
    }  # fmt: skip
    return TrainingConfiguration(**values)


@pytest.mark.parametrize("model", ["latent_age", "astronn_bcnn"])
def test_training_lowers_the_loss_and_gives_a_bundle_for_the_data_model(model, data, tmp_path):
    trained = train_on(configuration(model), data, np.arange(64), tmp_path / "bundle")
    history = trained.result.history
    assert history[-1]["training"] < history[0]["training"]
    description = load_bundle(tmp_path / "bundle").description
    assert set(description.domain) == {"teff", "logg", "fe_h"}
    assert description.novelty_limit is None
    predictions = predict_rows(tmp_path / "bundle", data.spectra)
    assert np.isfinite(predictions["age"]).all()
    assert np.isfinite(summarise(predictions, data.labels.physical())["age_delta_p"])


def test_ages_of_held_out_stars_are_not_learnt(data, tmp_path):
    """The held-out stars alone tell the corrections; their ages change nothing else."""
    first = train_on(configuration("astronn_bcnn"), data, np.arange(64), tmp_path / "a")
    held = np.isin(np.arange(64), training.stars_apart(configuration("astronn_bcnn"), data, np.arange(64))[2])
    other = replace(data.labels, age=np.where(held, 12.0 - data.labels.age, data.labels.age))
    second = train_on(
        configuration("astronn_bcnn", fit=FIT), replace(data, labels=other), np.arange(64), tmp_path / "b"
    )
    one, two = load_bundle(tmp_path / "a"), load_bundle(tmp_path / "b")
    if first.result.best_epoch == second.result.best_epoch:
        np.testing.assert_array_equal(one.weights["hidden1.weight"], two.weights["hidden1.weight"])
    assert first.result.history[0]["training"] == second.result.history[0]["training"]
    assert one.description.architecture["age_linear"] != two.description.architecture["age_linear"]


def test_both_corrections_are_in_the_bundle(data, tmp_path):
    train_on(configuration("astronn_bcnn"), data, np.arange(64), tmp_path / "bundle")
    found = load_model(tmp_path / "bundle").predict(data.spectra, InferenceSettings(device="cpu", passes=2))
    for name in ("age_linear_correct", "age_lowess_correct"):
        assert np.isfinite(found[name]).all()


def test_corrections_stay_those_of_the_stars_held_out_when_all_stars_are_learnt(data, tmp_path):
    one, two = (
        train_on(configuration("astronn_bcnn", relearn=again), data, np.arange(64), tmp_path / str(again)).bundle
        for again in (False, True)
    )
    assert one.description.architecture["age_linear"] == two.description.architecture["age_linear"]
    for name in ("lowess.prediction", "lowess.age"):
        np.testing.assert_array_equal(one.weights[name], two.weights[name])
    assert not np.array_equal(one.weights["hidden1.weight"], two.weights["hidden1.weight"])


def test_the_forest_is_learnt_anew_with_the_network(data, tmp_path, monkeypatch):
    learnt_from = []
    original = LatentAge.complete.__func__

    def complete(cls, architecture, bundle, labelled):
        learnt_from.append((bundle.weights, len(labelled.star)))
        return original(cls, architecture, bundle, labelled)

    monkeypatch.setattr(LatentAge, "complete", classmethod(complete))
    bundle = train_on(configuration("latent_age", relearn=True), data, np.arange(64), tmp_path / "b").bundle
    (_, some), (again, everyone) = learnt_from
    assert some < everyone == 64
    for name, values in again.items():
        np.testing.assert_array_equal(bundle.weights[name], values, err_msg=name)


def test_the_forest_takes_the_first_spectrum_of_every_star(data, tmp_path):
    stars = replace(data.labels, star=np.array([str(i // 2) for i in range(64)]))
    settings = {**SMALL["latent_age"], "forest": {"trees": 5}}
    trained = train_on(
        configuration("latent_age", architecture=settings), replace(data, labels=stars), np.arange(64), tmp_path / "b"
    )
    model = load_model(trained.bundle.path)
    leaves = [len(values) for values in np.split(model.forest.forest.value, model.forest.forest.roots[1:])]
    assert max(leaves) <= 2 * 28 - 1  # 28 training stars of 32, a leaf each


def test_a_model_of_power_spectra_needs_them(data, tmp_path):
    with pytest.raises(LabelError, match="learns power spectra"):
        train_on(configuration("latent_age"), replace(data, oscillations=None), np.arange(64), tmp_path / "b")


def test_power_spectra_are_matched_by_key(data, tmp_path):
    given = data.oscillations
    order = np.random.default_rng(0).permutation(64)
    arrays = {"log_power": given.log_power, "numax": given.numax, "separation": given.separation}
    path = tmp_path / "oscillations.npz"
    np.savez(path, key=data.labels.key[order], **{name: values[order] for name, values in arrays.items()})
    found = read_oscillations(path, data.labels)
    np.testing.assert_array_equal(found.log_power, given.log_power)
    np.testing.assert_array_equal(found.numax, given.numax)
    unknown = replace(data.labels, key=np.array(["elsewhere", *data.labels.key[1:]]))
    with pytest.raises(LabelError, match="no power spectrum of 1 of 64 stars, first elsewhere"):
        read_oscillations(path, unknown)
    np.savez(path, key=data.labels.key)
    with pytest.raises(LabelError, match="expected arrays key, log_power, numax and separation"):
        read_oscillations(path, data.labels)


@pytest.mark.parametrize("model", ["latent_age", "astronn_bcnn"])
def test_both_can_be_evaluated(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr("catalogue.training.evaluate.training_set", lambda configuration: data)
    settings = EvaluationConfiguration(training=configuration(model), folds=2, baselines=())
    result = evaluate(None, settings, tmp_path / "page")
    assert {row["method"] for row in result["methods"]} == {"model"}
    assert all(np.isfinite(row["age_cover68"]) for row in result["methods"])
    assert ("mass_delta_p" in result["methods"][0]) == (model == "astronn_bcnn")
    assert "age_delta_p" in (tmp_path / "page" / "evaluation.json").read_text()


NAMES = [f"2M0000000{n}+0000000" for n in range(6)]


def _ingested(tmp_path):
    """A store of six stars, of which the last has no file."""
    (tmp_path / "spectra").mkdir()
    for seed, name in enumerate(NAMES[:5]):
        write_apstar(tmp_path / "spectra" / f"{name}.fits", seed=seed, objid=name)
    table = Table({"APOGEE_ID": NAMES, "TEFF": np.full(6, 4600.0), "LOGG": np.full(6, 2.5), "FE_H": np.full(6, 0.1)})
    table["TEFF_ERR"], table["SNREV"] = 25.0, 120.0
    table.write(tmp_path / "allStar.fits")
    survey, parent, store = load_survey("apogee"), tmp_path / "parent.parquet", tmp_path / "spectra.zarr"
    settings = {"survey": survey, "key": "apogee_id", "template": "{APOGEE_ID}.fits", "rows_per_group": 64}
    import_parent(tmp_path / "allStar.fits", parent, **settings)
    create_store(store, survey, 6, 64, 64, "apogee_id")
    ingest_unit(store, parent, "apogee", tmp_path / "spectra", 0, 6)
    return survey, store


def test_an_ingested_survey_and_labels_make_a_training_set(tmp_path):
    survey, store = _ingested(tmp_path)
    labels = replace(giants(6), key=np.array(NAMES[::-1]))
    found = load_training_set(survey, store, labels, "apogee_id")
    assert found.labels.key.tolist() == NAMES[:5]
    assert found.unusable == 1
    assert found.spectra.columns["fe_h"].tolist() == [pytest.approx(0.1)] * 5
    assert found.spectra.columns["teff_err"].tolist() == [25.0] * 5
    np.testing.assert_array_equal(found.spectra.flux[2], survey.read(tmp_path / "spectra" / f"{NAMES[2]}.fits").flux)


def test_labels_whose_keys_do_not_match_are_refused_by_name_or_left_out_on_demand(tmp_path):
    survey, store = _ingested(tmp_path)
    labels = replace(giants(6), key=np.array([*NAMES[:4], "elsewhere", "nowhere"]))
    message = r"2 of 6 label keys are not among the 6 rows of .* \(apogee_id\), first elsewhere, nowhere; partial: true"
    with pytest.raises(LabelError, match=message):
        load_training_set(survey, store, labels, "apogee_id")
    assert load_training_set(survey, store, labels, "apogee_id", partial=True).labels.key.tolist() == NAMES[:4]
    strangers = replace(giants(2), key=np.array(["elsewhere", "nowhere"]))
    with pytest.raises(LabelError, match="2 of 2 label keys are not among"):
        load_training_set(survey, store, strangers, "apogee_id", partial=True)
