from __future__ import annotations

import itertools

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from catalogue.spectra.primitives import RowStatus
from catalogue.writers.fits import FitsWriter
from catalogue.writers.fits_checksum import add_words, checksum_text
from catalogue.writers.rows import row_dtype
from tests.factories.products import PROVENANCE, STRING, every_dtype_model, every_dtype_rows


@pytest.fixture
def path(tmp_path):
    with FitsWriter(tmp_path / "x.fits", every_dtype_model(), 100, PROVENANCE) as writer:
        writer.write(every_dtype_rows(100))
    return tmp_path / "x.fits"


def test_astropy_finds_nothing_to_complain_about(path):
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert [hdu.verify_checksum() for hdu in hdus] == [1, 1]
        assert [hdu.verify_datasum() for hdu in hdus] == [1, 1]


def test_fitsio_agrees_with_the_checksums(path):
    with fitsio.FITS(str(path)) as hdus:
        hdus[0].verify_checksum()
        hdus[1].verify_checksum()
    content = bytearray(path.read_bytes())
    content[-5000] ^= 4
    path.write_bytes(content)
    with fitsio.FITS(str(path)) as hdus, pytest.raises(ValueError, match="data checksum failed"):
        hdus[1].verify_checksum()


@pytest.mark.parametrize("n_rows", [0, 1, 2879, 2880, 2881, 11520, 11521])
def test_checksums_hold_for_any_number_of_rows_and_files_end_on_a_record(tmp_path, n_rows):
    with FitsWriter(tmp_path / "x.fits", every_dtype_model(), n_rows, {}) as writer:
        writer.write(every_dtype_rows(n_rows))
    assert (tmp_path / "x.fits").stat().st_size % 2880 == 0
    with fits.open(tmp_path / "x.fits", checksum=True) as hdus:
        assert hdus[1].verify_checksum() == hdus[1].verify_datasum() == 1
        assert len(hdus[1].data) == n_rows


def test_one_flipped_bit_is_found(path):
    content = bytearray(path.read_bytes())
    content[-5000] ^= 4
    path.write_bytes(content)
    with fits.open(path) as hdus:
        assert fits.open(path, checksum=False)[1].verify_datasum() == 0
        assert hdus[1].verify_checksum() == 0


@pytest.mark.parametrize("total", [0, 1, 0xFFFFFFFF, 0x3A3A3A3A, 0x5B405B40, 2_858_474_123, 868_229_149])
def test_checksums_are_encoded_as_astropy_encodes_them(total):
    text = checksum_text(total)
    assert text == fits.PrimaryHDU()._char_encode(~total & 0xFFFFFFFF)
    assert text.isalnum()


def test_words_are_added_with_carries():
    data = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8)
    expected = 0
    for first in range(0, len(data), 4):
        expected += int.from_bytes(data[first : first + 4].tobytes(), "big")
        expected = (expected & 0xFFFFFFFF) + (expected >> 32)
    assert add_words(0, data) == expected
    assert add_words(add_words(0, data[:400]), data[400:]) == expected


def test_cards_of_every_column(path):
    header = fits.getheader(path, 1)
    model = every_dtype_model()
    assert header["TFIELDS"] == len(model.columns)
    for number, column in enumerate(model.columns, start=1):
        assert header[f"TTYPE{number}"] == column.name
        assert header.get(f"TUNIT{number}", "") == column.unit
        assert header.get(f"TUCD{number}", "") == column.ucd
        assert header[f"TCOMM{number}"] == column.description
        assert header.get(f"TNULL{number}") == column.missing


def test_units_and_nulls_arrive_in_an_astropy_table(path):
    table = Table.read(path)
    assert str(table["Age"].unit) == "Gyr"
    assert str(table["ra"].unit) == "deg"
    assert table["obsid"].mask[0]
    assert table["visits"].mask[0]
    assert np.isnan(table["Age"].data.data[0])


def test_flag_bits_and_statuses_are_named(path):
    header = fits.getheader(path, 1)
    for flag in every_dtype_model().flags:
        assert header[f"FLGNAM{flag.bit}"] == flag.name
        assert header[f"FLGLEV{flag.bit}"] == flag.level
        assert header[f"FLGCOM{flag.bit}"] == flag.description
    for status in RowStatus:
        assert header[f"STANAM{int(status)}"] == status.name


def test_provenance_is_in_both_headers_and_long_values_are_whole(path):
    for extension, (keyword, value) in itertools.product((0, 1), PROVENANCE.items()):
        assert fits.getheader(path, extension)[keyword] == value
    assert fitsio.read_header(path, 1)["NOTE"] == PROVENANCE["NOTE"]


def test_provenance_that_cards_cannot_hold_is_escaped(tmp_path):
    provenance = {"PARENT": "étoiles\n2.csv", "EMPTY": ""}
    with FitsWriter(tmp_path / "x.fits", every_dtype_model(), 0, provenance):
        pass
    header = fits.getheader(tmp_path / "x.fits")
    assert header["PARENT"] == "\\xe9toiles 2.csv"
    assert header["EMPTY"] == ""


def test_rows_are_big_endian_and_unpadded():
    dtype = row_dtype(every_dtype_model())
    assert dtype.itemsize == 8 + 8 + 12 + 2 + 4 + 4 + 1 + 4 + 1 + 1
    assert all(field.byteorder in ">|" for field, *_ in dtype.fields.values())


def test_strings_as_long_as_their_width_are_whole(tmp_path):
    columns = every_dtype_rows(2)
    columns["class"] = np.array(["x" * 12, ""], STRING)
    with FitsWriter(tmp_path / "x.fits", every_dtype_model(), 2, {}) as writer:
        writer.write(columns)
    assert Table.read(tmp_path / "x.fits")["class"].tolist() == ["x" * 12, ""]
