"""Regular FITS files read by position: whole-file decompression, header cards and data found by their offsets.

Two headers of at most a few blocks and a hundred kilobytes of data do not need a general FITS library; reading them
by position leaves little beside the decompression. Whatever departs from the regular form raises
:class:`IrregularFileError`, upon which the caller asks a general library: this module never guesses.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from isal import igzip_lib

from catalogue.spectra.primitives import RowStatus, SpectrumError

BLOCK = 2880
CARD = 80
_END = b"END" + b" " * 77
_ISAL_ERROR: type[Exception] = igzip_lib.error  # type: ignore[assignment]
_GZIP_MAGIC = b"\x1f\x8b"
_NUMBER = re.compile(rb" *([+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?) *(?:/|$)")
_STRING = re.compile(rb" *'((?:[^']|'')*)' *(?:/|$)")
_KEYWORD_BYTES = 10
_CARD_TYPE = np.dtype([("keyword", f"V{_KEYWORD_BYTES}"), ("rest", f"V{CARD - _KEYWORD_BYTES}")])
_PRINTABLE = bytes(range(0x20, 0x7F))


class IrregularFileError(Exception):
    """The bytes may be good FITS but not of the regular form that is read by position."""


def read_whole(path: Path, limit: int) -> bytes:
    """Content of a small file, decompressed if it is gzip (told by its first bytes, not by its name).

    Parameters
    ----------
    path : Path
    limit : int
        Bytes after decompression that no file of the survey exceeds; a guard against gzip bombs.

    Raises
    ------
    SpectrumError
        ``NO_SPECTRUM``, ``EMPTY_FILE``, ``TRUNCATED`` or ``UNREADABLE``. The checksum and the length at the end of a
        gzip file are compared, so that a flipped bit anywhere in one is found.
    OSError
        From the file system, other than "no such file".
    """
    content = _read_bytes(path, limit)
    if not content:
        raise SpectrumError(RowStatus.EMPTY_FILE, f"{path.name}: zero bytes")
    if content[:2] != _GZIP_MAGIC:
        return content
    content = _gunzip(content, path.name, limit)
    if not content:
        raise SpectrumError(RowStatus.EMPTY_FILE, f"{path.name}: decompresses to zero bytes")
    return content


def _read_bytes(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SpectrumError(RowStatus.NO_SPECTRUM, f"{path.name}: no such file") from error
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise SpectrumError(RowStatus.UNREADABLE, f"{path.name}: expected at most {limit} bytes, found {size}")
        return read_promised(descriptor, path.name, size, size)
    finally:
        os.close(descriptor)


def read_promised(descriptor: int, name: str, size: int, length: int, offset: int = 0) -> bytes:
    """Bytes of an open file from ``offset`` on: ``length`` of them, or fewer where a file of ``size`` bytes ends.

    Raises
    ------
    OSError
        If the file system gives fewer than the size that it states, as network file systems do for a file that is
        stale: that is no property of the file, and worth a retry.
    """
    wanted = max(0, min(length, size - offset))
    content = os.pread(descriptor, wanted, offset)
    while len(content) < wanted:
        piece = os.pread(descriptor, wanted - len(content), offset + len(content))
        if not piece:
            raise OSError(
                errno.EIO, f"expected {wanted} bytes from {offset} on, the file system gave {len(content)}", name
            )
        content += piece
    return content


def _gunzip(content: bytes, name: str, limit: int) -> bytes:
    """All members of a gzip file; what follows the last one must be padding zeros."""
    members = []
    room = limit
    while content:
        decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        # The length stored at the end lets the output be allocated once; one byte more shows a longer one.
        stored_length = int.from_bytes(content[-4:], "little")
        first = min(stored_length, limit) + 1
        try:
            member = decompressor.decompress(content, first)
            if not decompressor.eof and len(member) == first:
                member += decompressor.decompress(b"", room + 1 - len(member))
        except _ISAL_ERROR as error:
            raise _gzip_error(content, name, error) from error
        if len(member) > room:
            raise SpectrumError(RowStatus.UNREADABLE, f"{name}: decompresses to more than {limit} bytes")
        if not decompressor.eof:
            raise _gzip_error(content, name, None)
        members.append(member)
        room -= len(member)
        content = decompressor.unused_data
        if content[:2] != _GZIP_MAGIC:
            if content.strip(b"\0"):
                raise SpectrumError(
                    RowStatus.UNREADABLE, f"{name}: {len(content)} unexpected bytes after the gzip data"
                )
            break
    return members[0] if len(members) == 1 else b"".join(members)


def _gzip_error(content: bytes, name: str, error: Exception | None) -> SpectrumError:
    """Tell a gzip file that was cut from one that was changed.

    zlib decides: ISA-L reports some cut files as invalid.
    """
    decompressor = zlib.decompressobj(31)
    try:
        while content and not decompressor.eof:
            decompressor.decompress(content, 1 << 20)
            content = decompressor.unconsumed_tail
    except zlib.error as found:
        return SpectrumError(RowStatus.UNREADABLE, f"{name}: damaged gzip data: {found}")
    if not decompressor.eof:
        return SpectrumError(RowStatus.TRUNCATED, f"{name}: gzip data end early")
    return SpectrumError(RowStatus.UNREADABLE, f"{name}: damaged gzip data: {error}")


def header_end(content: bytes, start: int, name: str) -> int:
    """Offset of the first byte behind the header that begins at ``start``, a multiple of 2880.

    Raises
    ------
    SpectrumError
        ``TRUNCATED`` if the file ends within the header, ``UNREADABLE`` if there are bytes in it that are not text.
    """
    position = content.find(_END, start)
    while position >= 0 and (position - start) % CARD:
        position = content.find(_END, position + 1)
    end = position + CARD if position >= 0 else len(content)
    strange = content[start:end].translate(None, _PRINTABLE)
    if strange:
        raise SpectrumError(
            RowStatus.UNREADABLE, f"{name}: {len(strange)} bytes in the header at byte {start} are not text"
        )
    end += -(end - start) % BLOCK
    if position < 0 or end > len(content):
        raise truncated(name, len(content), end if position >= 0 else end + BLOCK, "header")
    return end


def truncated(name: str, found: int, expected: int, where: str) -> SpectrumError:
    """A ``TRUNCATED`` error that states both sizes."""
    return SpectrumError(
        RowStatus.TRUNCATED,
        f"{name}: expected at least {expected} bytes (to the end of the {where}), found {found}",
    )


class Cards:
    """Cards of a header, found by the position of their keywords.

    Files of one kind have the same keywords in the same order, so that the positions are worked out once for each order
    met and remembered.

    Parameters
    ----------
    header : bytes
        Whole blocks of 2880 bytes.
    """

    def __init__(self, header: bytes) -> None:
        self.header = header
        keywords = np.frombuffer(header, _CARD_TYPE)["keyword"].tobytes()
        self._positions = _first_positions(keywords)

    def value(self, keyword: str) -> int | float | str | None:
        """Value of the first card with a keyword: integer, float or string; None if there is no such card.

        Raises
        ------
        IrregularFileError
            If the value is of another form (logical, undefined, complex, continued or malformed).
        """
        position = self._positions.get(keyword)
        if position is None:
            return None
        field = self.header[position + _KEYWORD_BYTES : position + CARD]
        if match := _NUMBER.match(field):
            text = match[1]
            if text.lstrip(b"+-").isdigit():
                return int(text)
            return float(text.upper().replace(b"D", b"E"))
        if (match := _STRING.match(field)) and not match[1].endswith(b"&"):
            return match[1].replace(b"''", b"'").decode("ascii").rstrip(" ")
        raise IrregularFileError(f"{keyword} = {field!r}")

    def integer(self, keyword: str) -> int:
        """Integer value of a card.

        Raises
        ------
        IrregularFileError
            If there is no such card or its value is no integer.
        """
        value = self.value(keyword)
        if not isinstance(value, int):
            raise IrregularFileError(f"{keyword} = {value!r}")
        return value

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._positions


@lru_cache(maxsize=256)
def _first_positions(keywords: bytes) -> dict[str, int]:
    """Offset in the header of the first card with each keyword that takes a value.

    Parameters
    ----------
    keywords : bytes
        The first ten bytes of every card.
    """
    positions: dict[str, int] = {}
    for number in range(len(keywords) // _KEYWORD_BYTES):
        start = keywords[number * _KEYWORD_BYTES : (number + 1) * _KEYWORD_BYTES]
        if start[8:] == b"= ":
            positions.setdefault(start[:8].decode("ascii").rstrip(), number * CARD)
    return positions
