from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr

from catalogue.models import InferenceSettings, find_bundle, load_bundle, model_class
from catalogue.pipeline.build import build
from catalogue.pipeline.file_digests import file_digests, files_of_unit
from catalogue.pipeline.records import read_record, write_record
from catalogue.pipeline.verification import verify
from catalogue.pipeline.verification.integrity import _inference_digest
from catalogue.pipeline.verification.plain_astronn import PlainAstroNN
from tests.factories.apogee import small_survey, spectra_batch, tiny_bcnn
from tests.factories.runs import load

PASSES, SEED = 5, 3


def bundle_of(kind, directory):
    if kind == "shipped":
        return load_bundle(find_bundle("astronn-bcnn-apogee-simulated", directory))
    return tiny_bcnn(directory, activation=kind)


@pytest.fixture
def awkward_spectra():
    """An ordinary spectrum, pixels that are not finite, and detectors without light or without information."""
    spectra = spectra_batch(3, seed=5)
    spectra.flux[1, 1000:1003], spectra.flux[1, 1003:1006], spectra.flux[1, 1006:1009] = np.nan, np.inf, -np.inf
    spectra.flux[1, 2000] = -1.0
    spectra.flux[2, 3585:6080] *= -1.0
    spectra.ivar[2, 246:3274] = 0.0
    return spectra


@pytest.mark.parametrize("kind", ["shipped", "linear", "softplus"])
def test_the_second_program_agrees_with_the_first(tmp_path, awkward_spectra, kind):
    bundle = bundle_of(kind, tmp_path)
    model = model_class("astronn_bcnn")(bundle)
    fast = model.predict(awkward_spectra, InferenceSettings(PASSES, SEED, "cpu"))
    plain = PlainAstroNN(bundle, PASSES, SEED)
    for row in range(3):
        found = plain.predict(awkward_spectra.flux[row], awkward_spectra.ivar[row], awkward_spectra.mask[row], {})
        corrected = {"age_linear_correct", "age_lowess_correct"}
        assert found.keys() == {output.name for output in model.outputs} - (set() if kind == "shipped" else corrected)
        for name, value in found.items():
            assert value == pytest.approx(float(fast[name][row]), rel=1e-4, abs=1e-7), name
    assert found["bad_fraction"] > 0.5


def test_a_spectrum_without_information_has_no_answer(tmp_path):
    spectra = spectra_batch(1)
    nothing = np.zeros_like(spectra.ivar[0])
    plain = PlainAstroNN(tiny_bcnn(tmp_path), PASSES, SEED)
    assert plain.predict(spectra.flux[0], nothing, spectra.mask[0], {}) == {}


def test_a_wrong_prediction_with_right_digests_is_found(tmp_path, client):
    tiny_bcnn(tmp_path / "bcnn")
    run = load(small_survey(tmp_path), f"model={tmp_path / 'bcnn'}", "product=apogee_age_mass")
    build(run, client=client)
    sound = verify(run, rows=10)
    assert sound.findings == []
    assert [check.checked for check in sound.checks if check.name == "sample: tiny"] == [10]
    assert not any("no second program" in check.note for check in sound.checks)

    identity = run.models[0].identity
    store, records = run.directory.predictions(identity), run.directory.infer_records(identity)
    errors = zarr.open_group(store, mode="r+")["mass_predictive_error"]
    row = int(np.flatnonzero(np.isfinite(errors[:]))[0])
    errors[row] *= np.float32(1.001)
    record = read_record(records, 0)
    record = replace(record, files=file_digests(store, files_of_unit(store, record.start, record.stop)))
    write_record(records, 0, replace(record, output=_inference_digest(store, record)))
    found = [finding for finding in verify(run, rows=10).findings if finding.file.startswith("predictions")]
    assert [(finding.rows, finding.reason.split(":")[0]) for finding in found] == [
        ((row, row), "mass_predictive_error")
    ]
