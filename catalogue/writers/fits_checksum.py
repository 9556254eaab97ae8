"""CHECKSUM and DATASUM of a FITS unit, as its bytes stream by (FITS Standard 4.0, appendix J)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def add_words(total: int, data: NDArray[np.uint8] | bytes) -> int:
    """Add big-endian 32-bit words to a ones' complement sum.

    Parameters
    ----------
    total : int
        Sum so far.
    data : ndarray of uint8 or bytes
        A multiple of four bytes.

    Returns
    -------
    int
        From 0 to 2**32 - 1.
    """
    words = np.frombuffer(data, ">u4")
    # Fewer than 2**32 words are added at a time, so that 64 bits hold the carries until the end.
    total += int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def checksum_text(total: int) -> str:
    """Sixteen ASCII characters that bring the sum of a unit with ``total`` to minus zero.

    Each byte of the complement becomes four characters that add up to it, moved away from
    punctuation in pairs.
    """
    punctuation = {*range(0x3A, 0x41), *range(0x5B, 0x61)}
    characters = np.empty((4, 4), np.int64)
    for position, byte in enumerate((~total & 0xFFFFFFFF).to_bytes(4, "big")):
        quarters = [byte // 4 + ord("0")] * 4
        quarters[0] += byte % 4
        while any(quarter in punctuation for quarter in quarters):
            for first in (0, 2):
                if quarters[first] in punctuation or quarters[first + 1] in punctuation:
                    quarters[first] += 1
                    quarters[first + 1] -= 1
        characters[:, position] = quarters
    encoded = "".join(chr(character) for character in characters.ravel())
    # The value starts one byte into a four-byte word of its card, so the characters are rotated by one.
    return encoded[-1] + encoded[:-1]
