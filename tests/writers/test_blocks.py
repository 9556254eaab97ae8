from __future__ import annotations

import numpy as np
import pytest

from catalogue.writers.blocks import Blocks


def through(size, lengths):
    """Rows 0, 1, 2, ... in pieces of the given lengths, as they come out."""
    blocks = Blocks(size)
    out, start = [], 0
    for length in lengths:
        values = np.arange(start, start + length)
        out += [block["a"].copy() for block in blocks.add({"a": values, "b": -values})]
        start += length
    rest = blocks.rest()
    return out, [] if rest is None else rest["a"].tolist()


@pytest.mark.parametrize(
    "lengths", [[], [0], [3], [4], [5], [12], [13], [1] * 11, [3, 3, 3], [0, 4, 0, 4], [7, 1, 9, 0, 2], [2, 1, 1]]
)
def test_rows_come_out_in_order_in_blocks_of_one_size(lengths):
    out, rest = through(4, lengths)
    assert all(len(block) == 4 for block in out)
    assert len(rest) < 4
    assert np.concatenate([*out, rest]).tolist() == list(range(sum(lengths)))


def test_columns_stay_together():
    blocks = Blocks(3)
    (block,) = [
        *blocks.add({"a": np.arange(2), "b": -np.arange(2)}),
        *blocks.add({"a": np.arange(2, 4), "b": -np.arange(2, 4)}),
    ]
    assert (block["a"] == -block["b"]).all()


def test_rows_that_wait_do_not_keep_what_they_came_with_alive():
    blocks = Blocks(10)
    values = np.arange(23)
    list(blocks.add({"a": values}))
    values[:] = 0
    assert blocks.rest()["a"].tolist() == [20, 21, 22]


def test_whole_blocks_are_not_copied():
    values = np.arange(20)
    assert all(np.shares_memory(block["a"], values) for block in Blocks(10).add({"a": values}))
