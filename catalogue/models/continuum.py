"""Pseudo-continuum of many spectra at once: one penalised spline per arm, fitted robustly.

The fit follows the flux symmetrically and does not look for the upper envelope: an envelope found by
clipping moves up with the noise, and the same star would look different at another signal-to-noise
ratio. What it divides out is everything smooth: instrument response, reddening, flux calibration.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.interpolate import BSpline
from torch import Tensor

BLOCK_PIXELS = 48
"""Pixels of the blocks whose medians start the fit: wide against a cosmic ray, narrow against the response."""

_MINIMUM_LEVEL = 0.05
"""Least continuum, as a fraction of the spectrum's typical flux, that a flux is divided by."""


class ContinuumSettings(BaseModel):
    """How the pseudo-continuum is fitted. All values are choices of this project.

    Attributes
    ----------
    knot_spacing : float
        Distance of the spline's knots in dex of wavelength: 0.025 dex are 290 Å at 5000 Å, wider
        than every molecular band that carries abundances and narrower than the response of an arm.
    scatter : float
        Depth of the line blanketing as a fraction of the continuum. It is added to the noise, so
        that good spectra are not dominated by their few best pixels.
    upper, lower : float
        Residuals, in units of noise and scatter, at which a pixel above (below) the fit has
        lost three quarters of its weight.
    iterations : int
        Reweighted fits after the first.
    stiffness : float
        Weight of the second differences of the spline's coefficients against the data. It decides
        only where there are no data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    knot_spacing: float = Field(default=0.025, gt=0)
    scatter: float = Field(default=0.10, gt=0)
    upper: float = Field(default=2.5, gt=0)
    lower: float = Field(default=4.0, gt=0)
    iterations: int = Field(default=4, ge=1)
    stiffness: float = Field(default=1e-3, gt=0)


class ContinuumFit:
    """A continuum fit prepared for one set of pixels.

    Parameters
    ----------
    log10_wavelength : ndarray of float64, shape (pixels,)
        Increasing.
    arms : sequence of (float, float)
        Intervals of log10 wavelength with a spline of their own. Every pixel lies in one.
    settings : ContinuumSettings

    Raises
    ------
    ValueError
        If a pixel lies in no arm or an arm holds no pixel.
    """

    def __init__(
        self,
        log10_wavelength: NDArray[np.float64],
        arms: tuple[tuple[float, float], ...],
        settings: ContinuumSettings,
    ) -> None:
        self.settings = settings
        basis, penalty = _spline_basis(log10_wavelength, arms, settings.knot_spacing)
        self.n_coefficients = basis.shape[1]
        rows, columns = _coupled_pairs(basis)
        self._pairs = torch.from_numpy(rows), torch.from_numpy(columns)
        self._basis = torch.from_numpy(basis.astype(np.float32))
        self._products = torch.from_numpy((basis[:, rows] * basis[:, columns]).astype(np.float32))
        self._penalty = torch.from_numpy(penalty)
        edges = np.append(np.arange(0, len(basis), BLOCK_PIXELS), len(basis))
        blocks = np.stack([basis[low:high].mean(0) for low, high in zip(edges[:-1], edges[1:], strict=True)])
        self._block_basis = torch.from_numpy(blocks.astype(np.float32))
        self._block_products = torch.from_numpy((blocks[:, rows] * blocks[:, columns]).astype(np.float32))

    def to(self, device: torch.device) -> ContinuumFit:
        """Move the prepared matrices to ``device`` and return this object."""
        self._pairs = self._pairs[0].to(device), self._pairs[1].to(device)
        for name in ("_basis", "_products", "_penalty", "_block_basis", "_block_products"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __call__(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """Fit the continuum of every row.

        Parameters
        ----------
        flux, ivar : Tensor of float32, shape (rows, pixels)
            Finite; ``ivar`` is 0 where the pixel must not count.

        Returns
        -------
        Tensor of float32, shape (rows, pixels)
            Positive. 1 in rows without any good pixel or whose typical flux is not positive.
        """
        good = ivar > 0
        medians = _block_medians(flux, good)
        level = torch.nan_to_num(torch.nanmedian(medians, dim=1, keepdim=True).values)
        usable = level > 0
        level = torch.where(usable, level, torch.ones_like(level))
        flux = flux / level
        variance = torch.where(good, 1.0 / (ivar * level * level).clamp(min=1e-30), torch.ones_like(ivar))
        medians = medians / level
        known = torch.isfinite(medians)
        first = self._solve(
            known.float() / medians.nan_to_num(1.0).clamp(min=_MINIMUM_LEVEL) ** 2,
            torch.where(known, medians, torch.zeros_like(medians)),
            self._block_basis,
            self._block_products,
        )
        continuum = (first @ self._basis.T).clamp(min=_MINIMUM_LEVEL)
        for _ in range(self.settings.iterations):
            weight = self._weights(flux - continuum, variance, continuum) * good
            coefficients = self._solve(weight, flux, self._basis, self._products)
            continuum = (coefficients @ self._basis.T).clamp(min=_MINIMUM_LEVEL)
        return torch.where(usable, continuum * level, torch.ones_like(continuum))

    def _weights(self, residual: Tensor, variance: Tensor, continuum: Tensor) -> Tensor:
        """Inverse variance times a redescending (Geman-McClure) weight with unequal sides."""
        total = variance + (self.settings.scatter * continuum) ** 2
        squared = residual * residual / total
        upper, lower = 1.0 / self.settings.upper**2, 1.0 / self.settings.lower**2
        scaled = torch.where(residual > 0, squared * upper, squared * lower)
        return 1.0 / (total * (1.0 + scaled) ** 2)

    def _solve(self, weight: Tensor, flux: Tensor, basis: Tensor, products: Tensor) -> Tensor:
        """Penalised weighted least squares of every row; coefficients of shape (rows, K)."""
        mean = weight.mean(dim=1, keepdim=True)
        weight = weight / torch.where(mean > 0, mean, torch.ones_like(mean))
        size = self.n_coefficients
        normal = torch.zeros(len(weight), size, size, dtype=torch.float64, device=weight.device)
        entries = (weight @ products).double()
        rows, columns = self._pairs
        normal[:, rows, columns] = entries
        normal[:, columns, rows] = entries
        normal += self.settings.stiffness * len(basis) / size * self._penalty
        right = ((weight * flux) @ basis).double()
        factor = torch.linalg.cholesky(normal)
        return torch.cholesky_solve(right[:, :, None], factor)[:, :, 0].float()


def _block_medians(flux: Tensor, good: Tensor) -> Tensor:
    """Median flux of the good pixels of every block, NaN where a block has none."""
    n_blocks = -(-flux.shape[1] // BLOCK_PIXELS)
    padded = torch.full((len(flux), n_blocks * BLOCK_PIXELS), torch.nan, device=flux.device)
    padded[:, : flux.shape[1]] = torch.where(good, flux, torch.nan)
    return torch.nanmedian(padded.view(len(flux), n_blocks, BLOCK_PIXELS), dim=2).values


def _spline_basis(
    x: NDArray[np.float64], arms: tuple[tuple[float, float], ...], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cubic B-splines of all arms side by side, and the penalty matrix on their coefficients."""
    parts, penalties = [], []
    covered = np.zeros(len(x), dtype=bool)
    for low, high in arms:
        inside = (x >= low) & (x <= high) & ~covered
        if not inside.any():
            raise ValueError(f"continuum arm {10**low:.0f} to {10**high:.0f} Å holds no pixel")
        covered |= inside
        intervals = max(1, round((x[inside].max() - x[inside].min()) / spacing))
        knots = np.linspace(x[inside].min(), x[inside].max(), intervals + 1)
        knots = np.concatenate([np.full(3, knots[0]), knots, np.full(3, knots[-1])])
        part = np.zeros((len(x), intervals + 3))
        part[inside] = BSpline.design_matrix(x[inside], knots, 3).toarray()
        parts.append(part)
        difference = np.diff(np.eye(intervals + 3), 2, axis=0)
        penalties.append(difference.T @ difference + 1e-6 * np.eye(intervals + 3))
    if not covered.all():
        raise ValueError(f"pixel at {10 ** x[~covered][0]:.1f} Å lies in no continuum arm")
    basis = np.concatenate(parts, axis=1)
    penalty = np.zeros((basis.shape[1], basis.shape[1]))
    offset = 0
    for block in penalties:
        penalty[offset : offset + len(block), offset : offset + len(block)] = block
        offset += len(block)
    return basis, penalty


def _coupled_pairs(basis: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i <= j) of splines that overlap anywhere, within a cubic's reach of three neighbours."""
    size = basis.shape[1]
    rows, columns = np.triu_indices(size)
    near = columns - rows <= 3
    return rows[near], columns[near]
