"""From native survey pixels to the normalised rest-frame pixels that a network sees.

Everything is vectorised over the rows of a granule and depends on nothing but the granule, so that it
gives the same bytes whatever the chunking or the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from catalogue.models.base import SpectraBatch
from catalogue.models.continuum import ContinuumFit, ContinuumSettings
from catalogue.spectra.primitives import PixelGrid

Interval = tuple[float, float]


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
        A pixel that lies so many noise-and-scatter units above the continuum is treated as bad.
    clip : (float, float)
        Limits of the normalised flux.
    least_good : float
        A spectrum with a smaller fraction of good pixels gets no prediction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    grid: GridSettings
    arms: tuple[Interval, ...] = ((3850.0, 5800.0), (5900.0, 8950.0))
    windows: tuple[Interval, ...] = (
        (3900.0, 5700.0),
        (6000.0, 6860.0),
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
        lattice = grid.log10_first + grid.log10_step * np.arange(grid.n_pixels)
        edges = np.log10(np.asarray(settings.windows, dtype=np.float64))
        if edges.min() < lattice[0] or edges.max() > lattice[-1]:
            raise ValueError(
                f"windows {settings.windows} leave the grid {grid.name!r}, "
                f"{10 ** lattice[0]:.1f} to {10 ** lattice[-1]:.1f} Å"
            )
        chosen = ((lattice[:, None] >= edges[:, 0]) & (lattice[:, None] <= edges[:, 1])).any(axis=1)
        pixels = np.flatnonzero(chosen)
        self.wavelength: NDArray[np.float64] = 10.0 ** lattice[pixels]
        self._pixels = torch.from_numpy(pixels).to(self.device)
        arms = tuple((float(np.log10(low)), float(np.log10(high))) for low, high in settings.arms)
        self._continuum = ContinuumFit(lattice[pixels], arms, settings.continuum).to(self.device)
        observed = 10.0**lattice
        sky = np.zeros(grid.n_pixels, dtype=bool)
        for line in settings.sky_lines:
            sky |= np.abs(observed - line) <= settings.sky_half_width
        self._sky = torch.from_numpy(sky).to(self.device)

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
            If the arrays are not on the bundle's grid.
        """
        grid = self.settings.grid
        if flux.shape[1] != grid.n_pixels:
            raise ValueError(f"expected {grid.n_pixels} pixels of grid {grid.name!r}, found {flux.shape[1]}")
        values, variance = self._native(flux, ivar, mask)
        known = np.isfinite(redshift) & (redshift > -1.0)
        shift = np.log10(1.0 + np.where(known, redshift, 0.0)) / grid.log10_step
        values, variance = shift_pixels(values, variance, shift, self._pixels)
        good = torch.isfinite(variance)
        missing = 1.0 - good.float().mean(dim=1)
        with_redshift = torch.from_numpy(known).to(self.device)
        bad_fraction = torch.where(with_redshift, missing, torch.nan)
        values = torch.where(good, values, 0.0)
        continuum = self._continuum(values, torch.where(good, 1.0 / variance, 0.0))
        variance = variance / continuum**2
        values = values / continuum
        scatter = self.settings.continuum.scatter
        spiked = values - 1.0 > self.settings.spike * torch.sqrt(variance + scatter**2)
        good &= ~spiked
        enough = good.float().mean(dim=1) >= self.settings.least_good
        usable = with_redshift & enough & (continuum != 1.0).any(dim=1)
        return NormalisedSpectra(
            flux=torch.where(good, values.clamp(*self.settings.clip), 1.0),
            variance=torch.where(good, variance, 0.0),
            good=good,
            bad_fraction=bad_fraction,
            usable=usable,
        )

    def _native(
        self, flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.unsignedinteger]
    ) -> tuple[Tensor, Tensor]:
        """Flux, and variance that is infinite where the pixel is bad."""
        values = torch.tensor(flux, dtype=torch.float32, device=self.device)
        weights = torch.tensor(ivar, dtype=torch.float32, device=self.device)
        good = torch.isfinite(values) & torch.isfinite(weights) & (weights > 0) & ~self._sky
        if self.settings.rejected_bits:
            rejected = (mask & mask.dtype.type(self.settings.rejected_bits)) != 0
            good &= torch.from_numpy(~rejected).to(self.device)
        return torch.where(good, values, 0.0), torch.where(good, 1.0 / weights, torch.inf)


def shift_pixels(flux: Tensor, variance: Tensor, shift: NDArray[np.float64], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Value of every row at ``pixels + shift``, a fractional number of pixels per row.

    Four-point (cubic) interpolation where all four neighbours are good, linear where only the two
    nearest are, the nearer pixel itself where only that is good, else bad: a bad pixel is never
    mixed into its neighbours. A cubic is needed because a LAMOST line is only 2.4 pixels wide,
    and a linear blend would broaden it by an amount that depends on the redshift.

    Parameters
    ----------
    flux, variance : Tensor, shape (rows, n)
        ``variance`` is infinite where bad, and ``flux`` finite everywhere.
    shift : ndarray of float64, shape (rows,)
    pixels : Tensor of int64, shape (m,)

    Returns
    -------
    flux, variance : Tensor, shape (rows, m)
        The variance is propagated through the weights; infinite where bad or off the grid.
    """
    whole = np.floor(shift)
    device = flux.device
    a = torch.from_numpy((shift - whole).astype(np.float32)).to(device)[:, None]
    offset = torch.from_numpy(np.clip(whole, -flux.shape[1], flux.shape[1]).astype(np.int64)).to(device)
    base = pixels[None, :] + offset[:, None]
    taps = [_take(flux, variance, base + k) for k in (-1, 0, 1, 2)]
    cubic = (
        -a * (a - 1) * (a - 2) / 6,
        (a + 1) * (a - 1) * (a - 2) / 2,
        -(a + 1) * a * (a - 2) / 2,
        (a + 1) * a * (a - 1) / 6,
    )
    (_, _), (f1, v1), (f2, v2), (_, _) = taps
    value = sum(w * f for w, (f, _) in zip(cubic, taps, strict=True))
    spread = sum(w * w * v.nan_to_num(posinf=0.0) for w, (_, v) in zip(cubic, taps, strict=True))
    all_good = torch.isfinite(taps[0][1] + v1 + v2 + taps[3][1])
    pair_good = torch.isfinite(v1 + v2)
    value = torch.where(all_good, value, (1 - a) * f1 + a * f2)
    linear = (1 - a) ** 2 * v1.nan_to_num(posinf=0.0) + a**2 * v2.nan_to_num(posinf=0.0)
    spread = torch.where(all_good, spread, linear)
    nearer, nearer_variance = torch.where(a < 0.5, f1, f2), torch.where(a < 0.5, v1, v2)
    return torch.where(pair_good, value, nearer), torch.where(pair_good, spread, nearer_variance)


def _take(flux: Tensor, variance: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Flux and variance at ``index``; off the grid the variance is infinite."""
    inside = (index >= 0) & (index < flux.shape[1])
    index = index.clamp(0, flux.shape[1] - 1)
    return flux.gather(1, index), torch.where(inside, variance.gather(1, index), torch.inf)
