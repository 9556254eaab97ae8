from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from catalogue.query import TableError, open_table


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
