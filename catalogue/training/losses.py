r"""Losses over age and mass together.

Mahalanobis distance of the predicted from the true pair, in the network's label space:
:math:`d^2 = e^\top \Sigma^{-1} e`. The paper (Zhang et al. 2024) does not say which of two variants it uses, the
distance or its square, nor what :math:`\Sigma` is; here both are there, and :math:`\Sigma` is the covariance of the
training labels' scatter plus each star's label covariance, or, with a data head, what the network predicts.

Beside them ``absolute_fractional``, the sum of the sizes of both relative errors: the mean absolute percentage error
that the paper reports, each label in units of its spread.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from catalogue.models.base import LabelDistribution

LossName = Literal["mahalanobis", "mahalanobis_squared", "mahalanobis_fractional", "absolute_fractional", "mse"]

FRACTIONAL: tuple[LossName, ...] = ("mahalanobis_fractional", "absolute_fractional")
"""Losses of relative errors, see :func:`fractional`."""


def squared_distance(error: Tensor, covariance: Tensor) -> Tensor:
    """Squared Mahalanobis distance of errors (rows, 2) under covariances (rows, 2, 2) or (2, 2)."""
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = error[..., 0], error[..., 1]
    determinant = (a * c - b * b).clamp(min=1e-12)
    return (c * x * x - 2 * b * x * y + a * y * y) / determinant


def fractional(error: Tensor, spread: Tensor) -> Tensor:
    """Relative errors of the labels, in units of their spread, from errors of their logarithms in the same units.

    Small errors are the same in both. Large ones are not: a label overestimated by a factor of two is twice as wrong
    as one underestimated by it, as the mean absolute percentage error of the paper has it.

    Parameters
    ----------
    error : Tensor, shape (rows, 2)
    spread : Tensor, shape (2,)
        Spread of the natural logarithms of the labels.
    """
    return torch.expm1((error * spread).clamp(max=2.0)) / spread


def point_loss(error: Tensor, covariance: Tensor, name: LossName) -> Tensor:
    """Mean loss of the predicted means.

    Parameters
    ----------
    error : Tensor, shape (rows, 2)
        In units of the labels' spread; for those of :data:`FRACTIONAL` what :func:`fractional` makes of them.
    covariance : Tensor, shape (rows, 2, 2)
        Fixed, not predicted; ignored by ``mse`` and ``absolute_fractional``.
    name : str
    """
    if name == "mse":
        return error.square().sum(dim=1).mean()
    if name == "absolute_fractional":
        return error.abs().sum(dim=1).mean()
    squared = squared_distance(error, covariance)
    return squared.mean() if name == "mahalanobis_squared" else torch.sqrt(squared + 1e-6).mean()


def auxiliary_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of standardised parameters (rows, parameters); unknown ones, NaN, do not count."""
    known = torch.isfinite(truth)
    squared = torch.where(known, predicted - truth.nan_to_num(0.0), 0.0).square()
    return squared.sum() / known.sum().clamp(min=1)


def distribution_loss(error: Tensor, predicted: LabelDistribution) -> Tensor:
    """Negative log-likelihood of the errors under the predicted data covariance; 0 without one."""
    covariance = predicted.covariance
    if covariance is None:
        return error.new_zeros(())
    determinant = covariance[..., 0, 0] * covariance[..., 1, 1] - covariance[..., 0, 1] ** 2
    squared = squared_distance(error, covariance)
    return (0.5 * squared + 0.5 * torch.log(determinant.clamp(min=1e-12))).mean()
