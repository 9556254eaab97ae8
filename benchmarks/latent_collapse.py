"""Whether the encoder-decoder's latent space collapses, with the squared error summed or averaged over frequencies.

Run: ``python -m benchmarks.latent_collapse APOKASC PIXELS``. Trains a small network of few stars both ways and prints
the divergence per latent dimension and how well the latent numbers tell numax of stars that were not learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from catalogue.models.latent_age import LatentAge
from catalogue.models.latent_network import LatentNetwork, frequency_grid
from catalogue.surveys.apogee import Apogee
from catalogue.training.apogee_simulation import simulate_oscillations, simulate_spectra
from catalogue.training.fit import FitSettings, Targets, fit
from catalogue.training.labels import apokasc_labels

SMALL = {"encoder_filters": (8, 16), "decoder_filters": (8, 8), "decoder_depth": 8}
LEARN, TEST = 448, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("apokasc", type=Path)
    parser.add_argument("pixels", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    labels = apokasc_labels(options.apokasc)
    labels = labels.take(np.random.default_rng(0).permutation(len(labels))[: LEARN + TEST])
    with np.load(options.pixels) as statistics:
        spectra = simulate_spectra(labels, statistics["mean"].astype(float), statistics["std"].astype(float), 1)
    seismic = simulate_oscillations(labels, frequency_grid(), 2)
    inputs = LatentAge.fit_inputs(spectra, Apogee.grid, {}, 0)
    prepared = inputs.prepare(spectra)
    others: dict[str, NDArray[np.floating]] = {"log_power": seismic.log_power, "numax": seismic.numax}
    targets = Targets(labels.physical(), labels.covariance(), np.log(labels.physical()).std(axis=0), others)
    settings = FitSettings(
        epochs=options.epochs, patience=options.epochs, batch=32, learning_rate=1e-3, weight_decay=0,
        masked_stretches=0, precision="bfloat16", threads=1,
    )  # fmt: skip
    learn, test = np.arange(LEARN), np.arange(LEARN, LEARN + TEST)
    numax = np.log(seismic.numax)
    for reduction in ("sum", "mean"):
        architecture = {**SMALL, "reduction": reduction}
        network = fit(LatentAge, architecture, inputs, prepared, targets, learn, test, settings).network
        assert isinstance(network, LatentNetwork)
        with torch.inference_mode():
            mean, log_variance = network.encoder(prepared.pixels)
        divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).mean(dim=0)
        z = mean.double().numpy()
        score = LinearRegression().fit(z[learn], numax[learn]).score(z[test], numax[test])
        text = ", ".join(f"{value:.4f}" for value in divergence.tolist())
        print(f"{reduction:5s} divergence (nats) {text}; spread of the means {z.std(axis=0).max():.4f}; "
              f"ln numax, R² of a linear fit {score:.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
