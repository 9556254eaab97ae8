"""Training of the APOGEE networks on prepared pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from catalogue.models.astronn_bcnn import AstroNNArchitecture, AstroNNNetwork, label_loss
from catalogue.models.latent_network import LatentArchitecture, LatentNetwork, frequency_weight, latent_loss


class TrainingSettings(BaseModel):
    """How long and how fast; the defaults are those of the released models where known.

    Attributes
    ----------
    epochs, batch : int
    learning_rate : float
    patience : int
        Epochs without progress after which the rate is halved.
    l2 : float
        Penalty on the kernels.
    kl_weight : float
        Of the Kullback-Leibler term of the encoder-decoder. 1 is the code's; next to a mean over frequencies that
        can empty the latent space, and 1/frequencies weighs both terms as a likelihood would.
    seed : int
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: int = Field(default=150, ge=1)
    batch: int = Field(default=128, ge=1)
    learning_rate: float = 5e-4
    patience: int = 6
    l2: float = 1e-5
    kl_weight: float = 1.0
    seed: int = 0


def train_latent_network(
    pixels: Tensor,
    log_power: NDArray[np.floating],
    frequency: NDArray[np.floating],
    numax: NDArray[np.floating],
    architecture: LatentArchitecture,
    settings: TrainingSettings,
) -> LatentNetwork:
    """Train encoder and decoder on pairs of spectra and power spectra.

    Parameters
    ----------
    pixels : Tensor, shape (stars, pixels)
        Standardised.
    log_power : ndarray, shape (stars, frequencies)
    frequency : ndarray, shape (frequencies,)
    numax : ndarray, shape (stars,)
        μHz; sets the weights of the loss.
    architecture : LatentArchitecture
    settings : TrainingSettings
    """
    torch.manual_seed(settings.seed)
    network = LatentNetwork(architecture)
    target = torch.from_numpy(np.asarray(log_power, np.float32))
    weight = torch.from_numpy(frequency_weight(frequency, numax).astype(np.float32))

    def loss(rows: Tensor) -> Tensor:
        power, mean, log_variance = network(pixels[rows])
        return latent_loss(power, target[rows], weight[rows], mean, log_variance, settings.kl_weight)

    _run(network, loss, len(pixels), settings)
    return network


def train_astronn(
    pixels: Tensor,
    labels: NDArray[np.floating],
    label_errors: NDArray[np.floating],
    architecture: AstroNNArchitecture,
    settings: TrainingSettings,
) -> AstroNNNetwork:
    """Train the Bayesian network.

    Parameters
    ----------
    pixels : Tensor, shape (stars, pixels)
        Centred.
    labels, label_errors : ndarray, shape (stars, labels)
        In the network's label space; NaN where missing.
    architecture : AstroNNArchitecture
    settings : TrainingSettings
    """
    torch.manual_seed(settings.seed)
    network = AstroNNNetwork(architecture)
    y, error = (torch.from_numpy(np.asarray(v, np.float32)) for v in (labels, label_errors))
    n_labels = y.shape[1]

    def loss(rows: Tensor) -> Tensor:
        raw = network(pixels[rows])
        if architecture.activation == "softplus":
            raw = torch.cat([nn.functional.softplus(raw[:, :n_labels]), raw[:, n_labels:]], dim=1)
        return label_loss(raw, y[rows], error[rows])

    _run(network, loss, len(pixels), settings)
    return network


def _run(network: nn.Module, loss: Callable[[Tensor], Tensor], n: int, settings: TrainingSettings) -> None:
    """Adam with a rate that is halved on a plateau of the training loss."""
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    # Keras's penalty l2·Σw² has the gradient of a weight decay of 2·l2.
    groups = [{"params": kernels, "weight_decay": 2 * settings.l2}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.Adam(groups, lr=settings.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=settings.patience)
    order = torch.Generator().manual_seed(settings.seed)
    network.train()
    for epoch in range(settings.epochs):
        total, rows = 0.0, torch.randperm(n, generator=order)
        for part in rows.split(settings.batch):
            optimiser.zero_grad()
            value = loss(part)
            value.backward()
            optimiser.step()
            total += float(value.detach()) * len(part)
        plateau.step(total / n)
        print(f"epoch {epoch + 1}: loss {total / n:.4f}", file=sys.stderr, flush=True)
    network.eval()
