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
    mean = samples.mean(dim=0)
    deviation = samples - mean
    covariance = torch.einsum("tri,trj->rij", deviation, deviation) / len(samples)
    std = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    levels = torch.tensor([0.16, 0.50, 0.84], dtype=samples.dtype, device=samples.device)
    percentiles = torch.quantile(samples, levels, dim=0)
    return Moments(mean, std, percentiles, covariance, correlation(covariance))


def correlation(covariance: Tensor) -> Tensor:
    """Correlation of the first two outputs of covariances (rows, outputs, outputs), NaN if undefined."""
    if covariance.shape[-1] < 2:
        return torch.full(covariance.shape[:1], torch.nan, dtype=covariance.dtype, device=covariance.device)
    variance = covariance[:, 0, 0] * covariance[:, 1, 1]
    ratio = covariance[:, 0, 1] / torch.where(variance > 0, variance, torch.nan).sqrt()
    return ratio.clamp(-1.0, 1.0)


_NEWTON_STEPS = 12


def mixture_percentiles(mean: Tensor, std: Tensor, levels: Sequence[float]) -> Tensor:
    """Percentiles of an equal mixture of one Gaussian per pass.

    A fixed number of Newton steps kept inside a shrinking bracket, so that every row costs the same
    and the result depends on nothing else.

    Parameters
    ----------
    mean, std : Tensor of float64, shape (passes, rows)
        ``std`` positive.
    levels : sequence of float
        Probabilities between 0 and 1.

    Returns
    -------
    Tensor of float64, shape (levels, rows)
    """
    centre = mean.mean(dim=0)
    width = (std.square().mean(dim=0) + (mean - centre).square().mean(dim=0)).sqrt()
    normal = torch.distributions.Normal(0.0, 1.0)
    results = []
    for level in levels:
        # of any distribution, no quantile between 2 % and 98 % lies farther out than 7 standard deviations
        low, high = centre - 8 * width, centre + 8 * width
        x = centre + float(normal.icdf(torch.tensor(level))) * width
        for _ in range(_NEWTON_STEPS):
            z = (x - mean) / std
            excess = 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))).mean(dim=0) - level
            density = (torch.exp(-0.5 * z * z) / std).mean(dim=0) / math.sqrt(2.0 * math.pi)
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            step = x - excess / density.clamp(min=1e-300)
            x = torch.where((step > low) & (step < high), step, 0.5 * (low + high))
        results.append(x)
    return torch.stack(results)
