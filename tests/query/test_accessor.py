from __future__ import annotations

import astropy.units as u
import dask
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

import catalogue
from catalogue.query import TableError
from catalogue.query.selection import select_rows
from catalogue.spectra.primitives import RowStatus
from tests.factories.catalogues import lamost_model, simulated_columns, slices, write_catalogue, write_spectra

ROWS = 900


@pytest.fixture(scope="module")
def columns() -> dict:
    columns = simulated_columns(ROWS)
    # Positions where spherical geometry is unforgiving.
    columns["ra"][10:16] = [0.001, 359.999, 180.0, 90.0, 270.0, 45.0]
    columns["dec"][10:16] = [0.0, 0.0, 90.0, 89.999, 89.999, -90.0]
    return columns


@pytest.fixture(scope="module")
def path(columns, tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("query") / "cat.parquet", "parquet", columns)


@pytest.fixture
def dataset(path):
    """The catalogue in chunks that are not of one size."""
    return catalogue.open(path).chunk({"row": (100, 1, 399, 400)})


def test_good_rows_have_no_bad_bit(dataset, columns):
    good = np.flatnonzero(~columns["FLAG_BAD"])
    selected = dataset.cat.good()
    assert selected["row_number"].values.tolist() == good.tolist()
    assert np.array_equal(selected["Age"].values, columns["Age"][good], equal_nan=True)
    assert dataset.drop_vars("FLAG_BAD").cat.good()["row_number"].values.tolist() == good.tolist()


def test_good_without_flags_says_what_is_missing(dataset):
    with pytest.raises(KeyError, match="FLAG_BAD"):
        dataset.drop_vars(["FLAG_BAD", "FLAG"]).cat.good()


def test_flags_and_statuses_select_rows(dataset, columns):
    bits = {flag.name: columns["FLAG"] >> flag.bit & 1 == 1 for flag in lamost_model().flags}
    low, error, cut = bits["LOW_SNR"], bits["AGE_ERROR_LARGE"], columns["STATUS"] == 5
    rows = lambda selected: selected["row_number"].values.tolist()  # noqa: E731
    assert rows(dataset.cat.flagged("LOW_SNR")) == np.flatnonzero(low).tolist()
    assert rows(dataset.cat.flagged("LOW_SNR", "AGE_ERROR_LARGE")) == np.flatnonzero(low | error).tolist()
    assert rows(dataset.cat.flagged("LOW_SNR", "AGE_ERROR_LARGE", every=True)) == np.flatnonzero(low & error).tolist()
    assert rows(dataset.cat.flagged("LOW_SNR", "TRUNCATED", every=True)) == np.flatnonzero(low & cut).tolist()
    assert rows(dataset.cat.flagged("LOW_SNR", invert=True)) == np.flatnonzero(~low).tolist()
    assert cut.any()
    assert (low & error).any()
    with pytest.raises(KeyError, match="no flag 'LOW_SNRR'; there are AGE_ERROR_LARGE"):
        dataset.cat.flagged("LOW_SNRR")


CONES = [(100.0, 40.0, 15.0), (0.0, 0.0, 0.01), (0.0, 90.0, 12.0), (33.0, -90.0, 1.0), (10, 10, 180)]


@pytest.mark.parametrize("centre", CONES)
def test_cone_agrees_with_astropy(dataset, columns, centre):
    ra, dec, radius = centre
    known = np.flatnonzero(np.isfinite(columns["ra"]))
    stars = SkyCoord(columns["ra"][known], columns["dec"][known], unit="deg")
    expected = stars.separation(SkyCoord(ra, dec, unit="deg")).deg
    found = dataset.cat.cone(ra, dec * u.deg, radius)
    assert found["row_number"].values.tolist() == known[expected <= radius].tolist()
    assert len(found["row"] if "row" in found else found["obsid"]) > 0
    assert found["separation"].values == pytest.approx(expected[expected <= radius], abs=1e-9)


def test_cone_refuses_impossible_directions(dataset):
    for arguments in ((0, 91, 1), (0, 0, -1), (np.nan, 0, 1)):
        with pytest.raises(ValueError, match="expected a direction"):
            dataset.cat.cone(*arguments)


@pytest.mark.parametrize("radius", [0.5, 5.0, 40.0])
def test_match_agrees_with_astropy(dataset, columns, radius):
    random = np.random.default_rng(3)
    ra = np.concatenate([random.uniform(0, 360, 60), [0.0, 12.0, 200.0, np.nan]])
    dec = np.concatenate([random.uniform(-90, 90, 60), [0.0, 90.0, -89.9, 3.0]])
    known = np.flatnonzero(np.isfinite(columns["ra"]))
    stars = SkyCoord(columns["ra"][known], columns["dec"][known], unit="deg")
    targets = SkyCoord(ra[:-1], dec[:-1], unit="deg")
    index, angle, _ = targets.match_to_catalog_sky(stars)
    near = angle.deg <= radius
    found = dataset.cat.xmatch(Table({"RAJ2000": ra, "DEJ2000": dec}), radius)
    assert found["match"].values.tolist() == np.flatnonzero(near).tolist()
    assert found["row_number"].values.tolist() == known[index[near]].tolist()
    assert found["separation"].values == pytest.approx(angle.deg[near], abs=1e-9)
    every = dataset.cat.xmatch({"ra": ra, "dec": dec}, radius * u.deg, nearest=False)
    first, second, _, _ = stars.search_around_sky(targets, radius * u.deg)
    pairs = set(zip(every["match"].values.tolist(), every["row_number"].values.tolist(), strict=True))
    assert pairs == set(zip(first.tolist(), known[second].tolist(), strict=True))


def test_match_takes_units_and_other_datasets(dataset, columns):
    table = Table({"ra": columns["ra"][100:102] * 60 * u.arcmin, "dec": columns["dec"][100:102] * u.deg})
    assert dataset.cat.xmatch(table, 1 * u.arcsec)["row_number"].values.tolist() == [100, 101]
    other = dataset.isel(row=slice(20, 23))
    assert dataset.cat.xmatch(other, 1e-4)["row_number"].values.tolist() == [20, 21, 22]
    assert dataset.cat.xmatch(other.to_dataframe(), 1e-4)["row_number"].values.tolist() == [20, 21, 22]


def test_match_without_partner_is_empty(dataset):
    assert dataset.cat.xmatch({"ra": [0.0], "dec": [-70.0]}, 0.1).sizes["row"] == 0
    assert dataset.cat.xmatch({"ra": [], "dec": []}, 0.1).compute().sizes["row"] == 0
    with pytest.raises(KeyError, match="gives dec"):
        dataset.cat.xmatch({"ra": [1.0]}, 0.1)
    with pytest.raises(ValueError, match="radius"):
        dataset.cat.xmatch({"ra": [1.0], "dec": [1.0]}, 0)


def test_selections_follow_one_another(dataset, columns):
    found = dataset.cat.good().cat.cone(100, 40, 30).cat.flagged("LOW_SNR", invert=True)
    rows = found["row_number"].values
    assert len(rows) > 0
    assert not columns["FLAG_BAD"][rows].any()
    assert (columns["snrg"][rows] >= 20).all()
    assert np.array_equal(found["subclass"].values, columns["subclass"][rows])


def test_chunks_without_a_chosen_row_are_not_read(dataset):
    mask = np.zeros(ROWS, bool)
    mask[[3, 899]] = True
    selected = select_rows(dataset, mask)
    assert selected["Age"].chunks == ((1, 1),)
    tasks = dask.optimize(selected["Age"].data)[0].__dask_graph__()
    assert sum("open_dataset" in str(key) for key in tasks) <= 2 * len(dataset["Age"].chunks[0])
    assert selected["Age"].values.shape == (2,)


def test_rows_come_with_their_spectra(columns, path):
    write_spectra(path.parent / "spectra.zarr", columns)
    dataset = catalogue.open(path)
    found = dataset.cat.spectra([5, 300, 5])
    assert found["flux"].dims == ("row", "pixel")
    store = catalogue.open(path.parent / "spectra.zarr")
    assert np.array_equal(found["flux"].values, store["flux"].values[[5, 300, 5]], equal_nan=True)
    assert found["Age"].values.tolist() == columns["Age"][[5, 300, 5]].tolist()
    assert found["wavelength"].dims == ("pixel",)
    without = dataset.cat.flagged("NO_SPECTRUM").cat.spectra()
    assert set(without["reason"].values.tolist()) == {RowStatus.NO_SPECTRUM.meaning}
    good = dataset.cat.good()
    assert np.array_equal(good.cat.spectra()["flux"].values, store["flux"].values[~columns["FLAG_BAD"]], equal_nan=True)


def test_spectra_of_another_catalogue_are_refused(columns, path, tmp_path):
    dataset = catalogue.open(path)
    with pytest.raises(TableError, match="expected the spectra store"):
        dataset.cat.spectra([1], store=tmp_path / "none.zarr")
    short = write_spectra(tmp_path / "short.zarr", slices(columns, 0, 70))
    with pytest.raises(TableError, match="expected more than 80 rows, found 70"):
        dataset.cat.spectra([80], store=short)
    other = write_spectra(tmp_path / "other.zarr", {**columns, "obsid": columns["obsid"] + 1})
    with pytest.raises(TableError, match=r"row 30 has obsid 100000211, the catalogue has 100000210"):
        dataset.cat.spectra([30], store=other)


def test_table_has_units_descriptions_and_masks(dataset, columns):
    table = dataset.cat.to_table()
    assert len(table) == ROWS
    assert table["Age"].unit == u.Gyr
    assert table["Mass"].unit == u.solMass
    assert table["teff"].description == "LASP effective temperature"
    assert table["obsid"].mask.nonzero()[0].tolist() == [7]
    assert table["subclass"].tolist() == columns["subclass"].tolist()
    assert table.meta["PRODUCT"] == "lamost_age_mass"


def test_columns_are_found_by_role_and_by_name(dataset):
    assert dataset.cat.column("age") == "Age"
    assert dataset.rename(Age="tau").cat.column("age") == "tau"
    with pytest.raises(KeyError, match="expected a column that gives parallax"):
        dataset.cat.column("parallax")
