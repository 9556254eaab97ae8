"""Files of a unit into the store: every row ends with a status, nothing is lost or invented."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from catalogue.spectra import ingest
from catalogue.spectra.ingest import ingest_unit
from catalogue.spectra.parent import import_parent
from catalogue.spectra.primitives import RowStatus, is_usable
from catalogue.spectra.store import StoreError, create_store, read_rows
from catalogue.surveys import load_survey
from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.apogee import write_apstar
from tests.factories.ingested import CHUNK, SURVEY, run
from tests.factories.lamost import PARENT_COLUMNS, star, write_coadd, write_five_rows, write_parent_csv, write_survey
from tests.factories.real import REAL, needs_real


def test_rows_hold_what_their_files_hold_and_their_parent_says(ingested, survey):
    counts = Counter(ingested.statuses)
    assert counts == {"OK": 108, "NO_SPECTRUM": 30, "TRUNCATED": 4, "EMPTY_FILE": 4, "UNREADABLE": 4}
    assert sum((Counter(summary.counts) for summary in ingested.summaries), Counter()) == counts
    assert [(summary.start, summary.stop) for summary in ingested.summaries] == [(0, 128), (128, 150)]
    lines = [line.split(",") for line in survey.read_text().splitlines()[1:]]
    values = ingested.read("flux", "ivar", "mask", "obsid", "teff", "subclass", "file_obsid", "file_z", "file_size")
    for row in (0, 63, 64, 127, 128, 149):
        line = lines[row]
        assert values["obsid"][row] == int(line[0])
        assert values["teff"][row] == float(line[4])
        assert values["subclass"][row] == line[2]
    for row, status in enumerate(ingested.statuses):
        if status == "OK":
            flux, ivar, _, andmask, ormask = star(row)
            n = len(flux)
            np.testing.assert_array_equal(values["flux"][row, :n], flux)
            np.testing.assert_array_equal(values["ivar"][row, :n], ivar)
            np.testing.assert_array_equal(values["mask"][row, :n], andmask + 256 * ormask)
            assert values["file_obsid"][row] == values["obsid"][row]
            assert values["file_size"][row] == (ingested.root / lines[row][-1]).stat().st_size
        else:
            n = 0
            assert values["file_obsid"][row] == -9999
        assert np.isnan(values["flux"][row, n:]).all()
        assert not values["ivar"][row, n:].any()
        assert not values["mask"][row, n:].any()


def test_every_row_that_is_not_ok_says_why_and_names_its_file(ingested, survey):
    names = [line.split(",")[-1] for line in survey.read_text().splitlines()[1:]]
    for name, status, reason in zip(names, ingested.statuses, ingested.read("reason")["reason"], strict=True):
        assert (reason == "") == (status == "OK")
        if status not in ("OK", "NO_SPECTRUM"):
            assert reason.startswith(name)


def test_threads_and_chunks_do_not_change_the_content(ingested, survey, tmp_path):
    one = run(survey, ingested.root, tmp_path / "a", threads=1)
    assert one.digests == ingested.digests
    small = run(survey, ingested.root, tmp_path / "b", chunk_rows=128)
    everything = ["flux", "ivar", "mask", "status", "reason", "file_mtime_ns", *(c.name for c in SURVEY.columns)]
    for name, values in small.read(*everything).items():
        np.testing.assert_array_equal(values, ingested.read(name)[name])


def test_files_are_in_flight_together_where_the_file_system_is_slow(survey, ingested, tmp_path, monkeypatch):
    read = LamostLowResolution.read
    names: set[str] = set()

    def slow(self, path):
        time.sleep(0.004)
        names.add(threading.current_thread().name)
        return read(self, path)

    monkeypatch.setattr(LamostLowResolution, "read", slow)
    done = run(survey, ingested.root, tmp_path / "a")
    assert done.digests == ingested.digests
    assert len(names) > 3
    names.clear()
    run(survey, ingested.root, tmp_path / "b", threads=1)
    assert names == {threading.current_thread().name}


def test_the_digest_sees_every_array_but_the_file_times(ingested, survey, tmp_path):
    root = tmp_path / "spectra"
    shutil.copytree(ingested.root, root)
    for path in root.iterdir():
        path.touch()
    touched = run(survey, root, tmp_path / "a")
    assert touched.digests == ingested.digests
    assert (touched.read("file_mtime_ns")["file_mtime_ns"] != ingested.read("file_mtime_ns")["file_mtime_ns"]).any()
    row = ingested.statuses.index("OK", 128)
    name = survey.read_text().splitlines()[1 + row].split(",")[-1]
    spectrum = [vector.copy() for vector in star(row)]
    spectrum[0][7] += 1
    write_coadd(root / name, 900_000_000 + 7 * row, spectrum=spectrum)
    changed = run(survey, root, tmp_path / "b")
    assert changed.digests[0] == ingested.digests[0]
    assert changed.digests[1] != ingested.digests[1]


def test_statuses_of_all_kinds(tmp_path):
    root = tmp_path / "spectra"
    root.mkdir()
    flux, ivar, *rest = star(0)
    write_coadd(root / "ok.fits", 1)
    write_coadd(root / "other.fits", 999)
    write_five_rows(root / "five.fits", 3)
    write_five_rows(root / "early.fits", subcontinuum=True, cards={"RA": 10.0, "DEC": 20.0})
    write_five_rows(root / "elsewhere.fits", subcontinuum=True, cards={"RA": 11.0, "DEC": 20.0})
    write_coadd(root / "nan.fits", 6, spectrum=[flux * np.nan, ivar, *rest])
    write_coadd(root / "zero.fits", 7, spectrum=[flux, ivar * 0, *rest])
    write_coadd(root / "card.fits", 8, cards={"COEFF0": None})
    write_coadd(root / "grid.fits", 9, cards={"COEFF0": 3.0})
    (root / "directory.fits").mkdir()
    (root / "link.fits").symlink_to("/etc/passwd")
    expected = {
        "ok.fits": "OK", "other.fits": "KEY_MISMATCH", "five.fits": "OK", "early.fits": "OK",
        "elsewhere.fits": "KEY_MISMATCH", "nan.fits": "ALL_NAN", "zero.fits": "ZERO_IVAR",
        "card.fits": "MISSING_CARD", "grid.fits": "WRONG_SHAPE", "directory.fits": "UNREADABLE",
        "link.fits": "OUTSIDE_ROOT", "../x.fits": "OUTSIDE_ROOT", "/etc/passwd": "OUTSIDE_ROOT",
        "absent.fits": "NO_SPECTRUM", "": "NO_SPECTRUM",
    }  # fmt: skip
    rows = [{"obsid": row + 1, "ra": 10.0, "dec": 20.0, "filename": name} for row, name in enumerate(expected)]
    done = run(write_parent_csv(tmp_path / "a.csv", rows), root, tmp_path / "work")
    assert dict(zip(expected, done.statuses, strict=True)) == expected
    values = done.read("flux", "reason", "file_obsid", "status")
    unusable = ~is_usable(values["status"])
    assert np.isnan(values["flux"][unusable]).all()
    assert values["reason"][1] == "other.fits: expected OBSID 2, the file has 999"
    assert values["file_obsid"][1] == 999
    assert "3382.9 arcsec apart" in values["reason"][4]
    assert all(values["reason"][unusable])
    assert len(set(done.inputs)) == 1


def test_duplicates_are_usable_unless_they_have_another_trouble(tmp_path):
    root = tmp_path / "spectra"
    root.mkdir()
    write_coadd(root / "a.fits", 5, seed=1)
    write_coadd(root / "b.fits", 5, seed=2)
    names = ["a.fits", "b.fits", "absent.fits", "a.fits"]
    rows = [{"obsid": obsid, "filename": name} for obsid, name in zip((5, 5, 5, 6), names, strict=True)]
    done = run(write_parent_csv(tmp_path / "a.csv", rows), root, tmp_path / "work")
    assert done.statuses == ["OK", "DUPLICATE", "NO_SPECTRUM", "KEY_MISMATCH"]
    values = done.read("flux", "reason")
    assert values["reason"][1] == "same obsid as row 0"
    np.testing.assert_array_equal(values["flux"][1, :3909], star(2)[0])
    assert done.summaries[0].counts == {"OK": 1, "DUPLICATE": 1, "NO_SPECTRUM": 1, "KEY_MISMATCH": 1}


def test_rows_that_are_not_selected_keep_their_parent_values_and_their_files_stay_closed(
    survey, ingested, tmp_path, opened
):
    done = run(survey, ingested.root, tmp_path / "work", select="teff > 4800")
    values = done.read("teff", "status", "flux", "file_size")
    chosen = values["teff"] > 4800
    assert 0 < chosen.sum() < 150
    np.testing.assert_array_equal(values["status"] != RowStatus.NOT_SELECTED, chosen)
    assert (values["file_size"][~chosen] == -9999).all()
    assert len(opened) == np.count_nonzero(values["file_size"] >= 0) < chosen.sum()
    before = done.inputs
    names = [line.split(",")[-1] for line in survey.read_text().splitlines()[1:]]
    skipped = next(name for name, use in zip(names, chosen, strict=True) if name and not use)
    root = tmp_path / "spectra"
    shutil.copytree(ingested.root, root, copy_function=shutil.copy2)
    (root / skipped).unlink()
    done.root = root
    assert done.inputs == before


def test_the_input_digest_follows_a_key_that_is_no_column_of_the_survey(tmp_path):
    rows = [{"obsid": n, "star": f"star-{n}", "filename": f"{n}.fits"} for n in range(3)]
    digests = {}
    for name, changes in {"a": {}, "same": {}, "renamed star": {"star": "star-x"}}.items():
        rows[1].update(changes)
        work = tmp_path / name
        work.mkdir()
        table = write_parent_csv(work / "a.csv", rows, (*PARENT_COLUMNS, "star"))
        digests[name] = run(table, tmp_path, work, key="star").inputs
    assert digests["a"] == digests["same"] != digests["renamed star"]


def test_the_input_digest_follows_files_and_parent_without_opening_files(survey, tmp_path, opened):
    root = tmp_path / "spectra"
    shutil.copytree(survey.parent / "spectra", root, copy_function=shutil.copy2)
    done = run(survey, root, tmp_path / "work")
    opened.clear()
    first = done.inputs
    assert done.inputs == first
    names = [line.split(",")[-1] for line in survey.read_text().splitlines()[1:]]
    in_unit_1 = [name for name in names[128:] if name]
    seen = [first[1]]
    for change in ("touch", "grow", "remove", "restore as a link outside"):
        path = root / in_unit_1[0]
        if change == "touch":
            path.touch()
        elif change == "grow":
            path.write_bytes(path.read_bytes() + b"\0")
        elif change == "remove":
            path.unlink()
        else:
            path.symlink_to("/etc/passwd")
        now = done.inputs
        assert now[0] == first[0]
        seen.append(now[1])
    assert len(set(seen)) == len(seen)
    assert opened == []


def test_a_sick_file_system_and_a_missing_root_are_errors_not_statuses(survey, ingested, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="the directory of the spectra is not there"):
        run(survey, tmp_path / "unmounted", tmp_path / "a")

    def stale(self, path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(LamostLowResolution, "read", stale)
    with pytest.raises(OSError, match="Stale") as caught:
        run(survey, ingested.root, tmp_path / "b")
    assert "while reading spec-" in caught.value.__notes__[0]
    written = read_rows(tmp_path / "b/spectra.zarr", ["status"], 0, 150)["status"]
    assert not written.any()


def test_an_error_of_the_code_is_not_taken_for_a_damaged_file(survey, ingested, tmp_path, monkeypatch):
    def broken(self, path):
        raise ZeroDivisionError

    monkeypatch.setattr(LamostLowResolution, "read", broken)
    with pytest.raises(ZeroDivisionError):
        run(survey, ingested.root, tmp_path / "b")


def test_a_reader_that_leaves_the_grid_is_refused(survey, ingested, tmp_path, monkeypatch):
    read = LamostLowResolution.read
    monkeypatch.setattr(
        LamostLowResolution, "read", lambda self, path: _moved(read(self, path), 200)
    )  # fmt: skip
    done = run(survey, ingested.root, tmp_path / "b")
    assert "OK" not in done.statuses
    assert done.statuses.count("WRONG_SHAPE") == 108
    assert np.isnan(done.read("flux")["flux"]).all()


def _moved(spectrum, first):
    return type(spectrum)(spectrum.flux, spectrum.ivar, spectrum.mask, first, spectrum.cards)


def test_ingest_again_gives_the_same_bytes_and_forgets_what_was_there(survey, tmp_path):
    root = tmp_path / "spectra"
    shutil.copytree(survey.parent / "spectra", root, copy_function=shutil.copy2)
    done = run(survey, root, tmp_path / "work")
    files = {path: path.read_bytes() for path in done.store.rglob("c/*") if path.is_file()}
    ingest_unit(done.store, done.parent, SURVEY.name, root, 0, 128)
    assert {path: path.read_bytes() for path in done.store.rglob("c/*") if path.is_file()} == files
    for path in root.iterdir():
        path.unlink()
    summary = ingest_unit(done.store, done.parent, SURVEY.name, root, 0, 128)
    assert summary.counts == {"NO_SPECTRUM": 128}
    assert np.isnan(read_rows(done.store, ["flux"], 0, 128)["flux"]).all()


def test_ten_thousand_rows_without_spectra_write_no_pixels(tmp_path):
    (tmp_path / "spectra").mkdir()
    rows = [{"obsid": i, "filename": f"absent{i}.fits" if i % 2 else ""} for i in range(10_000)]
    done = run(write_parent_csv(tmp_path / "a.csv", rows), tmp_path / "spectra", tmp_path / "work", chunk_rows=1280)
    assert sum(summary.counts["NO_SPECTRUM"] for summary in done.summaries) == 10_000
    assert not list(done.store.glob("flux/c/*"))
    assert len(list(done.store.glob("status/c/*"))) == 4
    assert done.read("reason")["reason"][:2].tolist() == ["no path in the parent table", "absent1.fits: no such file"]


@pytest.mark.parametrize("n", [0, 1])
def test_empty_tables_and_single_rows(tmp_path, n):
    survey = write_survey(tmp_path / "survey", n)
    done = run(survey, survey.parent / "spectra", tmp_path / "work")
    assert done.statuses == ["OK"] * n
    assert done.n_rows == n


def test_units_that_do_not_fit_the_chunks_are_refused(ingested):
    with pytest.raises(StoreError, match="expected whole chunks"):
        ingest_unit(ingested.store, ingested.parent, SURVEY.name, ingested.root, 64, 128)


def test_a_key_of_the_users_own_is_stored(tmp_path):
    (tmp_path / "spectra").mkdir()
    write_coadd(tmp_path / "spectra/a.fits", 1)
    rows = [{"obsid": 1, "gaia_id": 2**60 + 1, "filename": "a.fits"}] * 2
    csv = write_parent_csv(tmp_path / "a.csv", rows, (*PARENT_COLUMNS, "gaia_id"))
    done = run(csv, tmp_path / "spectra", tmp_path / "work", key="gaia_id")
    assert done.read("gaia_id")["gaia_id"].tolist() == [str(2**60 + 1)] * 2
    assert done.statuses == ["OK", "DUPLICATE"]
    assert done.read("reason")["reason"][1] == "same gaia_id as row 0"


def test_the_official_tree_is_followed(tmp_path):
    folder = tmp_path / "spectra/20111024/F5902"
    folder.mkdir(parents=True)
    write_coadd(folder / "spec-55859-F5902_sp06-102.fits.gz", 1)
    csv = tmp_path / "a.csv"
    csv.write_text("obsid,obsdate,planid,lmjd,spid,fiberid\n1,2011-10-24,F5902,55859,6,102\n2,,F5902,55859,6,102\n")
    done = run(csv, tmp_path / "spectra", tmp_path / "work", template=SURVEY.default_path)
    assert done.statuses == ["OK", "NO_SPECTRUM"]


@needs_real
def test_the_real_subset_gives_180_spectra_and_60_rows_without(tmp_path):
    done = run(REAL / "lamost/dr10_stellar_subset.csv", REAL / "lamost/dr10", tmp_path / "work")
    assert Counter(done.statuses) == {"OK": 180, "NO_SPECTRUM": 60}
    values = done.read("obsid", "file_obsid", "status", "ivar", "data_release")
    usable = is_usable(values["status"])
    np.testing.assert_array_equal(values["obsid"][usable], values["file_obsid"][usable])
    assert (values["ivar"][usable] > 0).any(axis=1).all()
    assert set(values["data_release"][usable].tolist()) == {"LAMOST DR10"}


def test_the_module_knows_nothing_of_dask():
    assert "dask" not in Path(ingest.__file__).read_text().lower()


KILLED = """
import os, signal, sys
from pathlib import Path
from catalogue.spectra import ingest, store

writes = 0
original = store.write_rows

def write_some(*arguments):
    global writes
    writes += 1
    if writes == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments)

ingest.write_rows = write_some
ingest.ingest_unit(*map(Path, sys.argv[2:4]), "lamost-lrs", Path(sys.argv[4]), 0, 128)
"""


@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_unit_that_was_killed_between_its_writes_is_repeated_with_the_same_bytes(ingested, tmp_path, write):
    store = tmp_path / "spectra.zarr"
    create_store(store, SURVEY, 150, CHUNK, 2 * CHUNK, "obsid")
    command = [sys.executable, "-c", KILLED, str(write), str(store), str(ingested.parent), str(ingested.root)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not read_rows(store, ["status"], 0, 128)["status"].any()
    assert len(list(store.glob("flux/c/*"))) == write - 1
    for start, stop in ((0, 128), (128, 150)):
        ingest_unit(store, ingested.parent, SURVEY.name, ingested.root, start, stop)
    chunks = sorted(path.relative_to(store) for path in store.rglob("c/**/*") if path.is_file())
    assert chunks
    assert chunks == sorted(
        path.relative_to(ingested.store) for path in ingested.store.rglob("c/**/*") if path.is_file()
    )
    for path in chunks:
        assert (store / path).read_bytes() == (ingested.store / path).read_bytes(), path


def test_another_survey_goes_through_the_same_unit(tmp_path):
    root = tmp_path / "spectra"
    root.mkdir()
    write_apstar(root / "a.fits", objid="2M00000000+0000000")
    write_apstar(root / "b.fits", objid="2M99999999+0000000")
    csv = tmp_path / "a.csv"
    csv.write_text("APOGEE_ID,RA,DEC,FILE\n" + "".join(f"2M00000000+0000000,10.5,-20.25,{f}.fits\n" for f in "aab"))
    survey = load_survey("apogee")
    parent, store = tmp_path / "p.parquet", tmp_path / "s.zarr"
    import_parent(csv, parent, survey=survey, key="apogee_id", template="{file}", rows_per_group=64)
    create_store(store, survey, 3, 64, 64, "apogee_id")
    summary = ingest_unit(store, parent, "apogee", root, 0, 3)
    assert summary.counts == {"OK": 2, "KEY_MISMATCH": 1}
    values = read_rows(store, ["flux", "mask", "apogee_id"], 0, 3)
    assert values["flux"].shape == (3, 8575)
    assert values["mask"].dtype == np.uint32
    np.testing.assert_array_equal(values["flux"][0], values["flux"][1])
