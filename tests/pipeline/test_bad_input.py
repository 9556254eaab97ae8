"""Bad input and bad surroundings: a clear error or a row status, never a lost row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from catalogue.config import ConfigurationError
from catalogue.pipeline.build import build
from catalogue.pipeline.manifest import absent_columns
from catalogue.pipeline.status import problems
from catalogue.spectra.parent import ParentError
from catalogue.spectra.primitives import RowStatus
from tests.factories.lamost import damage
from tests.factories.runs import load, output_digests, write_run


def statuses(run) -> np.ndarray:
    return np.asarray(Table.read(run.directory.root / "lamost_age_mass.fits")["STATUS"])


def parent_of(run) -> Table:
    return Table.read(run.configuration.parent.path, format="ascii.csv")


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "catalogue", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


def test_ten_thousand_rows_without_a_spectrum_are_ten_thousand_rows(tmp_path, client):
    configuration = write_run(tmp_path, rows=4)
    run = load(configuration)
    table = parent_of(run)
    row = table[:1]
    table = Table({name: np.repeat(np.asarray(row[name]), 10_000) for name in table.colnames})
    table["obsid"] = np.arange(10_000) + 5
    table["filename"] = "nowhere.fits.gz"
    table.write(run.configuration.parent.path, format="ascii.csv", overwrite=True)
    run = load(configuration, "spectra.chunk_rows=2048")
    build(run, client=client)
    assert (statuses(run) == RowStatus.NO_SPECTRUM).sum() == 10_000


def test_a_duplicate_key_keeps_both_rows_and_flags_the_second(tmp_path, client):
    configuration = write_run(tmp_path, rows=6, missing=0.0, damaged=0.0)
    run = load(configuration)
    lines = run.configuration.parent.path.read_text().splitlines()
    run.configuration.parent.path.write_text("\n".join([*lines, lines[2]]) + "\n")
    build(run, client=client)
    table = Table.read(run.directory.root / "lamost_age_mass.fits")
    assert list(table["STATUS"]) == [RowStatus.OK] * 6 + [RowStatus.DUPLICATE]
    assert table["obsid"][6] == table["obsid"][1]
    assert [(p.row, p.status) for p in problems(run)] == [(6, "DUPLICATE")]
    raw = table["Age_P50"][6], table["Age_P50"][1]
    assert raw[0] is np.ma.masked or np.isclose(*raw, rtol=1e-4)


def test_non_ascii_names_are_rows_like_any_other(tmp_path, client):
    configuration = write_run(tmp_path, rows=3, missing=0.0, damaged=0.0)
    run = load(configuration)
    root = run.configuration.spectra.root
    table = parent_of(run)
    name = str(table["filename"][1])
    (root / name).rename(root / "spec-Ωé-1.fits.gz")
    text = run.configuration.parent.path.read_text().replace(name, "spec-Ωé-1.fits.gz")
    run.configuration.parent.path.write_text(text, encoding="utf-8")
    build(run, client=client)
    assert list(statuses(run)) == [RowStatus.OK] * 3


def test_a_fits_parent_with_masked_integers_keeps_them_missing(tmp_path, client):
    configuration = write_run(tmp_path, rows=5, missing=0.0, damaged=0.0)
    run = load(configuration)
    table = parent_of(run)
    table["obsid"] = MaskedColumn(table["obsid"], mask=[False, True, False, False, False])
    table["teff"][2] = np.nan
    table.write(tmp_path / "parent.fits")
    run = load(configuration, f"parent.path={tmp_path / 'parent.fits'}")
    build(run, client=client)
    found = Table.read(run.directory.root / "lamost_age_mass.fits")
    assert found["obsid"].mask.tolist() == [False, True, False, False, False]
    assert not np.isfinite(np.ma.filled(found["teff"], np.nan)[2])
    assert len(found) == 5


@pytest.mark.parametrize("kind", range(4))
def test_a_damaged_file_is_a_row_status_that_names_the_file(tmp_path, client, kind):
    configuration = write_run(tmp_path, rows=4, missing=0.0, damaged=0.0)
    run = load(configuration)
    name = str(parent_of(run)["filename"][2])
    damage(run.configuration.spectra.root / name, kind)
    build(run, client=client)
    [problem] = problems(run)
    assert problem.row == 2
    assert name in problem.reason
    assert list(statuses(run)[[0, 1, 3]]) == [RowStatus.OK] * 3


def test_a_path_out_of_the_root_is_refused_row_by_row(tmp_path, client):
    configuration = write_run(tmp_path, rows=3, missing=0.0, damaged=0.0)
    run = load(configuration)
    name = str(parent_of(run)["filename"][0])
    (tmp_path / "outside.fits.gz").write_bytes((run.configuration.spectra.root / name).read_bytes())
    text = run.configuration.parent.path.read_text().replace(name, "../../outside.fits.gz")
    run.configuration.parent.path.write_text(text)
    build(run, client=client)
    assert list(statuses(run)) == [RowStatus.OUTSIDE_ROOT, RowStatus.OK, RowStatus.OK]


def test_a_file_of_another_object_is_never_used(tmp_path, client):
    configuration = write_run(tmp_path, rows=3, missing=0.0, damaged=0.0)
    run = load(configuration)
    first, second = map(str, parent_of(run)["filename"][:2])
    root = run.configuration.spectra.root
    (root / first).write_bytes((root / second).read_bytes())
    build(run, client=client)
    table = Table.read(run.directory.root / "lamost_age_mass.fits")
    assert list(table["STATUS"]) == [RowStatus.KEY_MISMATCH, RowStatus.OK, RowStatus.OK]
    assert np.isnan(np.ma.filled(table["Novelty"], np.nan)[0])


def test_a_parent_table_without_the_key_is_refused_by_name(tmp_path, client):
    configuration = write_run(tmp_path, rows=3)
    with pytest.raises(ParentError, match="obsids"):
        build(load(configuration, "parent.key=obsids"), client=client)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("survey=sdss", "survey: unknown survey 'sdss'"),
        ("model=no-such-bundle", "model: no bundle"),
        ("product=no_such_product", "product: "),
        ("product=apogee_age_mass", "apogee"),
        ("options={outside_domian: keep}", "outside_domian"),
        ("options={outside_domain: maybe}", "maybe"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_before_any_work(tmp_path, override, message):
    configuration = write_run(tmp_path, rows=3)
    with pytest.raises(ConfigurationError, match=message):
        load(configuration, override)


def test_a_bundle_that_holds_a_pickle_is_refused(tmp_path):
    configuration = write_run(tmp_path, rows=3)
    (tmp_path / "bundle" / "extra.pkl").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="pickle"):
        load(configuration)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes, where this may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: " + mounted.stderr.decode().strip())
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(tmp_path, small_disk):
    configuration = write_run(tmp_path, rows=150, missing=0.0, damaged=0.0)
    override = f"output.directory={small_disk / 'run'}"
    result = command("build", configuration, "--set", override)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((small_disk / "run").glob("lamost_age_mass.*"))
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    result = command("build", configuration, "--set", override)
    assert result.returncode == 0, result.stderr
    assert set(output_digests(load(configuration, override)))


def test_a_place_that_cannot_be_written_is_told_by_name(tmp_path, small_disk):
    configuration = write_run(tmp_path, rows=3)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = command("build", configuration, "--set", f"output.directory={small_disk / 'run'}")
    assert result.returncode == 1
    assert str(small_disk) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_parent_is_refused_by_key_and_path(tmp_path):
    configuration = write_run(tmp_path, rows=3)
    result = command("build", configuration, "--set", "parent.path=nowhere.csv")
    assert result.returncode == 2
    assert "parent.path" in result.stderr
    assert str(Path("nowhere.csv")) in result.stderr


def test_columns_that_the_parent_lacks_are_named_before_anything_is_done(tmp_path):
    configuration = write_run(tmp_path, rows=4, missing=0.0, damaged=0.0)
    run = load(configuration)
    assert absent_columns(run) == []
    table = parent_of(run)
    table.rename_columns(["obsid", "teff"], ["uid", "teff_lasp"])
    table.write(run.configuration.parent.path, format="ascii.csv", overwrite=True)
    assert absent_columns(load(configuration, "parent.key=uid")) == ["obsid", "teff"]
    told = command("plan", configuration, "--set", "parent.key=uid")
    assert "no column for obsid, teff: missing in every row" in told.stderr
    assert told.returncode == 4


def test_a_device_that_this_machine_lacks_is_refused_before_anything_is_read(tmp_path):
    run = load(write_run(tmp_path, rows=2), "inference.device=cuda:7", "cluster=local")
    with pytest.raises(ConfigurationError, match="expected a CUDA device for 'cuda:7'"):
        build(run)
    assert not list(run.directory.spectra.glob("flux/c/*"))
