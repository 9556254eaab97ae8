"""Continuum normalisation of APOGEE spectra: all stars at once against a loop with numpy's Chebyshev fit.

Run: ``python -m benchmarks.continuum [--stars 512] [--threads 1] [--repeat 5]``
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray

from benchmarks.timing import median_seconds
from catalogue.models.apogee_continuum import CHIPS, N_PIXELS, TARGET_BITS, ApogeeContinuum, read_continuum_pixels
from catalogue.models.granules import map_granules
from tests.factories.apogee import combined_spectrum
from tests.models.test_apogee_continuum import STARTS


def one_star(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.uint32], pixels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """As ALGORITHMS 2.1 has it, with vectorised bit tests."""
    normalised = np.empty(N_PIXELS)
    with np.errstate(all="ignore"):
        error = 1 / np.sqrt(ivar.astype(float))
        for (first, last), start in zip(CHIPS, STARTS, strict=True):
            value, sigma, x = flux[first:last].astype(float), error[first:last], np.arange(last - first)
            use = pixels[start : start + last - first] & np.isfinite(value) & np.isfinite(sigma)
            fit = Chebyshev.fit(x[use], value[use], 2, w=1 / (sigma[use] ** 2 + 1e-8))
            normalised[start : start + last - first] = value / fit(x)
        normalised[normalised < 0] = 0
        normalised[~np.isfinite(normalised)] = 1
        bits = np.concatenate([mask[first:last] for first, last in CHIPS])
        bad = np.zeros(N_PIXELS, bool)
        for bit in TARGET_BITS:
            bad |= (bits & (1 << bit)) != 0
        normalised[bad] = 1
        normalised[normalised > 2] = 1
    return normalised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("stars", 512), ("threads", 1), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flux, error, mask = combined_spectrum(1, options.stars)
    ivar = np.where(error < 1e9, error**-2.0, 0).astype("f4")
    flux, mask = flux.astype("f4"), mask.astype("u4")
    pixels = read_continuum_pixels()
    normalise = ApogeeContinuum(pixels)

    granules = -(-options.stars // 64)

    def star(index: int) -> np.ndarray:
        return one_star(flux[index], ivar[index], mask[index], pixels)

    def granule(index: int) -> torch.Tensor:
        part = slice(64 * index, 64 * (index + 1))
        return normalise(flux[part], ivar[part], mask[part])

    # a network takes every result at once: neither side keeps any
    def loop() -> None:
        for index in range(options.stars):
            star(index)

    def batched() -> None:
        map_granules(lambda index: granule(index).shape, granules, options.threads)

    expected = np.stack([star(index) for index in range(options.stars)])
    found = torch.cat([granule(index) for index in range(granules)]).numpy()
    print(f"largest difference {np.abs(expected - found).max():.1e}")
    slow, fast = median_seconds(loop, options.repeat), median_seconds(batched, options.repeat)
    print(f"{options.stars} stars, {options.threads} thread(s), median of {options.repeat}")
    print(f"numpy loop {slow / options.stars * 1e6:8.1f} µs/star")
    print(f"batched    {fast / options.stars * 1e6:8.1f} µs/star {slow / fast:6.1f} ×")


if __name__ == "__main__":
    main()
