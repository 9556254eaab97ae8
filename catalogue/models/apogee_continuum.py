"""Continuum normalisation of APOGEE spectra, all stars at once.

The rules are those of astroNN's ``apogee_continuum`` as used for the DR17 catalogues (ALGORITHMS 2.1): a
Chebyshev polynomial per detector through the continuum pixels, then unusable pixels set to 1. Where the
reference loops over stars with a least-squares call per detector, the weighted normal equations of all stars
are two small matrix products here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
_BLOCK_STARS = 32
"""Stars whose pixels of a detector stay in the cache of a core."""


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
        self._target = sum(1 << bit for bit in self.settings.target_bits)
        # Without a limit, one that only infinities exceed.
        self._limit = 1e37 if self.settings.upper_limit is None else self.settings.upper_limit
        self._fit = _Fit(pixels, self.settings.degree, self.device)

    def __call__(
        self,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        mask: NDArray[np.unsignedinteger],
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Normalise.

        Parameters
        ----------
        flux, ivar : ndarray of float32, shape (stars, 8575)
            ``ivar`` 0 marks pixels without information: they have no weight in the fit.
        mask : ndarray of unsigned integers, shape (stars, 8575)
        out : Tensor of float32, shape (stars, 7514), or None
            Where to write; reusing it saves the cost of fresh memory, which is as large as the fit's.

        Returns
        -------
        Tensor of float32, shape (stars, 7514)
            Normalised flux. It is 1 where the flux is NaN or infinite, where a target bit is set, above the
            limit, and over a detector without enough continuum pixels to fit; negative flux is 0.
        """
        bits = torch.from_numpy(np.ascontiguousarray(mask).view(_SIGNED[mask.dtype.itemsize]))
        return self.normalise(torch.from_numpy(flux), torch.from_numpy(ivar), bits, out)

    def normalise(
        self, flux: torch.Tensor, ivar: torch.Tensor, mask: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Normalise tensors (mask of a signed integer type), into ``out`` if given; see :meth:`__call__`."""
        flux, ivar, mask = flux.to(self.device), ivar.to(self.device), mask.to(self.device)
        if out is None:
            out = torch.empty((len(flux), N_PIXELS), dtype=torch.float32, device=self.device)
        block = len(flux) if self.device.type == "cuda" else _BLOCK_STARS
        chips = zip(CHIPS, _STARTS, self._fit(flux, ivar, self.settings.error_floor), self._fit.bases, strict=True)
        for (first, last), start, coefficients, basis in chips:
            for star in range(0, len(flux), max(block, 1)):
                stars = slice(star, star + block)
                part, inside = (stars, slice(first, last)), (stars, slice(start, start + last - first))
                self._divide(flux[part], -coefficients[stars] @ basis, mask[part], out[inside])
        return out

    def _divide(self, flux: torch.Tensor, continuum: torch.Tensor, mask: torch.Tensor, out: torch.Tensor) -> None:
        """Write flux/continuum with the replacements to ``out``; ``continuum``, given negative, is overwritten.

        Replacing through comparisons costs more than the fit, because comparisons and masked fills are not
        vectorised on CPUs. In negative sense everything is: what is masked is pushed below minus the limit, and
        ``threshold`` replaces all below it by -1.
        """
        limit = self._limit
        target = torch.bitwise_and(mask, self._target)
        ratio = torch.div(flux, continuum, out=continuum).clamp_(max=0.0)
        ratio.sub_(target.to(torch.float32), alpha=2.0 * limit)
        beyond = -float(np.nextafter(np.float32(limit), np.float32(np.inf)))
        torch.nn.functional.threshold(ratio, beyond, -1.0, inplace=True)
        torch.nan_to_num(ratio, nan=-1.0, out=ratio)
        torch.neg(ratio, out=out)


class _Fit:
    """Weighted least squares of every detector's polynomial through its continuum pixels, all in one go.

    Detectors have different numbers of continuum pixels: the shorter lists are filled up with pixels of no weight.
    """

    def __init__(self, pixels: NDArray[np.bool_], degree: int, device: torch.device) -> None:
        self.degree = degree
        self.bases: list[torch.Tensor] = []
        inside = [
            np.flatnonzero(pixels[start : start + last - first])
            for (first, last), start in zip(CHIPS, _STARTS, strict=True)
        ]
        longest, n = max(len(chosen) for chosen in inside), degree + 1
        index = np.zeros((len(CHIPS), longest), np.int64)
        vander = np.zeros((len(CHIPS), longest, n))
        filled = np.zeros((len(CHIPS), longest), np.float32)
        for chip, ((first, last), chosen) in enumerate(zip(CHIPS, inside, strict=True)):
            if len(chosen) <= degree:
                raise ValueError(
                    f"pixels {first}:{last}: expected more than {degree} continuum pixels, found {len(chosen)}"
                )
            basis = np.polynomial.chebyshev.chebvander(np.linspace(-1.0, 1.0, last - first), degree)
            index[chip, : len(chosen)] = first + chosen
            vander[chip, : len(chosen)] = basis[chosen]
            filled[chip, : len(chosen)] = 1.0
            self.bases.append(torch.from_numpy(np.ascontiguousarray(basis.T, dtype=np.float32)).to(device))
        products = (vander[:, :, :, None] * vander[:, :, None, :]).reshape(len(CHIPS), longest, n * n)
        self._pixels = torch.from_numpy(index.ravel()).to(device)
        self._filled = torch.from_numpy(filled.ravel()).to(device)
        self._vander = torch.from_numpy(vander).to(device)
        self._products = torch.from_numpy(products).to(device)

    def __call__(self, flux: torch.Tensor, ivar: torch.Tensor, floor: float) -> torch.Tensor:
        """Coefficients, float32, shape (detectors, stars, degree + 1); NaN where there is no fit."""
        values = flux.index_select(1, self._pixels)
        weight = ivar.index_select(1, self._pixels).mul_(self._filled)
        # A flux that is not finite times 0 is NaN: such pixels lose their weight.
        weight = torch.nan_to_num_(weight.add_(values * 0.0), nan=0.0, posinf=0.0, neginf=0.0)
        values = torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)
        # w = 1/(σ² + floor) = ivar/(1 + floor · ivar) multiplies the residual, which is then squared.
        weight = weight.div_(weight * floor + 1.0).view(len(flux), len(CHIPS), self._products.shape[1])
        scale = weight.amax(dim=2, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        present = weight.sign().sum(dim=2).T
        # Weights rounded to float32 are as good as others, if both sides of the equations have the same; the sums
        # need float64.
        squared = (weight / scale).square_().double()
        n = self.degree + 1
        normal = torch.bmm(squared.transpose(0, 1), self._products).view(len(CHIPS), len(flux), n, n)
        right = torch.bmm(squared.mul_(values.view_as(squared)).transpose(0, 1), self._vander)
        coefficients, failed = torch.linalg.solve_ex(normal, right)
        bad = (failed != 0) | (present < n) | ~torch.isfinite(coefficients).all(dim=2)
        return coefficients.masked_fill_(bad[:, :, None], float("nan")).float()


_STARTS = [sum(last - first for first, last in CHIPS[:number]) for number in range(len(CHIPS))]
_SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


def cut_gaps(values: NDArray[Any]) -> NDArray[Any]:
    """Pixels of the three detectors, ``(..., 8575)`` to ``(..., 7514)``."""
    return np.concatenate([values[..., first:last] for first, last in CHIPS], axis=-1)


def bad_fraction(
    ivar: NDArray[np.float32], mask: NDArray[np.unsignedinteger], target_bits: Sequence[int] = TARGET_BITS
) -> NDArray[np.float32]:
    """Fraction of the 7,514 pixels that hold nothing or have a target bit set, shape (stars,)."""
    target = mask.dtype.type(sum(1 << bit for bit in target_bits))
    bad = np.zeros(len(ivar), np.int64)
    for first, last in CHIPS:
        bad += np.count_nonzero((ivar[:, first:last] <= 0) | ((mask[:, first:last] & target) != 0), axis=1)
    return (bad / N_PIXELS).astype(np.float32)


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
