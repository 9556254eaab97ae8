from __future__ import annotations

import numpy as np
import pytest

from catalogue.report.tallies import AXES, HISTOGRAMS, Axis, Histogram, OpenHistogram, Plane, StateCounts


def test_histogram_counts_below_above_and_missing():
    histogram = Histogram(Axis("age", 0.0, 4.0, 4))
    histogram.add(np.array([-0.1, 0.0, 0.99, 3.999, 4.0, 1e9, np.inf, -np.inf, np.nan]))
    assert histogram.counts.tolist() == [2, 0, 0, 1]
    assert (histogram.below, histogram.above, histogram.missing) == (2, 3, 1)


def test_histogram_of_blocks_is_that_of_the_whole():
    values = np.random.default_rng(1).gamma(2, 2, 999)
    whole, parts = Histogram(AXES["age"]), Histogram(AXES["age"])
    whole.add(values)
    for start in range(0, 999, 100):
        parts.add(values[start : start + 100])
    assert parts.counts.tolist() == whole.counts.tolist() == np.histogram(values, AXES["age"].edges())[0].tolist()


def test_logarithmic_axis_leaves_out_zero_and_negative_values():
    axis = Axis("error", -1.0, 1.0, 2, logarithmic=True)
    assert axis.index(np.array([0.5, 5.0, 0.0, -1.0])).tolist() == [0, 1, -1, -1]
    assert np.allclose(axis.edges(), [0.1, 1.0, 10.0])


@pytest.mark.parametrize("role", HISTOGRAMS)
@pytest.mark.parametrize("rows", [3, 200, 5000])
def test_wider_bins_keep_all_rows(role, rows):
    histogram = Histogram(AXES[role])
    histogram.add(np.full(rows, AXES[role].edges()[5] * 1.0001))
    edges, counts = histogram.for_display()
    assert counts.sum() == rows
    assert len(edges) == len(counts) + 1
    assert edges[-1] == AXES[role].edges()[-1]


def test_plane_means_leave_out_rows_without_colour():
    plane = Plane(Axis("x", 0, 2, 2), Axis("y", 0, 2, 2), "age")
    x, y = np.array([0.5, 0.5, 0.5, 1.5, 9.0]), np.array([0.5, 0.5, 0.5, 1.5, 0.5])
    plane.add(x, y, np.array([2, 4, np.nan, np.nan, 1]))
    assert plane.counts.tolist() == [[3, 0], [0, 1]]
    assert plane.mean()[0, 0] == 3.0
    assert np.isnan(plane.mean()[1, 1])


def test_states_are_counted_by_status_flag_and_age():
    states = StateCounts()
    states.add(np.array([1, 1, 2]), np.array([0, 1 << 30, 5]), np.array([True, True, False]))
    states.add(np.array([1, -1]), np.array([0, 0]), np.array([True, False]))
    assert states.rows() == [(-1, 0, False, 1), (1, 0, True, 2), (1, 1 << 30, True, 1), (2, 5, False, 1)]
    assert states.total == 5
    assert states.by_status() == {-1: 1, 1: 3, 2: 1}
    assert states.with_bit(30) == states.with_bit(2) == 1
    assert states.with_bit(1) == 0


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(2).random(500),
        np.random.default_rng(3).normal(-4e6, 10.0, 500),
        np.random.default_rng(4).lognormal(0, 5, 500),
        np.repeat([0.0, 1.0], 250),
        np.full(500, -0.999),
        np.zeros(500),
    ],
)
def test_bins_of_an_unknown_range_hold_every_value_and_depend_on_no_order(values):
    values = np.concatenate([values, [np.nan, np.inf]])
    whole, parts = OpenHistogram("result"), OpenHistogram("result")
    whole.add(values)
    for start in range(0, len(values), 37):
        parts.add(values[::-1][start : start + 37])
    assert (whole.axis, whole.counts.tolist(), whole.missing) == (parts.axis, parts.counts.tolist(), parts.missing)
    assert (whole.counts.sum(), whole.missing) == (500, 2)
    assert len(whole.counts) <= OpenHistogram.MOST_BINS
    edges, counts = whole.for_display()
    np.testing.assert_array_equal(counts, np.histogram(values[:500], edges)[0])


def test_bins_of_no_values_are_empty():
    nothing = OpenHistogram("result")
    nothing.add(np.full(3, np.nan))
    edges, counts = nothing.for_display()
    assert (counts.sum(), len(edges), nothing.missing) == (0, len(counts) + 1, 3)
