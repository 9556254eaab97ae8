from __future__ import annotations

import numpy as np
import pytest

from catalogue.report.histograms import expected_counts, two_piece_normal


def test_expected_counts_agree_with_draws():
    random = np.random.default_rng(0)
    values, errors, edges = random.uniform(0, 10, 300), random.uniform(0.1, 3, 300), np.linspace(0, 10, 11)
    draws = [np.histogram(random.normal(values, errors), edges)[0] for _ in range(3000)]
    assert np.allclose(expected_counts(values, errors, edges), np.mean(draws, axis=0), atol=0.5)


def test_rows_without_an_error_fall_into_their_bin():
    values, errors = np.array([0.5, 1.5, 1.5, np.nan]), np.array([np.nan, 0.0, -1.0, 1.0])
    counts = expected_counts(values, errors, np.array([0.0, 1.0, 2.0]))
    assert counts.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("rows", [0, 4096, 5000])
def test_all_blocks_of_rows_are_counted(rows):
    counts = expected_counts(np.full(rows, 5.0), np.full(rows, 0.1), np.array([0.0, 10.0]))
    assert counts[0] == pytest.approx(rows)


def test_curve_peaks_at_the_median_and_is_as_wide_as_the_percentiles():
    curve = two_piece_normal(np.array([3.0, 4.0, 6.0]), 3.0, 4.0, 6.0)
    assert curve == pytest.approx([np.exp(-0.5), 1.0, np.exp(-0.5)])
