from __future__ import annotations

import numpy as np
import pytest

from catalogue.report.sample import RowSample, row_priority


def sampled(rows: int, size: int, block: int, take: int | None = None) -> np.ndarray:
    sample = RowSample(size)
    for start in range(0, rows, block):
        count = min(block, rows - start)
        sample.add(start, np.ones(count, bool), {"value": np.arange(start, start + count) * 10})
    taken = sample.take(size if take is None else take)
    assert (taken["value"] == taken["row"] * 10).all()
    return taken["row"]


@pytest.mark.parametrize("block", [1, 7, 64, 5000])
def test_sample_does_not_depend_on_blocks(block):
    expected = np.sort(np.argsort(row_priority(np.arange(1000), 0))[:50])
    assert sampled(1000, 50, block).tolist() == expected.tolist()


def test_smaller_take_is_part_of_the_larger():
    assert set(sampled(500, 40, 32, take=10)) < set(sampled(500, 40, 32))


def test_sample_is_uniform_over_the_rows():
    rows = sampled(200_000, 20_000, 10_000)
    counts = np.histogram(rows, bins=20, range=(0, 200_000))[0]
    # Chi-square of 20 bins of a sample without replacement: far beyond 50 only if the choice is not uniform.
    assert ((counts - 1000) ** 2 / 900).sum() < 50


def test_sample_of_fewer_rows_is_all_of_them():
    assert sampled(5, 50, 2).tolist() == [0, 1, 2, 3, 4]


def test_only_offered_rows_are_taken():
    sample = RowSample(10)
    sample.add(100, np.array([False, True, False, True]), {"value": np.arange(4)})
    assert sample.take(10)["row"].tolist() == [101, 103]
    assert sample.seen == 2


def test_nothing_offered_gives_nothing():
    assert RowSample(10).take(10) == {}
    empty = RowSample(0)
    empty.add(0, np.ones(3, bool), {"value": np.arange(3)})
    assert empty.take(5) == {}


def test_priority_matches_the_published_generator():
    # First output of SplitMix64 for the seed 1234567, as Rosetta Code lists it; the row is the one that leads there.
    golden, state = 0x9E3779B97F4A7C15, 1234567
    inverse = pow(golden, -1, 2**64)
    row = (state * inverse) % 2**64
    found = row_priority(np.array([row], np.uint64), 0)
    assert int(found[0]) == 6457827717110365317


def test_negative_size_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        RowSample(-1)
