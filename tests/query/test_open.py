from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray

import catalogue
from catalogue.query import TableError
from catalogue.query.fits import FitsTable
from tests.factories.catalogues import lamost_model, simulated_columns, write_catalogue, write_spectra

FORMATS = {"fits": ".fits", "parquet": ".parquet", "csv": ".csv.gz", "zarr": ".zarr"}


def written(directory, format_name: str, columns: dict):
    return write_catalogue(directory / f"cat{FORMATS[format_name]}", format_name, columns)


@pytest.fixture(scope="module")
def columns() -> dict:
    return simulated_columns(300)


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_gives_the_same_values_and_facts(format_name, columns, tmp_path):
    dataset = catalogue.open(written(tmp_path, format_name, columns))
    assert set(dataset.data_vars) == set(columns)
    assert dataset.sizes == {"row": 300}
    for name, values in columns.items():
        found = dataset[name]
        assert isinstance(found.data, da.Array)
        assert found.dtype == values.dtype, name
        assert np.array_equal(found.values, values, equal_nan=values.dtype.kind == "f"), name
    for column in lamost_model().columns:
        attributes = dataset[column.name].attrs
        assert attributes["long_name"] == column.description
        assert attributes.get("units", "") == column.unit
        assert attributes.get("null_value") == column.missing
    assert dataset["FLAG"].attrs["flag_masks"][7] == 128
    assert dataset["FLAG"].attrs["flag_meanings"].split()[7] == "LOW_SNR"
    assert dataset["FLAG"].attrs["flag_levels"].split()[0] == "bad"
    assert dataset["STATUS"].attrs["flag_meanings"].split()[2] == "NO_SPECTRUM"
    assert dataset.attrs["PRODUCT"] == "lamost_age_mass"
    assert dataset["row_number"].values.tolist() == list(range(300))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_catalogues_open(format_name, rows, tmp_path):
    dataset = catalogue.open(written(tmp_path, format_name, simulated_columns(rows)))
    assert dataset.sizes["row"] == rows
    assert dataset.cat.good().sizes["row"] <= rows
    assert len(dataset.cat.cone(10, 10, 5).compute()["obsid"]) <= rows
    assert len(dataset.cat.to_table()) == rows


def test_opening_reads_no_rows_and_a_selection_only_what_it_needs(columns, tmp_path, monkeypatch):
    path = written(tmp_path, "fits", columns)
    asked = []
    read = FitsTable.read
    monkeypatch.setattr(FitsTable, "read", lambda self, names, a, b: asked.extend(names) or read(self, names, a, b))
    dataset = catalogue.open(path)
    assert asked == []
    cone = dataset.cat.cone(100, 30, 20)
    assert set(asked) == {"ra", "dec"}
    asked.clear()
    cone["Age"].compute()
    assert set(asked) == {"Age"}


def test_spectra_and_predictions_stores_open(columns, tmp_path):
    dataset = catalogue.open(write_spectra(tmp_path / "spectra.zarr", columns))
    assert dataset["flux"].dims == ("row", "pixel")
    assert dataset["wavelength"].attrs["units"] == "Angstrom"
    assert "wavelength" in dataset.coords
    assert dataset.cat.flagged("truncated").sizes["row"] == (columns["STATUS"] == 5).sum() > 0


def test_engine_and_guess_open_fits_with_xarray_alone(columns, tmp_path):
    path = written(tmp_path, "fits", columns)
    for dataset in (xarray.open_dataset(path, engine="catalogue"), xarray.open_dataset(path)):
        assert dataset["Age"].attrs["units"] == "Gyr"
        assert np.array_equal(dataset["obsid"].values, columns["obsid"])
    assert "Age" not in xarray.open_dataset(path, engine="catalogue", drop_variables=["Age"])


@pytest.mark.parametrize(
    "key", [slice(3, 40, 7), slice(None, None, -3), 5, -1, [5, 2, 2, 250], np.arange(300) % 7 == 0, slice(5, 5)]
)
def test_backend_indexes_as_numpy_does(columns, tmp_path, key):
    dataset = xarray.open_dataset(written(tmp_path, "fits", columns), engine="catalogue")
    for name in ("Age", "subclass"):
        expected = columns[name][key]
        assert np.array_equal(dataset[name][key].values, expected, equal_nan=name == "Age")


def test_what_is_no_catalogue_is_refused_by_name(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "table.vot").write_text("<?xml version='1.0'?><VOTABLE/>")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "directory").mkdir()
    for name, reason in (
        ("missing.fits", "no such file"),
        ("empty", "empty file"),
        ("table.vot", "XML"),
        ("cut.csv.gz", "cannot be read"),
        ("directory", "without zarr.json"),
    ):
        with pytest.raises(TableError, match=rf"{name}.*{reason}"):
            catalogue.open(tmp_path / name)
