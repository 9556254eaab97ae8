from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import ndtr
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


def _bisected(mean: np.ndarray, std: np.ndarray, levels: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles (levels, rows) from the mean on; and the spread."""
    centre = mean.mean(axis=0)
    width = np.sqrt((std**2 + (mean - centre) ** 2).mean(axis=0))
    unit = np.where(width > 0, width, 1.0)
    mean, std = (mean - centre) / unit, np.maximum(std / unit, 0.1)
    found = []
    for level in levels:
        low, high = np.full(len(width), -9.0), np.full(len(width), 9.0)
        for _ in range(60):
            z = (0.5 * (low + high) - mean) / std
            # counted apart from the tails: between groups of passes only these tell where the level lies
            excess = (z >= 0).sum(axis=0) - level * len(mean) + np.where(z < 0, ndtr(z), -ndtr(-z)).sum(axis=0)
            low, high = np.where(excess < 0, 0.5 * (low + high), low), np.where(excess < 0, high, 0.5 * (low + high))
        found.append(0.5 * (low + high))
    return np.array(found) * width, width


def _two_groups(rng, passes, rows, lower):
    mean = rng.normal(0, 1e-5, (passes, rows)) * 10.0 ** rng.uniform(0, 4, rows)
    mean[: round(lower * passes)] -= 1
    return mean, np.full((passes, rows), 1e-6)


def _heavy_tails(rng, passes, rows):
    return rng.standard_cauchy((passes, rows)), 10.0 ** rng.uniform(-3, 2, (passes, rows))


def _outlier(rng, passes, rows):
    mean = rng.normal(size=(passes, rows))
    mean[0] = 10.0 ** rng.uniform(1, 8, rows)
    return mean, rng.uniform(0, 0.3, (passes, rows))


MIXTURES = {
    "one group": lambda rng, t, n: (rng.normal(0.7, 0.3, (t, n)), rng.uniform(0.1, 0.3, (t, n))),
    "far from zero": lambda rng, t, n: (rng.normal(1e3, 0.3, (t, n)), rng.uniform(0.1, 0.3, (t, n))),
    "no errors": lambda rng, t, n: (rng.normal(0.7, 0.3, (t, n)), np.zeros((t, n))),
    "one value": lambda rng, t, n: (np.full((t, n), 0.4), np.zeros((t, n))),
    "one mean": lambda rng, t, n: (np.full((t, n), 0.4), 10.0 ** rng.uniform(-3, 1, (t, n))),
    **{f"{s:.0%} apart": partial(_two_groups, lower=s) for s in (0.02, 0.16, 0.17, 0.3, 0.5, 0.84, 0.98)},
    "three groups": lambda rng, t, n: (rng.choice([-1.0, 0.0, 1.3], (t, n)), np.full((t, n), 1e-6)),
    "an outlier": _outlier,
    "heavy tails": _heavy_tails,
}


@pytest.mark.parametrize("passes", [1, 2, 5, 100, 101])
@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_percentiles_are_those_of_a_bisection(name, passes):
    mean, std = MIXTURES[name](np.random.default_rng(passes), passes, 64)
    levels = (0.02, 0.16, 0.5, 0.84, 0.98)
    expected, width = _bisected(mean, std, levels)
    found = mixture_percentiles(torch.from_numpy(mean), torch.from_numpy(std), levels).numpy()
    assert (np.abs(found - mean.mean(axis=0) - expected) <= 1e-6 * width + 8 * np.spacing(np.abs(mean).max())).all()


def test_a_rows_percentiles_depend_on_no_other_row():
    rng = np.random.default_rng(0)
    parts = [make(rng, 100, 64) for make in MIXTURES.values()]
    mean, std = (torch.from_numpy(np.concatenate(arrays, axis=1)) for arrays in zip(*parts, strict=True))
    mean[3, 70] = torch.nan
    together = mixture_percentiles(mean, std, (0.16, 0.5))
    assert torch.isnan(together[:, 70]).all()
    assert torch.isfinite(together).sum() == together.numel() - 2
    order = torch.from_numpy(rng.permutation(mean.shape[1]))
    shuffled = mixture_percentiles(mean[:, order], std[:, order], (0.16, 0.5))
    assert torch.equal(shuffled.nan_to_num(), together[:, order].nan_to_num())
    for first in range(0, mean.shape[1], 64):
        rows = slice(first, first + 64)
        alone = mixture_percentiles(mean[:, rows].contiguous(), std[:, rows].contiguous(), (0.16, 0.5))
        assert torch.equal(alone.nan_to_num(), together[:, rows].nan_to_num())


def test_percentiles_of_one_gaussian_are_exact():
    found = mixture_percentiles(torch.zeros(50, 1).double(), torch.ones(50, 1).double(), (0.16, 0.5, 0.84))
    np.testing.assert_allclose(found[:, 0], norm.ppf([0.16, 0.5, 0.84]), atol=1e-6)


def test_percentiles_without_any_spread_are_the_value():
    found = mixture_percentiles(torch.full((5, 2), 3.0).double(), torch.zeros(5, 2).double(), (0.16, 0.84))
    assert (found == 3.0).all()
