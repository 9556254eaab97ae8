"""Files of a unit into the store: every row ends with a status, nothing is lost or invented."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalogue.spectra import ingest
from catalogue.spectra.ingest import IngestSummary, ingest_unit, input_digest
from catalogue.spectra.parent import import_parent
from catalogue.spectra.primitives import RowStatus, is_usable
from catalogue.spectra.store import create_store, read_rows
from catalogue.surveys import load_survey
from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.lamost import PARENT_COLUMNS, star, write_coadd, write_five_rows, write_parent_csv, write_survey
from tests.factories.real import REAL, needs_real

SURVEY = load_survey("lamost-lrs")
CHUNK = 64


@dataclass
class Ingested:
    store: Path
    parent: Path
    root: Path
    n_rows: int
    summaries: list[IngestSummary]

    def read(self, *names: str) -> dict[str, np.ndarray]:
        return read_rows(self.store, names, 0, self.n_rows)

    @property
    def statuses(self) -> list[str]:
        return [RowStatus(value).name for value in self.read("status")["status"].tolist()]

    @property
    def digests(self) -> list[str]:
        return [summary.digest for summary in self.summaries]

    @property
    def inputs(self) -> list[str]:
        return [
            input_digest(self.parent, self.root, start, min(start + 2 * CHUNK, self.n_rows))
            for start in range(0, self.n_rows, 2 * CHUNK)
        ]


def run(csv: Path, root: Path, work: Path, *, key: str = "obsid", select: str | None = None, chunk_rows: int = CHUNK,
        reuse: Ingested | None = None, template: str = "{filename}", **settings: Any) -> Ingested:  # fmt: skip
    """Import a table, create a store and ingest all its units (of two chunks)."""
    work.mkdir(exist_ok=True)
    parent, store, unit_rows = work / "parent.parquet", work / "spectra.zarr", 2 * chunk_rows
    n_rows = import_parent(
        csv, parent, survey=SURVEY, key=key, template=template, rows_per_group=unit_rows, select=select
    ).n_rows
    create_store(store, SURVEY, n_rows, chunk_rows, unit_rows, key)
    earlier = None if reuse is None else (str(reuse.store), str(reuse.parent))
    summaries = [
        ingest_unit(store, parent, SURVEY.name, root, start, min(start + unit_rows, n_rows), reuse=earlier, **settings)
        for start in range(0, n_rows, unit_rows)
    ]
    return Ingested(store, parent, root, n_rows, summaries)


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Path:
    """150 rows: a chunk of 64, another, and a partial one, in two units."""
    return write_survey(tmp_path_factory.mktemp("survey"), 150, missing=0.2, damaged=0.08)


@pytest.fixture(scope="module")
def ingested(survey, tmp_path_factory) -> Ingested:
    return run(survey, survey.parent / "spectra", tmp_path_factory.mktemp("work"))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that the survey's reader was asked for."""
    names: list[str] = []
    read = LamostLowResolution.read

    def recording(self, path):
        names.append(path.name)
        return read(self, path)

    monkeypatch.setattr(LamostLowResolution, "read", recording)
    return names


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
    from catalogue.spectra.store import StoreError

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
    template = "{obsdate}/{planid}/spec-{lmjd}-{planid}_sp{spid:02d}-{fiberid:03d}.fits.gz"
    folder = tmp_path / "spectra/2011-10-24/F5902"
    folder.mkdir(parents=True)
    write_coadd(folder / "spec-55859-F5902_sp06-102.fits.gz", 1)
    csv = tmp_path / "a.csv"
    csv.write_text("obsid,obsdate,planid,lmjd,spid,fiberid\n1,2011-10-24,F5902,55859,6,102\n2,,F5902,55859,6,102\n")
    done = run(csv, tmp_path / "spectra", tmp_path / "work", template=SURVEY.default_path)
    assert SURVEY.default_path == template
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


# -- reuse of an earlier store ---------------------------------------------------------------


def reordered(survey: Path, order: list[int]) -> Path:
    header, *lines = survey.read_text().splitlines()
    path = survey.with_name("reordered.csv")
    path.write_text("\n".join([header, *(lines[i] for i in order)]) + "\n")
    return path


def same_content(left: Ingested, right: Ingested) -> None:
    names = ["flux", "ivar", "mask", "status", "reason", "file_size", "file_mtime_ns"]
    names += [column.name for column in SURVEY.columns]
    there = right.read(*names)
    for name, values in left.read(*names).items():
        np.testing.assert_array_equal(values, there[name], err_msg=name)
    assert left.digests == right.digests


@pytest.mark.parametrize("order", ["same", "shifted", "shuffled", "fewer"])
def test_rows_that_moved_are_copied_and_no_file_is_opened(survey, ingested, tmp_path, opened, order):
    rows = {
        "same": list(range(150)),
        "shifted": [*range(5, 150), *range(5)],
        "shuffled": np.random.default_rng(0).permutation(150).tolist(),
        "fewer": list(range(0, 150, 2)),
    }[order]
    table = reordered(survey, rows)
    copied = run(table, ingested.root, tmp_path / "a", reuse=ingested)
    assert opened == []
    assert sum(summary.n_reused for summary in copied.summaries) == sum(
        ingested.statuses[row] != "NO_SPECTRUM" for row in rows
    )
    same_content(copied, run(table, ingested.root, tmp_path / "b"))


def test_changed_files_and_parent_values_are_read_again(survey, tmp_path, opened):
    root = tmp_path / "spectra"
    shutil.copytree(survey.parent / "spectra", root, copy_function=shutil.copy2)
    earlier = run(survey, root, tmp_path / "earlier")
    ok = [row for row, status in enumerate(earlier.statuses) if status == "OK"]
    header, *lines = survey.read_text().splitlines()
    names = [line.split(",")[-1] for line in lines]
    (root / names[ok[0]]).touch()
    write_coadd(root / names[ok[1]], 900_000_000 + 7 * ok[1], seed=999)
    fields = lines[ok[2]].split(",")
    fields[4] = "4321.0"
    lines[ok[2]] = ",".join(fields)
    damaged = earlier.statuses.index("TRUNCATED")
    write_coadd(root / names[damaged], 900_000_000 + 7 * damaged, seed=damaged)
    table = tmp_path / "changed.csv"
    table.write_text("\n".join([header, *lines]) + "\n")
    opened.clear()
    copied = run(table, root, tmp_path / "a", reuse=earlier)
    assert sorted(opened) == sorted(names[row] for row in (*ok[:3], damaged))
    assert copied.statuses[damaged] == "OK"
    same_content(copied, run(table, root, tmp_path / "b"))


def test_nothing_is_taken_from_another_reader_version_or_an_unfinished_unit(
    survey, ingested, tmp_path, opened, monkeypatch
):
    half = run(survey, ingested.root, tmp_path / "half")
    for name in ("status", "file_size"):
        shutil.rmtree(half.store / name / "c")
    opened.clear()
    copied = run(survey, ingested.root, tmp_path / "a", reuse=half)
    assert sum(summary.n_reused for summary in copied.summaries) == 0
    monkeypatch.setattr(LamostLowResolution, "reader_version", SURVEY.reader_version + 1)
    copied = run(survey, ingested.root, tmp_path / "b", reuse=ingested)
    assert sum(summary.n_reused for summary in copied.summaries) == 0
    assert copied.digests == ingested.digests


def test_a_large_chunk_with_few_wanted_rows_is_not_decoded(survey, ingested, tmp_path, opened, monkeypatch):
    monkeypatch.setattr("catalogue.spectra.reuse._SMALL_CHUNK_ROWS", CHUNK - 1)
    row = ingested.statuses.index("OK")
    table = reordered(survey, [row])
    copied = run(table, ingested.root, tmp_path / "a", reuse=ingested)
    assert copied.summaries[0].n_reused == 0
    assert len(opened) == 1
    assert copied.statuses == ["OK"]


def test_duplicates_are_told_anew_when_rows_move(tmp_path):
    survey = write_survey(tmp_path / "survey", 40)
    root = survey.parent / "spectra"
    header, *lines = survey.read_text().splitlines()
    survey.write_text("\n".join([header, *lines, lines[3]]) + "\n")
    earlier = run(survey, root, tmp_path / "earlier")
    assert earlier.statuses == ["OK"] * 40 + ["DUPLICATE"]
    table = reordered(survey, [40, *range(40)])
    copied = run(table, root, tmp_path / "a", reuse=earlier)
    assert [row for row, status in enumerate(copied.statuses) if status == "DUPLICATE"] == [4]
    same_content(copied, run(table, root, tmp_path / "b"))


def test_the_module_knows_nothing_of_dask():
    assert "dask" not in Path(ingest.__file__).read_text().lower()
