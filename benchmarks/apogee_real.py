"""How far simulated APOGEE spectra are from real ones, and what the shipped bundles say of the real ones at hand.

Run: ``python -m benchmarks.apogee_real DATA [BUNDLE ...]``, with DATA holding ``labels/`` and ``apogee/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from catalogue.models import find_bundle, load_model
from catalogue.models.apogee_continuum import ApogeeContinuum, read_continuum_pixels
from catalogue.models.base import InferenceSettings, SpectraBatch
from catalogue.spectra.primitives import Spectrum
from catalogue.surveys.apogee import Apogee
from catalogue.training.apogee_simulation import ApogeeSimulation, simulate_apogee

CPU = InferenceSettings(device="cpu")
SHIPPED = ("latent-age-apogee-simulated", "astronn-bcnn-apogee-simulated")
LABELS = {"teff": "RV_TEFF", "logg": "RV_LOGG", "fe_h": "RV_FEH"}


def batch_of(spectra: list[Spectrum], columns: dict[str, np.ndarray]) -> SpectraBatch:
    flux, ivar, mask = (np.stack([getattr(s, name) for s in spectra]) for name in ("flux", "ivar", "mask"))
    return SpectraBatch(0, flux, ivar, mask, np.ones(len(spectra), bool), columns)


def normalised(batch: SpectraBatch) -> np.ndarray:
    return ApogeeContinuum(read_continuum_pixels())(batch.flux, batch.ivar, batch.mask).double().numpy()


def roughness(pixels: np.ndarray) -> np.ndarray:
    """Standard deviation of the difference of neighbouring pixels over that of the pixels, per star."""
    return np.diff(pixels, axis=1).std(axis=1) / pixels.std(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundles", nargs="*", default=SHIPPED)
    options = parser.parse_args()
    statistics = options.data / "apogee" / "pixel_statistics_dr17_giants.npz"
    labels, batch, _ = simulate_apogee(ApogeeSimulation(apokasc=options.data / "labels", pixel_statistics=statistics))
    rows = np.random.default_rng(0).permutation(len(labels))[:512]
    simulated = batch.take(np.sort(rows))
    with np.load(statistics) as file:
        mean, spread = (file[name].astype(float) for name in ("mean", "std"))
    ours = normalised(simulated)
    print(f"mean per pixel, simulated and real: correlation {np.corrcoef(ours.mean(0), mean)[0, 1]:.4f}, "
          f"rms difference {np.sqrt(np.mean((ours.mean(0) - mean) ** 2)):.4f}")  # fmt: skip
    ratio = ours.std(0) / spread
    print(f"spread, correlation {np.corrcoef(ours.std(0), spread)[0, 1]:.4f}, "
          f"simulated/real {np.quantile(ratio, [0.05, 0.5, 0.95]).round(3).tolist()} (5, 50, 95 %)")  # fmt: skip

    paths = sorted((options.data / "apogee" / "apstar").glob("*.fits"))
    spectra = [Apogee().read(path) for path in paths]
    from astropy.io import fits

    headers = [fits.getheader(path) for path in paths]
    columns = {
        name: np.array([float(h.get(card, np.nan)) for h in headers], np.float32) for name, card in LABELS.items()
    }
    real = batch_of(spectra, columns)
    theirs = normalised(real)
    for name, pixels in (("simulated", ours), ("real", theirs)):
        pull = (pixels - mean) / spread
        print(f"{name}: rms of (pixel - mean)/spread, per star: {np.sqrt((pull**2).mean(1)).round(2)[:6].tolist()}; "
              f"roughness {roughness(pixels)[:6].round(2).tolist()}")  # fmt: skip
    for name in options.bundles:
        model = load_model(find_bundle(str(name), Path.cwd()))
        domain = model.bundle.description.domain
        known, found = model.predict(simulated, CPU), model.predict(real, CPU)
        for i, path in enumerate(paths):
            label = {key: float(values[i]) for key, values in columns.items()}
            inside = all(domain[k][0] <= label[k] <= domain[k][1] for k in domain)
            text = ", ".join(f"{k} {v:.2f}" for k, v in label.items())
            print(f"{name} {path.stem}: {text}; {'inside' if inside else 'outside'} the domain")
            for output, values in found.items():
                low, high = np.nanquantile(known[output].astype(float), [0.01, 0.99])
                beyond = " BEYOND" if not low <= values[i] <= high else ""
                print(f"    {output:24s} {values[i]:9.3f}   simulated 1 to 99 %: {low:8.3f} to {high:8.3f}{beyond}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
