from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
from astropy.table import Table

from catalogue.difference import compare
from catalogue.difference.page import write_page
from catalogue.query import TableError
from tests.factories.catalogues import lamost_model, simulated_columns, write_catalogue
from tests.factories.products import classified_columns, classifier_model

FORMATS = {"fits": ".fits", "parquet": ".parquet", "csv": ".csv.gz", "zarr": ".zarr"}


@pytest.fixture(scope="module")
def columns() -> dict:
    return simulated_columns(400)


@pytest.fixture(scope="module")
def written(columns, tmp_path_factory) -> dict:
    directory = tmp_path_factory.mktemp("difference")
    return {name: write_catalogue(directory / f"a{suffix}", name, columns) for name, suffix in FORMATS.items()}


@pytest.fixture
def changed(columns) -> dict:
    """A later version: some ages moved, lost and gained, a flag set and cleared, a status changed, a text corrected."""
    after = {name: values.copy() for name, values in columns.items()}
    usable = np.flatnonzero(np.isfinite(after["Age"]))
    after["Age"][usable[0]] += 10 * after["Age_Error"][usable[0]]
    after["Age"][usable[1]] -= 1.0
    after["Age"][usable[2]] = np.nan
    empty = np.flatnonzero(np.isnan(after["Age"]) & (np.arange(400) > 10))[0]
    after["Age"][empty] = 4.0
    after["FLAG"][20:23] |= 1 << 12
    after["FLAG"][np.flatnonzero(after["FLAG"] & 128)[:2]] &= ~np.int32(128)
    after["STATUS"][np.flatnonzero(after["STATUS"] == 2)[:3]] = 1
    after["subclass"][50] = "M9"
    return after


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", ["fits", "csv"])
def test_one_catalogue_in_two_formats_has_the_same_values(written, first, second):
    found = compare(written[first], written[second])
    assert found.columns == ()
    assert (found.how, found.matched, found.only_first, found.only_second) == ("row", 400, 0, 0)
    assert found.schema.retyped == found.schema.unit_changed == found.schema.added == found.schema.removed == ()
    assert found.schema.null_changed == found.schema.reordered == found.schema.bits_changed == ()
    assert set(found.unchanged) == {column.name for column in lamost_model().columns}
    if first == second:
        assert found.identical
        assert "identical" in found.text()


@pytest.mark.parametrize("format_name", FORMATS)
def test_changes_are_counted_and_named(written, changed, columns, tmp_path, format_name):
    path = write_catalogue(tmp_path / f"b{FORMATS[format_name]}", format_name, changed)
    found = compare(written["parquet"], path)
    assert not found.identical
    assert {column.column: column.changed for column in found.columns} == {
        "subclass": 1, "Age": 4, "STATUS": 3, "FLAG": (columns["FLAG"] != changed["FLAG"]).sum(),
    }  # fmt: skip
    age = next(column for column in found.columns if column.column == "Age")
    assert (age.appeared, age.vanished) == (1, 1)
    usable = np.flatnonzero(np.isfinite(columns["Age"]))
    expected = float(changed["Age"][usable[0]]) - float(columns["Age"][usable[0]])
    assert age.largest == pytest.approx(expected)
    assert [(change.bit, change.set, change.cleared) for change in found.bits] == [
        ("LOW_SNR", 0, 2), ("UNLIKE_TRAINING", int(((columns["FLAG"][20:23] >> 12 & 1) == 0).sum()), 0),
    ]  # fmt: skip
    assert [(change.before, change.after, change.rows) for change in found.statuses] == [("NO_SPECTRUM", "OK", 3)]


def test_movement_is_measured_in_both_errors(written, changed, columns, tmp_path):
    found = compare(written["fits"], write_catalogue(tmp_path / "b.fits", "fits", changed))
    age, mass = found.quantities
    assert (age.quantity, mass.quantity, age.unit) == ("Age", "Mass", "Gyr")
    both = np.isfinite(columns["Age"]) & np.isfinite(changed["Age"])
    change = changed["Age"].astype(float) - columns["Age"]
    sigma = change / (np.sqrt(2) * columns["Age_Error"])
    assert (age.both, age.gained, age.lost) == (both.sum(), 1, 1)
    assert age.mean == pytest.approx(change[both].mean())
    assert age.spread == pytest.approx(change[both].std())
    usable = both & np.isfinite(sigma)
    assert age.with_sigma == usable.sum() == sum(age.histogram)
    assert age.sigma_spread == pytest.approx(sigma[usable].std())
    assert age.beyond["5"] == (np.abs(sigma[usable]) > 5).sum() == 1
    first = age.movers[0]
    assert first.key == str(columns["obsid"][first.row])
    assert first.sigma == pytest.approx(10 / np.sqrt(2), rel=1e-6)
    assert len(age.movers) == 2
    assert mass.movers == ()


def test_other_orders_are_joined_by_key(written, columns, tmp_path):
    order = np.random.default_rng(1).permutation(400)[:350]
    shuffled = {name: values[order] for name, values in columns.items()}
    found = compare(written["parquet"], write_catalogue(tmp_path / "b.parquet", "parquet", shuffled))
    assert found.how == "key"
    assert found.key == ("obsid", "obsid")
    # Row 7 has no key, so it has no partner on either side.
    nameless = int(7 in order)
    assert (found.matched, found.only_first, found.only_second) == (350 - nameless, 50 + nameless, nameless)
    assert found.columns == ()
    back = compare(tmp_path / "b.parquet", written["parquet"])
    assert (back.matched, back.only_first, back.only_second) == (350 - nameless, nameless, 50 + nameless)
    assert "joined by obsid" in found.text()


def test_the_same_rows_in_another_order_are_not_identical(tmp_path):
    pandas.DataFrame({"uid": [1, 2, 3], "v": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"uid": [1, 3, 2], "v": [1.0, 3.0, 2.0]}).to_parquet(tmp_path / "b.parquet")
    found = compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert found.columns == ()
    assert not found.identical
    assert "in another order" in found.text()


@pytest.mark.parametrize(("unit", "factor"), [("Myr", 1e3), ("yr", 1e9), ("Gyr", 1.0)])
def test_movement_in_another_unit_is_given_in_that_of_the_first(tmp_path, unit, factor):
    age, error = np.array([1.0, 5.0, 9.0]), np.array([0.1, 0.5, 1.0])
    for name, values, scale, unit_of in (("a", age, 1.0, "Gyr"), ("b", age + error, factor, unit)):
        table = Table({"uid": [1, 2, 3], "Age": values * scale, "Age_Error": error * scale})
        table["Age"].unit = table["Age_Error"].unit = unit_of
        table.write(tmp_path / f"{name}.fits")
    found = compare(tmp_path / "a.fits", tmp_path / "b.fits").quantities[0]
    assert (found.unit, found.with_sigma) == ("Gyr", 3)
    assert found.mean == pytest.approx(error.mean())
    assert found.sigma_mean == pytest.approx(1 / np.sqrt(2))


def test_quantities_of_different_kinds_are_not_subtracted(tmp_path):
    for name, unit in (("a", "Gyr"), ("b", "solMass")):
        table = Table({"uid": [1, 2], "Age": [1.0, 2.0]})
        table["Age"].unit = unit
        table.write(tmp_path / f"{name}.fits")
    assert compare(tmp_path / "a.fits", tmp_path / "b.fits").quantities == ()


def test_somebody_elses_catalogue_is_joined_and_its_names_matched(written, columns, tmp_path):
    order = np.random.default_rng(2).permutation(400)[:60]
    theirs = pandas.DataFrame({
        "OBSID": columns["obsid"][order], "age": columns["Age"][order].astype(float) + 0.5,
        "e_age": columns["Age_Error"][order].astype(float), "remark": "x",
    })  # fmt: skip
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    found = compare(written["fits"], tmp_path / "theirs.csv")
    assert found.key == ("obsid", "OBSID")
    renamed = {change.before: change.after for change in found.schema.renamed}
    assert renamed == {"obsid": "OBSID", "Age": "age", "Age_Error": "e_age"}
    assert found.schema.added == ("remark",)
    assert found.quantities[0].mean == pytest.approx(0.5, abs=1e-6)
    assert found.quantities[0].with_sigma == found.quantities[0].both > 0
    named = compare(written["fits"], tmp_path / "theirs.csv", key="obsid=OBSID")
    assert named.matched == found.matched


def test_single_precision_copies_of_double_values_are_equal(tmp_path):
    values = np.random.default_rng(0).normal(size=30)
    pandas.DataFrame({"uid": np.arange(30), "v": values}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"uid": np.arange(30), "v": values.astype(np.float32)}).to_parquet(tmp_path / "b.parquet")
    found = compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert found.columns == ()
    assert [(change.before, change.after) for change in found.schema.retyped] == [("float64", "float32")]


def test_repeated_keys_are_paired_in_their_order(tmp_path):
    pandas.DataFrame({"uid": [1, 2, 1, 1, 3], "v": [10, 20, 11, 12, 30]}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"uid": [3, 1, 1, 2], "v": [30, 10, 11, 20]}).to_parquet(tmp_path / "b.parquet")
    found = compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert (found.matched, found.only_first, found.only_second, found.repeated) == (4, 1, 0, 2)
    assert found.columns == ()


def test_text_keys_meet_numbers_and_blanks(tmp_path):
    pandas.DataFrame({"uid": ["3", " 1", ""], "v": [3.0, 1.0, 9.0]}).to_csv(tmp_path / "a.csv", index=False)
    pandas.DataFrame({"uid": [1, 2, 3], "v": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "b.parquet")
    found = compare(tmp_path / "a.csv", tmp_path / "b.parquet", key="uid")
    assert (found.matched, found.only_first, found.only_second) == (2, 1, 1)
    assert [column.column for column in found.columns] == []


def test_without_a_key_rows_must_be_as_many(tmp_path):
    pandas.DataFrame({"v": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"v": [1.0, 2.5]}).to_parquet(tmp_path / "b.parquet")
    pandas.DataFrame({"v": [1.0]}).to_parquet(tmp_path / "c.parquet")
    assert compare(tmp_path / "a.parquet", tmp_path / "b.parquet").columns[0].largest == 0.5
    with pytest.raises(TableError, match="no common key column was found"):
        compare(tmp_path / "a.parquet", tmp_path / "c.parquet")
    with pytest.raises(TableError, match="expected the key column w, there are v"):
        compare(tmp_path / "a.parquet", tmp_path / "b.parquet", key="w")
    pandas.DataFrame({"uid": [0.5, 1.5]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(TableError, match="expected whole numbers or text as key, found float64"):
        compare(tmp_path / "d.parquet", tmp_path / "d.parquet")


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_catalogues_are_compared(rows, tmp_path):
    columns = simulated_columns(rows)
    first = write_catalogue(tmp_path / "a.fits", "fits", columns)
    second = write_catalogue(tmp_path / "b.parquet", "parquet", columns)
    assert compare(first, second).columns == ()
    assert compare(first, first).identical


def test_empty_against_full_leaves_all_rows_alone(written, tmp_path):
    empty = write_catalogue(tmp_path / "b.fits", "fits", simulated_columns(0))
    found = compare(written["fits"], empty)
    assert (found.matched, found.only_first, found.only_second) == (0, 400, 0)
    assert not found.identical


def test_blocks_do_not_change_the_result(written, changed, tmp_path, monkeypatch):
    path = write_catalogue(tmp_path / "b.fits", "fits", changed)
    order = np.random.default_rng(1).permutation(400)
    other = write_catalogue(tmp_path / "c.fits", "fits", {name: values[order] for name, values in changed.items()})
    whole, joined = compare(written["fits"], path), compare(written["fits"], other)
    monkeypatch.setattr("catalogue.query.table.Table.block_rows", 37)
    parts, joined_parts = compare(written["fits"], path), compare(written["fits"], other)
    assert parts.columns == whole.columns
    assert parts.bits == whole.bits
    assert parts.quantities[0].movers == whole.quantities[0].movers
    assert parts.quantities[0].spread == pytest.approx(whole.quantities[0].spread)
    assert joined_parts.columns == joined.columns
    assert [mover.row for mover in joined.quantities[0].movers] == [mover.row for mover in whole.quantities[0].movers]


def test_json_holds_everything_and_the_page_loads_nothing(written, changed, tmp_path):
    found = compare(written["fits"], write_catalogue(tmp_path / "b.fits", "fits", changed))
    content = json.loads(found.json())
    assert content["identical"] is False
    assert content["bits"][0]["bit"] == "LOW_SNR"
    write_page(found, tmp_path / "difference.html")
    page = (tmp_path / "difference.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('src="data:image/png') == 3
    assert str(found.quantities[0].movers[0].key) in page
    assert "Largest movers in Age" in page


def test_tables_without_ages_and_masses_are_followed_in_what_they_have(tmp_path):
    before = classified_columns(100)
    after = {**before, "Probability": before["Probability"].copy(), "FLAG": before["FLAG"]}
    after["Probability"][7] += np.float32(0.5)
    first = write_catalogue(tmp_path / "a.fits", "fits", before, classifier_model())
    second = write_catalogue(tmp_path / "b.csv.gz", "csv", after, classifier_model())
    found = compare(first, second)
    moved = {each.quantity: each for each in found.quantities if each.movers}
    assert set(moved) == {"Probability"}
    assert "Probability_Error" not in {each.quantity for each in found.quantities}
    assert moved["Probability"].both == moved["Probability"].with_sigma == 80
    assert [mover.row for mover in moved["Probability"].movers] == [7]
    assert "14 (row 7): " in found.text()
