"""LAMOST files of all layouts, good, unusual and damaged."""

from __future__ import annotations

import contextlib
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.verify import VerifyError

from catalogue.spectra.primitives import RowStatus, Spectrum, SpectrumError
from catalogue.surveys import load_survey
from catalogue.surveys.lamost import LamostLowResolution, spectrum_of
from catalogue.surveys.lamost_files import parse_by_position, parse_with_astropy
from catalogue.surveys.regular_fits import IrregularFileError, read_whole
from tests.factories.lamost import star, write_coadd, write_five_rows
from tests.factories.real import REAL, needs_real

LIMIT = 1 << 24
SURVEY = LamostLowResolution()


def failure(path: Path) -> SpectrumError:
    with pytest.raises(SpectrumError) as caught:
        SURVEY.read(path)
    assert path.name in caught.value.reason
    return caught.value


def by_astropy_alone(path: Path) -> dict[str, np.ndarray]:
    """What a user who opens the file with astropy sees."""
    with fits.open(path) as hdus:
        if len(hdus) > 1:
            return {name: np.array(hdus[1].data[name.upper()][0]) for name in ("flux", "ivar", "andmask", "ormask")}
        return dict(zip(("flux", "ivar", "third", "andmask", "ormask"), np.array(hdus[0].data), strict=True))


def assert_same(left: Spectrum, right: Spectrum) -> None:
    for name in ("flux", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert getattr(left, name).dtype == getattr(right, name).dtype
    assert (left.first_pixel, left.cards) == (right.first_pixel, right.cards)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize("layout", ["coadd", "five rows", "subcontinuum"])
def test_reads_every_layout_plain_and_compressed(tmp_path, layout, suffix):
    path = tmp_path / f"spectrum{suffix}"
    if layout == "coadd":
        write_coadd(path, 123, seed=4)
    else:
        write_five_rows(path, 123, seed=4, subcontinuum=layout == "subcontinuum")
    spectrum = SURVEY.read(path)
    flux, ivar, _, andmask, ormask = star(4)
    np.testing.assert_array_equal(spectrum.flux, flux)
    np.testing.assert_array_equal(spectrum.ivar, ivar)
    np.testing.assert_array_equal(spectrum.mask & 0xFF, andmask)
    np.testing.assert_array_equal(spectrum.mask >> 8, ormask)
    assert spectrum.mask.dtype == np.uint16
    assert spectrum.flux.dtype == np.float32
    assert spectrum.flux.dtype.isnative
    assert spectrum.first_pixel == 0
    assert spectrum.cards["file_snrg"] == 60.0
    assert spectrum.cards["file_z"] == 1e-4
    assert spectrum.cards.get("file_obsid") == (None if layout == "subcontinuum" else 123)
    assert spectrum.cards.get("data_release") == ({"coadd": "LAMOST DR10", "five rows": "LAMOST DR7"}.get(layout))


@needs_real
def test_both_readers_and_astropy_alone_agree_on_every_real_file():
    paths = sorted((REAL / "lamost").glob("*/*.fits*"))
    assert len(paths) == 226
    for path in paths:
        content = read_whole(path, LIMIT)
        fast = spectrum_of(parse_by_position(content, path.name), path.name)
        assert_same(fast, spectrum_of(parse_with_astropy(content, path.name), path.name))
        plain = by_astropy_alone(path)
        np.testing.assert_array_equal(fast.flux, plain["flux"])
        np.testing.assert_array_equal(fast.ivar, plain["ivar"])
        np.testing.assert_array_equal(fast.mask, plain["andmask"] + 256 * plain["ormask"])


@needs_real
def test_third_row_of_early_releases_is_not_taken_for_a_wavelength():
    for path in sorted((REAL / "lamost/dr2_5xn_subcontinuum").glob("*.fits")):
        assert by_astropy_alone(path)["third"].max() < 100
        spectrum = SURVEY.read(path)
        assert spectrum.first_pixel == 0
        assert "file_obsid" not in spectrum.cards
        assert spectrum.cards["file_snrg"] == fits.getheader(path)["SN_G"]


def test_offset_file_lies_on_the_lattice_and_the_grid_holds_the_longest_possible(tmp_path):
    shifted = write_coadd(
        tmp_path / "k158.fits", spectrum=star(0, 3751, first_pixel=158), cards={"COEFF0": 3.5682 + 158e-4}
    )
    spectrum = SURVEY.read(shifted)
    assert spectrum.first_pixel == 158
    assert len(spectrum.flux) == 3751
    longest = write_coadd(tmp_path / "long.fits", spectrum=star(0, 3909, first_pixel=158), cards={"COEFF0": 3.584})
    assert SURVEY.read(longest).first_pixel + 3909 <= SURVEY.grid.n_pixels
    wavelength = SURVEY.grid.wavelength()
    np.testing.assert_allclose(wavelength[158 : 158 + 3751], star(0, 3751, first_pixel=158)[2], rtol=1e-7)


@pytest.mark.parametrize(
    "cards",
    [
        {"COEFF0": 3.56825},
        {"COEFF0": 3.5681},
        {"COEFF0": 3.9},
        {"COEFF0": 1e300},
        {"COEFF1": 0.00011},
        {"COEFF1": -0.0001},
    ],
)
def test_a_grid_off_the_lattice_is_a_wrong_shape(tmp_path, cards):
    assert failure(write_coadd(tmp_path / "a.fits", cards=cards)).status is RowStatus.WRONG_SHAPE


def test_stored_wavelengths_that_contradict_the_cards_are_a_wrong_shape(tmp_path):
    vectors = list(star(0))
    vectors[2] = vectors[2] * 1.01
    for path in (
        write_coadd(tmp_path / "a.fits", spectrum=vectors),
        write_five_rows(tmp_path / "b.fits", spectrum=vectors),
        write_five_rows(tmp_path / "c.fits", spectrum=vectors, cards={"EXTEN0": None}),
    ):
        error = failure(path)
        assert error.status is RowStatus.WRONG_SHAPE
        assert "expected wavelength 3699.985" in error.reason


def test_too_many_pixels_or_rows_are_a_wrong_shape(tmp_path):
    assert failure(write_coadd(tmp_path / "a.fits", n_pixels=4097)).status is RowStatus.WRONG_SHAPE
    four = tmp_path / "b.fits"
    fits.PrimaryHDU(np.ones((4, 3909), "f4")).writeto(four)
    assert "expected an image (5, N), found (4, 3909)" in failure(four).reason
    cube = tmp_path / "c.fits"
    fits.PrimaryHDU(np.ones((2, 5, 3909), "f4")).writeto(cube)
    assert failure(cube).status is RowStatus.WRONG_SHAPE
    table = tmp_path / "d.fits"
    column = fits.Column("FLUX", "3909E", array=np.ones((1, 3909), "f4"))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column])]).writeto(table)
    assert "expected a table with columns FLUX, IVAR" in failure(table).reason


@pytest.mark.parametrize("keyword", ["COEFF0", "COEFF1"])
@pytest.mark.parametrize("value", [None, "3.5682", True])
def test_missing_or_wordy_grid_cards_are_named(tmp_path, keyword, value):
    error = failure(write_coadd(tmp_path / "a.fits", cards={keyword: value}))
    assert error.status is RowStatus.MISSING_CARD
    assert keyword in error.reason


def test_cards_that_are_absent_or_null_are_left_out(tmp_path):
    cards = {"Z": -9999.0, "RA": None, "SNRG": "bad", "OBSID": None, "DATA_V": None}
    spectrum = SURVEY.read(write_coadd(tmp_path / "a.fits", cards=cards))
    assert set(spectrum.cards) == {"file_dec"}


def test_a_64_bit_obsid_is_exact(tmp_path):
    obsid = 2**53 + 1
    assert SURVEY.read(write_coadd(tmp_path / "a.fits", obsid)).cards["file_obsid"] == obsid


def test_values_without_information_become_nan_and_zero(tmp_path):
    vectors = [vector.copy() for vector in star(0)]
    flux, ivar, _, andmask, ormask = vectors
    flux[:3] = np.nan, np.inf, -np.inf
    ivar[3:6] = -1, np.nan, np.inf
    andmask[10:13] = 300, np.nan, 0.5
    ormask[20] = -1
    spectrum = SURVEY.read(write_coadd(tmp_path / "a.fits", spectrum=vectors))
    assert np.isnan(spectrum.flux[:3]).all()
    np.testing.assert_array_equal(spectrum.ivar[:6], 0)
    np.testing.assert_array_equal(spectrum.flux[3:], flux[3:])
    np.testing.assert_array_equal(spectrum.ivar[6:], ivar[6:])
    np.testing.assert_array_equal(spectrum.mask[10:13] & 0xFF, 1 << 5)
    assert spectrum.mask[20] >> 8 == 1 << 5


def test_no_finite_flux_and_no_positive_ivar_are_told_apart(tmp_path):
    flux, ivar, *rest = star(0)
    nothing = write_coadd(tmp_path / "a.fits", spectrum=[np.full_like(flux, np.nan), ivar, *rest])
    assert failure(nothing).status is RowStatus.ALL_NAN
    no_ivar = write_coadd(tmp_path / "b.fits", spectrum=[flux, -ivar, *rest])
    assert failure(no_ivar).status is RowStatus.ZERO_IVAR
    flux = flux.copy()
    flux[:-1] = np.nan
    ivar = np.where(np.isnan(flux), ivar, 0)
    apart = write_coadd(tmp_path / "c.fits", spectrum=[flux, ivar, *rest])
    assert failure(apart).status is RowStatus.ZERO_IVAR


def test_unusual_but_good_files_go_to_astropy_and_give_the_same(tmp_path):
    expected = SURVEY.read(write_five_rows(tmp_path / "plain.fits", 7))
    rows = np.array(star(0), np.float64)
    cards = {"OBSID": 7, "DATA_V": "LAMOST DR7", "COEFF0": 3.5682, "COEFF1": 1e-4}
    cards |= {"RA": 150.0, "DEC": 20.0, "Z": 1e-4, "SNRG": 60.0, "EXTEN0": "Flux, Inverse, Wavelength, Andmask, Ormask"}
    wide = fits.PrimaryHDU(rows)
    wide.header.update(cards)
    wide.writeto(tmp_path / "double.fits")
    with pytest.raises(IrregularFileError):
        parse_by_position((tmp_path / "double.fits").read_bytes(), "double.fits")
    assert_same(SURVEY.read(tmp_path / "double.fits"), expected)
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
    columns = [
        fits.Column(name, "3909D", array=row[None]) for name, row in reversed(list(zip(names, rows, strict=True)))
    ]
    primary = fits.PrimaryHDU()
    primary.header.update(cards)
    fits.HDUList([primary, fits.ImageHDU(np.ones(3)), fits.BinTableHDU.from_columns(columns)]).writeto(
        tmp_path / "table.fits"
    )
    assert_same(SURVEY.read(tmp_path / "table.fits"), expected)


def test_coadd_columns_are_found_by_name_in_any_order(tmp_path):
    names = ("ORMASK", "IVAR", "FLUX", "WAVELENGTH", "ANDMASK")
    vectors = dict(zip(("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK"), star(0), strict=True))
    columns = [fits.Column(name, "3909E", array=vectors[name][None]) for name in names]
    primary = fits.PrimaryHDU()
    primary.header.update({"COEFF0": 3.5682, "COEFF1": 1e-4})
    path = tmp_path / "a.fits"
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="COADD")]).writeto(path)
    parse_by_position(path.read_bytes(), path.name)
    np.testing.assert_array_equal(SURVEY.read(path).flux, vectors["FLUX"])


def test_truncated_empty_missing_and_foreign_files_have_their_own_status(tmp_path):
    whole = write_coadd(tmp_path / "whole.fits").read_bytes()
    path = tmp_path / "a.fits"
    for size in (1, 100, 2880, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert failure(path).status is RowStatus.TRUNCATED, size
        path.write_bytes(gzip.compress(whole[:size], 1))
        assert failure(path).status is RowStatus.TRUNCATED, size
    path.write_bytes(b"")
    assert failure(path).status is RowStatus.EMPTY_FILE
    path.write_bytes(gzip.compress(b""))
    assert failure(path).status is RowStatus.EMPTY_FILE
    path.write_bytes(b"<html>404 not found</html>")
    assert failure(path).status is RowStatus.UNREADABLE
    path.unlink()
    assert failure(path).status is RowStatus.NO_SPECTRUM


def test_a_header_with_bytes_that_are_not_text_is_unreadable(tmp_path):
    path = write_coadd(tmp_path / "a.fits")
    content = bytearray(path.read_bytes())
    content[content.find(b"END     ")] ^= 0x80
    path.write_bytes(content)
    assert failure(path).status is RowStatus.UNREADABLE


def test_other_errors_of_the_file_system_pass_through(tmp_path, monkeypatch):
    path = write_coadd(tmp_path / "a.fits")

    def stale(*_arguments):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("os.open", stale)
    with pytest.raises(OSError, match="Stale"):
        SURVEY.read(path)


@needs_real
def test_every_real_file_that_is_cut_short_is_truncated(tmp_path):
    paths = sorted((REAL / "lamost").glob("*/*.fits*"))
    assert len(paths) == 226
    for path in paths:
        content = path.read_bytes()
        copy = tmp_path / path.name
        for share in (1, 50, 99):
            copy.write_bytes(content[: len(content) * share // 100])
            error = failure(copy)
            assert error.status is RowStatus.TRUNCATED, (path, share, error.reason)


@needs_real
def test_flipped_bits_in_real_gzip_files_never_pass_for_data(tmp_path):
    """The checksum finds them, or they hit the gzip header, which carries no data."""
    found = set()
    for path in sorted((REAL / "lamost/dr10").glob("*.fits.gz"))[::9]:
        good = SURVEY.read(path)
        content = path.read_bytes()
        random = np.random.default_rng(len(content))
        for position in [*random.integers(0, len(content), 5).tolist(), 20, len(content) - 1, len(content) - 6]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << int(random.integers(8))
            copy = tmp_path / path.name
            copy.write_bytes(flipped)
            try:
                spectrum = SURVEY.read(copy)
            except SpectrumError as error:
                found.add(error.status.name)
            else:
                found.add("read")
                assert position < 60
                assert_same(spectrum, good)
    assert {"read", "UNREADABLE"} <= found <= {"read", "UNREADABLE", "TRUNCATED"}


@needs_real
def test_real_plain_files_with_flipped_bits_are_read_or_refused_the_same_by_both_readers(tmp_path):
    """Plain files have no checksum: a flip may go unseen, but it must neither crash nor depend on the reader."""
    random = np.random.default_rng(1)
    outcomes = set()
    for path in sorted((REAL / "lamost").glob("*/*.fits"))[::3]:
        content = path.read_bytes()
        for position in [*random.integers(0, 11520, 12).tolist(), *random.integers(11520, len(content), 4).tolist()]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << int(random.integers(8))
            copy = tmp_path / path.name
            copy.write_bytes(flipped)
            try:
                fast = spectrum_of(parse_by_position(bytes(flipped), path.name), path.name)
            except SpectrumError as error:
                outcomes.add(error.status.name)
            except IrregularFileError:
                outcomes.add("irregular")
            else:
                outcomes.add("read")
                assert_same(fast, spectrum_of(parse_with_astropy(bytes(flipped), path.name), path.name))
            with contextlib.suppress(SpectrumError):
                SURVEY.read(copy)
    assert {"read", "irregular"} <= outcomes
    assert outcomes - {"read", "irregular"} <= {"UNREADABLE", "TRUNCATED", "WRONG_SHAPE", "MISSING_CARD"}


def spectrum_with(**cards: object) -> Spectrum:
    return Spectrum(np.ones(1), np.ones(1), np.zeros(1, int), cards=cards)


def test_obsid_decides_when_both_have_one():
    row = {"obsid": np.int64(5), "ra": 10.0, "dec": 0.0}
    assert SURVEY.contradiction(row, spectrum_with(file_obsid=5, file_ra=99.0, file_dec=0.0)) is None
    reason = SURVEY.contradiction(row, spectrum_with(file_obsid=6, file_ra=10.0, file_dec=0.0))
    assert reason == "expected OBSID 5, the file has 6"


@pytest.mark.parametrize("row_obsid", [-9999, None])
def test_position_decides_when_an_obsid_is_missing(row_obsid):
    row = {"obsid": row_obsid, "ra": 359.9999, "dec": 60.0}
    assert SURVEY.contradiction(row, spectrum_with(file_obsid=5, file_ra=0.0005, file_dec=60.0)) is None
    reason = SURVEY.contradiction(row, spectrum_with(file_ra=0.01, file_dec=60.0))
    assert reason is not None
    assert "18.2 arcsec apart, more than 5" in reason
    assert LamostLowResolution(20.0).contradiction(row, spectrum_with(file_ra=0.01, file_dec=60.0)) is None


def test_what_cannot_be_compared_does_not_contradict():
    assert SURVEY.contradiction({"obsid": 5, "ra": np.nan, "dec": np.nan}, spectrum_with(file_ra=1.0)) is None
    assert SURVEY.contradiction({}, spectrum_with()) is None


def test_the_survey_is_found_by_name_and_describes_its_mask():
    survey = load_survey("lamost-lrs")
    assert survey.name == "lamost-lrs"
    assert {bit.bit for bit in survey.mask_bits} == {*range(6), *range(8, 14)}
    assert survey.mask_bits[0].name == "AND_BADCCD"
    assert survey.mask_bits[-1].name == "OR_NODATA"
    assert survey.grid.wavelength().shape == (survey.grid.n_pixels,)


def test_errors_travel_between_processes(tmp_path):
    error = failure(tmp_path / "absent.fits")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.status, copy.reason) == (error.status, error.reason)


def test_the_factory_writes_standard_fits_but_for_the_stray_axes(tmp_path):
    with fits.open(write_five_rows(tmp_path / "b.fits")) as hdus:
        hdus.verify("exception")
    with fits.open(write_coadd(tmp_path / "a.fits.gz")) as hdus, pytest.raises(VerifyError) as caught:
        hdus.verify("exception")
    assert "NAXIS == 0" in str(caught.value)
    assert "Card" not in str(caught.value)
