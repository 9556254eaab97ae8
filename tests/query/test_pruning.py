"""Row groups that cannot hold an answer are not read, and nothing is lost by it."""

from __future__ import annotations

import numpy as np
import pytest

import catalogue
from catalogue.query import parquet
from catalogue.query.pruning import rows_near
from catalogue.query.sky import in_cone
from catalogue.writers import healpix_parquet
from tests.factories.catalogues import simulated_columns, write_catalogue

pytest.importorskip("cdshealpix", reason="the extra hats is not installed")

CENTRES = [
    (150.0, 30.0, 2.0), (0.1, 10.0, 1.0), (359.95, 10.0, 1.0), (20.0, 89.5, 3.0), (20.0, -8.0, 0.0), (1.0, 2.0, 180.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def columns():
    return simulated_columns(4000)


@pytest.fixture(scope="module")
def opened(columns, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(healpix_parquet.HealpixParquetWriter, "block_rows", 100)
        patched.setattr(parquet, "BLOCK_ROWS", 150)
        path = write_catalogue(tmp_path_factory.mktemp("sorted") / "cat.parquet", "parquet-healpix", columns)
        yield catalogue.open(path)


def expected(columns, centre):
    return list(np.flatnonzero(in_cone(columns["ra"], columns["dec"], *centre)))


@pytest.mark.parametrize("centre", CENTRES)
def test_a_cone_over_a_sorted_file_loses_no_row(opened, columns, centre):
    assert sorted(opened.cat.cone(*centre)["row_number"].values) == expected(columns, centre)


def test_few_row_groups_are_read_for_a_small_cone(opened):
    near = rows_near(opened, ("ra", "dec"), 150.0, 30.0, 1.0)
    assert 0 < len(near) < 8
    assert opened["ra"].data.npartitions > 20
    assert (near[:, 1] - near[:, 0]).sum() < 800


def test_a_selection_is_not_taken_for_the_file(opened, columns):
    good = opened.cat.good()
    assert rows_near(good, ("ra", "dec"), 150.0, 30.0, 2.0) is None
    assert rows_near(opened.isel(row=slice(None, None, -1)), ("ra", "dec"), 150.0, 30.0, 2.0) is None
    found = set(good.cat.cone(150.0, 30.0, 20.0)["row_number"].values)
    assert found == set(expected(columns, (150.0, 30.0, 20.0))) & set(np.flatnonzero(~columns["FLAG_BAD"]))
    backwards = opened.isel(row=slice(None, None, -1)).cat.cone(150.0, 30.0, 20.0)
    assert sorted(backwards["row_number"].values) == expected(columns, (150.0, 30.0, 20.0))


def test_a_file_in_the_catalogues_order_gives_the_same(columns, tmp_path):
    path = write_catalogue(tmp_path / "cat.parquet", "parquet", columns)
    for centre in CENTRES:
        assert sorted(catalogue.open(path).cat.cone(*centre)["row_number"].values) == expected(columns, centre)


def test_a_match_in_another_order_than_the_files_keeps_the_order_of_the_targets(opened, columns):
    targets = np.array([3000, 17, 2500, 17])
    table = {"ra": columns["ra"][targets], "dec": columns["dec"][targets]}
    found = opened.cat.xmatch(table, 1 / 3600)
    assert list(found["row_number"].values) == list(targets)
    np.testing.assert_array_equal(found["obsid"].values, columns["obsid"][targets])
    assert list(found["subclass"].values) == list(columns["subclass"][targets])
