"""From the passes of MC-dropout to what a catalogue keeps of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """What is kept of the passes.

    Attributes
    ----------
    mean, std : Tensor, shape (rows, outputs)
        Population standard deviation over the passes, as astroNN.
    percentiles : Tensor, shape (3, rows, outputs)
        16, 50 and 84 %.
    covariance : Tensor, shape (rows, outputs, outputs)
    correlation : Tensor, shape (rows,)
        Of the first two outputs; NaN if there is one output or a spread of zero.
    """

    mean: Tensor
    std: Tensor
    percentiles: Tensor
    covariance: Tensor
    correlation: Tensor


def reduce(samples: Tensor) -> Moments:
    """Mean, spread, percentiles and correlation over the passes.

    Parameters
    ----------
    samples : Tensor, shape (passes, rows, outputs)
    """
    samples = samples.double()
    mean, covariance = mean_and_covariance(samples)
    std = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    levels = torch.tensor([0.16, 0.50, 0.84], dtype=samples.dtype, device=samples.device)
    percentiles = torch.quantile(samples, levels, dim=0)
    return Moments(mean, std, percentiles, covariance, correlation(covariance))


def mean_and_covariance(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (rows, outputs) and population covariance (rows, outputs, outputs) over the passes."""
    mean = samples.mean(dim=0)
    deviation = samples - mean
    return mean, torch.einsum("tri,trj->rij", deviation, deviation) / len(samples)


def correlation(covariance: Tensor) -> Tensor:
    """Correlation of the first two outputs of covariances (rows, outputs, outputs), NaN if undefined."""
    if covariance.shape[-1] < 2:
        return torch.full(covariance.shape[:1], torch.nan, dtype=covariance.dtype, device=covariance.device)
    variance = covariance[:, 0, 0] * covariance[:, 1, 1]
    ratio = covariance[:, 0, 1] / torch.where(variance > 0, variance, torch.nan).sqrt()
    return ratio.clamp(-1.0, 1.0)


_NEWTON_STEPS = 8

_SMOOTHING = 0.1
"""Least standard deviation of a pass's Gaussian, in units of the spread of all: it joins separate passes
into a continuous distribution and widens it by at most half a percent."""


def mixture_percentiles(mean: Tensor, std: Tensor, levels: Sequence[float]) -> Tensor:
    """Percentiles of an equal mixture of one Gaussian per pass.

    A fixed number of Newton steps kept inside a shrinking bracket, so that every row costs the same
    and the result depends on nothing else.

    Parameters
    ----------
    mean, std : Tensor of float64, shape (passes, rows)
        ``std`` not negative.
    levels : sequence of float
        Probabilities from 0.02 to 0.98.

    Returns
    -------
    Tensor of float64, shape (levels, rows)
    """
    centre = mean.mean(dim=0)
    width = (std.square() + (mean - centre).square()).mean(dim=0).sqrt()
    unit = torch.where(width > 0, width, 1.0)
    # in units of the width single precision is plenty, and twice as fast
    mean, std = ((mean - centre) / unit).float(), (std / unit).float().clamp(min=_SMOOTHING)
    results = []
    for level in levels:
        x = torch.full_like(mean[0], math.sqrt(2.0) * float(torch.erfinv(torch.tensor(2.0 * level - 1.0))))
        # no quantile from 2 % to 98 % lies farther out than 7 standard deviations (Cantelli)
        low, high = torch.full_like(x, -8.0), torch.full_like(x, 8.0)
        for _ in range(_NEWTON_STEPS):
            z = (x - mean) / std
            excess = (0.5 + 0.5 * torch.erf(z * math.sqrt(0.5))).mean(dim=0) - level
            density = (torch.exp(-0.5 * z * z) / std).mean(dim=0) / math.sqrt(2.0 * math.pi)
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            step = x - excess / density.clamp(min=1e-6)
            x = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        results.append(x)
    return torch.stack(results).double() * width + centre
