"""What made a file is written beside it, is printed, and makes it again."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from astropy.io import fits
from typer.testing import CliRunner

from catalogue.cli import app
from catalogue.pipeline.build import build
from tests.factories.bundles import tiny_spt_bundle
from tests.factories.runs import load, output_digests, write_run


def run_command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def built(tmp_path, client):
    path = write_run(tmp_path / "here", rows=70)
    text = path.read_text()
    build(load(path), client=client, configuration_text=text)
    return path


def test_the_configuration_that_info_prints_makes_the_same_bytes_again(built, tmp_path, client):
    run = load(built)
    printed = run_command("info", run.directory.root / "lamost_age_mass.fits", "--configuration")
    assert printed.exit_code == 0
    again = tmp_path / "again.yaml"
    again.write_text(printed.output)
    copy = load(again, f"output.directory={tmp_path / 'elsewhere'}")
    build(copy, client=client)
    assert output_digests(copy) == output_digests(run)


def test_info_names_what_made_the_file(built):
    run = load(built)
    printed = run_command("info", run.directory.root / "lamost_age_mass.csv.gz").output
    bundle = run.models[0].bundle.digest
    with fits.open(run.directory.root / "lamost_age_mass.fits") as hdus:
        cards = [value for hdu in hdus for value in hdu.header.values()]
    assert bundle in cards
    assert bundle in printed
    for name in ("torch", "numpy", "seed", "passes", "parent:parent.csv", "spectra"):
        assert name in printed


def test_a_file_that_was_moved_away_tells_what_its_header_says(built, tmp_path):
    run = load(built)
    moved = shutil.copy(run.directory.root / "lamost_age_mass.fits", tmp_path / "moved.fits")
    told = run_command("info", moved)
    assert told.exit_code == 0
    assert "what follows is of the file itself" in told.output
    assert f"MODELDG1: {run.models[0].bundle.digest}" in told.output
    refused = run_command("info", moved, "--configuration")
    assert refused.exit_code == 2


def test_the_provenance_holds_the_digest_of_every_output(built):
    root = load(built).directory.root
    entities = json.loads((root / "provenance.json").read_text())["entity"]
    for name in ("lamost_age_mass.fits", "lamost_age_mass.csv.gz", "lamost_age_mass.parquet"):
        assert entities[f"file:{name}"]["sha256"] == hashlib.sha256((root / name).read_bytes()).hexdigest()
    assert "file:lamost_age_mass.zarr" in entities
    refused = run_command("info", root / "somebody-elses.fits")
    assert refused.exit_code == 2


def test_a_provenance_that_was_lost_is_written_by_the_next_build(built):
    run = load(built)
    path = run.directory.root / "provenance.json"
    before = json.loads(path.read_text())["entity"]
    path.unlink()
    assert build(run).nothing_to_do
    assert json.loads(path.read_text())["entity"] == before


def test_plan_says_what_changed_and_how_long_it_will_take(built, tmp_path):
    up_to_date = run_command("plan", built)
    assert (up_to_date.exit_code, "nothing to do" in up_to_date.output) == (0, True)
    tiny_spt_bundle(tmp_path / "other", seed=5)
    survey = load(built).configuration.spectra.root
    new_model = run_command("plan", built, "--set", f"model={tmp_path / 'other'}")
    assert new_model.exit_code == 4
    assert "worker seconds" in new_model.output  # at the rate of the model applied before
    option = run_command("plan", built, "--set", "options={low_snr: 30}")
    assert option.exit_code == 4
    assert "will be written" in option.output
    assert "stale" in option.output
    touched = next(path for path in sorted(survey.iterdir()) if path.stat().st_size > 1000)
    touched.touch()
    changed = run_command("plan", built)
    assert changed.exit_code == 4
    assert "rows (1)" in changed.output
    assert "worker seconds" in changed.output
