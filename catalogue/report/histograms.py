"""Distributions of uncertain quantities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr


def expected_counts(
    values: NDArray[np.floating], errors: NDArray[np.floating], edges: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Counts per bin if every value is spread as a Gaussian of its own error.

    Parameters
    ----------
    values, errors : ndarray, shape (n,)
        Rows without a finite value are left out; one without a positive finite error falls whole into its bin.
    edges : ndarray, shape (bins + 1,)
        Ascending.

    Returns
    -------
    ndarray of float64, shape (bins,)
        Its square root is the counting error of each bin, were the survey repeated.
    """
    counts = np.zeros(len(edges) - 1)
    finite = np.isfinite(values)
    spread = finite & np.isfinite(errors) & (errors > 0)
    counts += np.histogram(values[finite & ~spread], edges)[0]
    for start in range(0, int(spread.sum()), 4096):
        centre = values[spread][start : start + 4096, None]
        width = errors[spread][start : start + 4096, None]
        counts += np.diff(ndtr((edges - centre) / width), axis=1).sum(axis=0)
    return counts


def two_piece_normal(x: NDArray[np.floating], lower: float, middle: float, upper: float) -> NDArray[np.float64]:
    """Density drawn for a star of which only percentiles are kept.

    Parameters
    ----------
    x : ndarray
    lower, middle, upper : float
        The 16th, 50th and 84th percentiles.

    Returns
    -------
    ndarray of float64, same shape as ``x``
        Two half Gaussians that meet at ``middle``, each with its own width and half of the probability.
        They do not have one height there, so each is scaled to a peak of 1: a picture, not a density estimate.
    """
    left, right = max(middle - lower, 1e-9), max(upper - middle, 1e-9)
    width = np.where(x < middle, left, right)
    return np.asarray(np.exp(-0.5 * ((x - middle) / width) ** 2))
