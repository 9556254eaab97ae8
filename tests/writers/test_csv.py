from __future__ import annotations

import csv
import gzip
import io
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from catalogue.writers.csv import CsvWriter, csv_text
from tests.factories.products import PROVENANCE, STRING, every_dtype_model, every_dtype_rows


def write(directory, columns):
    n_rows = len(columns["obsid"])
    with CsvWriter(directory / "x.csv.gz", every_dtype_model(), n_rows, PROVENANCE) as writer:
        writer.write(columns)
    return directory / "x.csv.gz"


def test_it_is_one_gzip_member_without_time_or_name(tmp_path):
    data = write(tmp_path, every_dtype_rows(50_000)).read_bytes()
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    inflate = zlib.decompressobj(wbits=31)
    text = inflate.decompress(data)
    assert inflate.eof
    assert inflate.unused_data == b""
    assert text.count(b"\n") == 50_001
    assert gzip.decompress(data) == text


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_file_is_the_same_for_any_number_of_threads(tmp_path, monkeypatch, threads):
    columns = every_dtype_rows(500)
    monkeypatch.setattr(CsvWriter, "block_rows", 64)
    expected = write(tmp_path, columns).read_bytes()
    monkeypatch.setattr("catalogue.writers.csv.usable_cpus", lambda: threads)
    assert write(tmp_path, columns).read_bytes() == expected


def test_an_error_in_a_thread_is_raised_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(CsvWriter, "block_rows", 2)
    monkeypatch.setattr("catalogue.writers.csv.csv_text", lambda batch: 1 / 0)
    monkeypatch.setattr("catalogue.writers.csv.usable_cpus", lambda: 1)
    writer = CsvWriter(tmp_path / "x.csv.gz", every_dtype_model(), 8, PROVENANCE)
    writer.write(every_dtype_rows(4))
    with pytest.raises(ZeroDivisionError):
        writer.write(every_dtype_rows(4))
    assert not list(tmp_path.iterdir())


def test_the_header_is_one_plain_line_of_names(tmp_path):
    with gzip.open(write(tmp_path, every_dtype_rows(3)), "rt") as stream:
        assert stream.readline() == "obsid,ra,class,visits,Age,flat,STATUS,FLAG,FLAG_WARN,FLAG_BAD\n"


def test_text_is_quoted_only_where_it_must_be():
    batch = pa.record_batch({"a": pa.array(["x", "y z", ""]), "b": pa.array([1.5, None, 2.0])})
    assert csv_text(batch) == b"x,1.5\ny z,NaN\n,2\n"
    batch = pa.record_batch({"a": pa.array(["x", 'y "z", w', "two\nlines", ""]), "b": pa.array([1.5, None, 2.0, 0.1])})
    assert csv_text(batch) == b'x,1.5\n"y ""z"", w",NaN\n"two\nlines",2\n,0.1\n'


def test_numbers_have_the_same_digits_with_and_without_quoted_text():
    rng = np.random.default_rng(1)
    numbers = {
        "d": pa.array(rng.lognormal(0, 30, 500)),
        "f": pa.array(rng.lognormal(0, 20, 500).astype(np.float32)),
        "i": pa.array(rng.integers(-(2**63), 2**63 - 1, 500)),
        "b": pa.array(rng.random(500) < 0.5),
    }
    plain = csv_text(pa.record_batch({"s": pa.array(["x"] * 500), **numbers}))
    quoted = csv_text(pa.record_batch({"s": pa.array(["x,"] * 500), **numbers}))
    assert quoted.replace(b'"x,"', b"x") == plain
    found = [[float(cell) for cell in row[1:3]] for row in csv.reader(io.StringIO(plain.decode()))]
    assert [row[0] for row in found] == numbers["d"].to_pylist()
    assert np.array_equal(np.array([row[1] for row in found], np.float32), numbers["f"].to_numpy())


def test_awkward_text_comes_back(tmp_path):
    columns = every_dtype_rows(4)
    columns["class"] = np.array(["a,b", 'c"d', "", "e\nf"], STRING)
    frame = pd.read_csv(write(tmp_path, columns), keep_default_na=False)
    assert frame["class"].tolist() == ["a,b", 'c"d', "", "e\nf"]


def test_a_column_without_any_value_is_read_as_numbers(tmp_path):
    columns = every_dtype_rows(3)
    columns["Age"][:] = np.nan
    frame = pd.read_csv(write(tmp_path, columns))
    assert frame["Age"].dtype == np.float64
    assert frame["Age"].isna().all()


def test_columns_flags_and_provenance_are_described_beside_it(tmp_path):
    write(tmp_path, every_dtype_rows(3))
    text = (tmp_path / "x.csv.txt").read_text()
    model = every_dtype_model()
    for column in model.columns:
        assert column.name in text
        assert column.description in text
    for flag in model.flags:
        assert f"{flag.bit:3} {flag.name}" in text
    for keyword, value in PROVENANCE.items():
        assert keyword in text
        assert value in text
    assert "NO_SPECTRUM" in text
    assert "3 rows" in text
