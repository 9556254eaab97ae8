"""The APOGEE reader: which row, which pixels, and what a damaged file says."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits

from catalogue.spectra.primitives import RowStatus, Spectrum, SpectrumError
from catalogue.surveys.apogee import Apogee
from catalogue.surveys.apogee_files import read_by_offset, read_with_astropy
from tests.factories.apogee import combined_spectrum, write_apstar, write_aspcapstar
from tests.factories.real import REAL, needs_real

FILES = sorted((REAL / "apogee").glob("ap*tar/*.fits")) if REAL.is_dir() else []
APSTARS = [path for path in FILES if path.stem.startswith("apStar")]
SURVEY = Apogee()


def assert_same(one: Spectrum, other: Spectrum) -> None:
    for name in ("flux", "ivar", "mask"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second, err_msg=name)
    assert one.cards == other.cards


def status_of(path) -> tuple[RowStatus, str]:
    with pytest.raises(SpectrumError) as caught:
        SURVEY.read(path)
    return caught.value.status, caught.value.reason


def test_grid_is_the_published_one():
    wavelength = SURVEY.grid.wavelength()
    assert wavelength.shape == (8575,)
    assert wavelength[0] == pytest.approx(15100.8, abs=0.05)
    assert wavelength[-1] == pytest.approx(16999.8, abs=0.05)


def test_mask_bits_are_those_of_the_pipeline():
    """PIXMASK of sdss/apogee's bitmask.py; what its ``badval`` names counts as bad."""
    names = (
        "BADPIX CRPIX SATPIX UNFIXABLE BADDARK BADFLAT BADERR NOSKY LITTROW_GHOST PERSIST_HIGH PERSIST_MED PERSIST_LOW "
        "SIG_SKYLINE SIG_TELLURIC NOT_ENOUGH_PSF"
    )
    bits = {bit.bit: bit.name for bit in SURVEY.mask_bits}
    assert bits == {**dict(enumerate(names.split())), 16: "FERRE_MASK"}
    assert [bit.bit for bit in SURVEY.mask_bits if bit.bad] == [0, 1, 2, 3, 4, 5, 6, 7, 14]


@needs_real
@pytest.mark.real
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_both_readers_agree_on_every_real_file(path):
    assert_same(read_by_offset(path, SURVEY.grid), read_with_astropy(path, SURVEY.grid))


@needs_real
@pytest.mark.real
@pytest.mark.parametrize("path", APSTARS, ids=lambda path: path.stem)
def test_real_apstar_values_are_those_of_row_zero(path):
    spectrum = SURVEY.read(path)
    with fits.open(path) as hdus:
        flux, error, mask = (np.atleast_2d(hdus[k].data)[0] for k in (1, 2, 3))
    np.testing.assert_array_equal(spectrum.flux, flux.astype("f4"))
    np.testing.assert_array_equal(spectrum.mask, mask.astype("i8"))
    informative = spectrum.ivar > 0
    assert 7000 < informative.sum() < 8200
    np.testing.assert_allclose(1 / np.sqrt(spectrum.ivar[informative]), error[informative], rtol=1e-6)
    assert not np.isfinite(flux[~informative]).all() or error[~informative].min() >= 1e9
    assert path.stem.endswith(str(spectrum.cards["file_apogee_id"]))


@needs_real
@pytest.mark.real
def test_real_aspcapstar_has_ivar_on_the_aspcap_pixels_only():
    for path in (f for f in FILES if f.stem.startswith("aspcapStar")):
        spectrum = SURVEY.read(path)
        assert spectrum.cards["file_layout"] == "aspcapstar"
        informative = np.flatnonzero(spectrum.ivar)
        inside = np.r_[246:3274, 3585:6080, 6344:8335]
        assert set(informative) <= set(inside.tolist())
        assert len(informative) > 0.9 * len(inside)
        assert 0.8 < np.median(spectrum.flux[informative]) < 1.1


@pytest.mark.parametrize(("n_visits", "dr17"), [(1, True), (1, False), (4, True), (4, False)])
def test_row_zero_is_read_whatever_the_number_of_visits(tmp_path, n_visits, dr17):
    path = write_apstar(tmp_path / "a.fits", n_visits=n_visits, dr17=dr17)
    flux, _, mask = combined_spectrum(0, n_visits + (2 if n_visits > 1 else int(dr17)))
    spectrum = SURVEY.read(path)
    np.testing.assert_array_equal(spectrum.flux, flux[0].astype("f4"))
    np.testing.assert_array_equal(spectrum.mask, mask[0])
    assert spectrum.mask.dtype == np.uint32
    assert_same(spectrum, read_with_astropy(path, SURVEY.grid))


def test_bad_pixels_keep_their_bits_and_their_error(tmp_path):
    spectrum = SURVEY.read(write_apstar(tmp_path / "a.fits"))
    assert spectrum.mask[4000] & (1 << 14)
    assert spectrum.ivar[4000] == pytest.approx(1 / 25)
    assert spectrum.ivar[0] == 0.0


def test_sixteen_bit_masks_are_unsigned(tmp_path):
    path = write_apstar(tmp_path / "a.fits", dr17=False)
    with fits.open(path, mode="update") as hdus:
        hdus[3].data[0, 500] = -32768
    spectrum = SURVEY.read(path)
    assert spectrum.mask[500] == 1 << 15
    assert_same(spectrum, read_with_astropy(path, SURVEY.grid))


@pytest.mark.parametrize("flux_value", [np.nan, np.inf])
def test_pixels_without_finite_flux_carry_no_information(tmp_path, flux_value):
    path = write_apstar(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[1].data[0, 1000] = flux_value
        hdus[2].data[0, 1001] = np.nan
        hdus[2].data[0, 1002] = 0.0
        hdus[2].data[0, 1003] = -1.0
        hdus[2].data[0, 1004] = 1e-30
    spectrum = SURVEY.read(path)
    assert not spectrum.ivar[1000:1005].any()
    assert spectrum.ivar[999] > 0


def test_compressed_file_is_read_by_the_general_reader(tmp_path):
    path = write_apstar(tmp_path / "a.fits")
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert_same(SURVEY.read(packed), SURVEY.read(path))
    packed.write_bytes(packed.read_bytes()[:3000])
    assert status_of(packed)[0] is RowStatus.TRUNCATED


def test_unsigned_convention_goes_through_the_general_reader(tmp_path):
    path = write_apstar(tmp_path / "a.fits")
    with fits.open(path) as hdus:
        hdus[3] = fits.ImageHDU(hdus[3].data.astype("u2"), hdus[3].header)
        hdus.writeto(tmp_path / "b.fits")
    assert_same(SURVEY.read(tmp_path / "b.fits"), SURVEY.read(path))


def test_aspcapstar_gaps_have_no_information(tmp_path):
    spectrum = SURVEY.read(write_aspcapstar(tmp_path / "a.fits"))
    assert np.count_nonzero(spectrum.ivar) == 7514
    assert not spectrum.mask.any()
    assert spectrum.cards["file_apogee_id"] == "2M00000000+0000000"


def test_damaged_files_say_what_is_wrong(tmp_path):
    good = write_apstar(tmp_path / "good.fits")
    content = good.read_bytes()
    cases = {
        "missing": (None, RowStatus.NO_SPECTRUM),
        "empty": (b"", RowStatus.EMPTY_FILE),
        "text": (b"<html>404</html>" * 500, RowStatus.UNREADABLE),
        "cut_primary": (content[:1000], RowStatus.TRUNCATED),
        "cut_header": (content[:4000], RowStatus.TRUNCATED),
        "cut_flux": (content[:50_000], RowStatus.TRUNCATED),
        "cut_mask": (content[: 3 * 348_000], RowStatus.TRUNCATED),
    }
    for name, (bytes_, expected) in cases.items():
        path = tmp_path / f"{name}.fits"
        if bytes_ is not None:
            path.write_bytes(bytes_)
        status, reason = status_of(path)
        assert (name, status) == (name, expected)
        assert path.name in reason
    assert status_of(tmp_path)[0] is RowStatus.UNREADABLE


def test_file_without_the_three_extensions_is_refused(tmp_path):
    path = tmp_path / "short.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((2, 8575)))]).writeto(path)
    assert status_of(path)[0] in (RowStatus.TRUNCATED, RowStatus.MISSING_CARD)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"n_pixels": 8574}, RowStatus.WRONG_SHAPE),
        ({"crval": 4.1791}, RowStatus.WRONG_SHAPE),
        ({"value": np.nan}, RowStatus.ALL_NAN),
    ],
)
def test_unusable_spectra_are_refused_by_both_readers(tmp_path, options, status):
    path = write_apstar(tmp_path / "a.fits", **options)
    assert status_of(path)[0] is status
    with pytest.raises(SpectrumError) as caught:
        read_with_astropy(path, SURVEY.grid)
    assert caught.value.status is status


def test_spectrum_without_positive_ivar_is_refused(tmp_path):
    path = write_apstar(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[2].data[0] = 1e10
    assert status_of(path)[0] is RowStatus.ZERO_IVAR


def test_missing_grid_card_is_named(tmp_path):
    path = write_apstar(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[2].header["CRVAL1"]
    status, reason = status_of(path)
    assert status is RowStatus.MISSING_CARD
    assert "CRVAL1" in reason


def test_other_star_in_the_file_is_a_contradiction(tmp_path):
    spectrum = SURVEY.read(write_apstar(tmp_path / "a.fits", objid="2M11111111+1111111"))
    assert SURVEY.contradiction({"apogee_id": "2M11111111+1111111 "}, spectrum) is None
    assert SURVEY.contradiction({"apogee_id": ""}, spectrum) is None
    message = SURVEY.contradiction({"apogee_id": "2M22222222+2222222"}, spectrum)
    assert message is not None
    assert "2M11111111" in message
    assert "2M22222222" in message


@needs_real
@pytest.mark.real
@pytest.mark.parametrize("release", ["dr14", "dr16"])
def test_real_allstar_has_every_parent_column(release):
    with fits.open(REAL / "apogee" / f"allStar-{release}-subset.fits") as hdus:
        present = {name.lower() for name in hdus[1].columns.names}
    wanted = {column.name for column in SURVEY.columns if column.aliases}
    assert wanted - present == {"gaiaedr3_source_id"}
