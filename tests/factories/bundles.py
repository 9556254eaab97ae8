"""Small random bundles for tests of whatever needs a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from catalogue.models.base import LabelScale, SpectraBatch
from catalogue.models.bundle import Bundle, Description
from catalogue.models.label_mixture import fit_mixture
from catalogue.models.spt import SpectralTransformer
from catalogue.spectra.primitives import PixelGrid

LAMOST_GRID = PixelGrid("lamost-lrs", 4096, 3.5682, 1e-4)
"""The numbers of the survey's grid, repeated so that tests of models need no survey."""

TINY_PREPROCESSING = {
    "windows": [[4200.0, 5200.0], [6100.0, 6500.0]],
    "n_components": 6,
}
TINY_ARCHITECTURE = {"width": 16, "blocks": 2, "heads": 2, "head_width": 8, "hidden": 12, "dropout": 0.3}


TINY_FIT = {
    "noise_bands": 2,
    "rejection": 4.0,
    "passed_on": 3,
    "parameters": ["depth_0", "depth_1"],
    "estimator": "fit",
    "parameter_errors": True,
}
"""Added to :data:`TINY_PREPROCESSING`, parameters are found by fitting every spectrum."""


def giant_spectra(n_rows: int, seed: int = 0, grid: PixelGrid = LAMOST_GRID, noiseless: bool = False) -> SpectraBatch:
    """Spectra with lines whose depths vary from star to star, a response, redshifts and noise.

    Columns ``depth_0`` to ``depth_2`` are what the lines of a star are made of.
    """
    rng = np.random.default_rng(seed)
    wavelength = grid.wavelength()
    # the same lines for every seed, so that batches of different seeds are of one population
    lines = np.random.default_rng(12345).uniform(3800, 8900, 120)
    depths = rng.uniform(0.05, 0.6, (n_rows, 3))
    depth = depths @ np.random.default_rng(54321).uniform(0, 0.5, (3, 120))
    redshift = rng.normal(0, 1e-4, n_rows)
    flux = np.empty((n_rows, grid.n_pixels))
    for i in range(n_rows):
        rest = wavelength / (1 + redshift[i])
        absorbed = np.exp(-0.5 * ((rest[:, None] - lines) / 3.0) ** 2) @ depth[i]
        slope = rng.normal(0, 0.5, 2)
        x = (wavelength - 6000) / 3000
        flux[i] = 300 * np.exp(slope[0] * x + slope[1] * x**2) * np.clip(1 - absorbed, 0.05, None)
    snr = rng.uniform(20, 100, n_rows)[:, None]
    sigma = np.median(flux, axis=1, keepdims=True) / snr
    flux += (0 if noiseless else sigma) * rng.normal(size=flux.shape)
    ivar = np.broadcast_to(1 / sigma**2, flux.shape).copy()
    ivar[rng.random(flux.shape) < 0.005] = 0
    return SpectraBatch(
        first_row=0,
        flux=flux.astype(np.float32),
        ivar=ivar.astype(np.float32),
        mask=np.zeros(flux.shape, dtype=np.uint16),
        usable=np.ones(n_rows, dtype=bool),
        columns={"z": redshift, "file_z": redshift.copy(), **{f"depth_{i}": depths[:, i] for i in range(3)}},
    )


def tiny_spt_bundle(
    directory: Path, seed: int = 0, fits: bool = False, told: bool = True, **architecture: object
) -> Bundle:
    """A small SPT bundle with random weights on the LAMOST grid, written to ``directory``.

    Ages come out near 5 Gyr and masses near 1.2 solar masses. With ``fits`` the network knows parameters that are
    found by fitting every spectrum, and with ``told`` how well; a ``mixture_share`` then has a mixture.
    """
    if fits:
        noisy, pure = (giant_spectra(60, seed=99, noiseless=noiseless) for noiseless in (False, True))
        preprocessing = {**TINY_PREPROCESSING, **TINY_FIT, "parameter_errors": told}
        inputs = SpectralTransformer.fit_inputs(noisy, LAMOST_GRID, preprocessing, seed, pure)
    else:
        inputs = SpectralTransformer.fit_inputs(giant_spectra(24, seed=99), LAMOST_GRID, TINY_PREPROCESSING, seed)
    sizes = {**TINY_ARCHITECTURE, **architecture}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpectralTransformer.network(sizes, inputs.n_features)
    description = Description(
        kind="spt",
        name="tiny-spt",
        version="1",
        survey="lamost-lrs",
        grid="lamost-lrs",
        labels=SpectralTransformer.labels,
        architecture=sizes,
        passes=8,
        seed=seed,
        domain={"teff": (3700.0, 5500.0), "logg": (1.0, 3.5), "feh": (-1.5, 0.5)},
        novelty_limit=3.0,
        training={"stars": 24, "note": "random weights, for tests"},
        citation="none",
        licence="BSD-3-Clause",
    )
    scale = LabelScale(True, (0.7, 0.08), (0.3, 0.1))
    arrays = {}
    if sizes.get("mixture_share"):
        stars = np.random.default_rng(seed).normal(size=(200, 2))
        arrays = fit_mixture(stars, stars @ np.array([[0.8, -0.5], [0.3, 0.4]])).arrays()
    return SpectralTransformer.to_bundle(directory, description, inputs, network, scale, arrays)
