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
from torch import Tensor

from catalogue.models.dense import Dense
from catalogue.spectra.primitives import GRANULE_ROWS

BIN_PIXELS = 4
"""Pixels averaged before the fit, about one and a half resolution elements: the fit sees all that it can
follow, at a quarter of the cost."""

BLOCK_BINS = 12
"""Bins of the blocks whose medians start the fit: wide against a cosmic ray, narrow against the response."""

MINIMUM_LEVEL = 0.005
"""Least continuum, as a fraction of the spectrum's typical flux, that a flux is divided by: below the blue
end of a reddened cool giant, above zero."""


RIDGE = 1e-3
"""Weight of the coefficients' own change in the penalty: large against the rounding of float32, so that the
normal matrix is positive definite whatever is masked."""


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
        Weight of the penalty on changes of the continuum's shape from one iteration to the next,
        against the data. It decides only where there are no data.
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
        Intervals of log10 wavelength with a spline of their own. Every pixel lies in one; an arm
        without pixels is left out.
    settings : ContinuumSettings
    device : torch.device, optional

    Raises
    ------
    ValueError
        If a pixel lies in no arm.
    """

    def __init__(
        self,
        log10_wavelength: NDArray[np.float64],
        arms: tuple[tuple[float, float], ...],
        settings: ContinuumSettings,
        device: torch.device | None = None,
    ) -> None:
        self.settings = settings
        self.device = device or torch.device("cpu")
        basis, penalty = _spline_basis(log10_wavelength, arms, settings.knot_spacing)
        self._n_pixels, self.n_coefficients = basis.shape
        rows, columns = _coupled_pairs(self.n_coefficients)
        self._pairs = self._tensor(rows), self._tensor(columns)
        self._penalty = self._tensor(penalty)
        self._evaluate = self._dense(basis)
        # of binned pixels, the last bin filled up with copies of the last pixel
        self._n_bins = -(-self._n_pixels // BIN_PIXELS)
        filled = basis[np.minimum(np.arange(self._n_bins * BIN_PIXELS), self._n_pixels - 1)]
        bins = filled.reshape(self._n_bins, BIN_PIXELS, -1).mean(axis=1)
        self._evaluate_bins = self._dense(bins)
        self._project = self._dense(bins.T)
        self._multiply = self._dense((bins[:, rows] * bins[:, columns]).T)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _dense(self, weight: NDArray[np.float64]) -> Dense:
        return Dense(self._tensor(np.ascontiguousarray(weight, dtype=np.float32)), None, GRANULE_ROWS)

    def __call__(self, flux: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Fit the continuum of every row.

        Parameters
        ----------
        flux, variance : Tensor of float32, shape (rows, pixels)
            Both 0 where the pixel must not count.

        Returns
        -------
        continuum : Tensor of float32, shape (rows, pixels)
            Positive; 1 in rows that could not be fitted.
        fitted : Tensor of bool, shape (rows,)
            Whether the row has a good pixel and a positive typical flux.
        """
        flux, variance, count = self._bin(flux, variance)
        medians = _block_medians(flux, count)
        level = torch.nanmedian(medians, dim=1, keepdim=True).values
        fitted = level > 0
        level = torch.where(fitted, level, 1.0)
        flux, variance, medians = flux / level, variance / level**2, medians / level
        # photon noise is less in lines: weighted so, they would pull the fit down the more, the noisier a star is
        variance = torch.maximum(variance, self._spread(_block_medians(variance, count)))
        # start from the blocks' medians, which spikes do not move: each bin stands for its block
        weight, medians = self._spread(medians.clamp(min=MINIMUM_LEVEL) ** -2), self._spread(medians)
        coefficients = self._solve(weight, medians, torch.ones(len(flux), self.n_coefficients, device=self.device))
        for _ in range(self.settings.iterations):
            continuum = self._evaluate_bins(coefficients).clamp_(min=MINIMUM_LEVEL)
            weight = self._weights(flux - continuum, variance, continuum) * count
            coefficients = self._solve(weight, flux, coefficients.clamp(min=MINIMUM_LEVEL))
        continuum = self._evaluate(coefficients).clamp_(min=MINIMUM_LEVEL).mul_(level)
        fitted &= torch.isfinite(coefficients).all(dim=1, keepdim=True)
        return torch.where(fitted, continuum, 1.0), fitted[:, 0]

    def _spread(self, blocks: Tensor) -> Tensor:
        """Values of blocks (rows, blocks) at each of their bins; 0 for NaN."""
        return blocks.nan_to_num(0.0).repeat_interleave(BLOCK_BINS, dim=1)[:, : self._n_bins]

    def _bin(self, flux: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean flux, mean variance and number of the good pixels of every bin."""
        missing = self._n_bins * BIN_PIXELS - self._n_pixels
        sums = []
        for values in ((variance > 0).float(), flux, variance):
            bins = torch.nn.functional.pad(values, (0, missing)).view(-1, self._n_bins, BIN_PIXELS)
            sums.append((bins[..., 0] + bins[..., 1]) + (bins[..., 2] + bins[..., 3]))
        divisor = sums[0].clamp(min=1.0)
        return sums[1] / divisor, sums[2] / divisor, sums[0]

    def _weights(self, residual: Tensor, variance: Tensor, continuum: Tensor) -> Tensor:
        """Inverse variance times a redescending (Geman-McClure) weight with unequal sides."""
        total = variance + (self.settings.scatter * continuum) ** 2
        above = residual.clamp(min=0.0).square_() / self.settings.upper**2
        below = residual.clamp(max=0.0).square_() / self.settings.lower**2
        return 1.0 / (total * (above.add_(below) / total).add_(1.0).square_())

    def _solve(self, weight: Tensor, flux: Tensor, before: Tensor) -> Tensor:
        """Penalised weighted least squares of every row.

        Solved for the ratio to the coefficients ``before``, of which the penalty holds the second
        differences small and the values near one. So it acts alike at the bright and the faint end, and
        reddening divides out.

        Returns
        -------
        Tensor of float32, shape (rows, coefficients)
            NaN in rows without a solution.
        """
        ratio_weight = weight * self._evaluate_bins(before).square_()
        mean = ratio_weight.mean(dim=1, keepdim=True)
        weight = weight / torch.where(mean > 0, mean, 1.0)
        size = self.n_coefficients
        normal = torch.zeros(len(weight), size, size, dtype=torch.float64, device=self.device)
        entries = self._multiply(weight).double()
        rows, columns = self._pairs
        normal[:, rows, columns] = entries
        normal[:, columns, rows] = entries
        before = before.double()
        normal *= before[:, :, None] * before[:, None, :]
        strength = self.settings.stiffness * self._n_bins / size
        normal += strength * self._penalty
        right = self._project(weight * flux).double() * before + strength * RIDGE
        # without the check: a row that fails becomes NaN and takes no other row with it
        factor, _ = torch.linalg.cholesky_ex(normal)
        return (torch.cholesky_solve(right[:, :, None], factor)[:, :, 0] * before).float()


def _block_medians(flux: Tensor, count: Tensor) -> Tensor:
    """Median of the bins with good pixels of every block, NaN where a block has none."""
    flux = flux + (count / count - 1.0)
    padded = torch.nn.functional.pad(flux, (0, -flux.shape[1] % BLOCK_BINS), value=torch.nan)
    return torch.nanmedian(padded.view(len(flux), padded.shape[1] // BLOCK_BINS, BLOCK_BINS), dim=2).values


def _spline_basis(
    x: NDArray[np.float64], arms: tuple[tuple[float, float], ...], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cubic B-splines of all arms side by side, and the penalty matrix on their coefficients."""
    # Here, as it takes a third of a second that a plan need not wait for.
    from scipy.interpolate import BSpline

    parts, penalties = [], []
    covered = np.zeros(len(x), dtype=bool)
    for low, high in arms:
        inside = (x >= low) & (x <= high) & ~covered
        if not inside.any():
            continue
        covered |= inside
        intervals = max(1, round((x[inside].max() - x[inside].min()) / spacing))
        knots = np.linspace(x[inside].min(), x[inside].max(), intervals + 1)
        knots = np.concatenate([np.full(3, knots[0]), knots, np.full(3, knots[-1])])
        part = np.zeros((len(x), intervals + 3))
        part[inside] = BSpline.design_matrix(x[inside], knots, 3).toarray()
        parts.append(part)
        difference = np.diff(np.eye(intervals + 3), 2, axis=0)
        penalties.append(difference.T @ difference + RIDGE * np.eye(intervals + 3))
    if not covered.all():
        raise ValueError(f"pixel at {10 ** x[~covered][0]:.1f} Å lies in no continuum arm")
    basis = np.concatenate(parts, axis=1)
    penalty = np.zeros((basis.shape[1], basis.shape[1]))
    offset = 0
    for block in penalties:
        penalty[offset : offset + len(block), offset : offset + len(block)] = block
        offset += len(block)
    return basis, penalty


def _coupled_pairs(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i <= j) of splines that may overlap: a cubic reaches over three neighbours."""
    rows, columns = np.triu_indices(size)
    near = columns - rows <= 3
    return rows[near], columns[near]
