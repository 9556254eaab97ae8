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


_MOST_STEPS = 24
"""Ordinary mixtures take 3; the worst that were found, at levels of 2 and 98 %, take 22."""

_SMALL_STEP = 1e-4
"""In units of the spread; from here on Newton's next one would be below 1e-6."""

_SMOOTHING = 0.1
"""Least standard deviation of a pass's Gaussian, in units of the spread of all: it joins separate passes
into a continuous distribution and widens it by at most half a percent."""


def mixture_percentiles(mean: Tensor, std: Tensor, levels: Sequence[float]) -> Tensor:
    """Percentiles of an equal mixture of one Gaussian per pass, to 1e-6 of its spread.

    Newton steps inside a shrinking bracket, which is bisected where a step leaves it or is not half as long as the
    one before: between two groups of passes the distribution is flat. A row is left as it is once it is found, so
    that the others decide how long this takes and not what comes out.

    Parameters
    ----------
    mean, std : Tensor of float64, shape (passes, rows)
        ``std`` not negative.
    levels : sequence of float
        Probabilities from 0.02 to 0.98.

    Returns
    -------
    Tensor of float64, shape (levels, rows)
        NaN where a pass is.
    """
    centre = mean.mean(dim=0)
    width = (std.square() + (mean - centre).square()).mean(dim=0).sqrt()
    unit = torch.where(width > 0, width, 1.0)
    mean, sharpness = (mean - centre) / unit, math.sqrt(0.5) / (std / unit).clamp(min=_SMOOTHING)
    # filled where it lies: a GPU would wait for a copy of the host's
    level = torch.cat([mean.new_full((1, 1), value) for value in levels])
    x = torch.special.ndtri(level).repeat(1, mean.shape[1])
    # Cantelli's inequality, for a spread of one and what the smoothing adds
    low, high = (-1.01 * (1.0 / level - 1.0).sqrt()).expand_as(x), (1.01 / (1.0 / level - 1.0).sqrt()).expand_as(x)
    last = high - low
    found = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(_MOST_STEPS):
        excess, density = _excess_and_density(x, mean, sharpness, level)
        low, high = torch.where(excess < 0, x, low), torch.where(excess > 0, x, high)
        step = -excess / density
        small = step.abs() <= _SMALL_STEP
        follows = small | ((x + step >= low) & (x + step <= high) & (step.abs() <= 0.5 * last))
        step = torch.where(follows, step, 0.5 * (low + high) - x)
        x = torch.where(found, x, x + step)
        last = step.abs()
        found |= small | excess.isnan()
        # to ask a GPU would be to wait for it
        if x.device.type == "cpu" and bool(found.all()):
            break
    return x * width + centre


def _excess_and_density(x: Tensor, mean: Tensor, sharpness: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative distribution minus ``level``, and density, at ``x``, shape (levels, rows).

    Passes on either side are counted and their tails added, so that a level that falls between two groups of passes
    is found where their tails balance, however small they are.

    Parameters
    ----------
    x : Tensor, shape (levels, rows)
    mean, sharpness : Tensor, shape (passes, rows)
        Of the Gaussians; sharpness is 1/(sqrt(2) sigma).
    level : Tensor, shape (levels, 1)
    """
    passes = len(mean)
    z = (x[:, None] - mean).mul_(sharpness)
    below_minus_above = torch.copysign(torch.ones_like(z[:1, :1, :1]), z).sum(dim=1)
    tails = z.abs().erfc_().copysign_(z).sum(dim=1)
    excess = 0.5 * (below_minus_above + (1.0 - 2.0 * level) * passes - tails) / passes
    density = z.square_().neg_().exp_().mul_(sharpness).sum(dim=1) / (passes * math.sqrt(math.pi))
    return excess, density
