"""Age and mass by the density of the training stars: what a star of these parameters, with these errors, can be.

A mixture of Gaussians in the true parameters and the labels of the training stars, and Bayes' theorem: of the
parameters that a spectrum allows (:mod:`catalogue.models.spectrum_fit`) those count that stars have. It errs in other
ways than a network trained on the same stars, so that the mean of both errs less than either.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GAUSSIANS, _MIXTURES = 20, 6
_LEAST_VARIANCE = 1e-3
"""Added to the variances of a Gaussian, in squares of the sample's spread."""

_INFLATION = 1.1
"""Errors of estimated parameters in units of those that the fit claims (1.03 to 1.08 on simulated spectra)."""

_HALVINGS = 28
"""Of an interval of some twenty spreads of a label: beyond the digits of float32."""

_REACH = 6.0
_ROWS_AT_ONCE = 32
"""On a processor, whose cache more would leave."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class LabelMixture:
    """Gaussians in standardised parameters and the network's labels.

    Attributes
    ----------
    weights : Tensor of float32, shape (Gaussians,)
    means : Tensor of float32, shape (Gaussians, parameters + labels)
    covariances : Tensor of float32, shape (Gaussians, parameters + labels, parameters + labels)
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays under ``mixture.<name>``."""
        return {f"mixture.{field.name}": getattr(self, field.name).cpu().numpy() for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]], n_parameters: int, n_labels: int) -> LabelMixture:
        """Inverse of :meth:`arrays`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing or of another shape.
        """
        weights, means, covariances = (torch.tensor(arrays[f"mixture.{field.name}"]) for field in fields(cls))
        size = n_parameters + n_labels
        for name, array, expected in (
            ("means", means, (len(weights), size)),
            ("covariances", covariances, (len(weights), size, size)),
        ):
            if tuple(array.shape) != expected:
                raise ValueError(f"mixture.{name}: expected shape {expected}, found {tuple(array.shape)}")
        return cls(weights, means, covariances)


def fit_mixture(parameters: Values, labels: Values) -> LabelMixture:
    """Fit the mixture to training stars.

    Parameters
    ----------
    parameters : ndarray of float64, shape (stars, parameters)
        True ones, standardised as the fit's.
    labels : ndarray of float64, shape (stars, labels)
        In the network's label space.

    Raises
    ------
    ValueError
        If there are fewer stars than Gaussians, or a parameter is not finite.
    """
    from sklearn.mixture import GaussianMixture

    both = np.concatenate([parameters, labels], axis=1)
    if not np.isfinite(both).all():
        raise ValueError("a mixture needs the parameters and labels of all training stars: some are not finite")
    if len(both) < _GAUSSIANS:
        raise ValueError(f"a mixture of {_GAUSSIANS} Gaussians needs as many stars, found {len(both)}")
    middle, spread = both.mean(axis=0), both.std(axis=0)
    found = []
    for seed in range(_MIXTURES):
        start = "kmeans" if seed % 2 == 0 else "k-means++"
        mixture = GaussianMixture(_GAUSSIANS, random_state=seed, reg_covar=_LEAST_VARIANCE, init_params=start)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Best performing initialization did not converge")
            found.append(mixture.fit((both - middle) / spread))
    as_tensor = lambda parts: torch.tensor(np.concatenate(parts), dtype=torch.float32)  # noqa: E731
    return LabelMixture(
        as_tensor([mixture.weights_ / _MIXTURES for mixture in found]),
        as_tensor([mixture.means_ * spread + middle for mixture in found]),
        as_tensor([mixture.covariances_ * spread[:, None] * spread for mixture in found]),
    )


class MixturePosterior:
    """A mixture ready to be asked.

    Parameters
    ----------
    mixture : LabelMixture
    prior : Tensor, shape (parameters, parameters)
        Covariance of the fit's own prior, which is taken out again.
    label_scale : tuple of float
        dex per unit of each label.
    device : torch.device
    """

    def __init__(
        self, mixture: LabelMixture, prior: Tensor, label_scale: tuple[float, ...], device: torch.device
    ) -> None:
        n = len(prior)
        means, covariances = mixture.means.double(), mixture.covariances.double()
        precision = torch.linalg.inv(covariances[:, :n, :n])
        slope = precision @ covariances[:, :n, n:]
        left = covariances[:, n:, n:] - covariances[:, n:, :n] @ slope
        pull = (precision @ means[:, :n, None])[:, :, 0]
        constant = mixture.weights.double().log() + 0.5 * torch.logdet(precision) - 0.5 * (means[:, :n] * pull).sum(1)
        self._n = n
        self._precision, self._slope, self._pull, self._constant = (
            part.to(device) for part in (precision, slope, pull, constant)
        )
        self._means = means.to(device)
        self._left = torch.diagonal(left, dim1=1, dim2=2).to(device)
        self._prior = torch.linalg.inv(prior.double().cpu()).to(device)
        self._per_label = math.log(10.0) * torch.tensor(label_scale, dtype=torch.float64, device=device)

    def __call__(self, estimates: Tensor, information: Tensor) -> Tensor:
        """Labels of least expected relative error.

        Parameters
        ----------
        estimates : Tensor, shape (rows, parameters)
        information : Tensor, shape (rows, parameters, parameters)
            Of the spectrum alone, without the prior.

        Returns
        -------
        Tensor of float64, shape (rows, labels)
            In the network's label space.
        """
        estimates, information = estimates.double(), information.double()
        if estimates.device.type != "cpu":
            return self._labels(estimates, information)
        parts = zip(estimates.split(_ROWS_AT_ONCE), information.split(_ROWS_AT_ONCE), strict=True)
        return torch.cat([self._labels(*part) for part in parts])

    def _labels(self, estimates: Tensor, information: Tensor) -> Tensor:
        """As :meth:`__call__`, of some rows."""
        said = ((information + self._prior) @ estimates[:, :, None])[:, :, 0] / _INFLATION**2
        total = information[:, None] / _INFLATION**2 + self._precision
        right = said[:, None] + self._pull
        factor, _ = torch.linalg.cholesky_ex(total)
        centre = torch.cholesky_solve(right[..., None], factor)[..., 0]
        share = self._constant + 0.5 * (right * centre).sum(dim=2)
        share = share - factor.diagonal(dim1=2, dim2=3).log().sum(dim=2)
        n = self._n
        means = self._means[:, n:] + ((centre - self._means[:, :n])[:, :, None] @ self._slope)[:, :, 0]
        spread = torch.linalg.solve_triangular(factor, self._slope.expand(len(factor), -1, -1, -1), upper=False)
        return self._medians(share, means, spread.square().sum(dim=2) + self._left)

    def _medians(self, share: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """Medians of every label's mixture, weighted with the inverse of the label.

        They make the mean size of ``found / true - 1`` least; the weight shifts a Gaussian in the logarithm.
        """
        a = self._per_label
        share = share[:, :, None] - a * means + 0.5 * a**2 * variances
        share = torch.softmax(share, dim=1)
        means = means - a * variances
        deviation = variances.sqrt()
        low, high = (means - _REACH * deviation).amin(dim=1), (means + _REACH * deviation).amax(dim=1)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            below = (share * torch.special.ndtr((middle[:, None] - means) / deviation)).sum(dim=1) < 0.5
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)
