from __future__ import annotations

import numpy as np
import pytest

from catalogue.difference.alignment import join, occurrence
from catalogue.difference.schema import Change, compare_provenance, compare_schemas, pair_columns
from catalogue.query.table import Table, TableColumn


class Columns(Table):
    """A table of columns without rows."""

    def __init__(self, *columns: TableColumn) -> None:
        self.columns = {column.name: column for column in columns}
        self.n_rows = 0

    def read(self, names, start, stop):
        raise AssertionError("schemas need no rows")


def column(name: str, dtype: str = "f4", **facts) -> TableColumn:
    return TableColumn(name, np.dtypes.StringDType() if dtype == "str" else np.dtype(dtype), **facts)


def difference(first: Columns, second: Columns):
    return compare_schemas(first, second, pair_columns(first, second))


def test_equal_schemas_have_no_difference():
    table = Columns(column("a"), column("b", unit="K", description="x", null=3))
    assert difference(table, table).same


def test_every_kind_of_change_is_found():
    same = column("same")
    first = Columns(
        column("a"),
        column("b", unit="K"),
        column("c", "i4", null=-1),
        column("gone"),
        column("d", description="x"),
        same,
    )
    second = Columns(
        column("a", "f8"), column("b", unit="deg"), column("c", "i4", null=-9), column("d", description="y"), same,
        column("new"),
    )  # fmt: skip
    found = difference(first, second)
    assert found.added == ("new",)
    assert found.removed == ("gone",)
    assert found.retyped == (Change("a", "float32", "float64"),)
    assert found.unit_changed == (Change("b", "K", "deg"),)
    assert found.null_changed == (Change("c", "-1", "-9"),)
    assert found.description_changed == (Change("d", "x", "y"),)
    assert found.reordered == ()


def test_renamed_columns_are_found_by_case_role_and_description():
    width = {"description": "width", "unit": "K"}
    first = Columns(column("TEFF"), column("tau", attributes={"role": "age"}), column("w", **width))
    second = Columns(column("teff"), column("Age"), column("width", **width), column("age_2"))
    assert {(change.before, change.after) for change in difference(first, second).renamed} == {
        ("TEFF", "teff"), ("tau", "Age"), ("w", "width"),
    }  # fmt: skip


def test_same_name_wins_over_role():
    first = Columns(column("Age"), column("age", attributes={"role": "age"}))
    second = Columns(column("age"), column("Age", attributes={"role": "age"}))
    assert pair_columns(first, second) == {"Age": "Age", "age": "age"}


@pytest.mark.parametrize(
    ("order", "moved"), [("abcde", ""), ("bcdea", "a"), ("abdce", "d"), ("edcba", "bcde"), ("axbcde", "")]
)
def test_fewest_columns_are_called_moved(order, moved):
    found = difference(Columns(*map(column, "abcde")), Columns(*map(column, order)))
    assert len(found.reordered) == len(moved)
    if len(moved) == 1 and moved == "a":
        assert found.reordered == ("a",)


def test_changed_meaning_of_a_bit_is_found():
    bits = {"flag_masks": [1, 2], "flag_meanings": "ONE TWO"}
    other = {"flag_masks": [1, 4], "flag_meanings": "ONE TWO"}
    found = difference(Columns(column("F", "i4", attributes=bits)), Columns(column("F", "i4", attributes=other)))
    assert found.bits_changed == (Change("F", "2 TWO", "4 TWO"),)


def test_occurrences_are_counted():
    assert occurrence(np.array([5, 5, 1, 5, 1])).tolist() == [0, 1, 0, 2, 1]
    assert occurrence(np.array([], np.int64)).tolist() == []


def test_join_agrees_with_a_plain_loop():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 30, 80), random.integers(0, 30, 50)
    known, also = random.random(80) > 0.1, random.random(50) > 0.1
    rows, partners, _ = join(first, second, known, also)
    free: dict[int, list[int]] = {}
    for row in np.flatnonzero(also):
        free.setdefault(int(second[row]), []).append(int(row))
    expected = [(int(row), free[int(first[row])].pop(0)) for row in np.flatnonzero(known) if free.get(int(first[row]))]
    assert list(zip(rows.tolist(), partners.tolist(), strict=True)) == expected


def test_what_made_two_tables_is_told_where_it_differs():
    first, second = Columns(column("a")), Columns(column("a"))
    first.attributes = {"DATE": "1", "MODEL1": "spt 1 (spt)", "MODELDG1": "0" * 64, "TORCH": "2.1", "PASSES1": "100"}
    second.attributes = {
        "DATE": "2027",
        "MODEL1": "spt 2 (spt)",
        "MODELDG1": "1" * 64,
        "TORCH": "2.2",
        "PASSES1": "100",
    }
    found = compare_provenance(first, second)
    assert found == (Change("MODEL1", "spt 1 (spt)", "spt 2 (spt)"), Change("MODELDG1", "0" * 12, "1" * 12))
    second.attributes = {"title": "somebody else's"}
    assert compare_provenance(first, second) == ()
