"""The tables that simulated spectra are observed with are those of the real giants."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmarks.reality_gap import giants, instrument_of
from catalogue.training import instrument
from catalogue.training.instrument import load_instrument, save_instrument
from tests.factories.real import REAL, needs_real


@needs_real
def test_the_shipped_table_is_what_the_real_giants_give():
    shipped, measured = load_instrument(), instrument_of(giants(REAL))
    for field in fields(shipped):
        expected, found = getattr(shipped, field.name), getattr(measured, field.name)
        if expected.ndim == 2:  # the sign of a principal component is arbitrary
            found = found * np.sign((found * expected).sum(axis=1, keepdims=True))
        # written with five digits, S/N with four
        np.testing.assert_allclose(found, expected, rtol=6e-4, atol=2e-5, err_msg=field.name)


def test_a_table_that_is_written_is_the_shipped_one_to_the_byte(tmp_path):
    save_instrument(load_instrument(), tmp_path)
    shipped = Path(instrument.__file__).parent
    for name in ("lamost_instrument.csv", "lamost_snrg.csv"):
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes()
