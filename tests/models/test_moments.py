from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from catalogue.models.moments import correlation, mixture_percentiles, reduce


@pytest.fixture
def samples() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(5, 2, (100, 7, 2))).float()


def test_moments_are_numpys(samples):
    found, values = reduce(samples), samples.double().numpy()
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.percentiles, np.percentile(values, [16, 50, 84], axis=0), rtol=1e-12)
    expected = [np.corrcoef(values[:, i].T)[0, 1] for i in range(7)]
    np.testing.assert_allclose(found.correlation, expected, rtol=1e-10)


def test_small_spreads_around_large_values_survive():
    values = 1e4 + 1e-2 * torch.arange(10.0, dtype=torch.float64)[:, None, None]
    assert float(reduce(values).std) == pytest.approx(1e-2 * np.arange(10).std(), rel=1e-9)


def test_correlation_without_spread_or_partner_is_missing(samples):
    assert torch.isnan(reduce(samples[:, :, :1]).correlation).all()
    assert torch.isnan(reduce(torch.ones(5, 3, 2)).correlation).all()
    assert correlation(torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])).tolist() == [1.0]


def test_one_pass_has_no_spread(samples):
    found = reduce(samples[:1])
    assert not found.std.any()
    np.testing.assert_allclose(found.percentiles[0], samples[0].double())


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.01, 0.3, 5.0])
def test_mixture_percentiles_solve_the_mixtures_cumulative_distribution(spread):
    rng = np.random.default_rng(1)
    mean = rng.normal(0.7, 0.3, (100, 9))
    # a row with two clusters, one without any dropout spread, one far from zero
    mean[:40, 0] -= 2
    mean[:, 1] = 0.4
    mean[:, 2] += 1000
    std = spread * rng.uniform(0.5, 2, (100, 9))
    levels = (0.16, 0.5, 0.84)
    found = mixture_percentiles(torch.from_numpy(mean), torch.from_numpy(std), levels).numpy()
    width = np.sqrt((std**2).mean(axis=0) + mean.var(axis=0))
    for i, level in enumerate(levels):
        for j in range(9):
            smooth = np.maximum(std[:, j], 0.1 * width[j] + 1e-12)
            centre = mean[:, j].mean()
            bounds = centre - 9 * width[j] - 1e-9, centre + 9 * width[j] + 1e-9
            expected = brentq(_excess, *bounds, args=(mean[:, j], smooth, level))
            assert abs(found[i, j] - expected) <= 1e-3 * width[j] + 1e-9


def _excess(x, mean, std, level):
    return norm.cdf((x - mean) / std).mean() - level


def test_percentiles_of_one_gaussian_are_exact():
    found = mixture_percentiles(torch.zeros(50, 1).double(), torch.ones(50, 1).double(), (0.16, 0.5, 0.84))
    np.testing.assert_allclose(found[:, 0], norm.ppf([0.16, 0.5, 0.84]), atol=1e-6)


def test_percentiles_without_any_spread_are_the_value():
    found = mixture_percentiles(torch.full((5, 2), 3.0).double(), torch.zeros(5, 2).double(), (0.16, 0.84))
    assert (found == 3.0).all()
