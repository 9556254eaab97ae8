"""Repeated keys from hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catalogue.spectra.keys import key_hashes, repeated_keys


def repeats(values: list) -> list[tuple[int, int]]:
    hashes, missing = key_hashes(pa.array(values))
    rows, earlier = repeated_keys(hashes, missing)
    return list(zip(rows.tolist(), earlier.tolist(), strict=True))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1], []),
        ([3, 1, 3, 2, 1, 3], [(2, 0), (4, 1), (5, 0)]),
        ([2**53, 2**53 + 1], []),
        ([-9999, -9999, 5, 5], [(3, 2)]),
        (["a", "", "b", "a", ""], [(3, 0)]),
        (["ab", "ba", "é", "é", "ab\0"], [(3, 2)]),
        ([1.5, float("nan"), float("nan"), 1.5, 0.0, -0.0], [(3, 0), (5, 4)]),
    ],
)
def test_the_first_row_with_a_key_is_found(values, expected):
    array = values if values else pa.array([], pa.int64())
    assert repeats(array) == [pair for pair in expected if pair[0] < len(values)]


def test_hashes_do_not_depend_on_the_block():
    keys = ["2M00000000+0000000", "x", "a much longer key than the others of the first block"]
    together, _ = key_hashes(pa.array(keys))
    apart = np.concatenate([key_hashes(pa.array([key]))[0] for key in keys])
    np.testing.assert_array_equal(together, apart)


def test_many_similar_strings_do_not_collide():
    keys = [f"2M{i:08d}+{i * 7919 % 1000003:07d}" for i in range(50_000)]
    hashes, missing = key_hashes(pa.array(keys))
    assert len(np.unique(hashes)) == len(keys)
    assert not missing.any()


def test_agrees_with_a_dictionary_on_random_keys():
    values = np.random.default_rng(0).integers(0, 300, 1000)
    first: dict[int, int] = {}
    expected = []
    for row, value in enumerate(values.tolist()):
        if value in first:
            expected.append((row, first[value]))
        first.setdefault(value, row)
    assert repeats(values.tolist()) == expected
