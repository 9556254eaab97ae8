"""Whole-file decompression and cards by position."""

from __future__ import annotations

import gzip

import pytest

from catalogue.spectra.primitives import RowStatus, SpectrumError
from catalogue.surveys.regular_fits import Cards, IrregularFileError, header_end, read_whole
from tests.factories.lamost import card, header

LIMIT = 1 << 20


def status_of(path) -> RowStatus:
    with pytest.raises(SpectrumError) as caught:
        read_whole(path, LIMIT)
    return caught.value.status


def value_of(content: bytes) -> int | float | str | None:
    return Cards(content.ljust(2880)).value("X")


def test_gzip_is_told_by_content_not_by_name(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(gzip.compress(b"content" * 1000))
    assert read_whole(path, LIMIT) == b"content" * 1000
    path = tmp_path / "b.fits.gz"
    path.write_bytes(b"plain")
    assert read_whole(path, LIMIT) == b"plain"


def test_members_and_zero_padding_are_read_and_other_trailing_bytes_refused(tmp_path):
    path = tmp_path / "a.gz"
    two = gzip.compress(b"one" * 500) + gzip.compress(b"two" * 700)
    path.write_bytes(two)
    assert read_whole(path, LIMIT) == b"one" * 500 + b"two" * 700
    path.write_bytes(two + b"\0" * 100)
    assert read_whole(path, LIMIT) == b"one" * 500 + b"two" * 700
    path.write_bytes(two + b"\0x")
    assert status_of(path) is RowStatus.UNREADABLE


def test_every_truncation_and_every_changed_byte_of_the_trailer_is_found(tmp_path):
    path = tmp_path / "a.gz"
    content = gzip.compress(bytes(range(256)) * 40)
    for size in range(2, len(content)):
        path.write_bytes(content[:size])
        assert status_of(path) is RowStatus.TRUNCATED, size
    for position in range(len(content) - 8, len(content)):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        assert status_of(path) is RowStatus.UNREADABLE, position


def test_a_stored_length_that_is_too_small_does_not_lose_data(tmp_path):
    """Two members: the length at the end is that of the last one."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000) + gzip.compress(b"y"))
    assert read_whole(path, LIMIT) == b"x" * 100_000 + b"y"


def test_gzip_bombs_and_huge_files_are_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\0" * (LIMIT + 1)))
    assert status_of(path) is RowStatus.UNREADABLE
    path.write_bytes(gzip.compress(b"\0" * LIMIT))
    assert len(read_whole(path, LIMIT)) == LIMIT
    path.write_bytes(gzip.compress(b"\0" * LIMIT) + gzip.compress(b"\0"))
    assert status_of(path) is RowStatus.UNREADABLE
    path.write_bytes(b"\1" * (LIMIT + 1))
    assert status_of(path) is RowStatus.UNREADABLE


def test_the_end_card_counts_only_on_a_card_boundary():
    comment = b"COMMENT " + b"END".ljust(80)[:72]
    content = comment.ljust(80) + b"END".ljust(80)
    content = content.ljust(2880)
    assert header_end(content, 0, "a") == 2880
    with pytest.raises(SpectrumError) as caught:
        header_end(comment.ljust(2880), 0, "a")
    assert caught.value.status is RowStatus.TRUNCATED


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("X       =                   12 / a comment", 12),
        ("X       =                  -12", -12),
        ("X       =               3.5682 /", 3.5682),
        ("X       = 1.5E-3 / left", 1.5e-3),
        ("X       =               1.5D-3", 1.5e-3),
        ("X       =                   .5", 0.5),
        ("X       = 'O''Neill'", "O'Neill"),
        ("X       = 'a / b   '           / c", "a / b"),
        ("X       = ''", ""),
        ("Y       = 1", None),
    ],
)
def test_card_values(text, value):
    found = value_of(text.ljust(80).encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("field", ["T", "", "(1, 2)", "12 34", "'open", "'long &'", "1.2.3", "NaN"])
def test_unusual_card_values_are_left_to_astropy(field):
    with pytest.raises(IrregularFileError):
        value_of(f"X       = {field}".ljust(80).encode())


def test_the_first_of_repeated_cards_counts_and_text_inside_others_does_not():
    content = card("COMMENT", "X       = 5") + card("X", 6) + card("X", 7)
    assert value_of(content) == 6
    assert value_of(header({"A": "xX       = 9"})) is None
