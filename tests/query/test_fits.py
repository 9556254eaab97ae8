"""FITS tables that others wrote."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest
from astropy.io import fits

from catalogue.query import TableError, open_table
from tests.factories.real import REAL, needs_real

ROWS = 7


def foreign(path, rows: int = ROWS):
    """A table with every kind of column that FITS knows."""
    row = np.arange(rows)
    lists = np.empty(rows, object)
    lists[:] = [np.arange(n, dtype=np.float32) for n in row]
    columns = [
        fits.Column("SHORT", "I", array=row - 3, null=-3, unit="pix"),
        fits.Column("USHORT", "I", bzero=1 << 15, array=(row + 40000).astype(np.uint16)),
        fits.Column("ULONG", "K", bzero=1 << 63, array=row.astype(np.uint64) + (1 << 63)),
        fits.Column("SBYTE", "B", bzero=-128, array=(row - 5).astype(np.int8)),
        fits.Column("SCALED", "I", array=row),
        fits.Column("LOGICAL", "L", array=row % 2 == 0),
        fits.Column("TEXT", "6A", array=np.array([f"s{n} " for n in row])),
        fits.Column("VECTOR", "3E", array=(row[:, None] * 10 + np.arange(3)).astype(np.float32)),
        fits.Column("MATRIX", "6D", dim="(3,2)", array=row[:, None, None] * 100 + np.arange(6.0).reshape(2, 3)),
        fits.Column("LIST", "PE()", array=lists),
        fits.Column("COMPLEX", "M", array=row + 1j),
        fits.Column("VALUE", "D", array=np.where(row == 2, np.nan, row / 3)),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL5"], table.header["TZERO5"] = 0.5, 10.0
    fits.HDUList([fits.PrimaryHDU(np.zeros((4, 4))), fits.ImageHDU(np.zeros(9)), table]).writeto(path)
    return path


def test_every_kind_of_column_is_read_as_astropy_reads_it(tmp_path):
    path = foreign(tmp_path / "foreign.fits")
    table = open_table(path)
    assert "LIST" not in table.columns
    found = table.read(list(table.columns), 1, 6)
    with fits.open(path) as hdus:
        expected = hdus[2].data[1:6]
        for name, values in found.items():
            assert values.dtype == table.columns[name].dtype
            assert values.shape[1:] == table.columns[name].shape
            reference = np.asarray(expected[name])
            if name == "TEXT":
                assert values.tolist() == reference.tolist()
            else:
                assert np.array_equal(values, reference, equal_nan=values.dtype.kind == "f"), name
                assert values.dtype.isnative
    assert table.columns["SHORT"].null == -3
    assert table.columns["SHORT"].unit == "pix"
    assert found["MATRIX"].shape == (5, 2, 3)


def test_nulls_of_shifted_and_scaled_integers_are_found(tmp_path):
    """TNULL is the value as stored: 7 in the file is 32775 in a column of unsigned integers."""
    row = np.array([6, 7, 8])
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "I", array=row) for name in ("SHIFTED", "SCALED", "PLAIN")]
    )
    table.header.update({"TZERO1": 32768, "TNULL1": 7, "TSCAL2": 0.5, "TZERO2": 1.0, "TNULL2": 7, "TNULL3": 7})
    table.writeto(tmp_path / "a.fits")
    found = open_table(tmp_path / "a.fits")
    values = found.read(["SHIFTED", "SCALED", "PLAIN"], 0, 3)
    assert {name: column.null for name, column in found.columns.items()} == {
        "SHIFTED": 32775,
        "SCALED": None,
        "PLAIN": 7,
    }
    assert values["SHIFTED"].tolist() == [32774, 32775, 32776]
    np.testing.assert_array_equal(values["SCALED"], [4.0, np.nan, 5.0])
    assert values["PLAIN"].tolist() == [6, 7, 8]


def test_gzip_tables_are_unpacked(tmp_path):
    path = foreign(tmp_path / "foreign.fits")
    packed = tmp_path / "foreign.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    first, second = open_table(path), open_table(packed)
    for name in ("USHORT", "TEXT", "VECTOR"):
        assert np.array_equal(first.read([name], 2, 5)[name], second.read([name], 2, 5)[name])


def test_tables_can_be_sent_to_other_processes(tmp_path):
    table = pickle.loads(pickle.dumps(open_table(foreign(tmp_path / "foreign.fits"))))
    assert table.read(["SHORT"], 0, 2)["SHORT"].tolist() == [-3, -2]


def test_truncated_table_says_where_it_ends(tmp_path):
    path = foreign(tmp_path / "foreign.fits", 1000)
    path.write_bytes(path.read_bytes()[:40000])
    with pytest.raises(TableError, match=r"expected 1000 rows, the file ends in row \d+"):
        open_table(path)


def test_damaged_headers_and_images_are_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(TableError, match="expected a binary table, found none"):
        open_table(tmp_path / "image.fits")
    path = foreign(tmp_path / "foreign.fits")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TableError, match="expected a"):
        open_table(path)


def test_empty_table_is_read(tmp_path):
    table = open_table(foreign(tmp_path / "foreign.fits", 0))
    assert table.n_rows == 0
    assert table.read(["VECTOR"], 0, 0)["VECTOR"].shape == (0, 3)


@needs_real
def test_real_allstar_agrees_with_astropy():
    path = REAL / "apogee" / "allStar-dr16-subset.fits"
    table = open_table(path)
    with fits.open(path) as hdus:
        data = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)).data
        stop = min(table.n_rows, 20)
        for name, values in table.read(list(table.columns), 0, stop).items():
            reference = np.asarray(data[name][:stop])
            if values.dtype.kind == "T":
                assert values.ravel().tolist() == np.strings.rstrip(reference).ravel().tolist(), name
            else:
                assert np.array_equal(values, reference, equal_nan=values.dtype.kind == "f"), name
