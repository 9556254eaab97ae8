"""Row-aligned stores."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from catalogue.spectra.primitives import RowColumn, RowStatus
from catalogue.spectra.store import (
    StoreError,
    choose_chunk_rows,
    choose_unit_rows,
    create_row_arrays,
    create_store,
    read_rows,
    write_rows,
)
from catalogue.surveys import load_survey

SURVEY = load_survey("lamost-lrs")
AGE = RowColumn("age", "float32", "Gyr", "Age")
MASS = RowColumn("mass", "float32", "solMass", "Mass")


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "spectra.zarr"
    create_store(path, SURVEY, 200, 64, 128, "obsid")
    return path


@pytest.mark.parametrize(
    ("n_rows", "n_pixels", "expected"),
    [
        (0, 4096, 64),
        (1, 4096, 64),
        (240, 4096, 64),
        (513, 4096, 128),
        (20_000, 4096, 2560),
        (11_441_011, 4096, 4096),
        (733_901, 8575, 1920),
        (10**7, 10**8, 64),
    ],
)
def test_chunks_are_multiples_of_the_granule_and_64_mebibytes_at_most(n_rows, n_pixels, expected):
    chunk_rows = choose_chunk_rows(n_rows, n_pixels)
    assert chunk_rows == expected
    assert chunk_rows % 64 == 0
    assert chunk_rows == 64 or chunk_rows * n_pixels * 4 <= 64 << 20


@pytest.mark.parametrize(("n_rows", "chunk_rows"), [(0, 64), (240, 64), (10**7, 4096), (10**7, 64), (8_192_000, 4096)])
def test_units_are_whole_chunks_and_not_too_many(n_rows, chunk_rows):
    unit_rows = choose_unit_rows(n_rows, chunk_rows)
    assert unit_rows % chunk_rows == 0
    assert -(-n_rows // unit_rows) <= 2000
    assert unit_rows == chunk_rows or -(-n_rows // (unit_rows - chunk_rows)) > 2000


def test_an_unwritten_store_reads_as_not_processed_and_missing(store):
    values = read_rows(store, ["status", "reason", "flux", "ivar", "mask", "obsid", "teff", "class"], 190, 200)
    assert (values["status"] == RowStatus.NOT_PROCESSED).all()
    assert (values["reason"] == "").all()
    assert np.isnan(values["flux"]).all()
    assert not values["ivar"].any()
    assert not values["mask"].any()
    assert (values["obsid"] == -9999).all()
    assert np.isnan(values["teff"]).all()
    assert values["flux"].shape == (10, SURVEY.grid.n_pixels)
    assert values["class"].tolist() == [""] * 10


def test_xarray_opens_it_with_coordinates_units_and_flags(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(store)
    assert data.sizes == {"row": 200, "pixel": SURVEY.grid.n_pixels}
    assert list(data.coords) == ["wavelength"]
    assert data.wavelength.attrs["units"] == "Angstrom"
    np.testing.assert_array_equal(data.wavelength, SURVEY.grid.wavelength())
    assert data.flux.dims == ("row", "pixel")
    assert all("long_name" in variable.attrs for variable in data.variables.values())
    assert data.ra.attrs["units"] == "deg"
    flags = dict(zip(data.status.attrs["flag_meanings"].split(), data.status.attrs["flag_values"], strict=True))
    assert flags["not_processed"] == 0
    assert flags == {status.name.lower(): status.value for status in RowStatus}
    bits = dict(zip(data.mask.attrs["flag_meanings"].split(), data.mask.attrs["flag_masks"], strict=True))
    assert bits["OR_BADCCD"] == 256
    assert data.obsid.dtype == np.int64
    assert data.status.dtype == np.uint8
    assert data.file_mtime_ns.dtype == np.int64


def test_an_unwritten_integer_of_64_bits_stays_exact_in_xarray(store):
    obsid = np.full(128, 2**53 + 1)
    write_rows(store, {"obsid": obsid}, 0)
    assert xr.open_zarr(store).obsid[:128].values.tolist() == obsid.tolist()


def test_whole_chunks_are_written_and_read_back_under_any_case(store):
    flux = np.arange(64 * SURVEY.grid.n_pixels, dtype="f4").reshape(64, -1)
    text = np.array(["é", ""] * 64, np.dtypes.StringDType())
    write_rows(store, {"flux": flux}, 64)
    write_rows(store, {"reason": text}, 0)
    found = read_rows(store, ["FLUX", "reason"], 60, 70)
    assert np.isnan(found["FLUX"][:4]).all()
    np.testing.assert_array_equal(found["FLUX"][4:], flux[:6])
    assert found["reason"].tolist() == ["é", ""] * 5


@pytest.mark.parametrize(
    ("name", "start", "rows"),
    [("flux", 0, 63), ("flux", 1, 63), ("flux", 192, 9), ("flux", 128, 63), ("status", 64, 64), ("status", 0, 64)],
)
def test_parts_of_chunks_are_refused(store, name, start, rows):
    shape = (rows, SURVEY.grid.n_pixels) if name == "flux" else (rows,)
    with pytest.raises(StoreError, match=f"{name}: expected whole chunks of"):
        write_rows(store, {name: np.zeros(shape)}, start)


def test_the_last_partial_chunk_is_whole(store):
    write_rows(store, {"flux": np.ones((8, SURVEY.grid.n_pixels))}, 192)
    write_rows(store, {"status": np.ones(72, np.uint8)}, 128)
    assert read_rows(store, ["status"], 128, 200)["status"].all()


def test_per_row_chunks_are_written_even_if_they_hold_nothing_and_pixels_are_not(store):
    write_rows(store, {"status": np.zeros(128, np.uint8), "teff": np.full(128, np.nan)}, 0)
    write_rows(store, {"flux": np.full((64, SURVEY.grid.n_pixels), np.nan, "f4")}, 0)
    assert (store / "status/c/0").is_file()
    assert (store / "teff/c/0").is_file()
    assert not (store / "flux/c/0").exists()
    write_rows(store, {"flux": np.ones((64, SURVEY.grid.n_pixels), "f4")}, 0)
    assert (store / "flux/c/0/0").is_file()
    write_rows(store, {"flux": np.full((64, SURVEY.grid.n_pixels), np.nan, "f4")}, 0)
    assert np.isnan(read_rows(store, ["flux"], 0, 64)["flux"]).all()


def test_missing_arrays_rows_and_stores_are_named(store, tmp_path):
    with pytest.raises(StoreError, match="expected an array age, found"):
        read_rows(store, ["age"], 0, 1)
    with pytest.raises(StoreError, match="status has rows 0 to 200, asked for 0 to 201"):
        read_rows(store, ["status"], 0, 201)
    with pytest.raises(StoreError, match="absent"):
        read_rows(tmp_path / "absent", ["age"], 0, 1)


@pytest.mark.parametrize(("chunk_rows", "unit_rows"), [(63, 126), (64, 96), (0, 0), (64, 0)])
def test_chunks_that_do_not_fit_are_refused(tmp_path, chunk_rows, unit_rows):
    with pytest.raises(StoreError, match="multiple of 64"):
        create_store(tmp_path / "a.zarr", SURVEY, 10, chunk_rows, unit_rows, "obsid")


def test_a_store_replaces_an_earlier_one_and_a_leftover_of_a_killed_creation(store):
    write_rows(store, {"status": np.ones(128, np.uint8)}, 0)
    leftover = store.with_name("spectra.zarr.partial")
    shutil.copytree(store, leftover)
    create_store(store, SURVEY, 70, 64, 64, "obsid")
    assert not leftover.exists()
    assert not read_rows(store, ["status"], 0, 70)["status"].any()


def test_an_empty_table_and_a_foreign_key_make_a_store(tmp_path):
    path = tmp_path / "a.zarr"
    create_store(path, SURVEY, 0, 64, 64, "gaia_id")
    assert xr.open_zarr(path).sizes["row"] == 0
    assert read_rows(path, ["flux", "gaia_id"], 0, 0)["gaia_id"].tolist() == []


def test_predictions_keep_their_values_when_rows_are_added(tmp_path):
    path = tmp_path / "deep" / "p.zarr"
    create_row_arrays(path, [AGE, MASS], 100, 64, {"digest": "d"})
    write_rows(path, {"age": np.arange(64.0), "mass": np.ones(64)}, 0)
    write_rows(path, {"age": np.arange(64.0, 100.0)}, 64)
    create_row_arrays(path, [AGE, MASS], 130, 64, {"digest": "d"})
    values = read_rows(path, ["age"], 0, 130)["age"]
    np.testing.assert_array_equal(values[:100], np.arange(100))
    assert np.isnan(values[100:]).all()
    assert xr.open_zarr(path).sizes == {"row": 130}
    assert zarr.open_group(path).attrs["n_rows"] == 130
    before = (path / "zarr.json").stat().st_mtime_ns
    create_row_arrays(path, [AGE, MASS], 130, 64, {"digest": "d"})
    assert (path / "zarr.json").stat().st_mtime_ns == before
    create_row_arrays(path, [AGE, MASS], 10, 64, {"digest": "d"})
    np.testing.assert_array_equal(read_rows(path, ["age"], 0, 10)["age"], np.arange(10))


@pytest.mark.parametrize(
    ("columns", "unit_rows", "attributes"),
    [([AGE], 64, {"digest": "d"}), ([AGE, MASS], 128, {"digest": "d"}), ([AGE, MASS], 64, {"digest": "e"}),
     ([RowColumn("age", "float64"), MASS], 64, {"digest": "d"})],
)  # fmt: skip
def test_predictions_of_another_kind_are_replaced(tmp_path, columns, unit_rows, attributes):
    path = tmp_path / "p.zarr"
    create_row_arrays(path, [AGE, MASS], 64, 64, {"digest": "d"})
    write_rows(path, {"age": np.ones(64)}, 0)
    create_row_arrays(path, columns, 64, unit_rows, attributes)
    assert np.isnan(read_rows(path, ["age"], 0, 64)["age"]).all()
