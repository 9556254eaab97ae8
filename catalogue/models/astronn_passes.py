"""All dropout passes of the astroNN Bayesian network, arranged for matrix units.

The masks are those of :class:`~catalogue.models.dropout.DropoutPasses`, and so is the answer, to rounding.
What differs is the order of the work. The first convolution runs once. Stars lie innermost, so that the mask of
a pass is one factor per row for a whole granule. The second convolution, eight taps on two channels, which
convolution libraries do badly, becomes one small matrix product per pooling window (4 positions × 4 filters from
11 positions × 2 channels). The dense layers are multiplied without their dropped rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catalogue.models.dropout import unit_mask

FIRST_BLOCK = 8
"""Positions of the first convolution that one small matrix product computes."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """Masks of one pass, folded into weights where that is free."""

    features: Tensor
    """(2 · padded pixels, 1): 0 or 1/(1-p) for every feature of the first convolution."""
    pooled: Tensor
    """Kept pooled units."""
    first: Tensor
    """(kept hidden units, kept pooled units)."""
    first_bias: Tensor
    second: Tensor
    """(second hidden units, kept hidden units)."""


class AstroNNPasses:
    """T passes over granules of spectra.

    Parameters
    ----------
    network : nn.Module
        An ``AstroNNNetwork``.
    passes, seed : int
    device : torch.device

    Notes
    -----
    ``__call__`` takes centred spectra, shape (rows, pixels), and returns a tensor (passes, rows, outputs).
    """

    def __init__(self, network: Any, passes: int, seed: int, device: torch.device) -> None:
        if passes < 1:
            raise ValueError(f"expected at least one dropout pass, found {passes}")
        self.device, self.passes = device, passes
        self.n_pixels: int = network.n_pixels
        self.kernel: int = network.kernel
        self.pool: int = network.pool
        self.channels: int = network.conv1.out_channels
        self.filters: int = network.conv2.out_channels
        self.n_windows = self.n_pixels // self.pool
        self.left = (self.kernel - 1) // 2
        self._blocks = -(-self.n_pixels // FIRST_BLOCK)
        self._first_weight = _banded(network.conv1, FIRST_BLOCK).to(device)
        self._first_bias = _values(network.conv1.bias).repeat(FIRST_BLOCK)[None, :, None].to(device)
        self._second_weight = _banded(network.conv2, self.pool).to(device)
        self._second_bias = _values(network.conv2.bias)[None, :, None].to(device)
        # The last product reads whole windows: room for the padding of both sides and for the last block.
        self._padded = max(self._blocks * FIRST_BLOCK, self.n_pixels) + self.kernel
        self._padded = max(self._padded, self.n_windows * self.pool + self.kernel)
        self._second_bias_dense = _values(network.hidden2.bias)[:, None].to(device)
        heads = [network.output, network.log_variance]
        self._heads = torch.cat([_values(head.weight) for head in heads]).to(device)
        self._heads_bias = torch.cat([_values(head.bias) for head in heads])[:, None].to(device)
        self._prepared = [self._prepare(network, seed, t) for t in range(passes)]

    def _prepare(self, network: Any, seed: int, t: int) -> _Pass:
        markers = (network.drop1, network.drop2, network.drop3)
        sizes = (self.channels * self.n_pixels, self.n_windows * self.filters, network.hidden1.out_features)
        masks = [unit_mask(seed, marker.name, t, marker.p, size) for marker, size in zip(markers, sizes, strict=True)]
        scales = [1.0 / (1.0 - marker.p) for marker in markers]
        features = np.zeros((self._padded, self.channels), np.float32)
        features[self.left : self.left + self.n_pixels] = masks[0].reshape(self.channels, self.n_pixels).T * np.float32(
            scales[0]
        )
        pooled, hidden = (torch.from_numpy(np.flatnonzero(mask)) for mask in masks[1:])
        first = _values(network.hidden1.weight)[hidden][:, pooled] * scales[1]
        second = _values(network.hidden2.weight)[:, hidden] * scales[2]
        return _Pass(
            torch.from_numpy(features.reshape(-1, 1)).to(self.device),
            pooled.to(self.device),
            first.contiguous().to(self.device),
            _values(network.hidden1.bias)[hidden][:, None].to(self.device),
            second.contiguous().to(self.device),
        )

    def __call__(self, spectra: Tensor) -> Tensor:
        """Run all passes over one granule; see the class."""
        rows = len(spectra)
        with torch.inference_mode():
            features = self._shared(spectra)
            masked = torch.empty_like(features)
            windows = masked.as_strided(
                (self.n_windows, self.channels * (self.pool + self.kernel - 1), rows),
                (self.channels * self.pool * rows, rows, 1),
            )
            weight = self._second_weight.expand(self.n_windows, -1, -1)
            convolved = torch.empty((self.n_windows, self.pool * self.filters, rows), device=self.device)
            pooled = torch.empty((self.n_windows, self.filters, rows), device=self.device)
            positions = convolved.view(self.n_windows, self.pool, self.filters, rows)
            samples = torch.empty((self.passes, rows, len(self._heads)), device=self.device)
            for t, this in enumerate(self._prepared):
                torch.mul(features, this.features, out=masked)
                torch.bmm(weight, windows, out=convolved)
                # A chain of maxima: the reduction over an inner axis is many times slower.
                torch.maximum(positions[:, 0], positions[:, 1], out=pooled)
                for position in range(2, self.pool):
                    torch.maximum(pooled, positions[:, position], out=pooled)
                pooled.add_(self._second_bias).relu_()
                kept = pooled.view(-1, rows).index_select(0, this.pooled)
                hidden = torch.addmm(this.first_bias, this.first, kept).relu_()
                hidden = torch.addmm(self._second_bias_dense, this.second, hidden).relu_()
                samples[t] = torch.addmm(self._heads_bias, self._heads, hidden).T
        return samples

    def _shared(self, spectra: Tensor) -> Tensor:
        """First convolution and ReLU: (padded pixels · channels, rows), stars innermost, zeros outside."""
        rows = len(spectra)
        padded = torch.zeros((self._padded, rows), device=self.device)
        padded[self.left : self.left + self.n_pixels] = spectra.T
        windows = padded.as_strided((self._blocks, FIRST_BLOCK + self.kernel - 1, rows), (FIRST_BLOCK * rows, rows, 1))
        convolved = torch.bmm(self._first_weight.expand(self._blocks, -1, -1), windows)
        convolved.add_(self._first_bias).relu_()
        features = torch.zeros((self._padded * self.channels, rows), device=self.device)
        inside = slice(self.left * self.channels, (self.left + self.n_pixels) * self.channels)
        features[inside] = convolved.view(-1, rows)[: self.n_pixels * self.channels]
        return features


def _banded(layer: nn.Conv1d, positions: int) -> Tensor:
    """A convolution as a matrix: (positions · filters, (positions + kernel - 1) · channels), channels innermost."""
    weight = _values(layer.weight)
    filters, channels, kernel = weight.shape
    matrix = torch.zeros(positions, filters, positions + kernel - 1, channels)
    for position in range(positions):
        matrix[position, :, position : position + kernel] = weight.transpose(1, 2)
    return matrix.view(positions * filters, -1)


def _values(parameter: Any) -> Tensor:
    values: Tensor = parameter.detach().to("cpu", torch.float32)
    return values


def moments(samples: Tensor, n_labels: int) -> Tensor:
    """Mean, model variance and predictive variance in the network's label space.

    As astroNN: the population variance over the passes, and the exponential of the mean logarithmic variance
    (a geometric mean).

    Parameters
    ----------
    samples : Tensor, shape (passes, rows, 2 · n_labels)
        Labels, then logarithmic variances.

    Returns
    -------
    Tensor of float64, shape (3, rows, n_labels)
    """
    double = samples.double()
    values, log_variance = double[..., :n_labels], double[..., n_labels:]
    mean = values.mean(dim=0)
    model = values.var(dim=0, correction=0)
    predictive = log_variance.mean(dim=0).exp()
    return torch.stack([mean, model, predictive])
