"""Batched continuum normalisation against a per-star numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import Chebyshev

from catalogue.models.apogee_continuum import (
    CHIPS,
    N_PIXELS,
    TARGET_BITS,
    ApogeeContinuum,
    ContinuumSettings,
    cut_gaps,
    derive_continuum_pixels,
    read_continuum_pixels,
)
from catalogue.models.bundle import BundleError
from catalogue.surveys.apogee import Apogee
from tests.factories.apogee import combined_spectrum
from tests.factories.real import REAL, needs_real

STARTS = (0, 3028, 5523)


def reference(flux, ivar, mask, pixels, upper_limit=2.0, degree=2):
    """One star, as a script would do it with numpy's Chebyshev.fit (ALGORITHMS 2.1)."""
    normalised = np.empty(N_PIXELS)
    for (first, last), start in zip(CHIPS, STARTS, strict=True):
        chosen = pixels[start : start + last - first]
        value = flux[first:last].astype(float)
        with np.errstate(divide="ignore"):
            error = 1 / np.sqrt(ivar[first:last].astype(float))
        x = np.arange(last - first)
        use = chosen & np.isfinite(value) & np.isfinite(error)
        fit = Chebyshev.fit(x[use], value[use], degree, w=1 / (error[use] ** 2 + 1e-8))
        normalised[start : start + last - first] = value / fit(x)
    normalised[normalised < 0] = 0
    normalised[~np.isfinite(normalised)] = 1
    bits = np.concatenate([mask[first:last] for first, last in CHIPS])
    normalised[np.isin(np.arange(N_PIXELS), np.flatnonzero([any(b >> t & 1 for t in TARGET_BITS) for b in bits]))] = 1
    normalised[normalised > upper_limit] = 1
    return normalised


@pytest.fixture(scope="module")
def pixels():
    return read_continuum_pixels()


def simulated(n):
    flux, error, mask = combined_spectrum(3, n)
    random = np.random.default_rng(4)
    error = error * random.uniform(0.3, 3.0, error.shape)
    ivar = np.where(error < 1e9, error**-2.0, 0)
    flux[:, 900:905] = np.nan
    flux[:, 3600] = -30
    flux[:, 7000] = 5000
    flux[:, 7001] = np.inf
    return flux.astype("f4"), ivar.astype("f4"), mask.astype("u4")


def test_equals_the_per_star_reference(pixels):
    flux, ivar, mask = simulated(5)
    found = ApogeeContinuum(pixels)(flux, ivar, mask).numpy()
    for star in range(5):
        expected = reference(flux[star], ivar[star], mask[star], pixels)
        np.testing.assert_allclose(found[star], expected, rtol=0, atol=1e-5)


@needs_real
@pytest.mark.real
def test_equals_the_reference_on_real_spectra(pixels):
    spectra = [Apogee().read(path) for path in sorted((REAL / "apogee" / "apstar").glob("*.fits"))]
    flux, ivar, mask = (np.stack([getattr(s, name) for s in spectra]) for name in ("flux", "ivar", "mask"))
    found = ApogeeContinuum(pixels)(flux, ivar, mask).numpy()
    for star in range(len(spectra)):
        expected = reference(flux[star], ivar[star], mask[star], pixels)
        np.testing.assert_allclose(found[star], expected, rtol=0, atol=1e-5)
    assert 0.85 < np.median(found[0]) < 1.0


def test_degree_and_limit_are_options(pixels):
    flux, ivar, mask = simulated(2)
    settings = ContinuumSettings(degree=3, upper_limit=1.05)
    found = ApogeeContinuum(pixels, settings)(flux, ivar, mask).numpy()
    expected = reference(flux[0], ivar[0], mask[0], pixels, upper_limit=1.05, degree=3)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)
    unlimited = ApogeeContinuum(pixels, ContinuumSettings(upper_limit=None))(flux, ivar, mask)
    assert unlimited.max() > 5


def test_weights_are_the_inverse_variance_squared(pixels):
    """One very precise continuum pixel pulls the fit as 1/σ⁴ would, not as 1/σ²."""
    flux, ivar, mask = simulated(1)
    flux[:] = 100.0
    ivar[:] = 1.0
    mask[:] = 0
    chosen = np.flatnonzero(pixels[:3028]) + 246
    flux[0, chosen[3]] = 110.0
    ivar[0, chosen[3]] = 20.0
    found = ApogeeContinuum(pixels)(flux, ivar, mask).numpy()
    np.testing.assert_allclose(found[0], reference(flux[0], ivar[0], mask[0], pixels), atol=1e-5)
    assert found[0, chosen[3] - 246] < 1.04


def test_detector_without_continuum_information_becomes_one(pixels):
    flux, ivar, mask = simulated(2)
    ivar[0, 3585:6080] = 0
    ivar[1] = 0
    found = ApogeeContinuum(pixels)(flux, ivar, mask).numpy()
    assert (found[0, 3028:5523] == 1).all()
    assert (found[1] == 1).all()
    np.testing.assert_allclose(found[0, :3028], ApogeeContinuum(pixels)(*simulated(2)).numpy()[0, :3028], rtol=1e-6)


@pytest.mark.parametrize("light", [0.0, -1.0])
def test_a_detector_without_light_has_no_continuum_and_is_bad(pixels, light):
    flux, ivar, mask = simulated(2)
    flux[0, 3585:6080] *= light
    flux[1] *= light
    found, fraction = ApogeeContinuum(pixels).normalise(flux, ivar, mask)
    assert (found[0, 3028:5523] == 1).all()
    assert (found[0, :3028] != 1).any()
    assert (found[1] == 1).all()
    assert fraction[1] == 1
    ivar[0, 3585:6080] = 0
    assert fraction[0] == ApogeeContinuum(pixels).normalise(flux, ivar, mask)[1][0]


def test_rows_do_not_depend_on_their_neighbours(pixels):
    flux, ivar, mask = simulated(40)
    normalise = ApogeeContinuum(pixels)
    together = normalise(flux, ivar, mask).numpy()
    flux[1] = np.nan
    np.testing.assert_array_equal(np.delete(normalise(flux, ivar, mask).numpy(), 1, 0), np.delete(together, 1, 0))


def test_spectra_of_another_survey_are_refused(pixels):
    other = np.ones((2, 4096), np.float32)
    with pytest.raises(ValueError, match=r"expected spectra of 8575 pixels, found shape \(2, 4096\)"):
        ApogeeContinuum(pixels).divide(other, other, other.astype(np.uint32))


def test_empty_batch(pixels):
    none = np.zeros((0, 8575), "f4")
    assert ApogeeContinuum(pixels)(none, none, none.astype("u4")).shape == (0, N_PIXELS)


def test_masked_and_empty_pixels_are_counted_and_become_one(pixels):
    flux = np.ones((3, 8575), "f4")
    ivar = np.ones((3, 8575), "f4")
    mask = np.zeros((3, 8575), "u4")
    ivar[1, 246:3274] = 0
    flux[0, 1000:1003], flux[0, 1003:1005] = np.nan, -np.inf
    mask[2, 300:310] = 1 << 12
    mask[2, 310:320] = 1 << 13
    mask[2, 0:100] = 1
    normalised, found = ApogeeContinuum(pixels).normalise(flux, ivar, mask)
    np.testing.assert_allclose(found, [5 / 7514, 3028 / 7514, 10 / 7514], rtol=1e-6)
    assert (normalised[0] == 1).all()


@needs_real
@pytest.mark.real
def test_shipped_pixels_are_what_the_derivation_gives(pixels):
    with np.load(REAL / "apogee" / "pixel_statistics_dr17_giants.npz") as statistics:
        derived = derive_continuum_pixels(statistics["mean"], statistics["std"])
    np.testing.assert_array_equal(pixels, derived)


def test_shipped_pixels_hold_every_detector_everywhere(pixels):
    assert pixels.sum() == 530
    for (first, last), start in zip(CHIPS, STARTS, strict=True):
        chosen = np.flatnonzero(pixels[start : start + last - first])
        gaps = np.diff(np.r_[0, chosen, last - first])
        assert gaps.max() < 300


def test_pixel_list_from_files(tmp_path, pixels):
    np.save(tmp_path / "dr17_contmask.npy", pixels)
    np.testing.assert_array_equal(read_continuum_pixels(tmp_path / "dr17_contmask.npy"), pixels)
    (tmp_path / "some.txt").write_text("# three\n1\n5\n7513\n")
    assert np.flatnonzero(read_continuum_pixels(tmp_path / "some.txt")).tolist() == [1, 5, 7513]


@pytest.mark.parametrize("content", ["7514\n", "-1\n", "words\n"])
def test_bad_pixel_list_is_refused(tmp_path, content):
    (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(BundleError, match=r"bad\.txt"):
        read_continuum_pixels(tmp_path / "bad.txt")


def test_pickled_or_wrong_array_is_refused(tmp_path, pixels):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BundleError):
        read_continuum_pixels(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", pixels.astype("i4"))
    with pytest.raises(BundleError, match="int32"):
        read_continuum_pixels(tmp_path / "b.npy")


def test_too_few_continuum_pixels_are_refused():
    flags = np.zeros(N_PIXELS, bool)
    flags[:100] = True
    with pytest.raises(ValueError, match="3585:6080"):
        ApogeeContinuum(flags)


def test_cut_gaps_takes_the_three_detectors():
    assert cut_gaps(np.arange(8575))[[0, 3027, 3028, 5523]].tolist() == [246, 3273, 3585, 6344]


@pytest.mark.parametrize("bit", range(17))
def test_pixels_with_the_published_bits_become_one_and_the_others_stay(pixels, bit):
    """BADPIX to NOSKY and SIG_SKYLINE, as the DR17 catalogues; not persistence, tellurics or the aspcap bits."""
    flux = np.full((1, 8575), 80.0, np.float32)
    flux[0, 1000] = 40.0
    mask = np.zeros(flux.shape, np.uint32)
    mask[0, 1000] = 1 << bit
    found = ApogeeContinuum(pixels & (np.arange(N_PIXELS) != 1000 - 246))(flux, np.ones_like(flux), mask)
    assert float(found[0, 1000 - 246]) == pytest.approx(1.0 if bit in (0, 1, 2, 3, 4, 5, 6, 7, 12) else 0.5)
