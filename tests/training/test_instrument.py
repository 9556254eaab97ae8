"""The tables that simulated spectra are observed with are those of the real giants."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmarks.reality_gap import giants, instrument_of
from catalogue.training import instrument
from catalogue.training.instrument import (
    ARMS_JOIN,
    LOG10_FIRST,
    LOG10_STEP,
    load_instrument,
    log10_planck,
    measure_instrument,
    save_instrument,
)
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


def _measured(emulated_depth):
    """The table of stars with bands whose depths differ, seen through a slope that differs and a step at the join.

    Of the bands, the fraction ``emulated_depth`` is in the emulated spectra. Also the response, dex, by bin.
    """
    rng = np.random.default_rng(4)
    stars, pixels = 60, 3909
    log10_wavelength = LOG10_FIRST + LOG10_STEP * np.arange(pixels)
    centres, widths = np.log10([3935.0, 4300.0, 4340.0, 5180.0, 6300.0, 8540.0]), 12 * LOG10_STEP * np.arange(2, 8)
    bands = np.exp(-0.5 * ((log10_wavelength[:, None] - centres) / widths) ** 2) @ rng.uniform(0.4, 0.8, 6)
    depth = np.clip(bands * rng.uniform(0.5, 1.0, (stars, 1)), 0, 0.8)
    teff, slope = rng.uniform(4000, 5500, stars), rng.normal(0, 0.1, (stars, 1))

    def response(at):
        return 0.1 * np.sin(8 * (at - 3.7)) + 0.05 * (10.0**at > ARMS_JOIN)

    smooth = response(log10_wavelength) + slope * (log10_wavelength - 3.75) + log10_planck(log10_wavelength, teff)
    flux = (1.0 - depth) * 10.0 ** (smooth - smooth.mean(axis=1, keepdims=True))
    sigma = flux / 200
    noisy = (flux + sigma * rng.normal(size=flux.shape)).astype(np.float32)
    masks = [np.zeros(flux.shape, np.uint8)] * 2
    emulated = (1.0 - emulated_depth * depth).astype(np.float32)
    ivar = (1 / sigma**2).astype(np.float32)
    table = measure_instrument(noisy, ivar, masks, emulated, teff, np.linspace(150, 250, stars))
    return table, response(table.log10_wavelength)


def test_lines_of_the_stars_are_no_part_of_the_response():
    table, response = _measured(emulated_depth=1.0)
    difference = table.shape - response
    assert np.ptp(difference) < 0.015, "the mean is off"
    slope = table.shape_components[0]
    straight = np.polyval(np.polyfit(table.log10_wavelength, slope, 1), table.log10_wavelength)
    assert np.abs(slope - straight).max() < 0.003, "the variation of the slopes has something else in it"
    assert np.abs(table.shape_components[1:]).max() < 0.003, "stars differ by more than the slopes"


def test_what_the_emulator_gets_wrong_leaves_nothing_on_the_scale_of_lines():
    table, response = _measured(emulated_depth=0.9)
    for values, limit in ((table.shape - response, 0.003), *((row, 0.001) for row in table.shape_components)):
        for arm in (10.0**table.log10_wavelength < ARMS_JOIN, 10.0**table.log10_wavelength > ARMS_JOIN):
            assert np.abs(np.diff(values[arm], 2)).max() < limit
