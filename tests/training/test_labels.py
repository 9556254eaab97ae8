from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catalogue.training.dataset import split_by_star
from catalogue.training.labels import LabelError, apokasc_labels, check_labels, read_labels, write_labels
from catalogue.training.population import age_of_mass, draw_population, mass_of_age
from catalogue.training.simulate import repeat_visits
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


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("obsid,age,mass\n1,2.0,1.1\n")
    with pytest.raises(LabelError, match="age_error"):
        read_labels(tmp_path / "labels.csv")


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
