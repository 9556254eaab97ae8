from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from catalogue.training.dataset import split_by_star
from catalogue.training.labels import LabelError, apokasc_labels, check_labels, read_labels, write_labels
from catalogue.training.population import age_of_mass, draw_population, mass_of_age
from catalogue.training.simulate import SimulationConfiguration, repeat_visits, simulated_stars
from tests.factories.real import REAL, needs_real


@pytest.fixture
def stars():
    return draw_population(40, np.random.default_rng(0))


def test_written_labels_read_back(stars, tmp_path):
    write_labels(tmp_path / "labels.csv", stars)
    again = read_labels(tmp_path / "labels.csv")
    assert again.key.tolist() == stars.key.tolist()
    np.testing.assert_allclose(again.physical(), stars.physical())
    np.testing.assert_allclose(again.covariance(), stars.covariance())


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0])
@pytest.mark.parametrize("name", ["age", "age_error", "mass", "mass_error"])
def test_labels_that_no_loss_can_use_are_refused_with_the_key(stars, name, value):
    values = getattr(stars, name).copy()
    values[7] = value
    with pytest.raises(LabelError, match=f"{name} is .* in 1 of 40 rows, first keys P000007"):
        check_labels(replace(stars, **{name: values}))


def test_repeated_keys_are_refused(stars):
    keys = stars.key.copy()
    keys[3] = keys[2]
    with pytest.raises(LabelError, match="the key occurs earlier in 1 of 40"):
        check_labels(replace(stars, key=keys))


GOOD = "obsid,age,age_error,mass,mass_error,state\n1,2.0,0.2,1.1,0.1,RGB\n2,8.0,0.9,1.0,0.1,RC\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("age_error,", "e_Age,"), "labels.csv: no column age_error; found obsid, age, e_Age, mass"),
        (GOOD.replace("8.0", "old"), "labels.csv, row 1: age: expected a number, found 'old'"),
        (GOOD.replace("8.0", "NaN"), r"labels.csv: age is NaN or infinite in 1 of 2 rows, first keys 2 \(row 1\)"),
        (GOOD.replace("8.0,0.9", "8.0,"), "age_error is NaN or infinite"),
        (GOOD.replace("8.0,0.9", "8.0,0"), "age_error is zero or negative in 1 of 2"),
        (GOOD.replace("8.0,0.9", "8000,900"), r"age is above 100 \(expected Gyr, not Myr\) in 1 of 2"),
        (GOOD.replace("8.0,0.9", "-0.2,0.1"), "age is zero or negative"),
        (GOOD.replace("\n2,", "\n 1 ,"), r"the key occurs earlier in 1 of 2 rows, first keys 1 \(row 1\)"),
        (GOOD.replace("\n2,", "\n ,"), r"the key is empty in 1 of 2 rows, first keys  \(row 1\)"),
        (GOOD + "3,1.0\n", "labels.csv: .*Expected 6 columns, got 2"),
        (GOOD.splitlines()[0] + "\n", "labels.csv: no rows"),
        ("", "labels.csv: expected a line of column names"),
        ("PAR1 broken", "labels.csv: not readable as Parquet"),
        (None, "labels.csv: no such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_file_row_and_reason(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LabelError, match=message):
        read_labels(path)


@pytest.mark.parametrize("name", ["labels.fits", "labels.parquet", "labels.csv"])
def test_tables_of_every_format_are_read_and_blanks_do_not_count(tmp_path, name):
    table = Table(
        {
            "obsid": np.array([101, 102]) if name == "labels.fits" else [" 101", "102.0 "],
            "star": ["KIC 1 ", " KIC 2"],
            "state": ["RGB  ", " RC"],
            "age": [2.0, 8.0],
            "age_error": [0.2, 0.9],
            "mass": [1.1, 1.0],
            "mass_error": [0.1, 0.1],
            "teff": [4500.0, np.nan],
        }
    )
    if name == "labels.parquet":
        pq.write_table(
            pa.table({column: pa.array(table[column].tolist()) for column in table.colnames}), tmp_path / name
        )
    else:
        table.write(tmp_path / name, format="fits" if name.endswith("fits") else "ascii.csv")
    labels = read_labels(tmp_path / name)
    assert labels.key.tolist() == ["101", "102"]
    assert labels.star.tolist() == ["KIC 1", "KIC 2"]
    assert labels.state.tolist() == ["RGB", "RC"]
    np.testing.assert_allclose(labels.age, [2.0, 8.0])
    np.testing.assert_array_equal(labels.teff, [4500.0, np.nan])


def test_stars_to_be_simulated_need_what_makes_a_spectrum(tmp_path):
    (tmp_path / "labels.csv").write_text(GOOD)
    configuration = SimulationConfiguration(labels=tmp_path / "labels.csv")
    with pytest.raises(
        LabelError, match=r"teff is needed for a spectrum and unknown in 2 of 2 rows, first key 1 \(row 0"
    ):
        simulated_stars(configuration, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("second", "third", "message"),
    [
        ("KIC|LogAge\n1|3.8\n", "KIC\n1\n", r"apokasc2.tsv: no column s_M\(cor\); found KIC, LogAge"),
        ("KIC|LogAge|s_M(cor)\n1|3.8|0.1\n", "KIC,Mass\n1,1.0\n", "apokasc3_gold_apoor.csv: no column S_Mass"),
    ],
)
def test_apokasc_tables_of_another_form_are_refused(tmp_path, second, third, message):
    (tmp_path / "apokasc2.tsv").write_text(second)
    (tmp_path / "apokasc3_gold_apoor.csv").write_text(third)
    with pytest.raises(LabelError, match=message):
        apokasc_labels(tmp_path)


def test_a_star_is_never_on_both_sides_of_a_split(stars):
    visits = repeat_visits(stars, 3)
    folds = split_by_star(visits, 5, seed=1)
    assert set(folds.tolist()) == {0, 1, 2, 3, 4}
    for star in np.unique(visits.star):
        assert len(set(folds[visits.star == star].tolist())) == 1


def test_fewer_stars_than_folds_are_refused(stars):
    with pytest.raises(LabelError, match="found 3"):
        split_by_star(stars.take(np.arange(3)), 5, seed=0)


def test_population_masses_and_ages_agree_and_fall(stars):
    clump = stars.state == "RC"
    np.testing.assert_allclose(age_of_mass(stars.mass, stars.feh, clump), stars.age)
    mass = mass_of_age(np.array([2.0, 9.0]), np.zeros(2), np.zeros(2, bool))
    assert mass[0] > mass[1]


@needs_real
def test_apokasc_join_has_the_expected_stars():
    labels = apokasc_labels(REAL / "labels")
    check_labels(labels)
    assert len(labels) > 3500
    assert np.corrcoef(np.log(labels.age), np.log(labels.mass))[0, 1] < -0.8
    # KIC 1027337: LogAge 3.798 (log10 Myr), mass 1.227 and its relative error 0.038 in APOKASC-2, 1.2676 in APOKASC-3
    row = labels.key.tolist().index("1027337")
    assert labels.age[row] == pytest.approx(10**0.798)
    assert labels.age_error[row] == pytest.approx(3.2 * 0.038 * 10**0.798)
    assert (labels.mass[row], labels.mass_error[row]) == (1.2676, 0.0489)
    assert (labels.teff[row], labels.logg[row], labels.feh[row]) == (4621.996, 2.7732, 0.2081)
