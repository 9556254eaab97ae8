"""One test per rule of the product."""

from __future__ import annotations

import numpy as np
import pytest

from catalogue.datamodels import load_data_model
from catalogue.spectra.primitives import RowStatus
from tests.factories.rows import good_rows, raised

MODEL = load_data_model("lamost_age_mass")
PREDICTED = [column.name for column in MODEL.columns if column.value.startswith("prediction.")]
BLANKED = [name for name in PREDICTED if name not in ("Novelty", "Bad_Fraction")]


def one_row(options=None, **changes):
    columns = MODEL.evaluate(good_rows(MODEL, **changes), options)
    return columns, raised(MODEL, columns)


def test_a_good_star_has_everything_and_no_flag():
    columns, flags = one_row()
    assert flags == set()
    assert not columns["FLAG_WARN"][0]
    assert not columns["FLAG_BAD"][0]
    assert all(np.isfinite(columns[name][0]) for name in PREDICTED)


def test_inherited_columns_are_unmodified():
    changes = {"snrg": 12.345678901234, "teff": np.nan, "logg": 2.123456789012345, "feh": -0.1, "subclass": "K 5"}
    namespace = good_rows(MODEL, **changes)
    columns = MODEL.evaluate(namespace)
    for name in ("obsid", "ra", "dec", "class", "subclass", "snrg", "teff", "logg", "feh", "z"):
        assert columns[name].dtype == namespace[name].dtype
        assert np.array_equal(columns[name], namespace[name], equal_nan=namespace[name].dtype.kind == "f")


@pytest.mark.parametrize(
    ("status", "flag"),
    [
        (RowStatus.NO_SPECTRUM, "NO_SPECTRUM"),
        (RowStatus.UNREADABLE, "UNREADABLE"),
        (RowStatus.TRUNCATED, "UNREADABLE"),
        (RowStatus.EMPTY_FILE, "UNREADABLE"),
        (RowStatus.WRONG_SHAPE, "UNREADABLE"),
        (RowStatus.ALL_NAN, "UNREADABLE"),
        (RowStatus.ZERO_IVAR, "UNREADABLE"),
        (RowStatus.MISSING_CARD, "UNREADABLE"),
        (RowStatus.OUTSIDE_ROOT, "UNREADABLE"),
        (RowStatus.KEY_MISMATCH, "KEY_MISMATCH"),
        (RowStatus.NOT_SELECTED, "NOT_SELECTED"),
        (RowStatus.NOT_PROCESSED, "NOT_PROCESSED"),
        (RowStatus.SET_ASIDE, "NOT_PROCESSED"),
    ],
)
def test_every_status_without_a_usable_spectrum_has_its_flag_and_is_bad(status, flag):
    outputs = {column.value.removeprefix("prediction.") for column in MODEL.columns if column.name in PREDICTED}
    nothing = {f"prediction__{output}": np.nan for output in outputs}
    columns, flags = one_row(status=status, **nothing)
    assert flags == {flag}
    assert columns["FLAG_BAD"][0]
    assert columns["STATUS"][0] == status
    assert all(np.isnan(columns[name][0]) for name in PREDICTED)


def test_every_status_but_ok_has_a_flag():
    columns = MODEL.evaluate(good_rows(MODEL, len(RowStatus), status=[int(status) for status in RowStatus]))
    assert ((columns["FLAG"] != 0) == (columns["STATUS"] != RowStatus.OK)).all()


def test_duplicates_have_values_and_a_warning():
    columns, flags = one_row(status=RowStatus.DUPLICATE)
    assert flags == {"DUPLICATE"}
    assert np.isfinite(columns["Age"][0])
    assert not columns["FLAG_BAD"][0]
    assert columns["FLAG_WARN"][0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prediction__bad_fraction": 0.21}, {"MANY_BAD_PIXELS"}),
        ({"prediction__bad_fraction": 0.2}, set()),
        ({"snrg": 19.9}, {"LOW_SNR"}),
        ({"snrg": 20.0}, set()),
        ({"snrg": 9.9}, {"LOW_SNR", "OUTSIDE_SNR"}),
        ({"snrg": np.nan, "file_snrg": 15.0}, {"LOW_SNR"}),
        ({"snrg": -9999.0, "file_snrg": 30.0}, set()),
        ({"snrg": np.nan, "file_snrg": np.nan}, {"LOW_SNR", "OUTSIDE_SNR"}),
        ({"z": np.nan}, set()),
        ({"z": np.nan, "file_z": np.nan}, {"NO_REDSHIFT"}),
        ({"z": -999.0}, set()),
        ({"z": -999.0, "file_z": np.inf}, {"NO_REDSHIFT"}),
        ({"teff": 5501}, {"OUTSIDE_TEFF"}),
        ({"teff": 5500}, set()),
        ({"teff": np.nan}, {"OUTSIDE_TEFF"}),
        ({"logg": 0.9}, {"OUTSIDE_LOGG"}),
        ({"feh": 0.6}, {"OUTSIDE_FEH"}),
        ({"prediction__domain__teff": None, "teff": 9000}, set()),
        ({"prediction__novelty": 1.1}, {"UNLIKE_TRAINING"}),
        ({"prediction__novelty": 1.0}, set()),
        ({"prediction__novelty": 99, "prediction__novelty_limit": None}, set()),
        ({"prediction__age_error": 2.1}, {"AGE_ERROR_LARGE"}),
        ({"prediction__age_error": 1.9}, set()),
        ({"prediction__mass_error": 0.25}, {"MASS_ERROR_LARGE"}),
        ({"prediction__mass_error": 0.23}, set()),
        ({"prediction__age": 14.0}, {"OLDER_THAN_UNIVERSE"}),
        ({"prediction__age": 13.8}, set()),
        ({"prediction__age": np.nan}, {"NOT_FINITE"}),
        ({"prediction__mass": np.inf}, {"NOT_FINITE"}),
        ({"prediction__age_error": np.inf}, {"NOT_FINITE", "AGE_ERROR_LARGE"}),
        ({"prediction__mass_error": np.nan}, {"NOT_FINITE"}),
    ],
)
def test_flags_of_a_usable_row(changes, expected):
    assert one_row(**changes)[1] == expected


@pytest.mark.parametrize("changes", [{"teff": 6000}, {"logg": np.nan}, {"feh": -3}, {"snrg": 5.0}])
def test_stars_outside_the_domain_have_no_values_unless_they_are_kept(changes):
    columns, flags = one_row(**changes)
    assert columns["FLAG_BAD"][0]
    assert all(np.isnan(columns[name][0]) for name in BLANKED)
    assert np.isfinite(columns["Novelty"][0])
    kept, flags_kept = one_row({"outside_domain": "keep"}, **changes)
    assert flags_kept == flags
    assert all(np.isfinite(kept[name][0]) for name in BLANKED)


@pytest.mark.parametrize(
    ("option", "value", "changes", "flag"),
    [
        ("low_snr", 100.0, {}, "LOW_SNR"),
        ("least_snr", 100.0, {}, "OUTSIDE_SNR"),
        ("bad_pixels", 0.001, {}, "MANY_BAD_PIXELS"),
        ("age_of_universe", 4.9, {}, "OLDER_THAN_UNIVERSE"),
    ],
)
def test_limits_are_options(option, value, changes, flag):
    assert one_row({option: value}, **changes)[1] == {flag}


def test_the_columns_that_the_product_promises_are_there():
    names = {column.name for column in MODEL.columns}
    assert {"obsid", "ra", "dec", "class", "subclass", "snrg", "teff", "logg", "feh", "Age", "Age_Error", "LogAge",
            "LogAge_Error", "Mass", "Mass_Error", "Age_P16", "Age_P50", "Age_P84", "Mass_P16", "Mass_P50", "Mass_P84",
            "Age_Mass_Corr", "FLAG", "FLAG_WARN", "FLAG_BAD", "STATUS"} <= names  # fmt: skip
