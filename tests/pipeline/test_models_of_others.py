"""Models and products of somebody else, without ages or masses: the page's example works, and what is wrong is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.table import Table

from catalogue.config import ConfigurationError
from catalogue.models import BundleError, load_model, model_class
from catalogue.pipeline.build import build, plan
from catalogue.pipeline.verification import verify
from cluster import TaskFailed
from tests.factories.others import PAGE, install_model, register
from tests.factories.runs import build_here, load, write_run

PRODUCT = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])


def run_of(directory: Path, bundle: Path, product: dict = PRODUCT, **changes) -> Path:
    (directory / "product.yaml").write_text(yaml.safe_dump(product))
    changes = {"model": str(bundle), "product": str(directory / "product.yaml"), **changes}
    return write_run(directory, rows=8, missing=0.25, damaged=0.0, **changes)


def with_column(**column) -> dict:
    wrong = {"name": "wrong", "dtype": "float32", "description": "wrong", **column}
    return {**PRODUCT, "columns": [*PRODUCT["columns"], wrong]}


def test_the_model_of_the_page_makes_a_catalogue_that_verifies_and_follows_its_updates(tmp_path, monkeypatch):
    bundle = install_model(tmp_path, monkeypatch)
    formats = ["fits", "csv", "parquet", "zarr", "votable"]
    path = run_of(tmp_path, bundle, output={"directory": str(tmp_path / "run"), "formats": formats, "report": True})
    build_here(path)
    run = load(path)
    table = Table.read(run.directory.root / "screened.fits")
    usable = np.asarray(table["STATUS"]) == 1
    assert 0 < usable.sum() < 8
    assert (np.isfinite(np.asarray(table["Probability"])) == usable).all()
    assert set(np.ma.filled(table["Class"][~usable].astype(str), "").tolist()) == {""}
    assert set(np.ma.filled(table["Class"][usable].astype(str), "").tolist()) <= {"blue", "red"}
    found = verify(run)
    assert found.findings == []
    description = json.loads((bundle / "model.json").read_text())
    (bundle / "SHA256").unlink()
    (bundle / "model.json").write_text(json.dumps({**description, "version": "1.1"}))
    state = plan(load(path))
    assert not state.ingest.to_do
    assert all(stage.to_do for stage in state.inferences.values())
    page = (run.directory.root / "report.html").read_text()
    assert "An example, trained on nothing." in page


def test_a_cluster_file_that_is_not_there_is_refused_by_plan_and_build(tmp_path, monkeypatch):
    path = run_of(tmp_path, install_model(tmp_path, monkeypatch), cluster="my_slrm.yaml")
    for work in (plan, build):
        with pytest.raises(ConfigurationError, match=r"cluster: no such file: .*my_slrm\.yaml"):
            work(load(path))
    assert not list((tmp_path / "run").glob("records/ingest/*"))


def test_a_format_that_is_not_there_is_refused(tmp_path, monkeypatch):
    output = {"directory": str(tmp_path / "run"), "formats": ["fits", "hdf5"]}
    path = run_of(tmp_path, install_model(tmp_path, monkeypatch), output=output)
    with pytest.raises(ConfigurationError, match=r"output\.formats: unknown format hdf5; there are fits, csv"):
        load(path)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (with_column(value="screen.probabilty"), "have no output 'probabilty'; they have probability, class_number"),
        ({**PRODUCT, "survey": "apogee"}, "is for survey apogee"),
        ({**PRODUCT, "uses": {"screen": "spt"}}, "needs a model of kind spt, found"),
    ],
)
def test_a_product_that_does_not_fit_the_model_is_refused_before_anything_is_read(
    product, message, tmp_path, monkeypatch
):
    path = run_of(tmp_path, install_model(tmp_path, monkeypatch), product)
    with pytest.raises(ConfigurationError, match=message):
        build_here(path)
    with pytest.raises(ConfigurationError, match=message):
        plan(load(path))
    assert not list((tmp_path / "run").glob("records/ingest/*"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('("z", "file_z")', '("redshift",)', "kind screen: needs redshift; survey lamost-lrs stores .*file_z"),
        ('"class_number", "float32"', '"class_number", "int16"', "'class_number': expected dtype float32 or float64"),
        ('"class_number", "float32"', '"class number", "float32"', "expected a name of letters"),
        ('"class_number", "float32"', '"probability", "float32"', "expected outputs of different names"),
        ('inputs = ("z", "file_z")', 'inputs = ("z")', r"screen:Screen.inputs: expected a tuple, found 'z'"),
        ('kind = "screen"', 'kind = "screening"', "screen:Screen.kind: expected 'screen', found 'screening'"),
        ("inference_version = 1 ", "version = 1", "screen:Screen.inference_version: expected a int, found None"),
        ('weights["slope"]', 'weights["steepness"]', "not a bundle of kind 'screen': KeyError: 'steepness'"),
        ("import numpy as np", "import numpie as np", "screen:Screen: ModuleNotFoundError: No module named 'numpie'"),
    ],
)
def test_a_model_that_cannot_be_applied_is_refused_before_anything_is_read(old, new, message, tmp_path, monkeypatch):
    bundle = install_model(tmp_path, monkeypatch, (old, new))
    path = run_of(tmp_path, bundle)
    with pytest.raises(ConfigurationError, match=message):
        build_here(path)
    assert not list((tmp_path / "run").glob("records/ingest/*"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('return {"probability": probability,', 'return {"chance": probability,', "predict gave .*chance"),
        ("np.full(len(batch), np.nan", "np.full(len(batch) + 1, np.nan", r"expected shape \(8,\), found \(9,\)"),
        (
            "len(batch), np.nan",
            "len(batch), 0.5",
            "expected NaN in row [0-9]+, which has no usable spectrum, found 0.5",
        ),
    ],
)
def test_predictions_that_break_the_promise_stop_the_run(old, new, message, tmp_path, monkeypatch):
    path = run_of(tmp_path, install_model(tmp_path, monkeypatch, (old, new)))
    with pytest.raises(TaskFailed, match=message):
        build_here(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("grid", "lamost", "is for grid lamost, that of survey lamost-lrs is lamost-lrs"),
        ("kind", "sreen", "unknown model kind 'sreen'; installed: .*screen"),
    ],
)
def test_a_bundle_for_another_grid_or_of_no_kind_is_refused(key, value, message, tmp_path, monkeypatch):
    bundle = install_model(tmp_path, monkeypatch)
    description = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**description, key: value}))
    (bundle / "SHA256").unlink()
    with pytest.raises(ConfigurationError, match=message):
        load(run_of(tmp_path, bundle))


def test_an_entry_point_that_leads_nowhere_is_named(tmp_path, monkeypatch):
    bundle = install_model(tmp_path, monkeypatch)
    register(monkeypatch, "screen", "no_such_package.screen:Screen")
    with pytest.raises(BundleError, match=r"no_such_package\.screen:Screen: ModuleNotFoundError"):
        load_model(bundle)
    register(monkeypatch, "screen", "numpy:ndarray")
    with pytest.raises(BundleError, match="numpy:ndarray: expected a class derived from Model"):
        model_class("screen")
