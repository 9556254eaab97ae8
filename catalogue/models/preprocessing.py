"""From native survey pixels to the normalised rest-frame pixels that a network sees.

Everything is vectorised over the rows of a granule and depends on nothing but the granule, so that it
gives the same bytes whatever the chunking or the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from catalogue.models.base import SpectraBatch
from catalogue.models.continuum import ContinuumFit, ContinuumSettings
from catalogue.spectra.primitives import PixelGrid

Interval = tuple[float, float]

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SMALLEST_IVAR = 1e-30
"""Smaller ones would overflow when squared in float32."""


class GridSettings(BaseModel):
    """The survey's native grid, carried by the bundle so that a model needs no survey."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    n_pixels: int = Field(gt=0)
    log10_first: float
    log10_step: float = Field(gt=0)

    @classmethod
    def of(cls, grid: PixelGrid) -> GridSettings:
        """Settings with the numbers of ``grid``."""
        return cls(
            name=grid.name,
            n_pixels=grid.n_pixels,
            log10_first=grid.log10_first,
            log10_step=grid.log10_step,
        )


class PreprocessingSettings(BaseModel):
    """What a bundle says about its preprocessing. The defaults are choices of this project.

    Attributes
    ----------
    grid : GridSettings
    arms : tuple of (Å, Å)
        Vacuum rest wavelengths with a continuum of their own. LAMOST's arms join near 5700-6000 Å.
    windows : tuple of (Å, Å)
        Vacuum rest wavelengths of the pixels that the model sees. The default leaves out the noisy ends
        and the join of the arms, and the telluric bands, which no simulation of stars contains.
    rejected_bits : int
        A pixel whose mask has any of these bits counts as bad. 0 by default: LAMOST's andmask is set
        over a third of many good spectra [code annayqho/TheCannon].
    sky_lines : tuple of Å
        Observed vacuum wavelengths of sky lines whose residuals are treated as bad pixels.
    sky_half_width : float
        In Å.
    spike : float
        A pixel that lies so many noise-and-scatter units above the continuum is treated as bad, with two
        pixels on either side.
    clip : (float, float)
        Limits of the normalised flux.
    least_good : float
        A spectrum with a smaller fraction of good pixels gets no prediction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    grid: GridSettings
    arms: tuple[Interval, ...] = ((4000.0, 5800.0), (6000.0, 8950.0))
    windows: tuple[Interval, ...] = (
        (4000.0, 5700.0),
        (6050.0, 6860.0),
        (6970.0, 7150.0),
        (7340.0, 7580.0),
        (7720.0, 8100.0),
        (8370.0, 8850.0),
    )
    rejected_bits: int = Field(default=0, ge=0)
    sky_lines: tuple[float, ...] = (5578.9, 6302.0, 6365.5)
    sky_half_width: float = Field(default=5.0, ge=0)
    spike: float = Field(default=6.0, gt=0)
    clip: Interval = (0.0, 2.0)
    least_good: float = Field(default=0.2, ge=0, le=1)
    continuum: ContinuumSettings = ContinuumSettings()


@dataclass(frozen=True, slots=True)
class NormalisedSpectra:
    """Rest-frame, continuum-normalised pixels.

    Attributes
    ----------
    flux : Tensor of float32, shape (rows, pixels)
        1 is the pseudo-continuum. Bad pixels hold 1.
    variance : Tensor of float32, shape (rows, pixels)
        Of ``flux``; 0 where bad.
    good : Tensor of bool, shape (rows, pixels)
    bad_fraction : Tensor of float32, shape (rows,)
        Fraction of the pixels that are masked or without ivar, NaN where the redshift is missing.
    usable : Tensor of bool, shape (rows,)
        Rows with a redshift, a positive continuum and enough good pixels.
    """

    flux: Tensor
    variance: Tensor
    good: Tensor
    bad_fraction: Tensor
    usable: Tensor


def redshift(batch: SpectraBatch) -> NDArray[np.float64]:
    """Redshift of every row: the parent's ``z`` where finite, else the file's, else NaN.

    Values of -1 and below (missing-value codes) count as missing.
    """
    result = np.full(len(batch), np.nan)
    for name in ("file_z", "z"):
        if name in batch.columns:
            value = np.asarray(batch.columns[name], dtype=np.float64)
            result = np.where(np.isfinite(value) & (value > -1.0), value, result)
    return result


class Preprocessing:
    """The preprocessing of one bundle, ready to run.

    Parameters
    ----------
    settings : PreprocessingSettings
    device : torch.device, optional

    Raises
    ------
    ValueError
        If a window leaves the grid or its arm.
    """

    def __init__(self, settings: PreprocessingSettings, device: torch.device | None = None) -> None:
        self.settings = settings
        self.device = device or torch.device("cpu")
        grid = settings.grid
        lattice: NDArray[np.float64] = grid.log10_first + grid.log10_step * np.arange(grid.n_pixels, dtype=np.float64)
        edges = np.log10(np.asarray(settings.windows, dtype=np.float64))
        if edges.min() < lattice[0] or edges.max() > lattice[-1]:
            raise ValueError(
                f"windows {settings.windows} leave the grid {grid.name!r}, "
                f"{10 ** lattice[0]:.1f} to {10 ** lattice[-1]:.1f} Å"
            )
        chosen = ((lattice[:, None] >= edges[:, 0]) & (lattice[:, None] <= edges[:, 1])).any(axis=1)
        pixels = np.flatnonzero(chosen)
        self.wavelength = 10.0 ** lattice[pixels]
        self._stretch = int(pixels[0]), int(pixels[-1] - pixels[0] + 1)
        breaks = np.flatnonzero(np.diff(pixels) > 1) + 1
        self._pieces = [(int(p[0] - pixels[0]), int(p[-1] - pixels[0] + 1)) for p in np.split(pixels, breaks)]
        arms = tuple((float(np.log10(low)), float(np.log10(high))) for low, high in settings.arms)
        self._continuum = ContinuumFit(lattice[pixels], arms, settings.continuum, self.device)
        observed = 10.0**lattice
        self._sky = np.zeros(grid.n_pixels, dtype=bool)
        for line in settings.sky_lines:
            self._sky |= np.abs(observed - line) <= settings.sky_half_width

    @property
    def n_pixels(self) -> int:
        """Pixels that the model sees."""
        return len(self.wavelength)

    def __call__(
        self,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        mask: NDArray[np.unsignedinteger],
        redshift: NDArray[np.float64],
    ) -> NormalisedSpectra:
        """Normalise rows of native pixels.

        Parameters
        ----------
        flux, ivar : ndarray of float32, shape (rows, grid pixels)
        mask : ndarray of unsigned integers, shape (rows, grid pixels)
        redshift : ndarray of float64, shape (rows,)
            NaN where unknown.

        Raises
        ------
        ValueError
            If the arrays have fewer pixels than the bundle's grid.
        """
        gathered = self.gather(flux, ivar, mask, redshift)
        return self.normalise(*(torch.from_numpy(array).to(self.device) for array in gathered))

    def gather(
        self,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        mask: NDArray[np.unsignedinteger],
        redshift: NDArray[np.float64],
    ) -> tuple[NDArray[Any], ...]:
        """The part done on the host: what :meth:`normalise` takes, in new arrays; parameters as of a call."""
        grid = self.settings.grid
        if flux.shape[1] < grid.n_pixels:
            raise ValueError(f"expected {grid.n_pixels} pixels of grid {grid.name!r}, found {flux.shape[1]}")
        # a survey may extend its lattice after a bundle was made: pixels keep their numbers
        flux, ivar, mask = flux[:, : grid.n_pixels], ivar[:, : grid.n_pixels], mask[:, : grid.n_pixels]
        known = np.isfinite(redshift) & (redshift > -1.0)
        shift = np.log10(1.0 + np.where(known, redshift, 0.0)) / grid.log10_step
        whole = np.floor(shift)
        first, count = self._stretch
        reach = grid.n_pixels + count
        start = first - 1 + np.clip(whole, -reach, reach).astype(np.int64)
        rejected = align(np.broadcast_to(self._sky, flux.shape), start, count + 3)
        if self.settings.rejected_bits:
            bits = align(mask, start, count + 3) & mask.dtype.type(self.settings.rejected_bits)
            rejected = rejected | (bits != 0)
        stretches = align(flux, start, count + 3), align(ivar, start, count + 3)
        return *stretches, ~rejected, (shift - whole).astype(np.float32), known

    def normalise(
        self, values: Tensor, weights: Tensor, allowed: Tensor, fraction: Tensor, with_redshift: Tensor
    ) -> NormalisedSpectra:
        """The part done on the device.

        Parameters
        ----------
        values, weights : Tensor of float32, shape (rows, stretch + 3)
            Flux and ivar of the stretch of native pixels that the model's cover, which are overwritten.
        allowed : Tensor of bool, shape (rows, stretch + 3)
            Neither masked nor at a sky line.
        fraction : Tensor of float32, shape (rows,)
            Of a pixel, by which the stretch begins before the rest frame's lattice.
        with_redshift : Tensor of bool, shape (rows,)
        """
        values, variance = self._rest_frame(values, weights, allowed, fraction)
        good = variance > 0
        missing = 1.0 - good.sum(dim=1) / self.n_pixels
        continuum, fitted = self._continuum(values, variance)
        values /= continuum
        variance /= continuum.square_()
        scatter = self.settings.continuum.scatter
        # a spike is a pixel above 1 + spike * sqrt(variance + scatter²)
        over = (values - 1.0).clamp_(min=0.0).square_()
        good &= ~_grown(over > variance.add(scatter**2).mul_(self.settings.spike**2))
        enough = good.sum(dim=1) >= self.settings.least_good * self.n_pixels
        one_where_bad = torch.ones_like(values).lerp_(values.clamp_(*self.settings.clip), good.float())
        return NormalisedSpectra(
            flux=one_where_bad,
            variance=variance.mul_(good),
            good=good,
            bad_fraction=torch.where(with_redshift, missing, torch.nan),
            usable=with_redshift & enough & fitted,
        )

    def _rest_frame(self, values: Tensor, weights: Tensor, allowed: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Flux and variance at the model's pixels in the rest frame; both 0 where bad."""
        weights = weights.nan_to_num_(0.0, 0.0, 0.0)
        # the product with zero is zero for finite numbers only
        good = (weights > 0) & (values * 0.0 == 0.0) & allowed
        known = good.float()
        values = values.nan_to_num_(0.0, 0.0, 0.0).mul_(known)
        variance = known / weights.clamp_(min=_SMALLEST_IVAR)
        values, variance = interpolate(values, variance, known, fraction[:, None])
        return self._choose(values), self._choose(variance)

    def _choose(self, values: Tensor) -> Tensor:
        """The model's pixels of a stretch that begins at the first and ends at the last of them."""
        return torch.cat([values[:, low:high] for low, high in self._pieces], dim=1)


def _grown(spiked: Tensor) -> Tensor:
    """Spiked pixels and two on either side, as far as interpolation has carried the spike."""
    grown = spiked.clone()
    for distance in (1, 2):
        grown[:, distance:] |= spiked[:, :-distance]
        grown[:, :-distance] |= spiked[:, distance:]
    return grown


def align(values: NDArray[_Scalar], start: NDArray[np.int64], width: int) -> NDArray[_Scalar]:
    """Copy of ``values[i, start[i] : start[i] + width]`` for every row, 0 off the grid.

    Parameters
    ----------
    values : ndarray, shape (rows, n)
    start : ndarray of int64, shape (rows,)
        May be negative or beyond the end.
    width : int
    """
    n = values.shape[1]
    if width <= n and len(start) and start.min() >= 0 and start.max() + width <= n:
        return sliding_window_view(values, width, axis=1)[np.arange(len(start)), start]
    aligned = np.zeros((len(start), width), dtype=values.dtype)
    for row, low in enumerate(start):
        source = values[row, max(low, 0) : max(low + width, 0)]
        offset = max(-low, 0)
        aligned[row, offset : offset + len(source)] = source
    return aligned


def interpolate(flux: Tensor, variance: Tensor, known: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Values between pixels: element ``i`` of the result lies ``fraction`` beyond pixel ``i + 1``.

    Four-point (cubic) interpolation where all four neighbours are good, linear where only the two
    nearest are, the nearer pixel itself where only that is good, else bad: a bad pixel is never
    mixed into its neighbours. A cubic is needed because a LAMOST line is only 2.4 pixels wide,
    and a linear blend would broaden it by an amount that depends on the redshift.

    Parameters
    ----------
    flux, variance : Tensor of float32, shape (rows, n + 3)
        Both 0 where bad.
    known : Tensor of float32, shape (rows, n + 3)
        1 where good, 0 where bad.
    fraction : Tensor of float32, shape (rows, 1)
        From 0 to 1.

    Returns
    -------
    flux, variance : Tensor of float32, shape (rows, n)
        The variance is propagated through the weights; both are 0 where bad.
    """
    n = flux.shape[1] - 3
    g = [known[:, k : k + n] for k in range(4)]
    pair = g[1] * g[2]
    all_four = g[0] * g[3] * pair
    a = fraction
    cubic = (
        -a * (a - 1) * (a - 2) / 6,
        (a + 1) * (a - 1) * (a - 2) / 2,
        -(a + 1) * a * (a - 2) / 2,
        (a + 1) * a * (a - 1) / 6,
    )
    linear = 1 - a, a
    nearer = (a < 0.5).float(), (a >= 0.5).float()

    def blend(values: Tensor, power: int) -> Tensor:
        v = [values[:, k : k + n] for k in range(4)]
        single = (v[1] * nearer[0]).addcmul_(v[2], nearer[1])
        double = (v[1] * linear[0] ** power).addcmul_(v[2], linear[1] ** power)
        four = v[0] * cubic[0] ** power
        for k in (1, 2, 3):
            four.addcmul_(v[k], cubic[k] ** power)
        return single.lerp_(double, pair).lerp_(four, all_four)

    return blend(flux, 1), blend(variance, 2)
