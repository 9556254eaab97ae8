"""Stellar parameters from principal components by one linear regression on a few products: a network's head start.

What a spectrum says of temperature, gravity and abundances is nearly linear in its components, with curvature that
only the leading ones carry, and is to be trusted less the noisier the spectrum is. A regression on such terms is solved
at once; a network of a few thousand stars takes long to find it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 30.0
"""Weight of the terms' own size, in spectra: small against the thousands that a fit needs."""


def terms(components: Tensor, noise: Tensor, curved: int) -> Tensor:
    """Terms of the regression, shape (rows, terms).

    Among them all products of the leading components, and of every component with the noise, as with noise it is to
    count less.

    Parameters
    ----------
    components : Tensor, shape (rows, components)
        Scaled.
    noise : Tensor, shape (rows, bands)
        In dex of its usual value.
    curved : int
        Leading components of which all products are terms.
    """
    level = noise.mean(dim=1, keepdim=True)
    leading = components[:, :curved]
    first, second = torch.triu_indices(leading.shape[1], leading.shape[1], device=components.device)
    products = leading[:, first] * leading[:, second]
    ones = torch.ones_like(level)
    return torch.cat([ones, components, noise, level**2, components * level, products], dim=1)


def fit_parameters(components: Tensor, noise: Tensor, parameters: Tensor, curved: int) -> Tensor:
    """Weights (terms, parameters) such that ``terms @ weights`` estimates standardised parameters.

    Parameters
    ----------
    components, noise, curved
        As for :func:`terms`.
    parameters : Tensor, shape (rows, parameters)
        Finite.

    Raises
    ------
    ValueError
        If a parameter is not finite or the same in all rows.
    """
    spread = parameters.double().std(dim=0)
    if not torch.isfinite(parameters).all() or not (spread > 0).all():
        raise ValueError("parameters to be learnt must be finite and differ from star to star")
    target = (parameters.double() - parameters.double().mean(dim=0)) / spread
    size = terms(components[:1], noise[:1], curved).shape[1]
    normal = _RIDGE * torch.eye(size, dtype=torch.float64)
    right = torch.zeros(size, target.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(components)).split(1024):
        part = terms(components[rows], noise[rows], curved).double()
        # noisy spectra would bend the fit of the good ones: a spectrum of usual noise counts half
        weight = 2.0 / (1.0 + 10.0 ** (2.0 * noise[rows].double().mean(dim=1, keepdim=True)))
        normal += part.T @ (weight * part)
        right += part.T @ (weight * target[rows])
    return torch.linalg.solve(normal, right).float()
