"""Which rows repeat the key of an earlier row, from one 64-bit hash per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catalogue.spectra.primitives import MISSING_INTEGER
from catalogue.spectra.values import to_numpy

_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 8
_BLOCK = 1 << 18


def key_hashes(values: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hash of each key of a block, and whether the key is missing.

    Parameters
    ----------
    values : pyarrow.Array
        Integers, floats or strings without nulls.

    Returns
    -------
    hashes : ndarray of uint64, shape (rows,)
        Of integers and floats the bits themselves, so that different keys never collide; of strings a mixture of
        their bytes: of 10 million different strings any two collide with a probability of 3e-6.
    missing : ndarray of bool, shape (rows,)
        NaN, -9999 or empty.
    """
    if pa.types.is_string(values.type):
        return _string_hashes(values)
    numbers = to_numpy(values)
    if numbers.dtype.kind == "f":
        # Adding 0 turns -0 into 0.
        return (numbers.astype(np.float64) + 0.0).view(np.uint64), np.isnan(numbers)
    return numbers.astype(np.int64).view(np.uint64), numbers == MISSING_INTEGER


def repeated_keys(
    hashes: NDArray[np.uint64], missing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows whose key occurred before, and the first row with that key.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (rows,)
    missing : ndarray of bool, shape (rows,)
        Rows without a key repeat nothing.

    Returns
    -------
    rows, earlier : ndarray of int64
        Sorted by row.
    """
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    # Sorting only the rows that can matter keeps the memory at two words per row where keys are unique.
    candidates = np.flatnonzero(_is_among(hashes, repeated) & ~missing)
    order = candidates[np.argsort(hashes[candidates], kind="stable")]
    ordered = hashes[order]
    repeats = np.zeros(len(order), bool)
    repeats[1:] = ordered[1:] == ordered[:-1]
    first = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(order))))
    rows, earlier = order[repeats], order[first[repeats]]
    by_row = np.argsort(rows)
    return rows[by_row].astype(np.int64), earlier[by_row].astype(np.int64)


def _is_among(hashes: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each hash is among sorted ones, block by block."""
    found = np.zeros(len(hashes), bool)
    if not len(wanted):
        return found
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        at = np.minimum(np.searchsorted(wanted, block), len(wanted) - 1)
        found[start : start + _BLOCK] = wanted[at] == block
    return found


def _string_hashes(values: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    texts = [text.encode() for text in values.to_pylist()]
    encoded = np.array(texts, dtype=np.bytes_)
    length = max(1, -(-encoded.dtype.itemsize // _WORD))
    words = encoded.astype(f"S{length * _WORD}").view(np.uint64).reshape(len(encoded), length)
    hashes = np.array([len(text) for text in texts], np.uint64)
    for word in words.T:
        # Blank words change nothing, so that the hash does not depend on the longest key of the block.
        hashes = np.where(word == 0, hashes, _mixed(hashes + np.uint64(_GOLDEN) ^ word))
    return hashes, encoded == b""


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection of 64-bit words."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return values ^ (values >> np.uint64(31))
