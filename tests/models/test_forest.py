"""The forest as arrays against scikit-learn, and the ages that come of it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from catalogue.models.forest import Forest
from catalogue.models.latent_forest import MAD_TO_SIGMA, AgeForest, ForestSettings, _residual_model
from tests.factories.apogee import age_training_set, tiny_age_forest


@pytest.fixture(scope="module")
def trained():
    features, _, log_age, _ = age_training_set(1, 300)
    return RandomForestRegressor(12, random_state=0).fit(features, log_age)


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(5)
    rows = random.standard_normal((9000, 7))
    rows[:, 5] = 4700 + 300 * rows[:, 5]
    return rows


def test_every_tree_equals_sklearn(trained, rows):
    expected = np.stack([tree.predict(rows) for tree in trained.estimators_])
    found = Forest.from_sklearn(trained).predict_trees(rows)
    np.testing.assert_array_equal(found, expected)


def test_values_on_a_threshold_go_left_as_in_sklearn(trained):
    """Features are compared in float32 with float64 thresholds: the rounding of thresholds must not matter."""
    forest = Forest.from_sklearn(trained)
    tree = trained.estimators_[0].tree_
    inner = np.flatnonzero(tree.children_left >= 0)[:200]
    rows = np.zeros((len(inner) * 3, 7), np.float32)
    for k, node in enumerate(inner):
        middle = np.float32(tree.threshold[node])
        for j, value in enumerate(
            (np.nextafter(middle, np.float32(-9e9)), middle, np.nextafter(middle, np.float32(9e9)))
        ):
            rows[3 * k + j, tree.feature[node]] = value
    expected = np.stack([one.predict(rows) for one in trained.estimators_])
    np.testing.assert_array_equal(forest.predict_trees(rows), expected)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_rows(trained, rows, n):
    found = Forest.from_sklearn(trained).predict_trees(rows[:n])
    assert found.shape == (12, n)
    if n:
        np.testing.assert_array_equal(found, [tree.predict(rows[:n]) for tree in trained.estimators_])


def test_tree_without_a_split():
    stump = RandomForestRegressor(3, random_state=0).fit(np.zeros((4, 2)), np.full(4, 7.0))
    np.testing.assert_array_equal(Forest.from_sklearn(stump).predict_trees(np.ones((2, 2))), np.full((3, 2), 7.0))


def test_arrays_round_trip_and_damage_is_found(trained, rows):
    forest = Forest.from_sklearn(trained)
    arrays = forest.arrays()
    again = Forest.from_arrays(arrays, 7)
    np.testing.assert_array_equal(again.predict_trees(rows[:9]), forest.predict_trees(rows[:9]))
    inner = int(np.flatnonzero(np.isfinite(forest.threshold))[0])
    for name, value in (("left", 10**6), ("left", inner), ("feature", 7), ("feature", -1)):
        broken = {key: np.array(values) for key, values in arrays.items()}
        broken[f"forest.{name}"][inner] = value
        with pytest.raises(ValueError, match="damaged"):
            Forest.from_arrays(broken, 7)
    with pytest.raises(ValueError, match="one per node"):
        Forest.from_arrays({**arrays, "forest.value": forest.value[:-1]}, 7)


def test_wrong_features_are_refused(trained, rows):
    forest = Forest.from_sklearn(trained)
    with pytest.raises(ValueError, match="7 features"):
        forest.predict_trees(rows[:, :6])
    with pytest.raises(ValueError, match="finite"):
        forest.predict_trees(np.full((1, 7), np.nan))


def test_age_statistics_are_those_of_the_published_catalogue():
    forest = tiny_age_forest()
    features = age_training_set(7, 20)[0]
    found = forest.predict(features)
    bias = features @ forest.bias_slope + forest.bias_intercept
    log_age = (forest.forest.predict_trees(features) + bias) * forest.label_std + forest.label_mean
    age = 10**log_age
    mad = MAD_TO_SIGMA * np.median(np.abs(age - np.median(age, axis=0)), axis=0)
    np.testing.assert_allclose(found["log_age"], log_age.mean(axis=0))
    np.testing.assert_allclose(found["age"], age.mean(axis=0))
    np.testing.assert_allclose(found["age_error"], mad)
    assert (found["age"] > 10 ** found["log_age"]).all()


def test_mad_std_is_astropys():
    from astropy.stats import mad_std

    forest = tiny_age_forest()
    values = np.random.default_rng(0).standard_normal((50, 3))
    np.testing.assert_allclose(forest._spread(values), mad_std(values, axis=0), rtol=1e-12)


def test_paper_options_change_what_they_say():
    features = age_training_set(7, 50)[0]
    default = tiny_age_forest()
    spread = tiny_age_forest(spread="std")
    np.testing.assert_array_equal(default.predict(features)["age"], spread.predict(features)["age"])
    assert (default.predict(features)["age_error"] != spread.predict(features)["age_error"]).all()
    plain = tiny_age_forest(bias_model=False)
    assert plain.bias_intercept == 0
    assert not plain.bias_slope.any()
    np.testing.assert_array_equal(plain.forest.value, default.forest.value)
    for option in ({"sample_labels": True}, {"sample_inputs": False}):
        other = tiny_age_forest(**option)
        assert not np.array_equal(other.predict(features)["age"], default.predict(features)["age"])
    # equal errors: weights are constant, whatever their power
    inverse = tiny_age_forest(weight="inverse_error")
    np.testing.assert_array_equal(inverse.forest.threshold, default.forest.threshold)


def test_weights_follow_the_errors():
    """Where one half of the sample has large errors, the forest follows the other half."""
    features, error, _, _ = age_training_set(2, 200)
    log_age = np.where(np.arange(200) % 2, 1.0, 0.0)
    sigma = np.where(np.arange(200) % 2, 0.5, 0.05)
    settings = [
        ForestSettings(trees=5, weight=name, bias_model=False) for name in ("inverse_variance", "inverse_error")
    ]
    square, single = (AgeForest.train(features, error, log_age, sigma, s, 0).forest.value for s in settings)
    roots = tiny_age_forest().forest.roots[:1]
    assert square[roots[0]] < single[roots[0]]


def test_the_bias_model_adds_what_the_trees_lack():
    """Residuals are label minus prediction; stars with large errors or spread weigh little."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2))
    trees = np.tile(rng.normal(size=200), (10, 1))
    label = trees[0] + 0.5 + features @ [2.0, -1.0]
    intercept, slope = _residual_model(features, label, np.full(200, 0.1), trees)
    assert intercept == pytest.approx(0.5)
    assert slope == pytest.approx([2.0, -1.0])
    label[:100] += 7.0
    error = np.where(np.arange(200) < 100, 1e3, 0.1)
    assert _residual_model(features, label, error, trees)[0] == pytest.approx(0.5, abs=1e-3)
    trees[:, :100] += np.where(np.arange(10) % 2, 1e3, -1e3)[:, None]
    assert _residual_model(features, label, np.full(200, 0.1), trees)[0] == pytest.approx(0.5, abs=1e-2)


def test_the_seed_decides_the_forest():
    assert np.array_equal(tiny_age_forest(3).forest.value, tiny_age_forest(3).forest.value)


def test_prediction_finds_the_age():
    features, _, log_age, _ = age_training_set(9, 200)
    found = tiny_age_forest(0, trees=30).predict(features)["log_age"]
    assert np.std(found - log_age) < 0.5 * np.std(log_age)


@pytest.mark.parametrize("broken", ["features", "log_age", "error"])
def test_training_refuses_what_is_not_finite(broken):
    features, error, log_age, sigma = (np.array(values) for values in age_training_set())
    {"features": features, "log_age": log_age, "error": sigma}[broken][0] = np.nan
    with pytest.raises(ValueError, match="expected"):
        AgeForest.train(features, error, log_age, sigma, ForestSettings(trees=2), 0)
