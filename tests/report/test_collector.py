from __future__ import annotations

import numpy as np
import pytest

from catalogue.report import ReportCollector
from catalogue.spectra.primitives import RowStatus
from tests.factories.catalogues import lamost_model, simulated_columns, slices


def collected(columns: dict, block: int, sample_rows: int = 20000) -> ReportCollector:
    collector = ReportCollector(lamost_model(), "LAMOST", sample_rows)
    rows = len(columns["obsid"])
    for start in range(0, rows, block):
        collector.add(start, slices(columns, start, min(start + block, rows)))
    return collector


def test_counts_are_those_of_the_table():
    columns = simulated_columns(700)
    collector = collected(columns, 64)
    assert collector.rows == collector.states.total == 700
    for status, rows in collector.states.by_status().items():
        assert rows == (columns["STATUS"] == status).sum()
    for flag in lamost_model().flags:
        assert collector.states.with_bit(flag.bit) == (columns["FLAG"] >> flag.bit & 1).sum()
    assert collector.states.by_status()[RowStatus.NO_SPECTRUM] > 0


def test_histograms_hold_the_rows_without_bad_flags():
    columns = simulated_columns(700)
    good = ~columns["FLAG_BAD"]
    histogram = collected(columns, 100).histograms["age"]
    finite = np.isfinite(columns["Age"][good])
    assert histogram.counts.sum() + histogram.below + histogram.above == finite.sum() > 0
    assert histogram.missing == (~finite).sum()


def test_sample_does_not_depend_on_blocks():
    columns = simulated_columns(900)
    first, second = collected(columns, 900, 100).sample(), collected(columns, 37, 100).sample()
    assert set(first) == set(second)
    for name, values in first.items():
        assert np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"), name


def test_sample_prefers_rows_with_an_age_and_never_grows():
    columns = simulated_columns(2000)
    collector = collected(columns, 128, 200)
    sample = collector.sample()
    assert len(sample["row"]) == 200
    assert np.isfinite(sample["age"]).sum() == 150
    assert np.array_equal(sample["age"], columns["Age"][sample["row"]], equal_nan=True)


def test_sample_of_a_small_catalogue_is_all_of_it():
    columns = simulated_columns(240)
    assert collected(columns, 64).sample()["row"].tolist() == list(range(240))


def test_rows_with_an_age_fill_the_place_of_those_without():
    columns = simulated_columns(300)
    columns["Age"] = np.full(300, 5.0, np.float32)
    assert len(collected(columns, 300, 100).sample()["row"]) == 100
    columns["Age"] = np.full(300, np.nan, np.float32)
    assert len(collected(columns, 300, 100).sample()["row"]) == 100


def test_gaps_and_missing_columns_are_refused():
    columns = simulated_columns(20)
    collector = ReportCollector(lamost_model(), "LAMOST")
    with pytest.raises(ValueError, match="starts at row 0, got one that starts at 5"):
        collector.add(5, columns)
    with pytest.raises(ValueError, match="not there: teff"):
        collector.add(0, {name: values for name, values in columns.items() if name != "teff"})
    with pytest.raises(ValueError, match="one length"):
        collector.add(0, {**columns, "z": columns["z"][:3]})


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_catalogues_are_collected(rows):
    collector = collected(simulated_columns(rows), 10)
    assert collector.rows == rows
    assert len(collector.sample()["row"]) == rows


def test_roles_are_found_by_name_where_the_data_model_states_none():
    model = lamost_model()
    columns = tuple(column.model_copy(update={"role": ""}) for column in model.columns)
    silent = model.model_copy(update={"columns": columns})
    stated, found = ReportCollector(model, "").schema.roles, ReportCollector(silent, "").schema.roles
    assert {role: stated[role].name for role in stated if role != "key"} == {role: found[role].name for role in found}
