from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from catalogue.datamodels import DataModel
from catalogue.query import TableError, open_table
from catalogue.writers import writer_for


def test_types_are_inferred_and_missing_values_kept(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('id,ra,name,good,none\n9007199254740993,1.5,"a, b",True,\n2,NaN,é,False,\n,3,"x\ny",True,\n')
    table = open_table(path)
    read = table.read(list(table.columns), 0, 3)
    assert read["id"].tolist() == [9007199254740993, 2, table.columns["id"].null]
    assert np.array_equal(read["ra"], [1.5, np.nan, 3.0], equal_nan=True)
    assert read["name"].tolist() == ["a, b", "é", "x\ny"]
    assert read["good"].tolist() == [True, False, True]
    assert read["none"].tolist() == ["", "", ""]


def test_a_late_row_that_does_not_fit_makes_its_column_text(tmp_path, monkeypatch):
    monkeypatch.setattr("catalogue.query.csv._TEXT_BLOCK", 4096)
    path = tmp_path / "table.csv.gz"
    lines = [f"{n},{n / 7}" for n in range(3000)]
    lines[2500] = "J0012+01,0.5"
    path.write_bytes(gzip.compress(("name,value\n" + "\n".join(lines) + "\n").encode()))
    table = open_table(path)
    assert table.n_rows == 3000
    assert table.read(["name"], 2499, 2502)["name"].tolist() == ["2499", "J0012+01", "2501"]
    assert table.read(["value"], 7, 8)["value"].tolist() == [1.0]


def test_ragged_text_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(TableError, match=r"table.csv: expected a CSV table"):
        open_table(tmp_path / "table.csv")


def test_temporary_copy_goes_with_the_table(tmp_path):
    (tmp_path / "table.csv").write_text("a\n1\n")
    table = open_table(tmp_path / "table.csv")
    copy = Path(table.path)
    assert copy.is_file()
    del table
    assert not copy.exists()


def test_the_description_gives_units_with_blanks_long_names_and_nulls(tmp_path):
    flux = "10**-17 erg s-1 cm-2 Angstrom-1"
    name = "a_name_of_more_than_twenty_four_characters"
    columns = [
        {"name": "v", "value": "v", "dtype": "float32", "unit": "km s-1", "description": "velocity, heliocentric"},
        {"name": "f", "value": "f", "dtype": "int32", "unit": flux, "missing": -1, "description": "flux"},
        {"name": name, "value": "n", "dtype": "int16", "missing": -5, "description": "5 - or none"},
    ]
    product = DataModel(name="x", version=1, title="T", survey="apogee", columns=columns)
    path = tmp_path / "x.csv.gz"
    with writer_for("csv")(path, product, 1, {}) as writer:
        writer.write(product.evaluate({"status": [1], "v": np.ones(1), "f": np.ones(1, int), "n": np.ones(1, int)}))
    found = {
        column.name: (column.unit, column.null, column.description) for column in open_table(path).columns.values()
    }
    assert found == {
        "v": ("km s-1", None, "velocity, heliocentric"), "f": (flux, -1, "flux"), name: ("", -5, "5 - or none")
    }  # fmt: skip
