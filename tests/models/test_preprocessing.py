from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from catalogue.models.base import SpectraBatch
from catalogue.models.granules import map_granules, single_threaded
from catalogue.models.preprocessing import (
    GridSettings,
    NormalisedSpectra,
    Preprocessing,
    PreprocessingSettings,
    align,
    interpolate,
    redshift,
)
from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.bundles import LAMOST_GRID, giant_spectra
from tests.factories.real import REAL, needs_real

SETTINGS = PreprocessingSettings(grid=GridSettings.of(LAMOST_GRID))


@pytest.fixture(scope="module")
def preprocessing() -> Preprocessing:
    return Preprocessing(SETTINGS)


@pytest.fixture(scope="module")
def stars() -> SpectraBatch:
    return giant_spectra(16, seed=7)


def normalise(preprocessing, stars, flux=None, ivar=None, z=None, mask=None) -> NormalisedSpectra:
    flux = stars.flux if flux is None else flux.astype(np.float32)
    ivar = stars.ivar if ivar is None else ivar.astype(np.float32)
    return preprocessing(
        flux, ivar, stars.mask if mask is None else mask, stars.columns["z"] if z is None else np.asarray(z)
    )


def difference(a: NormalisedSpectra, b: NormalisedSpectra) -> float:
    """Root mean square over the pixels that are good in both."""
    both = a.good & b.good
    return float((a.flux - b.flux)[both].square().mean().sqrt())


def test_a_line_returns_to_its_rest_wavelength_at_any_redshift(preprocessing):
    wavelength = LAMOST_GRID.wavelength()
    z = np.linspace(-0.0015, 0.0015, 31)
    rest = wavelength / (1 + z[:, None])
    # as wide as a resolution element: 2.4 pixels
    flux = 100 * (1 - 0.5 * np.exp(-0.5 * (np.log10(rest / 5000.0) / 1e-4) ** 2))
    ivar = np.ones_like(flux)
    result = preprocessing(flux.astype(np.float32), ivar.astype(np.float32), np.zeros(flux.shape, np.uint16), z)
    near = np.abs(preprocessing.wavelength - 5000) < 20
    expected = 1 - 0.5 * np.exp(-0.5 * (np.log10(preprocessing.wavelength[near] / 5000.0) / 1e-4) ** 2)
    assert np.abs(result.flux.numpy()[:, near] - expected).max() < 0.025
    # the depth of the line must not tell the redshift: a linear blend loses up to 0.05 here
    assert np.ptp(result.flux.numpy()[:, near].min(axis=1)) < 0.025


def test_a_whole_pixel_shift_copies_pixels_exactly():
    flux = torch.arange(20.0)[None] ** 2
    variance = torch.arange(1.0, 21.0)[None]
    value, spread = interpolate(flux, variance, torch.ones_like(flux), torch.zeros(1, 1))
    torch.testing.assert_close(value, flux[:, 1:-2], rtol=0, atol=0)
    torch.testing.assert_close(spread, variance[:, 1:-2], rtol=0, atol=0)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.9])
def test_a_bad_pixel_is_not_mixed_into_its_neighbours(fraction):
    known = torch.ones(1, 20)
    known[0, 10] = 0
    flux = torch.full((1, 20), 5.0) * known
    variance = torch.ones(1, 20) * known
    value, spread = interpolate(flux, variance, known, torch.full((1, 1), fraction))
    good = spread > 0
    torch.testing.assert_close(value[good], torch.full_like(value[good], 5.0))
    assert not value[~good].any()
    # of 17 results only the one nearest to the bad pixel is lost
    assert int((~good).sum()) == 1


def test_variance_is_propagated_through_the_weights():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(20000, 4)).astype(np.float32))
    ones = torch.ones_like(noise)
    value, spread = interpolate(noise, ones, ones, torch.full((20000, 1), 0.4))
    assert float(value.var()) == pytest.approx(float(spread[0, 0]), rel=0.05)


def test_align_copies_what_lies_on_the_grid_and_zeroes_the_rest():
    values = np.arange(1, 11, dtype=np.float32)[None].repeat(5, axis=0)
    starts = np.array([0, 6, -2, 8, 30])
    np.testing.assert_array_equal(
        align(values, starts, 4), [[1, 2, 3, 4], [7, 8, 9, 10], [0, 0, 1, 2], [9, 10, 0, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(align(values[:2], starts[:2], 4), [[1, 2, 3, 4], [7, 8, 9, 10]])
    assert align(values[:0], starts[:0], 4).shape == (0, 4)
    assert (align(values, starts, 40)[4] == 0).all()


def test_response_and_reddening_divide_out(preprocessing, stars):
    x = (LAMOST_GRID.wavelength() - 6000) / 3000
    plain = normalise(preprocessing, stars)
    reddened = np.exp(-1.5 * x + 0.5 * x**2)
    response = 1 + 0.2 * np.sin(2 * np.pi * np.log10(LAMOST_GRID.wavelength()) / 0.12)
    for factor in (reddened, response, np.full_like(x, 1e-3), np.full_like(x, 1e6)):
        changed = normalise(preprocessing, stars, stars.flux * factor, stars.ivar / factor**2)
        assert difference(plain, changed) < 0.004


def test_cosmic_rays_are_taken_out_and_do_not_move_the_continuum(preprocessing, stars):
    plain = normalise(preprocessing, stars)
    hit = np.random.default_rng(1).random(stars.flux.shape) < 0.005
    changed = normalise(preprocessing, stars, np.where(hit, stars.flux * 6, stars.flux))
    assert difference(plain, changed) < 0.01
    assert plain.good.float().mean() - changed.good.float().mean() > 0.01


def test_values_of_masked_pixels_do_not_count_at_all(preprocessing, stars):
    ivar = stars.ivar.copy()
    ivar[:, 1000:1150] = 0
    plain = normalise(preprocessing, stars, ivar=ivar)
    for junk in (np.nan, np.inf, -1e30, 3e38):
        flux = stars.flux.copy()
        flux[ivar == 0] = junk
        changed = normalise(preprocessing, stars, flux, ivar)
        assert torch.equal(plain.flux, changed.flux)
        assert torch.equal(plain.good, changed.good)
    # and losing 150 pixels moves the continuum of the others little
    assert difference(normalise(preprocessing, stars), plain) < 0.005


def test_the_same_star_looks_the_same_at_low_signal_to_noise(preprocessing, stars):
    plain = normalise(preprocessing, stars)
    rng = np.random.default_rng(2)
    sigma = np.sqrt(np.median(stars.flux, axis=1, keepdims=True) * np.maximum(stars.flux, 1)) / 10
    flux = stars.flux + sigma * rng.normal(size=stars.flux.shape)
    ivar = np.where(stars.ivar > 0, 1 / (1 / np.maximum(stars.ivar, 1e-9) + sigma**2), 0)
    noisy = normalise(preprocessing, stars, flux, ivar)
    both = plain.good & noisy.good
    assert abs(float((noisy.flux - plain.flux)[both].mean())) < 0.008


def test_pixels_with_rejected_bits_are_bad_and_others_are_not(stars):
    mask = stars.mask.copy()
    mask[:, 1000:1100] = 4
    mask[:, 1200:1300] = 8
    rejecting = Preprocessing(SETTINGS.model_copy(update={"rejected_bits": 4}))
    lost = Preprocessing(SETTINGS)(stars.flux, stars.ivar, mask, stars.columns["z"]).good.sum()
    lost = lost - rejecting(stars.flux, stars.ivar, mask, stars.columns["z"]).good.sum()
    assert 90 * 16 < int(lost) <= 102 * 16


def test_sky_lines_are_bad_in_the_observed_frame(stars):
    z = np.full(16, 0.001)
    good = Preprocessing(SETTINGS)(stars.flux, np.ones_like(stars.ivar), stars.mask, z).good
    wavelength = Preprocessing(SETTINGS).wavelength
    at_line = np.abs(wavelength * 1.001 - 5578.9) < 4
    assert at_line.any()
    assert not good[:, at_line].any()


def test_rows_that_cannot_be_normalised_say_so_and_stay_finite(preprocessing, stars):
    flux, ivar, z = stars.flux.copy(), stars.ivar.copy(), np.asarray(stars.columns["z"]).copy()
    ivar[0] = 0
    flux[1] = np.nan
    flux[2] = -np.abs(flux[2])
    z[3], z[4], z[5], z[6] = np.nan, -9999.0, 5.0, np.inf
    flux[7] = 0
    ivar[8] = 1e-38
    ivar[9] = 1e35
    ivar[10, : len(ivar[10]) * 9 // 10] = 0
    result = normalise(preprocessing, stars, flux, ivar, z)
    assert result.usable.tolist() == [False] * 8 + [True, True, False] + [True] * 5
    assert torch.isfinite(result.flux).all()
    assert torch.isfinite(result.variance).all()
    assert result.bad_fraction[[0, 1, 5]].tolist() == [1.0, 1.0, 1.0]
    assert torch.isnan(result.bad_fraction[[3, 4, 6]]).all()
    untouched = normalise(preprocessing, stars)
    assert torch.equal(result.flux[11:], untouched.flux[11:]), "a bad row changed its neighbours"


def test_missing_redshift_falls_back_to_the_file(stars):
    columns = {"z": np.array([1e-4, np.nan, -9999.0, np.nan]), "file_z": np.array([9e-4, 2e-4, 3e-4, -9999.0])}
    batch = SpectraBatch(0, stars.flux[:4], stars.ivar[:4], stars.mask[:4], stars.usable[:4], columns)
    np.testing.assert_array_equal(redshift(batch), [1e-4, 2e-4, 3e-4, np.nan])
    bare = SpectraBatch(0, stars.flux[:4], stars.ivar[:4], stars.mask[:4], stars.usable[:4], {})
    assert np.isnan(redshift(bare)).all()


def test_a_longer_lattice_of_the_survey_changes_nothing(preprocessing, stars):
    wide = [np.concatenate([x, np.full((16, 100), 7, x.dtype)], axis=1) for x in (stars.flux, stars.ivar, stars.mask)]
    assert torch.equal(preprocessing(*wide, stars.columns["z"]).flux, normalise(preprocessing, stars).flux)


def test_too_few_pixels_are_refused_with_both_numbers(preprocessing, stars):
    with pytest.raises(ValueError, match=r"expected 4096 pixels of grid 'lamost-lrs', found 3000"):
        preprocessing(stars.flux[:, :3000], stars.ivar[:, :3000], stars.mask[:, :3000], stars.columns["z"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"windows": [[3000.0, 5000.0]]}, "leave the grid"),
        ({"windows": [[5810.0, 5890.0]]}, "5810.* lies in no continuum arm"),
        ({"windows": [[4000.0, 6500.0]]}, "lies in no continuum arm"),
    ],
)
def test_windows_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing(PreprocessingSettings.model_validate({**SETTINGS.model_dump(), **change}))


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValidationError, match="knots"):
        PreprocessingSettings.model_validate({"grid": SETTINGS.grid.model_dump(), "knots": 3})


def test_bytes_do_not_depend_on_threads(preprocessing):
    stars = giant_spectra(64, seed=8)
    with single_threaded():
        alone = normalise(preprocessing, stars).flux
    side_by_side = map_granules(lambda _: normalise(preprocessing, stars).flux, 4, threads=4)
    assert all(torch.equal(alone, other) for other in side_by_side)


@needs_real
@pytest.mark.real
def test_real_giants_lie_around_one_without_trends(preprocessing):
    paths = sorted((REAL / "lamost" / "dr10").glob("*.gz"))[:24]
    rows = [LamostLowResolution().read(path) for path in paths]
    flux, ivar = np.zeros((2, len(rows), LAMOST_GRID.n_pixels), dtype=np.float32)
    for i, row in enumerate(rows):
        stretch = slice(row.first_pixel, row.first_pixel + len(row.flux))
        flux[i, stretch], ivar[i, stretch] = row.flux, row.ivar
    z = np.array([row.cards["file_z"] for row in rows], dtype=np.float64)
    result = preprocessing(flux, ivar, np.zeros(flux.shape, np.uint16), z)
    assert result.usable.all()
    assert float(result.bad_fraction.max()) < 0.2
    for window in np.array_split(result.flux.numpy(), 20, axis=1):
        assert np.abs(np.median(window, axis=1) - 1).max() < 0.1
