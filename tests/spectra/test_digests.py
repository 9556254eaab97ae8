"""Digests that do not depend on blocks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from catalogue.spectra.digests import ColumnDigest


def digest(*blocks) -> str:
    total = ColumnDigest()
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def test_blocks_do_not_matter_but_values_names_types_and_boundaries_do():
    text = np.array(["ab", "c", "", "é"], np.dtypes.StringDType())
    numbers = np.arange(4.0)
    whole = digest({"t": text, "x": numbers})
    assert whole == digest({"t": text[:1]}, {"x": numbers[:3]}, {"t": text[1:]}, {"x": numbers[3:]})
    others = [
        digest({"t": np.array(["a", "bc", "", "é"], np.dtypes.StringDType()), "x": numbers}),
        digest({"t": text, "y": numbers}),
        digest({"t": text, "x": numbers.astype("f4")}),
        digest({"t": text, "x": numbers + 1e-15}),
        digest({"t": text, "x": numbers[::-1]}),
        digest({"t": text[:3], "x": numbers}),
    ]
    assert len({whole, *others}) == len(others) + 1


def test_arrow_and_empty_columns_are_accepted():
    assert digest({"x": pa.array([1, 2])}) == digest({"x": pa.array([1])}, {"x": pa.array([2])})
    assert digest({"b": pa.array([True])}) != digest({"b": pa.array([False])})
    assert digest({"x": np.zeros(0)}) != digest({})
