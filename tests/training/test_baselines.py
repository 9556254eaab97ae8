from __future__ import annotations

import numpy as np
import pytest

from catalogue.training.baselines import BASELINES, predict_baseline


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_something(name):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(240, 4)).astype(np.float32)
    truth = np.stack([5.0 * 10 ** (0.2 * features[:, 0]), 1.2 * 10 ** (-0.05 * features[:, 0])], axis=1)
    found = predict_baseline(name, features[:200], truth[:200], features[200:])
    assert found.shape == (40, 2)
    assert np.corrcoef(np.log(found[:, 0]), np.log(truth[200:, 0]))[0, 1] > 0.5


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="found 'oracle'"):
        predict_baseline("oracle", np.zeros((3, 1), np.float32), np.ones((3, 2)), np.zeros((1, 1), np.float32))
