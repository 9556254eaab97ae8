"""Exact conversion of parent columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catalogue.spectra.values import ConversionError, convert, store_dtype, to_numpy

BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["1", " 2 ", "", "NaN", "+3", "4.0", "-5."], "int64", [1, 2, -9999, -9999, 3, 4, -5]),
        ([str(BIG), f"{BIG}.0"], "int64", [BIG, BIG]),
        ([BIG, None], "int64", [BIG, -9999]),
        ([1.0, float("nan"), None], "int64", [1, -9999, -9999]),
        (np.array([2.0**24, -3, np.nan], "f4"), "int64", [2**24, -3, -9999]),
        ([True, False, None], "int16", [1, 0, -9999]),
        (["a ", " b", None, "é"], "str", ["a", "b", "", "é"]),
        ([5, None], "str", ["5", ""]),
    ],
)
def test_integers_and_text(values, dtype, expected):
    assert convert(pa.array(values), dtype).to_pylist() == expected


def test_floats_with_nulls_of_the_survey():
    text = pa.array(["1.5", "+2e-3", "", "null", "-9999", "-9999.0", "inf", "nan"])
    expected = [1.5, 2e-3, np.nan, np.nan, np.nan, np.nan, np.inf, np.nan]
    np.testing.assert_array_equal(to_numpy(convert(text, "float64", (-9999.0,))), expected)
    single = pa.array(np.array([-9999.99, -9999.0, 1.5], "f4"))
    np.testing.assert_array_equal(
        to_numpy(convert(single, "float32", (-9999.99,))), np.array([np.nan, -9999, 1.5], "f4")
    )
    np.testing.assert_array_equal(to_numpy(convert(single, "float64", (-9999.99,))), [np.nan, -9999, 1.5])
    kept = to_numpy(convert(pa.array([-9999.0, None]), "float32"))
    np.testing.assert_array_equal(kept, np.array([-9999, np.nan], "f4"))


@pytest.mark.parametrize(
    ("values", "dtype", "row"),
    [
        (["1", "x"], "int64", 1),
        (["1.5"], "int64", 0),
        (["99999999999999999999"], "int64", 0),
        ([1.0, 2.5], "int64", 1),
        ([2.0**60], "int64", 0),
        (np.array([1, 1017613222], "f4"), "int64", 1),
        ([float("inf")], "int64", 0),
        ([1, 40000], "int16", 1),
        (["1.0", "", "abc"], "float64", 2),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_row(values, dtype, row):
    with pytest.raises(ConversionError) as caught:
        convert(pa.array(values), dtype)
    assert caught.value.row == row
    assert str(caught.value.value) in str(caught.value)


def test_dictionaries_and_large_strings_are_plain_text():
    assert convert(pa.array(["x", "y", "x"]).dictionary_encode(), "str").to_pylist() == ["x", "y", "x"]
    assert convert(pa.array(["7"], pa.large_string()), "int32").to_pylist() == [7]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.bool_(), "int16"),
        (pa.uint16(), "int32"),
        (pa.uint32(), "int64"),
        (pa.float16(), "float32"),
        (pa.float64(), "float64"),
        (pa.large_string(), "str"),
    ],
)
def test_every_arrow_type_has_a_store_type_that_holds_it(kind, dtype):
    assert store_dtype(kind) == dtype


def test_empty_blocks_convert():
    for dtype in ("int64", "float32", "str"):
        assert len(convert(pa.array([], pa.string()), dtype)) == 0
