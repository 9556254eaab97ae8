"""Catalogues in the order of the sky: one Parquet file, HATS as lsdb reads it, and the coverage."""

from __future__ import annotations

import hashlib

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Latitude, Longitude

import catalogue
from catalogue.query.sky import in_cone
from catalogue.query.table import TableError
from catalogue.writers import hats, writer_for
from catalogue.writers.healpix import HEALPIX_COLUMN, HealpixRows, healpix_index
from tests.factories.catalogues import PROVENANCE, lamost_model, simulated_columns, write_catalogue

pytest.importorskip("mocpy", reason="the extra hats is not installed")

ROWS = 3000


@pytest.fixture(scope="module")
def columns():
    found = simulated_columns(ROWS)
    # a dense field in an empty sky
    found["ra"][100:900] = 150.0 + np.linspace(0, 0.2, 800)
    found["dec"][100:900] = 2.0 + np.linspace(0, 0.1, 800) ** 2
    return found


def digests(path):
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {str(file.relative_to(path.parent)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_index_is_that_of_hats():
    spatial_index = pytest.importorskip("hats.pixel_math.spatial_index", reason="hats is not installed")
    ra, dec = np.array([0.0, 359.999, 10.5, 200.0]), np.array([0.0, -89.9, 90.0, 45.25])
    np.testing.assert_array_equal(healpix_index(ra, dec), spatial_index.compute_spatial_index(ra, dec))
    np.testing.assert_array_equal(healpix_index(np.array([np.nan, 1.0]), np.array([0.0, np.nan])), [-1, -1])


def test_partitions_cover_every_position_once_and_are_as_large_as_allowed(tmp_path, columns):
    rows = HealpixRows(tmp_path / "x", lamost_model(), {})
    rows.add(columns)
    partitions = rows.partitions(500)
    assert sum(partition.rows for partition in partitions) == ROWS - 1 == ROWS - rows.without_position
    assert all(partition.rows <= 500 for partition in partitions if partition.order < 8)
    assert {partition.order for partition in partitions} >= {0, 8}
    tables = [rows.rows_of(partition) for partition in partitions]
    index = np.concatenate([table[HEALPIX_COLUMN].to_numpy() for table in tables])
    assert (np.diff(index) >= 0).all()
    assert rows.rows_without_position()["row_number"].to_pylist() == [6]
    rows.discard()
    assert not (tmp_path / "x").exists()


def test_the_sorted_file_has_every_row_and_says_which_it_was(tmp_path, columns):
    path = write_catalogue(tmp_path / "cat.parquet", "parquet-healpix", columns)
    plain = pq.read_table(write_catalogue(tmp_path / "plain.parquet", "parquet", columns))
    table = pq.read_table(path)
    index = table[HEALPIX_COLUMN].to_numpy()
    assert (np.diff(index[:-1]) >= 0).all()
    assert index[-1] == -1
    restored = table.take(np.argsort(table["row_number"].to_numpy())).select(plain.schema.names)
    assert restored.equals(plain)
    assert table.schema.field("Age").metadata[b"unit"] == b"Gyr"
    assert table.schema.field("ra").metadata[b"ucd"] == b"pos.eq.ra;meta.main"
    assert list(tmp_path.glob("*.partial")) == []


def test_an_opened_sorted_file_names_the_rows_of_the_catalogue(tmp_path, columns):
    path = write_catalogue(tmp_path / "cat.parquet", "parquet-healpix", columns)
    found = catalogue.open(path).cat.cone(150.1, 2.005, 0.05)
    expected = np.flatnonzero(in_cone(columns["ra"], columns["dec"], 150.1, 2.005, 0.05))
    assert sorted(found["row_number"].values) == list(expected)
    assert len(expected) > 100


@pytest.mark.parametrize("name", ["parquet-healpix", "hats"])
def test_bytes_do_not_depend_on_how_rows_come_in(tmp_path, columns, name, monkeypatch):
    monkeypatch.setattr(hats, "MOST_ROWS", 500)
    first = write_catalogue(tmp_path / "a" if name == "hats" else tmp_path / "a.parquet", name, columns)
    before = digests(first)
    with writer_for(name)(first, lamost_model(), ROWS, PROVENANCE) as writer:
        for start in range(0, ROWS, 700):
            writer.write({key: values[start : start + 700] for key, values in columns.items()})
    assert digests(first) == before
    assert len(before) > (8 if name == "hats" else 0)


@pytest.mark.parametrize("name", ["parquet-healpix", "hats"])
def test_nothing_is_left_of_a_writer_that_failed(tmp_path, columns, name):
    writer = writer_for(name)(tmp_path / "cat", lamost_model(), ROWS + 1, {})
    writer.write(columns)
    with pytest.raises(ValueError, match="expected 3001 rows"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_lsdb_opens_the_hats_catalogue_and_finds_what_we_find(tmp_path, columns, monkeypatch):
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed")
    from hats.io.validation import is_valid_catalog

    monkeypatch.setattr(hats, "MOST_ROWS", 500)
    path = write_catalogue(tmp_path / "cat.hats", "hats", columns)
    assert is_valid_catalog(path, strict=True)
    opened = lsdb.open_catalog(path)
    assert len(opened) == ROWS - 1
    assert opened.npartitions > 3
    cone = opened.cone_search(ra=150.1, dec=2.005, radius_arcsec=180).compute()
    expected = np.flatnonzero(in_cone(columns["ra"], columns["dec"], 150.1, 2.005, 0.05))
    assert sorted(cone["row_number"]) == list(expected)
    np.testing.assert_array_equal(cone.sort_values("row_number")["Age"], columns["Age"][expected])
    assert "rows_without_position=1" in (path / "hats.properties").read_text()
    with pytest.raises(TableError, match="lsdb"):
        catalogue.open(path)


def test_the_coverage_holds_every_position_and_little_else(tmp_path, columns):
    from mocpy import MOC

    path = write_catalogue(tmp_path / "cat.hats", "hats", columns)
    coverage = MOC.from_fits(path / "moc.fits")
    known = np.isfinite(columns["ra"])
    inside = coverage.contains_lonlat(Longitude(columns["ra"][known] * u.deg), Latitude(columns["dec"][known] * u.deg))
    assert inside.all()
    assert coverage.sky_fraction < ROWS / 786432


def test_a_product_without_positions_is_refused(tmp_path):
    model = lamost_model()
    columns = tuple(column for column in model.columns if column.role not in ("ra", "dec"))
    with pytest.raises(ValueError, match="roles ra and dec"):
        writer_for("hats")(tmp_path / "x", model.model_copy(update={"columns": columns}), 1, {})
