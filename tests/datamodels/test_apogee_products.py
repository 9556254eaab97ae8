"""One test per rule of the published APOGEE products."""

from __future__ import annotations

import numpy as np
import pytest

from catalogue.datamodels import load_data_model
from catalogue.spectra.primitives import RowStatus
from tests.factories.rows import good_rows, raised

LATENT = load_data_model("apogee_latent_age")
PLUS = load_data_model("apogee_latent_age_plus")
AGE_MASS = load_data_model("apogee_age_mass")

Z = ["z0", "z1", "z2", "z3", "z4"]
AGES = ["LogAge", "LogAge_Error", "Age", "Age_Error"]


def present(model, names, options=None, **changes):
    columns = model.evaluate(good_rows(model, **changes), options)
    found = {bool(np.isfinite(columns[name][0])) for name in names}
    assert len(found) == 1, "the columns are missing together or not at all"
    return found.pop()


def test_latent_ages_have_exactly_the_columns_of_the_published_table():
    assert [column.name for column in LATENT.columns] == [
        "apogee_id", "telescope", "field", "STARFLAG", "ASPCAPFLAG", "z0", "z1", "z2", "z3", "z4",
        "LogAge", "LogAge_Error", "Age", "Age_Error",
    ]  # fmt: skip
    units = {column.name: column.unit for column in LATENT.columns if column.unit}
    assert units == {"Age": "Gyr", "Age_Error": "Gyr"}
    assert LATENT.file_names["csv"] == "nn_latent_age_dr17.csv.gz"


def test_the_plus_product_holds_the_published_columns_under_the_same_rules():
    rules = {column.name: (column.value, column.blank_when, column.dtype) for column in PLUS.columns}
    for column in LATENT.columns:
        assert rules[column.name] == (column.value, column.blank_when, column.dtype)


@pytest.mark.parametrize("model", [LATENT, PLUS])
@pytest.mark.parametrize(
    ("changes", "latent", "age"),
    [
        ({}, True, True),
        ({"logg": 1.5}, False, False),
        ({"logg": 1.51}, True, False),
        ({"logg": 2.49}, True, False),
        ({"logg": 2.5}, True, True),
        ({"logg": 3.59}, True, True),
        ({"logg": 3.6}, False, False),
        ({"logg": np.nan}, False, False),
        ({"snrev": 30.0}, False, False),
        ({"snrev": 30.1}, True, True),
        ({"snrev": np.nan}, False, False),
        ({"teff": np.nan}, True, False),
        ({"fe_h": np.nan}, True, False),
        ({"alpha_m": np.nan}, True, False),
    ],
)
def test_latent_variables_and_ages_are_given_by_the_published_selection(model, changes, latent, age):
    assert present(model, Z, **changes) == latent
    assert present(model, AGES, **changes) == age


@pytest.mark.parametrize("model", [LATENT, PLUS])
def test_whether_alpha_m_is_needed_is_an_option(model):
    assert present(model, AGES, {"alpha_m": "ignored"}, alpha_m=np.nan)
    assert not present(model, AGES, {"alpha_m": "ignored"}, alpha_m=np.nan, teff=np.nan)


def test_flags_of_the_survey_do_not_remove_published_values():
    assert present(LATENT, AGES, starflag=(1 << 0) | (1 << 4), aspcapflag=1 << 23)


def test_survey_flags_are_copied_unmodified():
    columns = LATENT.evaluate(good_rows(LATENT, starflag=1 << 25, aspcapflag=1 << 41))
    assert columns["STARFLAG"][0] == 1 << 25
    assert columns["ASPCAPFLAG"][0] == 1 << 41


@pytest.mark.parametrize(
    ("changes", "recommended"),
    [
        ({}, True),
        ({"starflag": 512}, False),
        ({"aspcapflag": 1}, False),
        ({"latent__age_error": 1.99}, True),
        ({"latent__age_error": 2.0}, False),
        ({"logg": 2.4}, False),
        ({"latent__age": np.nan}, False),
        ({"starflag": -9999}, False),
    ],
)
def test_recommended_use(changes, recommended):
    assert PLUS.evaluate(good_rows(PLUS, **changes))["Recommended"][0] == recommended


@pytest.mark.parametrize(
    ("changes", "applicable"),
    [
        ({}, True),
        ({"starflag": 512}, True),
        ({"teff": 5600}, False),
        ({"fe_h": -2.5}, False),
        ({"logg": 2.4}, False),
        ({"latent__age": np.nan}, False),
    ],
)
def test_applicability(changes, applicable):
    assert PLUS.evaluate(good_rows(PLUS, **changes))["Applicable"][0] == applicable


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"extratarg": 1 << 4}, {"DUPLICATE"}),
        ({"extratarg": -9999}, set()),
        ({"status": RowStatus.DUPLICATE}, {"DUPLICATE"}),
        ({"starflag": 1 << 9}, {"STARFLAG_SET"}),
        ({"starflag": 1 << 4}, {"STARFLAG_SET", "STARFLAG_REJECTED"}),
        ({"aspcapflag": 1 << 40}, {"ASPCAPFLAG_SET"}),
        ({"aspcapflag": -(1 << 31)}, {"ASPCAPFLAG_SET"}),  # NO_ASPCAP_RESULT in the 32 bits of DR16
        ({"aspcapflag": -9999}, set()),
        ({"logg": 2.52}, {"NEAR_EDGE"}),
        ({"logg": 2.2}, {"NO_AGE"}),
        ({"logg": 1.2}, {"NO_AGE", "NO_LATENT"}),
        ({"latent__age_error": 2.0}, {"AGE_ERROR_LARGE"}),
        ({"network__mass_total_error": 0.5}, {"MASS_ERROR_LARGE"}),
        ({"network__mass_total_error": np.inf}, {"MASS_ERROR_LARGE", "MASS_REJECTED"}),
        ({"network__mass": 21.0}, {"MASS_REJECTED"}),
        ({"latent__age": 14.0}, {"OLDER_THAN_UNIVERSE"}),
        ({"fe_h": 0.7}, {"OUTSIDE_DOMAIN"}),
        ({"status": RowStatus.OUTSIDE_ROOT}, {"UNREADABLE"}),
        (
            {"status": RowStatus.NO_SPECTRUM, "latent__z0": np.nan, "latent__age": np.nan},
            {"NO_SPECTRUM", "NO_LATENT", "NO_AGE"},
        ),
    ],
)
def test_flags_of_the_plus_product(changes, expected):
    assert raised(PLUS, PLUS.evaluate(good_rows(PLUS, **changes))) == expected


# -- age and mass of the astroNN value-added catalogue -----------------------------------------------

AGE = ["age", "age_linear_correct", "age_lowess_correct", "age_total_error", "age_model_error"]
MASS = ["mass", "mass_total_error", "mass_model_error"]


def test_age_mass_has_the_columns_of_the_catalogue():
    names = [column.name for column in AGE_MASS.columns]
    assert [name for name in names if name in AGE + MASS] == AGE + MASS


@pytest.mark.parametrize(
    ("changes", "age", "mass", "flags"),
    [
        ({}, True, True, set()),
        ({"starflag": 1 << 0}, False, False, {"STARFLAG_REJECTED"}),
        ({"starflag": 1 << 3}, False, False, {"STARFLAG_REJECTED"}),
        ({"starflag": 1 << 4}, False, False, {"STARFLAG_REJECTED"}),
        ({"starflag": (1 << 1) | (1 << 2) | (1 << 5) | (1 << 22)}, True, True, set()),
        ({"starflag": -9999}, True, True, set()),
        ({"network__age_total_error": np.inf}, False, True, {"AGE_INFINITE_ERROR", "AGE_ERROR_LARGE"}),
        ({"network__mass_total_error": np.inf}, True, False, {"MASS_INFINITE_ERROR", "MASS_ERROR_LARGE"}),
        ({"network__age": 0.09}, False, True, {"AGE_OUT_OF_RANGE", "AGE_ERROR_LARGE"}),
        ({"network__age": 0.1, "network__age_total_error": 0.01}, True, True, set()),
        ({"network__age": 20.0}, True, True, {"OLDER_THAN_UNIVERSE"}),
        ({"network__age": 20.1}, False, True, {"AGE_OUT_OF_RANGE", "OLDER_THAN_UNIVERSE"}),
        ({"network__mass": 0.09}, True, False, {"MASS_OUT_OF_RANGE", "MASS_ERROR_LARGE"}),
        ({"network__mass": 20.1}, True, False, {"MASS_OUT_OF_RANGE"}),
        ({"aspcapflag": 1 << 41}, True, True, {"ASPCAPFLAG_SET"}),
        ({"aspcapflag": -(1 << 31)}, True, True, {"ASPCAPFLAG_SET"}),
        ({"aspcapflag": -9999}, True, True, set()),
        ({"network__bad_fraction": 0.5}, True, True, {"MANY_BAD_PIXELS"}),
        ({"logg": 4.5}, True, True, {"OUTSIDE_DOMAIN"}),
    ],
)
def test_rejection_rules_of_the_catalogue_are_flags_and_missing_values(changes, age, mass, flags):
    columns = AGE_MASS.evaluate(good_rows(AGE_MASS, **changes))
    assert raised(AGE_MASS, columns) == flags
    assert present(AGE_MASS, AGE, **changes) == age
    assert present(AGE_MASS, MASS, **changes) == mass


@pytest.mark.parametrize("changes", [{"network__age": 21.0}, {"network__mass_total_error": np.inf}])
def test_rejection_can_take_the_whole_row(changes):
    assert not present(AGE_MASS, AGE + MASS, {"rejection": "row"}, **changes)


@pytest.mark.parametrize("model", [PLUS, AGE_MASS])
def test_every_status_but_ok_has_a_flag(model):
    columns = model.evaluate(good_rows(model, len(RowStatus), status=[int(status) for status in RowStatus]))
    assert ((columns["FLAG"] != 0) == (columns["STATUS"] != RowStatus.OK)).all()


@pytest.mark.parametrize("model", [LATENT, PLUS, AGE_MASS])
def test_models_need_only_what_the_survey_and_its_models_offer(model):
    from catalogue.surveys.apogee import Apogee

    carried = {column.name for column in Apogee.columns} | {"status"}
    assert {name for name in model.required_names if "." not in name} <= carried
