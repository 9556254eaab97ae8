from __future__ import annotations

import numpy as np
import pytest
import zarr

from catalogue.report.example_spectra import MOST_CHUNKS, choose_rows, read_spectra
from catalogue.report.payload import MISSING_FLUX, spectra_block
from catalogue.spectra.primitives import is_usable
from tests.factories.catalogues import simulated_columns, write_spectra


def test_rows_are_chosen_by_priority_out_of_few_chunks():
    rows, priority = np.arange(10_000), np.random.default_rng(0).permutation(10_000).astype(np.uint64)
    chosen = choose_rows(rows, priority, 100, 10)
    assert len(chosen) == 100
    assert len(set(chosen // 10)) <= MOST_CHUNKS
    assert (np.diff(chosen) > 0).all()
    assert np.argmin(priority) in chosen


def test_spectra_are_those_of_the_store(tmp_path):
    columns = simulated_columns(150)
    store = zarr.open_group(write_spectra(tmp_path / "spectra.zarr", columns), mode="r")
    rows = np.arange(150)
    spectra = read_spectra(tmp_path / "spectra.zarr", rows, rows[::-1].astype(np.uint64), 20)
    assert spectra.rows.tolist() == np.flatnonzero(is_usable(columns["STATUS"]))[-20:].tolist()
    known = np.isfinite(spectra.flux)
    assert (spectra.flux[known] == store["flux"][:][spectra.rows][known]).all()
    assert np.isnan(spectra.flux[:, 2000:2020]).all()
    assert known.mean() > 0.9


def test_unusable_rows_give_no_spectra(tmp_path):
    columns = simulated_columns(70)
    columns["STATUS"][:] = 2
    write_spectra(tmp_path / "spectra.zarr", columns)
    rows = np.arange(70)
    assert len(read_spectra(tmp_path / "spectra.zarr", rows, rows.astype(np.uint64), 20).rows) == 0


def test_a_store_of_another_run_is_refused(tmp_path):
    write_spectra(tmp_path / "spectra.zarr", simulated_columns(10))
    with pytest.raises(ValueError, match="more than 99 rows, found 10"):
        read_spectra(tmp_path / "spectra.zarr", np.array([99]), np.array([1], np.uint64), 5)


def test_packed_flux_is_finer_than_any_plot(tmp_path):
    write_spectra(tmp_path / "spectra.zarr", simulated_columns(60))
    rows = np.arange(60)
    spectra = read_spectra(tmp_path / "spectra.zarr", rows, rows.astype(np.uint64), 5)
    block = spectra_block(spectra)
    content = bytes(block._content)
    part = block.arrays
    coded = np.frombuffer(content, "<u2", part["flux"]["length"], part["flux"]["offset"]).reshape(spectra.flux.shape)
    low = np.frombuffer(content, "<f8", 5, part["low"]["offset"])[:, None]
    step = np.frombuffer(content, "<f8", 5, part["step"]["offset"])[:, None]
    known = np.isfinite(spectra.flux)
    assert (coded[~known] == MISSING_FLUX).all()
    assert (np.abs(low + coded * step - spectra.flux)[known] <= (0.51 * step * np.ones_like(coded))[known]).all()
