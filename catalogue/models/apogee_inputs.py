"""What the APOGEE networks see: continuum-normalised, centred or standardised pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from catalogue.models.apogee_continuum import (
    N_PIXELS,
    N_SURVEY_PIXELS,
    TARGET_BITS,
    ApogeeContinuum,
    ContinuumSettings,
    cut_gaps,
    read_continuum_pixels,
)
from catalogue.models.base import NetworkInputs, PreparedSpectra, SpectraBatch
from catalogue.models.packing import Rows
from catalogue.spectra.primitives import GRANULE_ROWS, PixelGrid

_MIN_SPECTRA = 2


class ApogeeInputSettings(BaseModel):
    """Preprocessing of ``model.json``.

    Attributes
    ----------
    normalisation : "centre" or "standardise"
        Subtract the mean spectrum, or also divide by the spread of every pixel.
    degree, target_bits, upper_limit
        See :class:`~catalogue.models.apogee_continuum.ContinuumSettings`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    normalisation: Literal["centre", "standardise"] = "centre"
    degree: int = 2
    target_bits: tuple[int, ...] = TARGET_BITS
    upper_limit: float | None = 2.0

    def continuum(self) -> ContinuumSettings:
        """The part that concerns the continuum."""
        return ContinuumSettings(self.degree, self.target_bits, self.upper_limit)


class ApogeeInputs(NetworkInputs):
    """Native pixels to network input.

    Parameters
    ----------
    settings : ApogeeInputSettings
    continuum_pixels : ndarray of bool, shape (7514,)
    mean, spread : ndarray of float32, shape (7514,)
        Of the normalised training spectra; ``spread`` is 1 where only centred.
    device : torch.device, optional
    """

    def __init__(
        self,
        settings: ApogeeInputSettings,
        continuum_pixels: NDArray[np.bool_],
        mean: NDArray[np.float32],
        spread: NDArray[np.float32],
        device: torch.device | None = None,
    ) -> None:
        if mean.shape != (N_PIXELS,) or spread.shape != (N_PIXELS,) or not (spread > 0).all():
            raise ValueError(f"expected {N_PIXELS} means and positive spreads, found {mean.shape} and {spread.shape}")
        self._settings = settings
        self.device = device or torch.device("cpu")
        self._pixels, self._mean, self._spread = continuum_pixels, mean, spread
        self._continuum = ApogeeContinuum(continuum_pixels, settings.continuum(), self.device)
        self._mean_tensor = torch.from_numpy(mean.copy()).to(self.device)
        self._spread_tensor = torch.from_numpy(spread.copy()).to(self.device)

    @classmethod
    def fit(cls, settings: ApogeeInputSettings, spectra: SpectraBatch, grid: PixelGrid) -> ApogeeInputs:
        """Learn mean and spread of the normalised pixels of ``spectra``.

        Raises
        ------
        ValueError
            If the grid is not APOGEE's or fewer than two spectra are usable.
        """
        if grid.n_pixels != N_SURVEY_PIXELS:
            raise ValueError(f"expected the APOGEE grid of {N_SURVEY_PIXELS} pixels, found {grid.n_pixels}")
        rows = np.flatnonzero(spectra.usable)
        if len(rows) < _MIN_SPECTRA:
            raise ValueError(f"expected at least {_MIN_SPECTRA} usable spectra, found {len(rows)}")
        pixels = read_continuum_pixels()
        normalise = ApogeeContinuum(pixels, settings.continuum())
        total, squares = np.zeros(N_PIXELS), np.zeros(N_PIXELS)
        for first in range(0, len(rows), GRANULE_ROWS):
            part = rows[first : first + GRANULE_ROWS]
            normalised = normalise(spectra.flux[part], spectra.ivar[part], spectra.mask[part]).double().numpy()
            total += normalised.sum(axis=0)
            squares += np.square(normalised).sum(axis=0)
        mean = total / len(rows)
        spread = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
        if settings.normalisation == "centre":
            spread = np.ones_like(spread)
        spread = np.where(spread > 1e-6, spread, 1.0)
        return cls(settings, pixels, mean.astype(np.float32), spread.astype(np.float32))

    @classmethod
    def from_arrays(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> ApogeeInputs:
        """Read back what :meth:`settings` and :meth:`arrays` gave."""
        return cls(
            ApogeeInputSettings.model_validate(dict(settings)),
            arrays["inputs.continuum_pixels"].astype(np.bool_),
            arrays["inputs.mean"].astype(np.float32),
            arrays["inputs.spread"].astype(np.float32),
        )

    def on(self, device: torch.device) -> ApogeeInputs:
        """The same inputs on another device."""
        if device == self.device:
            return self
        return ApogeeInputs(self._settings, self._pixels, self._mean, self._spread, device)

    @property
    def n_features(self) -> int:
        """Pixels of the network's input."""
        return N_PIXELS

    def prepare(self, spectra: SpectraBatch) -> PreparedSpectra:
        """Normalise and centre or standardise; bad pixels have the flux 1, as in astroNN, not the mean."""
        flux, ivar, mask = spectra.flux, spectra.ivar, spectra.mask
        normalised, fraction = self._continuum.normalise(flux, ivar, mask)
        target = mask.dtype.type(sum(1 << bit for bit in self._settings.target_bits))
        good = cut_gaps((ivar > 0) & np.isfinite(flux)) & cut_gaps((mask & target) == 0)
        noise = self._noise(flux, ivar, normalised, good)
        return PreparedSpectra(
            self.normalise(normalised),
            noise,
            torch.from_numpy(good).to(self.device),
            torch.from_numpy(fraction).to(self.device),
            torch.from_numpy(fraction < 1).to(self.device),
        )

    def gather(self, spectra: SpectraBatch, part: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows of ``spectra`` divided by the continuum, on the host, and their bad fractions; see :meth:`normalise`."""
        return self._continuum.divide(spectra.flux[part], spectra.ivar[part], spectra.mask[part])

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Network input, in the memory of ``pixels`` divided by the continuum, on the inputs' device."""
        return pixels.sub_(self._mean_tensor).div_(self._spread_tensor)

    def _noise(
        self,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        normalised: torch.Tensor,
        good: NDArray[np.bool_],
    ) -> torch.Tensor:
        """Errors in the units of the input; the continuum is the ratio of flux and normalised flux."""
        flux_cut = cut_gaps(flux)
        use = good & (flux_cut > 0)
        sigma = 1.0 / np.sqrt(cut_gaps(ivar), where=use, out=np.ones_like(flux_cut))
        ratio = np.divide(sigma, flux_cut, where=use, out=np.zeros_like(flux_cut))
        noise = torch.from_numpy(np.where(use, ratio, 0.0).astype(np.float32)).to(self.device)
        return noise.mul_(normalised).div_(self._spread_tensor)

    def features(self, pixels: torch.Tensor, good: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The pixels themselves, with the flux 1 where ``good`` is False; ``noise`` is not used."""
        one = (1.0 - self._mean_tensor) / self._spread_tensor
        return torch.where(good, pixels, one)

    def settings(self) -> dict[str, Any]:
        """Contents of ``preprocessing``."""
        return self._settings.model_dump(mode="json")

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Continuum pixels, mean and spread."""
        return {
            "inputs.continuum_pixels": self._pixels.astype(np.uint8),
            "inputs.mean": self._mean,
            "inputs.spread": self._spread,
        }
