"""The loops of the APOGEE continuum, compiled by numba; imported where they are called, as numba takes long to load.

One pass per star while its pixels are in the cache. Sums may be reordered by the compiler (it uses the processor's
vectors), so that results are the same on one kind of processor and equal to rounding on others.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]


@numba.njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _dot(first: _Array, second: _Array) -> float:
    total = 0.0
    for i in range(len(first)):
        total += first[i] * second[i]
    return total


@numba.njit(nogil=True, error_model="numpy")
def _weigh(values: _Array, weights: _Array, floor: float) -> int:
    """Turn ivar into the square of 1/(σ² + floor), 0 where there is nothing to fit; returns how many are not."""
    present = 0
    for i in range(len(values)):
        value, ivar = values[i], weights[i]
        good = (np.abs(value) < np.inf) & (ivar > 0) & (ivar < np.inf)
        weight = ivar / (1.0 + floor * ivar)
        weights[i] = weight * weight if good else 0.0
        values[i] = value if good else 0.0
        present += good
    return present


@numba.njit(nogil=True, error_model="numpy")
def _solve(sums: _Array, right: _Array, lower: _Array) -> bool:
    """Solve the normal equations in place of ``right``; False if they have no solution.

    ``sums`` holds the weighted sums of T_0, T_1, ...: as T_i T_j = (T_{i+j} + T_{|i-j|})/2, they make the matrix.
    """
    n = len(right)
    for i in range(n):
        for j in range(i + 1):
            entry = 0.5 * (sums[i + j] + sums[i - j])
            for k in range(j):
                entry -= lower[i, k] * lower[j, k]
            if i != j:
                lower[i, j] = entry / lower[j, j]
            elif entry > 0.0:
                lower[i, i] = np.sqrt(entry)
            else:
                return False
    for i in range(n):
        for k in range(i):
            right[i] -= lower[i, k] * right[k]
        right[i] /= lower[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            right[i] -= lower[k, i] * right[k]
        right[i] /= lower[i, i]
    return bool(np.isfinite(right).all())


@numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _divide(
    flux: _Array,
    mask: _Array,
    coefficients: _Array,
    basis: _Array,
    continuum: _Array,
    target: Any,
    limit: Any,
    out: _Array,
) -> None:
    zero, one = np.float32(0.0), np.float32(1.0)
    continuum[:] = np.float32(coefficients[0])
    for k in range(1, len(coefficients)):
        coefficient, shape = np.float32(coefficients[k]), basis[k]
        for i in range(len(flux)):
            continuum[i] += coefficient * shape[i]
    for i in range(len(flux)):
        ratio = flux[i] / continuum[i]
        ratio = zero if ratio < zero else ratio
        # A ratio that is not a number fails the comparison; one of minus infinity has become zero.
        out[i] = ratio if (ratio <= limit) & (np.abs(flux[i]) < np.inf) & ((mask[i] & target) == 0) else one


@numba.njit(nogil=True)
def _count_bad(flux: _Array, ivar: _Array, mask: _Array, target: Any) -> int:
    bad = 0
    for i in range(len(ivar)):
        # Of a flux that is not finite the product with zero is not a number, which differs from itself.
        empty = flux[i] * np.float32(0.0)
        bad += (ivar[i] <= 0) | (empty != empty) | ((mask[i] & target) != 0)
    return bad


@numba.njit(nogil=True, error_model="numpy")
def normalise_chip(
    flux: _Array,
    ivar: _Array,
    mask: _Array,
    index: _Array,
    table: _Array,
    basis: _Array,
    first: int,
    begin: int,
    floor: float,
    target: Any,
    limit: Any,
    out: _Array,
    bad: _Array,
) -> None:
    """Normalise one detector of all stars.

    Parameters
    ----------
    flux, ivar : ndarray of float32, shape (stars, 8575)
    mask : ndarray of uint32, shape (stars, 8575)
    index : ndarray of uint64, shape (continuum pixels,)
        Of the survey's grid.
    table : ndarray of float64, shape (2 · degree + 1, continuum pixels)
        Chebyshev polynomials at the continuum pixels.
    basis : ndarray of float32, shape (degree + 1, pixels)
        Chebyshev polynomials at the detector's pixels.
    first, begin : int
        First pixel of the detector in the survey's grid and in ``out``.
    floor, target, limit
        See :class:`~catalogue.models.apogee_continuum.ContinuumSettings`; ``target`` as uint32, ``limit`` as float32.
    out : ndarray of float32, shape (stars, 7514)
        Written.
    bad : ndarray of int64, shape (stars,)
        The pixels that hold nothing or have a target bit are added, or all of a detector without a continuum.
    """
    n, width = basis.shape
    values, weights, right = np.empty(len(index)), np.empty(len(index)), np.empty(n)
    sums, lower, continuum = np.empty(2 * n - 1), np.empty((n, n)), np.empty(width, np.float32)
    for star in range(len(flux)):
        star_flux, star_ivar = flux[star], ivar[star]
        star_mask, star_out = mask[star][first : first + width], out[star][begin : begin + width]
        # In order, which also brings the pixels that the fit picks into the cache.
        nothing = _count_bad(star_flux[first : first + width], star_ivar[first : first + width], star_mask, target)
        for i in range(len(index)):
            values[i] = star_flux[index[i]]
            weights[i] = star_ivar[index[i]]
        enough = _weigh(values, weights, floor) >= n
        for k in range(2 * n - 1):
            sums[k] = _dot(weights, table[k])
        for i in range(len(index)):
            weights[i] *= values[i]
        for k in range(n):
            right[k] = _dot(weights, table[k])
        # The first sum is that of the light: over a continuum that is not positive, no ratio means anything.
        if enough and right[0] > 0.0 and _solve(sums, right, lower):
            bad[star] += nothing
            _divide(star_flux[first : first + width], star_mask, right, basis, continuum, target, limit, star_out)
        else:
            bad[star] += width
            star_out[:] = np.float32(1.0)
