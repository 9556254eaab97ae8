"""Verification: a sound run passes, one flipped bit anywhere is found, a wrong value is found by the sample."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from catalogue.cli import app
from catalogue.pipeline.build import build
from catalogue.pipeline.file_digests import file_digests, files_of_unit
from catalogue.pipeline.records import read_record, record_path, write_record
from catalogue.pipeline.verification import NothingToVerify, verify
from catalogue.pipeline.verification.integrity import _ingest_digest
from tests.factories.runs import load, write_run

ROWS = 130  # three units of 64 rows, the last one partial

KINDS = {
    "pixels": "spectra.zarr/flux/c/*/0",
    "inverse variances": "spectra.zarr/ivar/c/*/0",
    "masks": "spectra.zarr/mask/c/*/0",
    "numbers of rows": "spectra.zarr/teff/c/*",
    "text of rows": "spectra.zarr/subclass/c/*",
    "times of files": "spectra.zarr/file_mtime_ns/c/*",
    "wavelengths": "spectra.zarr/wavelength/c/*",
    "metadata of the store": "spectra.zarr/zarr.json",
    "metadata of an array": "spectra.zarr/*/zarr.json",
    "parent table": "parent.parquet",
    "predictions": "predictions/*.zarr/*/c/*",
    "metadata of predictions": "predictions/*.zarr/zarr.json",
    "metadata of a prediction": "predictions/*.zarr/*/zarr.json",
    "manifest": "manifest.json",
    "record of an ingest": "records/ingest/*.json",
    "record of an inference": "records/infer/*/*.json",
    "record of a merge": "records/merge/*.json",
    "record of a layout": "records/layout/*.json",
    "provenance": "provenance.json",
    "report": "report.html",
    "FITS": "*.fits",
    "CSV": "*.csv.gz",
    "text beside the CSV": "*.csv.txt",
    "Parquet": "*.parquet",
    "VOTable": "*.vot*",
    "column of the Zarr catalogue": "lamost_age_mass.zarr/*/c/*",
    "metadata of the Zarr catalogue": "lamost_age_mass.zarr/zarr.json",
    "metadata of a column": "lamost_age_mass.zarr/*/zarr.json",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory, client):
    directory = tmp_path_factory.mktemp("verified")
    formats = ["fits", "csv", "parquet", "zarr", "votable"]
    output = {"directory": str(directory / "run"), "formats": formats}
    path = write_run(directory, rows=ROWS, missing=0.1, damaged=0.1, output=output)
    build(load(path), client=client)
    return path


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(load(built).directory.root, tmp_path / "copy")
    return load(built, f"output.directory={tmp_path / 'copy'}")


class Flipped:
    """A file with one bit flipped, its time unchanged; whole again at the end."""

    def __init__(self, path, random):
        self.path = path
        self.content = path.read_bytes()
        self.facts = path.stat()
        self.bit = int(random.integers(8 * len(self.content)))

    def __enter__(self):
        changed = bytearray(self.content)
        changed[self.bit // 8] ^= 1 << self.bit % 8
        self._write(bytes(changed))
        return self

    def __exit__(self, *error):
        self._write(self.content)

    def _write(self, content):
        self.path.write_bytes(content)
        os.utime(self.path, ns=(self.facts.st_atime_ns, self.facts.st_mtime_ns))


def test_every_file_of_a_run_is_of_a_kind_that_is_tested(built):
    root = load(built).directory.root
    known = {path for pattern in KINDS.values() for path in root.glob(pattern)}
    arrays = {path for store in root.rglob("*.zarr") for path in store.glob("*/c/**/*")}
    assert {path for path in root.rglob("*") if path.is_file()} - known - arrays == set()


def test_a_sound_run_passes_and_says_what_was_compared(built):
    result = CliRunner().invoke(app, ["verify", str(built), "--rows", "10"])
    assert result.exit_code == 0, result.output
    found = verify(load(built), rows=10)
    compared = {check.name: check.checked for check in found.checks}
    assert found.findings == []
    assert not found.to_do
    assert sum(check.not_recorded for check in found.checks) == 0
    assert compared["sample: spectra"] == compared["sample: tiny-spt"] == 10
    assert compared["spectra.zarr"] >= 3 * 20


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_is_found_and_its_file_named(built, kind):
    run = load(built)
    random = np.random.default_rng(list(KINDS).index(kind))
    files = sorted(path for path in run.directory.root.glob(KINDS[kind]) if path.is_file() and path.stat().st_size)
    files = [path for path in files if path.name != "parent.parquet" or kind == "parent table"]
    assert files
    path = files[random.integers(len(files))]
    name = str(path.relative_to(run.directory.root))
    with Flipped(path, random) as flipped:
        found = [finding for finding in verify(run, rows=0).findings if finding.file == name]
        assert found, f"bit {flipped.bit} of {name}"
        assert all(finding.remove for finding in found)
        if "/c/" in name and "wavelength" not in name and not name.startswith("lamost"):
            assert found[0].rows is not None
    assert verify(run, rows=0).findings == []


def test_damaged_rows_of_a_catalogue_file_are_named(copy):
    path = copy.directory.root / "lamost_age_mass.fits"
    content = bytearray(path.read_bytes())
    content[content.find(np.array(900_000_000 + 7 * 77, ">i8").tobytes())] ^= 1
    facts = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    reasons = [finding.reason for finding in verify(copy, rows=0).findings]
    assert "damaged rows: 77" in reasons
    assert any("DATASUM" in reason for reason in reasons)


def test_a_missing_and_an_extra_file_are_found(copy):
    (copy.directory.spectra / "ra/c/1").unlink()
    (copy.directory.root / "lamost_age_mass.csv.txt").unlink()
    shutil.copytree(copy.directory.spectra / "dec", copy.directory.spectra / "extra")
    found = {str(finding) for finding in verify(copy, rows=0).findings}
    assert "lamost_age_mass.csv.txt: the file is missing" in found
    assert "spectra.zarr/extra/zarr.json: expected no such file" in found
    shutil.rmtree(copy.directory.spectra / "extra")
    found = {str(finding) for finding in verify(copy, rows=0).findings}
    assert "spectra.zarr/ra/c/1, rows 64 to 127: the file is missing" in found


@pytest.mark.parametrize(
    "names",
    [
        ("spectra.zarr/flux/c/1/0", "predictions/{}.zarr/age/c/0", "lamost_age_mass.fits", "lamost_age_mass.csv.txt"),
        ("parent.parquet", "manifest.json", "records/infer/{}/000001.json"),
        ("spectra.zarr/teff/zarr.json", "predictions/{}.zarr/zarr.json"),
    ],
)
def test_what_is_removed_as_told_is_made_again(copy, client, names):
    root = copy.directory.root
    random = np.random.default_rng(0)
    for name in names:
        Flipped(root / name.format(copy.models[0].identity), random).__enter__()
    removable = verify(copy, rows=0).removable
    for path in (root / name for name in removable):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build(copy, client=client)
    assert verify(copy, rows=4).findings == []


def test_a_wrong_value_with_right_digests_is_found_by_the_sample(copy):
    store, records = copy.directory.spectra, copy.directory.ingest_records
    record = read_record(records, 0)
    row = int(np.flatnonzero(zarr.open_group(store, mode="r")["status"][:64] == 1)[0])
    group = zarr.open_group(store, mode="r+")
    flux = group["flux"][:64]
    flux[row, 1000] += 1
    group["flux"][:64] = flux
    record = replace(record, files=file_digests(store, files_of_unit(store, 0, 64)))
    record = replace(record, output=_ingest_digest(store, record))
    write_record(records, 0, record)
    found = verify(copy, rows=ROWS).findings
    assert any(finding.rows == (row, row) and "pixel 1000" in finding.reason for finding in found)


def test_a_run_of_an_earlier_release_is_not_called_damaged(copy):
    for path in [copy.directory.manifest, *(copy.directory.root / "records").rglob("*.json")]:
        if path.parent.name == "layout":
            path.unlink()
            continue
        content = json.loads(path.read_text())
        for name in ("sha256", "digests", "" if path.parent.name == "merge" else "files"):
            content.pop(name, None)
        path.write_text(json.dumps(content, indent=1))
    found = verify(copy, rows=5)
    assert found.findings == []
    assert sum(check.not_recorded for check in found.checks) > 30
    chunk = copy.directory.spectra / "flux/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes(content)
    assert verify(copy, rows=0).findings[0].rows == (0, 63)


def test_a_run_that_is_not_up_to_date_is_sound(built, tmp_path):
    result = CliRunner().invoke(app, ["verify", str(built), "--rows", "0", "--set", "inference.passes=5"])
    assert result.exit_code == 4, result.output
    with pytest.raises(NothingToVerify):
        verify(load(built, f"output.directory={tmp_path}"))


def test_a_damaged_record_makes_its_unit_again(copy, client):
    path = record_path(copy.directory.ingest_records, 1)
    path.write_bytes(path.read_bytes().replace(b'"start": 64', b'"start": 65'))
    result = build(copy, client=client)
    assert (result.ingested, result.inferred) == (1, 0)
    assert verify(copy, rows=0).findings == []
