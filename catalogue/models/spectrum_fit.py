"""Stellar parameters by fitting a spectrum's principal components with what parameters make of them.

The components of noise-free spectra are a cubic polynomial in the parameters, with a Gaussian scatter from whatever
else differs between stars and observations: other abundances, resolution, redshift, response. The parameters of a
noisy spectrum are those of the largest posterior density, given the noise of every one of its pixels: a spectrum's own
noise decides what is believed of it. The idea is that of The Cannon (Ness et al. 2015), with the components in place of
the pixels and what they leave open marginalised.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.models.dense import Dense
from catalogue.spectra.primitives import GRANULE_ROWS

_DEGREE = 3
_ITERATIONS = 8
_LONGEST_STEP = 1.0
"""Of a parameter in one iteration, in units of its spread: without it cool stars run into a second minimum."""

_RIDGE = 1e-2
_LEAST_VARIANCE = 1e-3
"""Of what components leave, and of their scatter: emulated spectra are never better than that."""

_LEAST_INDEPENDENT = 1e-6
"""Variance of the sum of standardised parameters that varies least: below, the prior has no inverse in float32."""


@dataclass(frozen=True)
class SpectrumModel:
    """What parameters make of components.

    Attributes
    ----------
    weights : Tensor, shape (terms, components)
        Of the polynomial in standardised parameters.
    scatter : Tensor, shape (components, components)
        Covariance of noise-free components about the polynomial.
    prior : Tensor, shape (parameters, parameters)
        Covariance of the standardised parameters of the training spectra.
    limits : Tensor, shape (2, parameters)
        Least and largest of them.
    variance : Tensor, shape (pixels,)
        Mean square of what the components leave of noise-free spectra.
    excess : Tensor, shape (pixels,)
        Root mean square error of a pixel in units of its published noise.
    standard : Tensor, shape (2, parameters)
        Mean and standard deviation of the parameters in their own units.
    """

    weights: Tensor
    scatter: Tensor
    prior: Tensor
    limits: Tensor
    variance: Tensor
    excess: Tensor
    standard: Tensor

    @property
    def n_parameters(self) -> int:
        """Number of parameters."""
        return len(self.prior)

    def expected_shapes(self, n_components: int, n_pixels: int, n_parameters: int) -> dict[str, tuple[int, ...]]:
        """Shape of every array for these numbers."""
        return {
            "weights": (len(exponents(n_parameters)), n_components),
            "scatter": (n_components, n_components),
            "prior": (n_parameters, n_parameters),
            "limits": (2, n_parameters),
            "variance": (n_pixels,),
            "excess": (n_pixels,),
            "standard": (2, n_parameters),
        }

    def check(self, n_components: int, n_pixels: int, n_parameters: int) -> None:
        """Raise ValueError for an array of another shape."""
        for name, expected in self.expected_shapes(n_components, n_pixels, n_parameters).items():
            if (found := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"fit.{name}: expected shape {expected} from the settings, found {found}")

    def standardised(self, parameters: Tensor) -> Tensor:
        """Parameters (rows, parameters) in the units of the fit."""
        mean, spread = self.standard.double()
        return (parameters.double() - mean) / spread

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SpectrumModel:
        """The model of a bundle's arrays ``inputs.fit.<name>``; KeyError if one is missing."""
        return cls(*(torch.tensor(arrays[f"inputs.fit.{field.name}"]) for field in fields(cls)))

    def to(self, device: torch.device) -> SpectrumModel:
        """The same model in float32 on a device."""
        return SpectrumModel(*(getattr(self, field.name).float().to(device) for field in fields(self)))


def exponents(n_parameters: int) -> NDArray[np.int64]:
    """Exponents of every parameter in every term of the polynomial, shape (terms, parameters)."""
    rows = [np.zeros(n_parameters, np.int64)]
    for degree in range(1, _DEGREE + 1):
        for chosen in itertools.combinations_with_replacement(range(n_parameters), degree):
            rows.append(np.bincount(chosen, minlength=n_parameters))
    return np.stack(rows)


class Polynomial:
    """Terms of a polynomial and their slopes.

    Parameters
    ----------
    n_parameters : int
    device : torch.device
    """

    def __init__(self, n_parameters: int, device: torch.device) -> None:
        self._exponents = torch.from_numpy(exponents(n_parameters)).to(device)
        self._parameter = torch.arange(n_parameters, device=device)
        self._others = ~torch.eye(n_parameters, dtype=torch.bool, device=device)

    def __call__(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Terms (rows, terms) and slopes (rows, parameters, terms) at ``parameters`` (rows, parameters)."""
        one = torch.ones_like(parameters)
        powers = torch.stack([one, parameters, parameters**2, parameters**3], dim=2)
        factors = powers[:, self._parameter, self._exponents]
        lower = powers[:, self._parameter, (self._exponents - 1).clamp(min=0)] * self._exponents
        # the slope in one parameter takes the derivative of its factor and the factors of all others
        others = torch.where(self._others[:, None], factors[:, None], 1.0).prod(dim=3)
        return factors.prod(dim=2), others * lower.transpose(1, 2)


class SpectrumFit:
    """A model ready to fit spectra.

    Parameters
    ----------
    model : SpectrumModel
    components : Tensor of float32, shape (components, pixels)
        In the unit of every pixel.
    """

    def __init__(self, model: SpectrumModel, components: Tensor) -> None:
        device, size = components.device, len(components)
        first, second = torch.triu_indices(size, size, device=device)
        # the information of a spectrum is linear in the weights of its pixels: one product for a whole granule
        self._information = Dense(components[first] * components[second], None, GRANULE_ROWS)
        self._project = Dense(components, None, GRANULE_ROWS)
        place = torch.empty(size, size, dtype=torch.int64, device=device)
        place[first, second] = place[second, first] = torch.arange(len(first), device=device)
        self._place = place
        self._model = model
        self._polynomial = Polynomial(model.n_parameters, device)
        self._weights = model.weights.double()
        self._scatter = torch.linalg.inv(model.scatter.double().cpu()).to(device)
        self._weighted_scatter = self._weights @ self._scatter
        self._prior = torch.linalg.inv(model.prior.double().cpu()).to(device)
        self._low, self._high = model.limits.double()

    def variance(self, noise: Tensor) -> Tensor:
        """Variance of every pixel about the components, of its published noise."""
        return (noise * self._model.excess).square_().add_(self._model.variance)

    def __call__(self, pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised parameters of largest posterior density, and how well they are known.

        Parameters
        ----------
        pixels : Tensor of float32, shape (rows, pixels)
        weights : Tensor of float32, shape (rows, pixels)
            Inverse variances, 0 where bad.

        Returns
        -------
        parameters : Tensor of float32, shape (rows, parameters)
        information : Tensor of float32, shape (rows, parameters, parameters)
            Inverse covariance by the spectrum alone, without the prior.
        """
        information = self._information(weights).double()[:, self._place]
        seen = self._project(pixels * weights).double()
        # the scatter marginalised, of all terms of the polynomial at once: an iteration then needs no component;
        # without the check a row that fails becomes NaN and takes no other row with it
        factor, _ = torch.linalg.cholesky_ex(information + self._scatter)
        both = torch.cat([information @ self._weights.T, seen[:, :, None]], dim=2)
        reduced = self._weighted_scatter @ torch.cholesky_solve(both, factor)
        found = torch.zeros(len(pixels), self._model.n_parameters, dtype=torch.float64, device=pixels.device)
        known = torch.zeros_like(self._prior)
        for _ in range(_ITERATIONS):
            found, known = self._step(found, reduced[:, :, :-1], reduced[:, :, -1])
        return found.float(), known.float()

    def errors(self, information: Tensor) -> Tensor:
        """Standard errors of the parameters (rows, parameters), by the information of a spectrum and the prior."""
        curvature, _ = torch.linalg.cholesky_ex(information.double() + self._prior)
        one = torch.eye(len(self._prior), dtype=torch.float64, device=information.device)
        # the inverse of the factor has no negative sum of squares, whatever the rounding
        return torch.linalg.solve_triangular(curvature, one, upper=False).square().sum(dim=1).sqrt().float()

    def _step(self, found: Tensor, information: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """One Gauss-Newton iteration, and the information on the parameters at its start."""
        terms, slopes = self._polynomial(found)
        left = seen - (information @ terms[:, :, None])[:, :, 0]
        gradient = (slopes @ left[:, :, None])[:, :, 0] - found @ self._prior
        known = slopes @ information @ slopes.transpose(1, 2)
        curvature, _ = torch.linalg.cholesky_ex(known + self._prior)
        step = torch.cholesky_solve(gradient[:, :, None], curvature)[:, :, 0]
        longest = step.abs().amax(dim=1, keepdim=True)
        step = step * (_LONGEST_STEP / longest.clamp(min=_LONGEST_STEP))
        return torch.minimum(torch.maximum(found + step, self._low), self._high), known


def fit_spectrum_model(
    pure: Tensor, good: Tensor, components: Tensor, parameters: Tensor, excess: Tensor
) -> SpectrumModel:
    """Learn what parameters make of components.

    Parameters
    ----------
    pure : Tensor of float32, shape (spectra, pixels)
        Spectra without noise in the unit of every pixel, 0 where bad.
    good : Tensor of bool, shape (spectra, pixels)
    components : Tensor of float32, shape (components, pixels)
    parameters : Tensor, shape (spectra, parameters)
    excess : Tensor of float32, shape (pixels,)

    Raises
    ------
    ValueError
        If a parameter is not finite, the same in all spectra or what others make it, or there are fewer spectra than
        terms.
    """
    mean, spread = parameters.double().mean(dim=0), parameters.double().std(dim=0)
    if not torch.isfinite(parameters).all() or not (spread > 0).all():
        raise ValueError("parameters to be learnt must be finite and differ from star to star")
    standardised = (parameters.double() - mean) / spread
    prior = torch.atleast_2d(torch.cov(standardised.T))
    if torch.linalg.eigvalsh(prior)[0] < _LEAST_INDEPENDENT:
        raise ValueError("parameters to be learnt must be independent, one follows from the others in all stars")
    polynomial = Polynomial(parameters.shape[1], pure.device)
    terms = torch.cat([polynomial(part)[0] for part in standardised.split(1024)])
    if len(terms) <= terms.shape[1]:
        raise ValueError(f"a polynomial of {terms.shape[1]} terms needs more spectra, found {len(terms)}")
    found = pure @ components.T
    for _ in range(2):
        found = torch.where(good, pure, found @ components) @ components.T
    left = torch.where(good, pure - found @ components, 0.0)
    variance = left.square().sum(dim=0) / good.sum(dim=0).clamp(min=1)
    ridge = _RIDGE * torch.eye(terms.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(terms.T @ terms + ridge, terms.T @ found.double())
    scatter = found.double() - terms @ weights
    covariance = scatter.T @ scatter / len(scatter) + _LEAST_VARIANCE * torch.eye(len(components), dtype=torch.float64)
    limits = torch.stack([standardised.amin(dim=0), standardised.amax(dim=0)])
    return SpectrumModel(
        weights=weights.float(),
        scatter=covariance.float(),
        prior=prior.float(),
        limits=limits.float(),
        variance=variance.clamp(min=_LEAST_VARIANCE),
        excess=excess,
        standard=torch.stack([mean, spread]).float(),
    )
