"""Rows that an earlier store holds are copied, wherever they moved to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.ingested import CHUNK, SURVEY, Ingested, run
from tests.factories.lamost import write_coadd, write_survey


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
    monkeypatch.undo()
    shutil.copytree(ingested.store, tmp_path / "older.zarr")
    shutil.rmtree(tmp_path / "older.zarr" / "feh")
    zarr.consolidate_metadata(tmp_path / "older.zarr")
    copied = run(survey, ingested.root, tmp_path / "c", reuse=replace(ingested, store=tmp_path / "older.zarr"))
    assert sum(summary.n_reused for summary in copied.summaries) == 0


@pytest.mark.parametrize("lost", ["flux/c/0", "status/c/0"])
def test_rows_of_a_chunk_that_is_gone_are_read_from_their_files(survey, ingested, tmp_path, opened, lost):
    holed = tmp_path / "holed.zarr"
    shutil.copytree(ingested.store, holed)
    shutil.rmtree(holed / lost) if (holed / lost).is_dir() else (holed / lost).unlink()
    copied = run(survey, ingested.root, tmp_path / "a", reuse=replace(ingested, store=holed))
    assert opened != []
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
