"""Scattered spectra are computed together where their place does not matter, and in their place where it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.models.packing import Places
from catalogue.models.transfer import compute_granules
from catalogue.spectra.primitives import GRANULE_ROWS as SIZE


class Network:
    """Doubles the flux of a batch; with ``slope`` the answer also depends on the place in the granule."""

    def __init__(self, slope=0.0):
        self.slope, self.calls, self.places = slope, 0, Places()

    def __call__(self, flux):
        assert len(flux) == SIZE
        self.calls += 1
        return (2 * flux + self.slope * torch.arange(SIZE)[:, None]).T

    def predict(self, usable, flux=None):
        values = np.arange(1.0, len(usable) + 1) if flux is None else flux
        found = np.full(len(usable), np.nan)

        def keep(part, result):
            found[part] = np.where(usable[part], result[0, : len(usable[part])], np.nan)

        load = lambda part: [values[part, None].copy()]  # noqa: E731
        compute_granules(torch.device("cpu"), usable, 1, load, self, keep, self.places)
        return found


def scattered(rows):
    return np.arange(rows) % SIZE == 4


@pytest.mark.parametrize("rows", [SIZE * 8, SIZE * 70 + 9])
def test_scattered_spectra_cost_as_many_granules_as_they_fill(rows):
    network, usable = Network(), scattered(rows)
    for _ in range(2):
        np.testing.assert_array_equal(network.predict(usable), np.where(usable, 2.0 * np.arange(1, rows + 1), np.nan))
    assert network.calls == 2 * -(-usable.sum() // SIZE) + 1  # places are tried once


def test_spectra_are_computed_in_place_where_the_place_matters():
    network, usable = Network(slope=0.5), scattered(SIZE * 8)
    expected = 2.0 * np.arange(1, SIZE * 8 + 1) + 0.5 * 4
    np.testing.assert_array_equal(network.predict(usable), np.where(usable, expected, np.nan))
    assert network.calls == 8 + 1


def test_a_spectrum_without_an_answer_says_nothing_of_places():
    usable = scattered(SIZE * 8)
    network, flux = Network(slope=0.5), np.ones(SIZE * 8)
    flux[4] = np.nan
    network.predict(usable, flux)
    assert network.predict(usable)[4] == 2 * 5 + 0.5 * 4


def test_dense_spectra_are_not_gathered():
    network = Network()
    found = network.predict(np.arange(SIZE * 8) != 5)
    assert network.calls == 8
    assert np.isnan(found[5])
    assert np.isfinite(found).sum() == SIZE * 8 - 1


@pytest.mark.parametrize("rows", [0, 5, SIZE * 3])
def test_nothing_usable_is_no_work(rows):
    network = Network()
    assert np.isnan(network.predict(np.zeros(rows, bool))).all()
    assert network.calls == 0
