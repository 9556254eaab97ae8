"""Real APOGEE files, two models, three products: one row-matched catalogue each, from one reading of the spectra."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from catalogue.models import load_model
from catalogue.models.bundle import SHIPPED
from catalogue.models.latent_network import LatentArchitecture
from catalogue.pipeline.build import _model_task, build, plan
from catalogue.pipeline.plan import plan_infer
from catalogue.pipeline.records import read_record, remove_record
from catalogue.pipeline.tasks import InferTask, infer
from catalogue.pipeline.verification import verify
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import read_rows
from tests.factories.apogee import LOGGS, small_survey, tiny_bcnn
from tests.factories.real import REAL, needs_real
from tests.factories.runs import load

# File, Teff, logg, [Fe/H]: the first with the values of its own header, the others made up within the domain.
STARS = [
    ("apStar-dr17-2M17335483-2753043.fits", 3677.0, 0.53, -0.29),
    ("apStar-dr17-2M19485057+5005279.fits", 4500.0, 2.6, 0.1),
    ("apStar-r6-2M03290406+3117075.fits", 4700.0, 2.7, -0.1),
    ("apStar-r6-2M17334253-1654573.fits", 4600.0, 2.55, 0.05),
]
COLUMNS = [
    "APOGEE_ID",
    "TELESCOPE",
    "FIELD",
    "FILE",
    "LOCATION_ID",
    "RA",
    "DEC",
    "SNR",
    "SNREV",
    "STARFLAG",
    "ANDFLAG",
    "ASPCAPFLAG",
    "EXTRATARG",
    "NVISITS",
    "TEFF",
    "TEFF_ERR",
    "LOGG",
    "LOGG_ERR",
    "M_H",
    "ALPHA_M",
    "FE_H",
    "FE_H_ERR",
]
ROWS = [1, 4, 7, 10]


def write_parent(path):
    """The real DR16 rows; four of them become the stars whose files we have."""
    table = Table.read(REAL / "apogee" / "allStar-dr16-subset.fits", unit_parse_strict="silent")[COLUMNS]
    for name in ("FILE", "APOGEE_ID"):
        table[name] = table[name].astype("U40")
    for row, (file, teff, logg, fe_h) in zip(ROWS, STARS, strict=True):
        values = {"FILE": file, "APOGEE_ID": file.split("-", 2)[2].removesuffix(".fits"), "TEFF": teff, "LOGG": logg}
        values |= {"FE_H": fe_h, "ALPHA_M": 0.05, "SNREV": 100.0, "STARFLAG": 0, "ASPCAPFLAG": 0, "EXTRATARG": 0}
        for name, value in values.items():
            table[name][row] = value
    table.write(path)
    return table


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    place = tmp_path_factory.mktemp("apogee")
    parent = write_parent(place / "allStar.fits")
    content = {
        "survey": "apogee",
        "parent": {"path": "allStar.fits", "key": "apogee_id"},
        "spectra": {"root": str(REAL / "apogee" / "apstar"), "path": "{FILE}"},
        "model": ["latent-age-apogee-simulated", "astronn-bcnn-apogee-simulated"],
        "product": ["apogee_latent_age", "apogee_latent_age_plus", "apogee_age_mass"],
        "output": {"directory": "run", "formats": ["fits"]},
        "inference": {"passes": 3, "device": "cpu"},
    }
    (place / "run.yaml").write_text(yaml.safe_dump(content))
    return place, parent


@needs_real
@pytest.mark.real
def test_real_files_become_row_matched_catalogues(built, client):
    place, parent = built
    build(load(place / "run.yaml"), client=client)
    ages = Table.read(place / "run" / "apogee_age_mass.fits", unit_parse_strict="silent")
    latent = Table.read(place / "run" / "nn_latent_age_dr17.fits", unit_parse_strict="silent")
    names = [str(name).strip() for name in parent["APOGEE_ID"]]
    for table, key in ((ages, "APOGEE_ID"), (latent, "apogee_id")):
        assert [str(name).strip() for name in table[key]] == names

    here = np.isin(np.arange(len(parent)), ROWS)
    status = np.asarray(ages["STATUS"])
    assert (status[here] == RowStatus.OK).all()
    assert (status[~here] == RowStatus.NO_SPECTRUM).all()
    np.testing.assert_array_equal(np.isfinite(np.ma.filled(ages["age"], np.nan)), here)
    assert np.ma.filled(ages["age"], np.nan)[here].min() > 0.1

    # the cool giant of logg 0.5 is outside the latent selection and outside the domain; the others are in both
    z0 = np.ma.filled(latent["z0"], np.nan)
    assert np.isnan(z0[ROWS[0]])
    assert np.isfinite(z0[ROWS[1:]]).all()
    outside = np.asarray(ages["FLAG"]) >> 12 & 1
    assert outside[ROWS].tolist() == [1, 0, 0, 0]
    assert verify(load(place / "run.yaml"), rows=len(parent)).findings == []


@pytest.mark.parametrize("name", ["latent-age-apogee-simulated", "astronn-bcnn-apogee-simulated"])
def test_shipped_bundles_load_and_say_what_they_are(name):
    model = load_model(SHIPPED / name)
    assert "simulat" in model.bundle.description.notes.lower()
    assert {"teff", "logg", "fe_h"} <= set(model.bundle.description.domain)


def test_a_sound_run_of_files_with_other_nulls_than_ours_is_not_called_damaged(tmp_path, client):
    configuration = small_survey(tmp_path)
    for path in sorted((tmp_path / "spectra").rglob("*.fits")):
        with fits.open(path, mode="update") as hdus:
            hdus[1].data[0, 4000:4003] = -np.nan, np.inf, -np.inf
    run = load(configuration)
    parent = Table.read(run.configuration.parent.path)
    parent["TEFF_ERR"] = np.full(len(parent), -999.99, np.float32)
    parent["NVISITS"] = MaskedColumn(np.arange(len(parent)), mask=parent["LOGG"] < 2, fill_value=999)
    parent.write(run.configuration.parent.path, overwrite=True)
    build(run, client=client)
    assert np.isinf(read_rows(run.directory.spectra, ["flux"], 3, 4)["flux"]).sum() == 2
    assert verify(run, rows=len(parent)).findings == []


def test_a_loosened_selection_reads_only_the_files_that_are_new(tmp_path, client):
    configuration = small_survey(tmp_path)
    first = load(configuration)
    build(first, client=client)
    status = read_rows(first.directory.spectra, ["status"], 0, 10)["status"]
    inside = [1.5 < logg < 2.5 for logg in LOGGS]
    assert (status == RowStatus.OK).tolist() == inside
    assert (status == RowStatus.NOT_SELECTED).tolist() == [not chosen for chosen in inside]
    loosened = load(configuration, "select=1.5 < LOGG < 3.6 and SNREV > 30")
    result = build(loosened, client=client)
    assert (result.ingested, result.inferred) == (1, 1)
    records = [unit.record for unit in plan(loosened).ingest.units]
    assert [record.reused for record in records] == [4]
    status = read_rows(loosened.directory.spectra, ["status"], 0, 10)["status"]
    assert (status == RowStatus.OK).tolist() == [1.5 < logg < 3.6 for logg in LOGGS]
    full = load(configuration, "select=1.5 < LOGG < 3.6 and SNREV > 30", f"output.directory={tmp_path / 'full'}")
    build(full, client=client)
    for name in ("nn_latent_age_dr17.fits", "nn_latent_age_dr17.csv.gz"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "full" / name).read_bytes()


def test_models_applied_together_share_the_time_of_a_unit(tmp_path, client):
    tiny_bcnn(tmp_path / "bcnn")
    models = f"model=[{tmp_path / 'bundle'}, {tmp_path / 'bcnn'}]"
    run = load(small_survey(tmp_path), models, "product=[apogee_latent_age, apogee_age_mass]")
    build(run, client=client)
    ingest = plan(run).ingest
    for model in run.models:
        remove_record(run.directory.infer_records(model.identity), 0)
    parts = [_model_task(run, m.identity, plan_infer(run, m, ingest).units[0]) for m in run.models]
    rows = ingest.units[0].stop
    summary = infer(InferTask(0, 0, rows, str(run.directory.spectra), rows, tuple(parts)))
    records = [read_record(run.directory.infer_records(model.identity), 0) for model in run.models]
    assert [record.seconds for record in records] == [summary.seconds / 2] * 2


def test_the_shipped_ages_have_both_corrections():
    bundle = load_model(SHIPPED / "astronn-bcnn-apogee-simulated").bundle
    assert bundle.description.architecture["age_linear"] is not None
    prediction, age = (bundle.weights[f"lowess.{name}"] for name in ("prediction", "age"))
    assert (np.diff(prediction) > 0).all()
    assert np.isfinite(age).all()


def test_the_shipped_encoder_has_the_released_shape():
    shapes = load_model(SHIPPED / "latent-age-apogee-simulated").architecture.model_dump()
    assert shapes == LatentArchitecture().model_dump()
