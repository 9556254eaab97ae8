"""The variational encoder-decoder of Leung et al. 2023: spectrum to five numbers to power spectrum.

Shapes are those of the released model (ALGORITHMS 2.2, middle column), with Keras's conventions for padding and
for the order of flattened channels, so that released weights fit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class LatentArchitecture(BaseModel):
    """Sizes of encoder and decoder; the defaults are the released model's.

    Attributes
    ----------
    n_pixels, n_frequencies, latent : int
    encoder_filters : tuple of int
    encoder_kernel, pool, bottleneck : int
    decoder_start, decoder_depth : int
        Positions and channels at which the decoder's dense layer starts.
    decoder_filters : tuple of int
    decoder_kernel : int
    kl_weight, reduction
        Of the loss, see :func:`latent_loss`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    n_pixels: int = Field(default=7514, ge=16)
    n_frequencies: int = Field(default=2092, ge=4)
    latent: int = Field(default=5, ge=1)
    encoder_filters: tuple[int, int] = (32, 64)
    encoder_kernel: int = 8
    pool: int = 2
    bottleneck: int = 16
    decoder_start: int = 523
    decoder_depth: int = 16
    decoder_filters: tuple[int, int] = (16, 16)
    decoder_kernel: int = 32
    kl_weight: float = Field(default=1.0, ge=0)
    reduction: Literal["sum", "mean"] = "sum"

    @property
    def flattened(self) -> int:
        """Width of the flattened convolutional features."""
        positions = (self.n_pixels + 1) // 2
        return (positions + 1) // 2 // self.pool * self.encoder_filters[1]


class SameConv1d(nn.Conv1d):
    """Convolution with the padding that Keras calls ``same``."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad so that the output has ``ceil(length/stride)`` positions, the odd one on the right."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        length = x.shape[-1]
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        padded = nn.functional.pad(x, (total // 2, total - total // 2))
        if self.in_channels == 1:
            return super().forward(padded)
        # as an image of height 1 with its channels innermost, for which oneDNN is 1.4 to 2.5 times as fast
        image = padded.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(image, self.weight.unsqueeze(2), self.bias, stride=(1, stride)).squeeze(2)


class SameConvTranspose1d(nn.ConvTranspose1d):
    """Transposed convolution with the padding that Keras calls ``same``."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Give ``length · stride`` positions."""
        full = super().forward(x)
        wanted = x.shape[-1] * self.stride[0]
        left = max(self.kernel_size[0] - self.stride[0], 0) // 2
        return full[..., left : left + wanted]


class LatentEncoder(nn.Module):
    """Standardised spectra (rows, pixels) to latent means and logarithmic variances (rows, latent)."""

    def __init__(self, architecture: LatentArchitecture) -> None:
        super().__init__()
        first, second = architecture.encoder_filters
        self.conv1 = SameConv1d(1, first, architecture.encoder_kernel, stride=2)
        self.conv2 = SameConv1d(first, second, architecture.encoder_kernel, stride=2)
        self.pool = architecture.pool
        self.hidden = nn.Linear(architecture.flattened, architecture.bottleneck)
        self.mean = nn.Linear(architecture.bottleneck, architecture.latent)
        self.log_variance = nn.Linear(architecture.bottleneck, architecture.latent)

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Latent means and logarithmic variances."""
        x = torch.relu(self.conv1(spectra.unsqueeze(1)))
        x = nn.functional.max_pool1d(torch.relu(self.conv2(x)), self.pool)
        x = torch.tanh(self.hidden(x.transpose(1, 2).flatten(1)))
        return self.mean(x), self.log_variance(x)


class LatentDecoder(nn.Module):
    """Latent vectors (rows, latent) to the natural logarithm of the power spectrum (rows, frequencies)."""

    def __init__(self, architecture: LatentArchitecture) -> None:
        super().__init__()
        self.start, self.depth = architecture.decoder_start, architecture.decoder_depth
        first, second = architecture.decoder_filters
        kernel = architecture.decoder_kernel
        if 4 * self.start != architecture.n_frequencies:
            raise ValueError(
                f"expected {architecture.n_frequencies} frequencies from two doublings, found 4 · {self.start}"
            )
        self.hidden = nn.Linear(architecture.latent, self.start * self.depth)
        self.conv1 = SameConvTranspose1d(self.depth, first, kernel, stride=2)
        self.conv2 = SameConvTranspose1d(first, second, kernel, stride=2)
        self.conv3 = SameConvTranspose1d(second, 1, kernel, stride=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Logarithmic power."""
        x = torch.relu(self.hidden(latent)).view(-1, self.start, self.depth).transpose(1, 2)
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        power: Tensor = self.conv3(x).squeeze(1)
        return power


class LatentNetwork(nn.Module):
    """Encoder and decoder; kernels start as Keras's ``glorot_uniform``."""

    def __init__(self, architecture: LatentArchitecture) -> None:
        super().__init__()
        self.encoder = LatentEncoder(architecture)
        self.decoder = LatentDecoder(architecture)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithmic power, and mean and logarithmic variance of the latent vector.

        In training the power is that of a random draw of the latent vector, otherwise that of its mean.
        """
        mean, log_variance = self.encoder(spectra)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance


def latent_loss(
    power: Tensor,
    target: Tensor,
    weight: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    kl_weight: float = 1.0,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Weighted squared error of the logarithmic power plus the Kullback-Leibler term (paper eq. 1 and 2).

    The paper divides the squared error by a number that it does not name. The code (astroNN's
    ``mean_squared_reconstruction_error``) adds it up over the frequencies and divides by the stars, and next to that
    sum the other term is small. Divided by the 2,092 frequencies as well, the other term outweighs it and the
    latent space is empty: ``benchmarks/latent_collapse.py`` shows both.

    Parameters
    ----------
    power, target, weight : Tensor, shape (rows, frequencies)
    mean, log_variance : Tensor, shape (rows, latent)
    kl_weight : float
        1 in the code.
    reduction : "sum" or "mean"
        Of the squared error over frequencies.

    Returns
    -------
    Tensor, scalar
        Mean over rows; the other term is a sum over the latent dimensions.
    """
    error = (weight * (power - target).square()).sum(dim=1)
    if reduction == "mean":
        error = error / power.shape[1]
    divergence = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(dim=1)
    return (error + kl_weight * divergence).mean()


def large_separation(frequency: NDArray[np.floating], a: float = 0.263, b: float = 0.772) -> NDArray[np.float64]:
    """Δν in μHz at numax in μHz, ``a · numax^b``: the relation that the paper quotes."""
    return np.asarray(a * np.asarray(frequency, np.float64) ** b)


def frequency_weight(frequency: NDArray[np.floating], numax: NDArray[np.floating]) -> NDArray[np.float64]:
    """Weight of every frequency in the loss: 1 + exp(-½((f - numax)/2Δν)²), shape (stars, frequencies)."""
    centre = np.asarray(numax, np.float64)[:, None]
    return np.asarray(1.0 + np.exp(-0.5 * ((frequency - centre) / (2.0 * large_separation(centre))) ** 2))


def frequency_grid(n: int = 2092) -> NDArray[np.float64]:
    """Bin centres in μHz of the rebinned power spectrum, from 2 to 269.

    Bins are a fiftieth of the large separation wide: 0.268 ν^0.758/50.35855 μHz [measured on the published
    grid, which this follows to 1e-5].
    """
    frequency = np.empty(n)
    frequency[0] = 2.0
    for i in range(1, n):
        last = frequency[i - 1]
        width = 0.268 * last**0.758 / 50.35855
        frequency[i] = last + (0.5 * width if i == 1 else width)
    return frequency
