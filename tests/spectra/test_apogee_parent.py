"""allStar as a parent table: its null values, and how little of it is read."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from catalogue.spectra.fits_table import FitsTable
from catalogue.spectra.parent import import_parent, read_parent_rows
from catalogue.surveys.apogee import Apogee
from tests.factories.real import REAL, needs_real

SURVEY = Apogee()
NUMBERS = [column for column in SURVEY.columns if column.aliases and column.dtype.startswith("float")]
NULLS = [-9999.0, np.float32(-9999.99), np.float32(-999.99), -99.9990005493, np.nan]


def all_star(path, rows=6, **changes):
    """A table with all columns that the survey takes, and two hundred others, among them vectors."""
    table = Table()
    for column in SURVEY.columns:
        if column.aliases:
            values = np.full(rows, "x", "U20") if column.dtype == "str" else np.ones(rows, column.dtype)
            table[column.name.upper()] = changes.get(column.name, values)
    for number in range(200):
        table[f"OTHER_{number}"] = np.zeros((rows, 20), "f4") if number % 10 == 0 else np.zeros(rows, "f4")
    table.write(path, overwrite=True)
    return path


def imported(path, tmp_path, **settings):
    parent = tmp_path / "parent.parquet"
    values = {"survey": SURVEY, "key": "apogee_id", "template": SURVEY.default_path, "rows_per_group": 64, **settings}
    summary = import_parent(path, parent, **values)
    return summary, read_parent_rows(parent, 0, summary.n_rows, SURVEY)


def test_every_null_of_every_number_is_missing(tmp_path):
    given = {c.name: np.array([*NULLS, 12.5], "f8" if c.dtype == "float64" else "f4") for c in NUMBERS}
    _, values = imported(all_star(tmp_path / "allStar.fits", **given), tmp_path)
    for column in NUMBERS:
        np.testing.assert_array_equal(values[column.name], [*[np.nan] * len(NULLS), 12.5], err_msg=column.name)


def test_nulls_do_not_pass_a_selection(tmp_path):
    path = all_star(tmp_path / "allStar.fits", logg=np.array([-9999.0, -9999.99, -999.99, np.nan, 2.0, 4.0], "f4"))
    summary, _ = imported(path, tmp_path, select="LOGG < 3.6")
    assert summary.n_selected == 1


@needs_real
@pytest.mark.real
@pytest.mark.parametrize("release", ["dr14", "dr16"])
def test_no_null_of_a_real_table_is_left_as_a_number(tmp_path, release):
    path = REAL / "apogee" / f"allStar-{release}-subset.fits"
    _, values = imported(path, tmp_path)
    table = Table.read(path, unit_parse_strict="silent")
    for column in NUMBERS:
        raw = np.asarray(table[column.name.upper()], float)
        expected = np.where((raw < -900) | (np.abs(raw + 99.999) < 1e-5), np.nan, raw)
        np.testing.assert_allclose(values[column.name], expected, rtol=1e-6, err_msg=column.name)
    assert np.isnan(values["logg"]).sum() == 2


def test_only_the_columns_asked_for_are_read_and_in_pieces(tmp_path, monkeypatch):
    path = all_star(tmp_path / "allStar.fits", rows=40)
    read: list[str] = []
    pieces: list[int] = []
    batches = FitsTable.batches

    def recording(self, names, rows):
        read.extend(names)
        for block in batches(self, names, 16):
            pieces.append(len(next(iter(block.values()))))
            yield block

    monkeypatch.setattr(FitsTable, "batches", recording)
    summary, _ = imported(path, tmp_path, select="OTHER_7 < 1", extra_columns=("OTHER_3",))
    wanted = {column.name.upper() for column in SURVEY.columns if column.aliases}
    assert set(read) == wanted | {"OTHER_7", "OTHER_3"}
    assert pieces[-3:] == [16, 16, 8]
    assert max(pieces) == 16
    assert summary.n_selected == 40
