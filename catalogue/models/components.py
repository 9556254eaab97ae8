"""Principal components of the training spectra: a network's input, and what counts as unlike them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from catalogue.models.base import NetworkInputs, PreparedSpectra, SpectraBatch
from catalogue.models.dense import Dense
from catalogue.models.granules import map_granules
from catalogue.models.parameters import fit_parameters, terms
from catalogue.models.preprocessing import NormalisedSpectra, Preprocessing, PreprocessingSettings, redshift
from catalogue.models.spectrum_fit import SpectrumFit, SpectrumModel, fit_spectrum_model
from catalogue.spectra.primitives import GRANULE_ROWS

_LARGEST_RESIDUAL = 5.0
"""Residuals count at most so many sigma, so that one cosmic ray does not make a star novel."""

_REFERENCE_QUANTILE = 0.99

_DECOMPOSED = 4096
"""Most spectra that are decomposed; more add time and no direction that can be measured."""


class ComponentSettings(PreprocessingSettings):
    """Preprocessing with a PCA. The paper uses PCA; all numbers are choices of this project.

    Attributes
    ----------
    n_components : int
    standardise : "noise" or "spread"
        Unit of every pixel: its median noise in the training set, so that components are ordered by how
        well they can be measured, or the spread of the training spectra.
    refinements : int
        Times that bad pixels are filled from the components and projected again; without it they would
        pull a spectrum towards the mean of the training set.
    rejection : float or None
        Residuals from the components, in units of the noise and of what the components leave, from which on a pixel
        counts less; at twice as many it counts as bad: cosmic rays, sky lines. Needs ``refinements``.
    noise_bands : int
        Wavelength bands of which the network is told the noise, so that it can weigh what it sees against
        what it expects; 0 for none.
    parameters : tuple of str
        Columns of the training spectra, as ``teff``, that are estimated for the network; needs ``noise_bands``.
    estimator : "regression" or "fit"
        How: by a regression on the components (:mod:`catalogue.models.parameters`), or by fitting every spectrum
        (:mod:`catalogue.models.spectrum_fit`), which takes longer and errs less.
    parameter_errors : bool
        Whether the network is told how well the fit knows each parameter.
    curved : int
        Leading components of which the regression knows the products.
    passed_on : int or None
        Leading components that the network sees itself; by default all.
    """

    n_components: int = Field(default=128, ge=1)
    standardise: Literal["noise", "spread"] = "noise"
    refinements: int = Field(default=2, ge=0)
    rejection: float | None = Field(default=None, gt=0)
    noise_bands: int = Field(default=0, ge=0)
    parameters: tuple[str, ...] = ()
    estimator: Literal["regression", "fit"] = "regression"
    parameter_errors: bool = False
    curved: int = Field(default=25, ge=0)
    passed_on: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _what_needs_what(self) -> ComponentSettings:
        if self.rejection is not None and not self.refinements:
            raise ValueError("rejection needs refinements, found 0")
        if (self.passed_on or 0) > self.n_components:
            raise ValueError(f"of {self.n_components} components {self.passed_on} cannot be passed on")
        if self.passed_on == 0 and not self.parameters:
            raise ValueError("a network needs an input: passed_on is 0 and there are no parameters")
        if self.parameters and not self.noise_bands:
            raise ValueError("the estimate of parameters needs noise_bands, found 0")
        if self.parameter_errors and not self.fits:
            raise ValueError("parameter_errors are those of a fit for parameters (estimator: fit)")
        return self

    @property
    def fits(self) -> bool:
        """Whether parameters are estimated by a fit."""
        return bool(self.parameters) and self.estimator == "fit"

    @property
    def regresses(self) -> bool:
        """Whether parameters are estimated by a regression."""
        return bool(self.parameters) and self.estimator == "regression"


@dataclass(frozen=True)
class LearntArrays:
    """What :func:`fit_components` takes from the training spectra.

    Attributes
    ----------
    mean, scale, residual_variance : Tensor of float32, shape (pixels,)
        Mean normalised flux; its unit; variance outside the components (beyond the noise), in that unit.
    components : Tensor of float32, shape (components, pixels)
        Orthonormal.
    component_scale, signal_variance : Tensor of float32, shape (components,)
        Standard deviation of the training coefficients; the part of their variance, in units of
        its square, that noise does not explain.
    references : Tensor of float32, shape (2,)
        Residual and distance that one training spectrum in a hundred exceeds.
    parameter_weights : Tensor of float32, shape (terms, parameters)
        Of the regression for stellar parameters; empty without one.
    fit : SpectrumModel or None
        For the fit for stellar parameters.
    """

    mean: Tensor
    scale: Tensor
    residual_variance: Tensor
    components: Tensor
    component_scale: Tensor
    signal_variance: Tensor
    references: Tensor
    parameter_weights: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    fit: SpectrumModel | None = None


_TENSORS = tuple(f.name for f in fields(LearntArrays) if f.name != "fit")


class ComponentInputs(NetworkInputs):
    """Scaled PCA coefficients of normalised spectra.

    Parameters
    ----------
    settings : ComponentSettings
    learnt : LearntArrays
    device : torch.device, optional
    """

    def __init__(self, settings: ComponentSettings, learnt: LearntArrays, device: torch.device | None = None) -> None:
        self._settings = settings
        self.device = device or torch.device("cpu")
        self.preprocessing = Preprocessing(settings, self.device)
        moved = {name: getattr(learnt, name).float().to(self.device) for name in _TENSORS}
        self.learnt = LearntArrays(**moved, fit=None if learnt.fit is None else learnt.fit.to(self.device))
        expected = (settings.n_components, self.preprocessing.n_pixels)
        if (found := tuple(self.learnt.components.shape)) != expected:
            raise ValueError(f"components: expected shape {expected} from the settings, found {found}")
        components = self.learnt.components
        self._project = Dense(components, None, GRANULE_ROWS)
        self._reconstruct = Dense(components.T.contiguous(), None, GRANULE_ROWS)
        scale = self.learnt.component_scale
        self._project_variance = Dense((components / scale[:, None]).square(), None, GRANULE_ROWS)
        self._passed_on = settings.n_components if settings.passed_on is None else settings.passed_on
        self._fit: SpectrumFit | None = None
        if self.learnt.fit is not None:
            self.learnt.fit.check(*expected, len(settings.parameters))
            self._fit = SpectrumFit(self.learnt.fit, components)
        elif settings.parameters:
            ones = torch.ones(1, settings.n_components), torch.ones(1, settings.noise_bands)
            wanted = (terms(*ones, settings.curved).shape[1], len(settings.parameters))
            if (found := tuple(self.learnt.parameter_weights.shape)) not in (wanted, (0, 0)):
                raise ValueError(f"parameter_weights: expected shape {wanted} from the settings, found {found}")
            self._estimate = Dense(self.learnt.parameter_weights.T.contiguous(), None, GRANULE_ROWS)

    @property
    def n_features(self) -> int:
        """Number of components passed on, noise bands, parameters and their errors."""
        settings = self._settings
        return self._passed_on + settings.noise_bands + len(settings.parameters) * (1 + settings.parameter_errors)

    def on(self, device: torch.device) -> ComponentInputs:
        """The same inputs on a device."""
        return self if device == self.device else ComponentInputs(self._settings, self.learnt, device)

    def settings(self) -> dict[str, Any]:
        """Contents of ``preprocessing`` in ``model.json``."""
        return self._settings.model_dump(mode="json")

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays of :class:`LearntArrays` under ``inputs.<name>``, of the fit ``inputs.fit.<name>``; none empty."""
        tensors = {name: getattr(self.learnt, name) for name in _TENSORS}
        if self.learnt.fit is not None:
            tensors |= {f"fit.{f.name}": getattr(self.learnt.fit, f.name) for f in fields(SpectrumModel)}
        return {f"inputs.{name}": tensor.cpu().numpy() for name, tensor in tensors.items() if tensor.numel()}

    @classmethod
    def from_arrays(
        cls, settings: dict[str, Any], arrays: dict[str, NDArray[np.generic]], device: torch.device | None = None
    ) -> ComponentInputs:
        """Inverse of :meth:`settings` and :meth:`arrays`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or does not fit the settings.
        """
        chosen = ComponentSettings.model_validate(settings)
        names = [name for name in _TENSORS if name != "parameter_weights" or chosen.regresses]
        tensors = {name: torch.tensor(arrays[f"inputs.{name}"]) for name in names}
        fit = SpectrumModel.from_arrays(arrays) if chosen.fits else None
        return cls(chosen, LearntArrays(**tensors, fit=fit), device)

    def prepare(self, spectra: SpectraBatch) -> PreparedSpectra:
        """Normalised pixels in units of the training set, granule by granule."""
        shifts = redshift(spectra)

        def granule(index: int) -> PreparedSpectra:
            rows = slice(index * GRANULE_ROWS, (index + 1) * GRANULE_ROWS)
            return self.standardise(spectra.flux[rows], spectra.ivar[rows], spectra.mask[rows], shifts[rows])

        parts = map_granules(granule, max(1, -(-len(spectra) // GRANULE_ROWS)))
        usable = torch.from_numpy(np.ascontiguousarray(spectra.usable)).to(self.device)
        joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(PreparedSpectra)}
        return PreparedSpectra(**{**joined, "usable": joined["usable"] & usable})

    def standardise(
        self,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        mask: NDArray[np.unsignedinteger],
        redshift: NDArray[np.float64],
    ) -> PreparedSpectra:
        """Normalised pixels of one granule, in units of the training set."""
        return self.in_training_units(self.preprocessing(flux, ivar, mask, redshift))

    def in_training_units(self, normalised: NormalisedSpectra) -> PreparedSpectra:
        """Normalised pixels in units of the training set."""
        pixels = (normalised.flux - self.learnt.mean) / self.learnt.scale
        return PreparedSpectra(
            pixels=torch.where(normalised.good, pixels, 0.0),
            noise=normalised.variance.sqrt() / self.learnt.scale,
            good=normalised.good,
            bad_fraction=normalised.bad_fraction,
            usable=normalised.usable,
        )

    def features(self, pixels: Tensor, good: Tensor, noise: Tensor) -> Tensor:
        """Network input of pixels that are 0 where bad: :meth:`assemble` of their :meth:`coefficients`."""
        coefficients = self.coefficients(pixels, good, noise)
        return self.assemble(coefficients, good, noise, self.fitted(coefficients, pixels, good, noise))

    def coefficients(self, pixels: Tensor, good: Tensor, noise: Tensor) -> Tensor:
        """Scaled coefficients, shape (rows, components), of pixels that are 0 where bad."""
        coefficients = self._project(pixels)
        limit = self._limit(noise)
        for _ in range(self._settings.refinements):
            expected = self._reconstruct(coefficients)
            seen = pixels if limit is None else expected + _kept(pixels - expected, limit)
            coefficients = self._project(torch.where(good, seen, expected))
        return coefficients / self.learnt.component_scale

    def _limit(self, noise: Tensor) -> Tensor | None:
        """Residuals from which on a pixel counts less."""
        rejection = self._settings.rejection
        if rejection is None:
            return None
        return noise.square().add_(self.learnt.residual_variance).sqrt_().mul_(rejection)

    def fitted(self, coefficients: Tensor, pixels: Tensor, good: Tensor, noise: Tensor) -> tuple[Tensor, Tensor] | None:
        """What :class:`SpectrumFit` says of the spectra; None where parameters are not estimated by a fit."""
        if self._fit is None:
            return None
        return self._fit(pixels, self._weights(self._fit, coefficients, pixels, good, noise))

    def assemble(
        self, coefficients: Tensor, good: Tensor, noise: Tensor, fitted: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Leading coefficients, noise in bands in dex of its usual value, and estimated parameters, side by side.

        After them, if the settings say so, the natural logarithms of the parameters' errors, in units of their spread.
        ``fitted`` is what :meth:`fitted` gave.
        """
        parts = [coefficients[:, : self._passed_on]]
        if self._settings.noise_bands:
            parts.append(band_noise(noise, good, self._settings.noise_bands))
        if fitted is not None:
            parts.append(fitted[0])
            if self._settings.parameter_errors and self._fit is not None:
                parts.append(self._fit.errors(fitted[1]).log())
        elif self._settings.parameters:
            parts.append(self._estimate(terms(coefficients, parts[1], self._settings.curved)))
        return torch.cat(parts, dim=1)

    def _weights(self, fit: SpectrumFit, coefficients: Tensor, pixels: Tensor, good: Tensor, noise: Tensor) -> Tensor:
        """Inverse variance of every pixel, 0 where bad and less where it lies far from the components."""
        weights = good / fit.variance(noise)
        limit = self._limit(noise)
        if limit is None:
            return weights
        residual = pixels - self._reconstruct(coefficients * self.learnt.component_scale)
        return weights * (_kept(residual, limit) / residual.where(residual != 0.0, 1.0)).where(residual != 0.0, 1.0)

    def residual_and_distance(self, prepared: PreparedSpectra, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """How far spectra lie from the training set, outside the components and within them.

        Returns
        -------
        residual, distance : Tensor of float32, shape (rows,)
            Mean square in units of the noise and the training set's own spread; about 1 for a
            spectrum like those of the training set, at any signal-to-noise ratio.
        """
        variance = prepared.noise.square()
        model = self._reconstruct(coefficients * self.learnt.component_scale)
        squared = (prepared.pixels - model).square() / (variance + self.learnt.residual_variance)
        squared = squared.clamp(max=_LARGEST_RESIDUAL**2) * prepared.good
        residual = squared.sum(dim=1) / prepared.good.sum(dim=1).clamp(min=1)
        expected = self._project_variance(variance) + self.learnt.signal_variance
        return residual, (coefficients.square() / expected).mean(dim=1)

    def novelty(self, prepared: PreparedSpectra, coefficients: Tensor) -> Tensor:
        """Larger of residual and distance, in units of what one training spectrum in a hundred exceeds."""
        residual, distance = self.residual_and_distance(prepared, coefficients)
        return torch.maximum(residual / self.learnt.references[0], distance / self.learnt.references[1])


def _kept(residual: Tensor, limit: Tensor) -> Tensor:
    """Residuals up to the limit as they are, beyond it falling to nothing at twice the limit (after Hampel).

    Continuous, so that rounding never decides whether a pixel counts.
    """
    size = residual.abs()
    return torch.minimum(size, 2.0 * limit - size).clamp_(min=0.0).copysign_(residual)


def fit_components(
    settings: ComponentSettings,
    spectra: SpectraBatch,
    seed: int,
    noiseless: SpectraBatch | None = None,
    redrawn: Iterable[SpectraBatch] = (),
) -> ComponentInputs:
    """Learn mean, scale and principal components of training spectra, and the regression for parameters.

    Parameters
    ----------
    settings : ComponentSettings
    spectra : SpectraBatch
        With the columns that ``settings.parameters`` names.
    seed : int
        Of the randomised singular value decomposition.
    noiseless : SpectraBatch, optional
        The same spectra without noise: components of these are of the stars alone. Those of noisy spectra are
        of the noise where a few thousand spectra do not average it out. The unit of a pixel is then its real scatter
        about them, which sky lines make larger than the published noise.
    redrawn : iterable of SpectraBatch
        The same spectra with other noise, from which the regression learns as well.

    Raises
    ------
    ValueError
        If there are not more usable spectra than components, or a parameter is missing.
    """
    without = [name for name in settings.parameters if name not in spectra.columns]
    if without:
        raise ValueError(f"parameters to be learnt are not among the spectra's columns: {', '.join(without)}")
    if settings.fits and noiseless is None:
        raise ValueError("estimator: a fit for parameters is learnt from spectra without noise, and there are none")
    n_pixels = Preprocessing(settings).n_pixels
    flux, noise, good, rows = _normalise(settings, spectra)
    if len(flux) <= settings.n_components or n_pixels < settings.n_components:
        raise ValueError(
            f"{settings.n_components} components need more usable spectra and at least as many pixels; "
            f"found {len(flux)} of {len(spectra)} spectra usable, and {n_pixels} pixels"
        )
    count = good.sum(dim=0).clamp(min=1)
    mean = (flux * good).sum(dim=0) / count
    scale = _pixel_scale(settings, flux - mean, noise, good, count)
    pure_flux, pure_good = flux, good
    if noiseless is not None:
        pure_flux, _, pure_good, _ = _normalise(settings, noiseless)
        if len(pure_flux) != len(flux):
            raise ValueError(f"expected {len(flux)} usable spectra without noise, found {len(pure_flux)}")
        if settings.standardise == "noise":
            scale = scale * _excess(flux - pure_flux, noise, good & pure_good)
    pixels = torch.where(good, (flux - mean) / scale, 0.0)
    prepared = PreparedSpectra(pixels, noise / scale, good, torch.zeros(len(pixels)), torch.ones(len(pixels)) > 0)
    pure = torch.where(pure_good, (pure_flux - mean) / scale, 0.0)
    chosen = torch.linspace(0, len(pixels) - 1, min(len(pixels), _DECOMPOSED)).long()
    components = _principal_components(pure[chosen], pure_good[chosen], settings, seed)
    plain = settings.model_copy(update={"parameters": (), "passed_on": None})
    learnt, coefficients = _statistics(plain, prepared, mean, scale, components)
    if settings.fits:
        truth = _columns(spectra, settings.parameters)[rows]
        excess = _excess(flux - pure_flux, noise, good & pure_good)
        learnt = replace(learnt, fit=fit_spectrum_model(pure, pure_good, components, truth, excess))
    elif settings.parameters:
        truth = _columns(spectra, settings.parameters)
        first = coefficients, band_noise(prepared.noise, good, settings.noise_bands), truth[rows]
        weights = _parameter_weights(ComponentInputs(plain, learnt), first, redrawn, truth, settings)
        learnt = replace(learnt, parameter_weights=weights)
    return ComponentInputs(settings, learnt)


def _columns(spectra: SpectraBatch, names: tuple[str, ...]) -> Tensor:
    return torch.from_numpy(np.stack([spectra.columns[name] for name in names], axis=1))


def _parameter_weights(
    inputs: ComponentInputs,
    first: tuple[Tensor, Tensor, Tensor],
    redrawn: Iterable[SpectraBatch],
    truth: Tensor,
    settings: ComponentSettings,
) -> Tensor:
    """Regression for the parameters ``truth`` (spectra, parameters).

    It is learnt from ``first``, coefficients and noise in bands of the usable training spectra with their parameters,
    and from all other observations of them.
    """
    seen = [first]
    for drawn in (inputs.prepare(batch) for batch in redrawn):
        pixels, good, noise = (part[drawn.usable] for part in (drawn.pixels, drawn.good, drawn.noise))
        bands = band_noise(noise, good, settings.noise_bands)
        seen.append((inputs.coefficients(pixels, good, noise), bands, truth[drawn.usable]))
    coefficients, bands, parameters = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return fit_parameters(coefficients, bands, parameters, settings.curved)


def _statistics(
    settings: ComponentSettings, prepared: PreparedSpectra, mean: Tensor, scale: Tensor, components: Tensor
) -> tuple[LearntArrays, Tensor]:
    """Spreads, residuals and references of the training spectra, and their scaled coefficients."""
    pixels, noise, good = prepared.pixels, prepared.noise, prepared.good
    ones = torch.ones(settings.n_components)
    blank = LearntArrays(mean, scale, torch.zeros(len(mean)), components, ones, ones, torch.ones(2))
    # nothing is rejected before it is known what the components leave
    first = ComponentInputs(settings.model_copy(update={"rejection": None}), blank)
    coefficients = first.coefficients(pixels, good, noise)
    component_scale = coefficients.std(dim=0).clamp(min=1e-6)
    measured = (noise.square() @ components.T.square()).mean(dim=0) / component_scale.square()
    left = torch.where(good, pixels - coefficients @ components, 0.0)
    residual = ((left.square() - noise.square()) * good).sum(dim=0) / good.sum(dim=0).clamp(min=1)
    learnt = LearntArrays(
        mean=mean,
        scale=scale,
        residual_variance=residual.clamp(min=1e-3),
        components=components,
        component_scale=component_scale,
        signal_variance=(1.0 - measured).clamp(min=1e-2),
        references=torch.ones(2),
    )
    inputs = ComponentInputs(settings, learnt)
    coefficients = inputs.coefficients(pixels, good, noise)
    pair = inputs.residual_and_distance(prepared, coefficients)
    references = torch.stack([torch.quantile(x, _REFERENCE_QUANTILE) for x in pair])
    return replace(learnt, references=references), coefficients


def _normalise(settings: ComponentSettings, spectra: SpectraBatch) -> tuple[Tensor, Tensor, Tensor, NDArray[np.int64]]:
    """Normalised flux, noise and goodness of the usable spectra, and their rows."""
    preprocessing = Preprocessing(settings)
    shifts = redshift(spectra)

    def granule(index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = slice(index * GRANULE_ROWS, (index + 1) * GRANULE_ROWS)
        result = preprocessing(spectra.flux[rows], spectra.ivar[rows], spectra.mask[rows], shifts[rows])
        keep = result.usable & torch.from_numpy(np.ascontiguousarray(spectra.usable[rows]))
        kept = torch.nonzero(keep)[:, 0] + rows.start
        return result.flux[keep], result.variance[keep].sqrt(), result.good[keep], kept

    parts = map_granules(granule, -(-len(spectra) // GRANULE_ROWS))
    if not parts:
        empty = torch.zeros(0, preprocessing.n_pixels)
        return empty, empty, empty > 0, np.zeros(0, np.int64)
    flux, noise, good, rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return flux, noise, good, rows.numpy()


def band_noise(noise: Tensor, good: Tensor, bands: int) -> Tensor:
    """log10 of the root mean square noise of the good pixels in bands of equal width, held within 2 dex."""
    columns = []
    for part, kept in zip(noise.tensor_split(bands, dim=1), good.tensor_split(bands, dim=1), strict=True):
        mean = part.square().sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        columns.append(0.5 * torch.log10(mean.clamp(1e-4, 1e4)))
    return torch.stack(columns, dim=1)


def _pixel_scale(settings: ComponentSettings, deviation: Tensor, noise: Tensor, good: Tensor, count: Tensor) -> Tensor:
    """Unit of every pixel; never below a tenth of its median, so that no dead pixel is blown up."""
    if settings.standardise == "spread":
        scale = ((deviation * good).square().sum(dim=0) / count).sqrt()
    else:
        scale = torch.nanmedian(torch.where(good, noise, torch.nan), dim=0).values.nan_to_num(0.0)
    typical = float(scale.median())
    return scale.clamp(min=0.1 * typical if typical > 0 else 1.0)


def _excess(error: Tensor, noise: Tensor, good: Tensor) -> Tensor:
    """Root mean square of every pixel's errors in units of the published noise, at least 1."""
    ratio = torch.where(good, error / noise.clamp(min=1e-12), 0.0).clamp_(-_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
    return (ratio.square_().sum(dim=0) / good.sum(dim=0).clamp(min=1)).sqrt_().clamp_(min=1.0)


def _principal_components(pixels: Tensor, good: Tensor, settings: ComponentSettings, seed: int) -> Tensor:
    """Leading right singular vectors, bad pixels filled from them in turn."""
    filled = pixels
    with torch.random.fork_rng(devices=[]):
        for _ in range(settings.refinements + 1):
            torch.manual_seed(seed)
            size = min(settings.n_components + 16, *pixels.shape)
            _, _, right = torch.svd_lowrank(filled, q=size, niter=6)
            components = right[:, : settings.n_components].T
            filled = torch.where(good, pixels, (filled @ components.T) @ components)
    # a singular vector's sign is arbitrary; fixed so that a refit gives the same network input
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).contiguous()
