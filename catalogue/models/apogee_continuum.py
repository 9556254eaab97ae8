"""Continuum normalisation of APOGEE spectra, all stars at once.

The rules are those of astroNN's ``apogee_continuum`` as used for the DR17 catalogues (ALGORITHMS 2.1): a
Chebyshev polynomial per detector through the continuum pixels, then unusable pixels set to 1. Where the
reference calls a least-squares solver per star and detector, compiled loops form and solve the weighted normal
equations (:mod:`~catalogue.models.compiled_continuum`). They run on the CPU whatever the device: they take
microseconds per star, and a third of the bytes then travels to the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catalogue.models.bundle import BundleError

CHIPS: tuple[tuple[int, int], ...] = ((246, 3274), (3585, 6080), (6344, 8335))
"""Pixels of the three detectors on the 8,575-pixel grid, half open (DR13 to DR17)."""

N_SURVEY_PIXELS = 8575
N_PIXELS = sum(last - first for first, last in CHIPS)
"""7,514: what the networks see, detector after detector."""

TARGET_BITS: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 12)
"""Mask bits that replace a pixel by 1."""

SHIPPED_PIXELS = Path(__file__).with_name("apogee_continuum_pixels.txt")
_SEGMENT_PIXELS = 141
_PER_SEGMENT = 10


@dataclass(frozen=True)
class ContinuumSettings:
    """How spectra are normalised.

    Attributes
    ----------
    degree : int
        Degree of the Chebyshev polynomial of each detector.
    target_bits : tuple of int
        Mask bits whose pixels become 1, after the fit: they do not protect the fit.
    upper_limit : float or None
        Normalised flux above it becomes 1; None for no limit.
    error_floor : float
        Added to the variance in the weights 1/(σ² + floor).
    """

    degree: int = 2
    target_bits: tuple[int, ...] = TARGET_BITS
    upper_limit: float | None = 2.0
    error_floor: float = 1e-8


class ApogeeContinuum:
    """Normalises spectra of the native grid to the 7,514 pixels of the networks.

    Parameters
    ----------
    pixels : ndarray of bool, shape (7514,)
        Continuum pixels.
    settings : ContinuumSettings
    device : torch.device

    Raises
    ------
    ValueError
        If a target bit is not one of 0 to 30, or a detector has no more continuum pixels than the polynomial has
        coefficients.
    """

    def __init__(
        self,
        pixels: NDArray[np.bool_],
        settings: ContinuumSettings | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.settings = settings or ContinuumSettings()
        self.device = device or torch.device("cpu")
        if pixels.shape != (N_PIXELS,):
            raise ValueError(f"expected {N_PIXELS} continuum pixel flags, found shape {pixels.shape}")
        if any(not 0 <= bit < 31 for bit in self.settings.target_bits):
            raise ValueError(f"expected target bits 0 to 30, found {self.settings.target_bits}")
        self._target = np.uint32(sum(1 << bit for bit in self.settings.target_bits))
        # Without a limit, one that only infinities exceed.
        limit = self.settings.upper_limit
        self._limit = np.finfo(np.float32).max if limit is None else np.float32(limit)
        self._chips = [
            _Chip.of(pixels, first, last, start, self.settings.degree)
            for (first, last), start in zip(CHIPS, _STARTS, strict=True)
        ]

    def __call__(
        self, flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.unsignedinteger]
    ) -> torch.Tensor:
        """Normalised flux alone, see :meth:`normalise`."""
        return self.normalise(flux, ivar, mask)[0]

    def normalise(
        self, flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.unsignedinteger]
    ) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """:meth:`divide`, with the normalised flux on the device."""
        normalised, fraction = self.divide(flux, ivar, mask)
        return torch.from_numpy(normalised).to(self.device), fraction

    def divide(
        self, flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.unsignedinteger]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Divide by the continuum.

        Parameters
        ----------
        flux, ivar : ndarray of float32, shape (stars, 8575)
            ``ivar`` 0 marks pixels without information: they have no weight in the fit.
        mask : ndarray of unsigned integers, shape (stars, 8575)

        Returns
        -------
        normalised : ndarray of float32, shape (stars, 7514)
            Normalised flux. It is 1 where the flux is NaN or infinite, where a target bit is set, above the
            limit, and over a detector without a continuum: too few pixels to fit, or no light on the whole at those
            that there are; negative flux is 0.
        bad_fraction : ndarray of float32, shape (stars,)
            Fraction of the 7,514 pixels that hold nothing, have a target bit set or lie on a detector without a
            continuum.

        Raises
        ------
        ValueError
            If the spectra have another number of pixels.
        """
        from catalogue.models.compiled_continuum import normalise_chip

        if {flux.shape[1], ivar.shape[1], mask.shape[1]} != {N_SURVEY_PIXELS}:  # compiled loops look at no bounds
            raise ValueError(f"expected spectra of {N_SURVEY_PIXELS} pixels, found shape {flux.shape}")
        flux, ivar = np.ascontiguousarray(flux, np.float32), np.ascontiguousarray(ivar, np.float32)
        mask = np.ascontiguousarray(mask, np.uint32)
        out = np.empty((len(flux), N_PIXELS), np.float32)
        bad = np.zeros(len(flux), np.int64)
        for chip in self._chips:
            normalise_chip(
                flux, ivar, mask, chip.index, chip.table, chip.basis, chip.first, chip.start,
                self.settings.error_floor, self._target, self._limit, out, bad,
            )  # fmt: skip
        return out, (bad / N_PIXELS).astype(np.float32)


@dataclass(frozen=True)
class _Chip:
    """One detector: its continuum pixels and the Chebyshev polynomials at them and at all its pixels."""

    first: int
    start: int
    index: NDArray[np.uint64]
    table: NDArray[np.float64]
    basis: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.bool_], first: int, last: int, start: int, degree: int) -> _Chip:
        chosen = np.flatnonzero(pixels[start : start + last - first])
        if len(chosen) <= degree:
            raise ValueError(
                f"pixels {first}:{last}: expected more than {degree} continuum pixels, found {len(chosen)}"
            )
        shapes = np.polynomial.chebyshev.chebvander(np.linspace(-1.0, 1.0, last - first), 2 * degree).T
        basis = np.ascontiguousarray(shapes[: degree + 1], np.float32)
        return cls(first, start, (first + chosen).astype(np.uint64), np.ascontiguousarray(shapes[:, chosen]), basis)


_STARTS = [sum(last - first for first, last in CHIPS[:number]) for number in range(len(CHIPS))]


def cut_gaps(values: NDArray[Any]) -> NDArray[Any]:
    """Pixels of the three detectors, ``(..., 8575)`` to ``(..., 7514)``."""
    return np.concatenate([values[..., first:last] for first, last in CHIPS], axis=-1)


def read_continuum_pixels(path: Path | None = None) -> NDArray[np.bool_]:
    """Continuum pixels as flags over the 7,514 pixels.

    Parameters
    ----------
    path : Path or None
        A text file with one pixel number (0 to 7513) a line, ``#`` starting a comment, or a NumPy file with
        7,514 booleans, such as astroNN's ``dr17_contmask.npy``. None takes the list that comes with the
        package (:func:`derive_continuum_pixels`).

    Raises
    ------
    BundleError
        If the file cannot be read as either.
    """
    path = path or SHIPPED_PIXELS
    try:
        if path.suffix == ".npy":
            flags = np.load(path, allow_pickle=False)
        else:
            numbers = np.loadtxt(path, dtype=np.int64, ndmin=1)
            flags = np.zeros(N_PIXELS, np.bool_)
            flags[numbers] = True
            if numbers.size and numbers.min() < 0:
                raise ValueError(f"negative pixel number {numbers.min()}")
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path}: not a list of continuum pixels: {error}") from error
    if flags.shape != (N_PIXELS,) or flags.dtype != np.bool_:
        raise BundleError(f"{path}: expected {N_PIXELS} booleans, found {flags.dtype} {flags.shape}")
    return flags


def derive_continuum_pixels(mean: NDArray[np.floating], spread: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Choose continuum pixels from the mean and spread of real normalised giant spectra.

    Each detector is cut into stretches of about 141 pixels, so that the polynomial is held everywhere. In a
    stretch, the pixels of the upper fifth in mean flux are near the continuum of a typical giant; the ten
    of them whose flux varies least from star to star are kept. A pixel where a line lies is either low in the
    mean or varies with the abundance of its element.

    Parameters
    ----------
    mean, spread : ndarray, shape (7514,)
        Per-pixel mean and standard deviation of normalised flux over many giants.

    Returns
    -------
    ndarray of bool, shape (7514,)
    """
    chosen = np.zeros(N_PIXELS, np.bool_)
    for (first, last), start in zip(CHIPS, _STARTS, strict=True):
        n_segments = round((last - first) / _SEGMENT_PIXELS)
        edges = np.linspace(start, start + last - first, n_segments + 1).astype(int)
        for left, right in itertools.pairwise(edges):
            high = left + np.flatnonzero(mean[left:right] >= np.quantile(mean[left:right], 0.8))
            quietest = high[np.argsort(spread[high], kind="stable")[:_PER_SEGMENT]]
            chosen[quietest] = True
    return chosen
