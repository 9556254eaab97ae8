from __future__ import annotations

import csv
import pickle

import numpy as np
import pytest

from catalogue.spectra.primitives import RowStatus, SpectrumError
from catalogue.surveys.lamost import LamostLowResolution
from catalogue.training.emulator import EmulatorError, _RestrictedUnpickler, air_to_vacuum
from catalogue.training.instrument import load_instrument
from catalogue.training.observation import ObservationSettings, observe
from catalogue.training.simulate import PARENT_COLUMNS, SimulationConfiguration, simulate

CLEAN = {
    "velocity_sigma": 0, "redshift_error": 0, "sky_residual": 0, "cosmic_rays": 0, "masked_stretches": 0,
    "telluric": 0, "reddening": 0,
}  # fmt: skip


def test_vacuum_wavelengths_of_known_lines():
    """Na D2, H beta and Ca II: air from vacuum by the dispersion formula of Ciddor (1996), to 0.001 Å."""
    air, vacuum = np.array([5889.951, 4861.333, 8542.091]), np.array([5891.583, 4862.691, 8544.438])
    np.testing.assert_allclose(air_to_vacuum(air), vacuum, atol=1e-3)


def test_noise_has_the_variance_that_ivar_says():
    table = load_instrument()
    flat = np.ones((30, 14001), dtype=np.float32)
    settings = ObservationSettings(snrg=(50.0, 0.0), shape_scale=0, **CLEAN)
    one = observe(flat, np.full(30, 4800.0), np.random.default_rng(0), settings)
    good = one.ivar > 0
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(101) / 101, "same"), 1, one.flux)
    pull = ((one.flux - smooth) * np.sqrt(one.ivar))[:, 200:-200][good[:, 200:-200]]
    assert 0.9 < 1.4826 * np.median(np.abs(pull)) < 1.2 * table.excess.max()
    assert 40 < np.median(one.snr[:, 1]) < 60


def test_lines_are_shifted_by_the_redshift():
    wavelength = air_to_vacuum(3500 + 0.5 * np.arange(14001))
    line = (1 - 0.8 * np.exp(-0.5 * ((wavelength - 5000) / 1.5) ** 2)).astype(np.float32)[None].repeat(8, axis=0)
    settings = ObservationSettings(**{**CLEAN, "velocity_sigma": 300.0}, snrg=(5000.0, 0.0))
    seen = observe(line, np.full(8, 4800.0), np.random.default_rng(2), settings)
    for flux, redshift in zip(seen.flux, seen.redshift, strict=True):
        near = slice(1250, 1380)
        centre = 1250 + int(np.argmin(np.where(flux[near] > 0, flux[near], np.inf)))
        assert abs(centre - (np.log10(5000 * (1 + redshift)) - 3.5682) / 1e-4) < 1.0


def test_a_pickle_of_anything_else_is_refused(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(print))
    with path.open("rb") as stream, pytest.raises(pickle.UnpicklingError, match="refused"):
        _RestrictedUnpickler(stream).load()


def test_missing_weights_are_named(tmp_path):
    from catalogue.training.emulator import GiantEmulator

    with pytest.raises(EmulatorError, match="ann_22pars"):
        GiantEmulator(tmp_path)


def test_a_simulated_survey_has_files_that_the_survey_reads_and_the_troubles_asked_for(tmp_path):
    pytest.importorskip("torch")
    if __import__("importlib.util").util.find_spec("bossbrain") is None:
        pytest.skip("needs the package bossbrain")
    configuration = SimulationConfiguration(stars=20, missing=0.1, damaged=0.15, duplicate=0.05, seed=3)
    survey = simulate(configuration, tmp_path)
    with survey.parent.open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == PARENT_COLUMNS
    assert len(rows) == survey.rows == 21
    reader, statuses = LamostLowResolution(), []
    for row in rows[:20]:
        path = survey.spectra / row["filename"]
        if not path.exists():
            statuses.append(RowStatus.NO_SPECTRUM)
            continue
        try:
            spectrum = reader.read(path)
        except SpectrumError as error:
            statuses.append(error.status)
            continue
        statuses.append(RowStatus.OK)
        assert spectrum.cards["file_obsid"] == int(row["obsid"])
        assert reader.contradiction({"obsid": int(row["obsid"])}, spectrum) is None
    assert statuses.count(RowStatus.NO_SPECTRUM) == 2
    assert statuses.count(RowStatus.OK) == 15
    again = simulate(configuration, tmp_path / "again")
    assert again.parent.read_bytes() == survey.parent.read_bytes()
