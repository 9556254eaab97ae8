"""Small APOGEE files and bundles, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from astropy.io import fits
from astropy.table import Table

from catalogue.models.apogee_continuum import N_PIXELS as N_NETWORK_PIXELS
from catalogue.models.apogee_continuum import read_continuum_pixels
from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
from catalogue.models.astronn_bcnn import AstroNNBayesian
from catalogue.models.base import LabelScale, SpectraBatch
from catalogue.models.bundle import Bundle, Description
from catalogue.models.latent_age import latent_bundle
from catalogue.models.latent_forest import AgeForest, ForestSettings
from catalogue.models.latent_network import LatentArchitecture, LatentNetwork
from catalogue.training.labels import LabelTable

N_PIXELS = 8575
CHIPS = ((246, 3274), (3585, 6080), (6344, 8335))
LOGGS = [0.8, 1.6, 1.9, 2.2, 2.4, 2.6, 2.8, 3.1, 3.4, 4.4]
"""Of the stars of :func:`small_survey`."""


def combined_spectrum(seed: int = 0, n_rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, error and mask of shape (n_rows, 8575) with gaps, a few bad pixels and a slope."""
    random = np.random.default_rng(seed)
    pixels = np.arange(N_PIXELS)
    flux = 500 + 0.02 * pixels + 5 * random.standard_normal((n_rows, N_PIXELS))
    flux -= 150 * np.exp(-0.5 * ((pixels % 97 - 40) / 3.0) ** 2)
    error = np.full((n_rows, N_PIXELS), 5.0)
    mask = np.zeros((n_rows, N_PIXELS), np.int64)
    gap = np.ones(N_PIXELS, bool)
    for first, last in CHIPS:
        gap[first - 30 : last + 30] = False
    flux[:, gap], error[:, gap], mask[:, gap] = 0.0, 1e10, 1
    bad = random.integers(300, 8300, 40)
    mask[:, bad] |= 1 << 1
    error[:, bad] = 4e3
    mask[:, 4000] |= 1 << 14
    return flux, error, mask


def write_apstar(
    path: Path,
    *,
    seed: int = 0,
    n_visits: int = 3,
    dr17: bool = True,
    objid: str = "2M00000000+0000000",
    crval: float = 4.179,
    n_pixels: int = N_PIXELS,
    value: float | None = None,
) -> Path:
    """An apStar file as the DR17 (float64, int64) or the DR13 (float32, int16) pipeline writes it."""
    n_rows = n_visits + (2 if n_visits > 1 else int(dr17))
    flux, error, mask = (array[:, :n_pixels] for array in combined_spectrum(seed, n_rows))
    flux[1:] += 1000.0
    if value is not None:
        flux[:] = value
    kinds = ("f8", "f8", "i8") if dr17 else ("f4", "f4", "i2")
    if not dr17 and n_visits == 1:
        flux, error, mask = flux[0], error[0], mask[0]
    primary = fits.PrimaryHDU()
    for card, content in (
        ("OBJID", objid),
        ("RA", 10.5),
        ("DEC", -20.25),
        ("SNR", 99.5),
        ("NVISITS", n_visits),
    ):
        primary.header[card] = content
    hdus = fits.HDUList([primary])
    for array, kind in zip((flux, error, mask, flux, error), (*kinds, *kinds[:2]), strict=True):
        hdu = fits.ImageHDU(array.astype(kind))
        hdu.header["CRVAL1"], hdu.header["CDELT1"], hdu.header["CRPIX1"] = crval, 6e-6, 1
        hdus.append(hdu)
    hdus.writeto(path, overwrite=True)
    return path


def write_aspcapstar(path: Path, seed: int = 0, objid: str = "2M00000000+0000000") -> Path:
    """An aspcapStar file: normalised spectrum, error and model, zeros in the gaps."""
    flux, _, _ = combined_spectrum(seed)
    inside = np.zeros(N_PIXELS, bool)
    for first, last in CHIPS:
        inside[first:last] = True
    normalised = np.where(inside, flux[0] / 580, 0.0)
    primary = fits.PrimaryHDU()
    primary.header["OBJ"], primary.header["NVISITS"], primary.header["SNR"] = objid, 3, 79.0
    hdus = fits.HDUList([primary])
    for array in (normalised, np.where(inside, 0.01, 0.0), normalised):
        hdu = fits.ImageHDU(array.astype("f4"))
        hdu.header["CRVAL1"], hdu.header["CDELT1"] = 4.179, 6e-6
        hdus.append(hdu)
    hdus.writeto(path, overwrite=True)
    return path


def spectra_batch(n_rows: int, seed: int = 1, columns: dict | None = None) -> SpectraBatch:
    """Rows of a store; every seventh row has no spectrum."""
    flux, error, mask = combined_spectrum(seed, n_rows)
    usable = np.arange(n_rows) % 7 != 3
    flux[~usable] = np.nan
    ivar = np.where((error < 1e9) & usable[:, None], error**-2.0, 0.0)
    return SpectraBatch(0, flux.astype("f4"), ivar.astype("f4"), mask.astype("u4"), usable, columns or {})


def tiny_bcnn(path: Path, seed: int = 0, **architecture) -> Bundle:
    """A random astroNN network on the APOGEE grid."""
    torch.manual_seed(seed)
    settings = {"hidden": [12, 8], **architecture}
    network = AstroNNBayesian.network(settings, N_NETWORK_PIXELS)
    description = Description(
        kind="astronn_bcnn",
        name="tiny",
        version="0",
        survey="apogee",
        grid="apogee",
        labels=(),
        architecture=settings,
        passes=5,
        seed=3,
    )
    return AstroNNBayesian.to_bundle(
        path, description, flat_inputs("centre"), network, LabelScale(False, (0.0, 0.0), (3.0, 0.5))
    )


def flat_inputs(normalisation: str) -> ApogeeInputs:
    """Inputs with a mean spectrum of 0.95 and, when standardised, a spread of 0.05."""
    spread = 1.0 if normalisation == "centre" else 0.05
    return ApogeeInputs(
        ApogeeInputSettings(normalisation=normalisation),
        read_continuum_pixels(),
        np.full(N_NETWORK_PIXELS, 0.95, np.float32),
        np.full(N_NETWORK_PIXELS, spread, np.float32),
    )


def tiny_latent(path: Path, seed: int = 0, with_forest: bool = True) -> Bundle:
    """A random encoder-decoder with few filters and, on top, a forest of ten small trees."""
    torch.manual_seed(seed)
    sizes = {"encoder_filters": (2, 3), "decoder_depth": 2, "decoder_filters": (2, 2), "decoder_kernel": 8}
    architecture = LatentArchitecture(bottleneck=4, decoder_start=8, n_frequencies=32, **sizes)
    description = Description(
        kind="latent_age",
        name="tiny",
        version="0",
        survey="apogee",
        grid="apogee",
        labels=(),
        architecture=architecture.model_dump(mode="json"),
    )
    forest = tiny_age_forest(seed) if with_forest else None
    return latent_bundle(path, description, flat_inputs("standardise"), LatentNetwork(architecture), forest)


def tiny_age_forest(seed: int = 0, **settings) -> AgeForest:
    """Trained on 200 random stars of which the sixth feature, Teff, tells the age."""
    features, error, log_age, log_age_error = age_training_set(seed)
    return AgeForest.train(features, error, log_age, log_age_error, ForestSettings(**{"trees": 10, **settings}), seed)


def age_training_set(seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (z0..z4, Teff, [Fe/H]), their errors, log age and its error."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((n, 7))
    features[:, 5] = 4700 + 200 * features[:, 5]
    features[:, 6] *= 0.3
    log_age = 0.6 - 0.001 * (features[:, 5] - 4700) + 0.05 * random.standard_normal(n)
    error = np.broadcast_to([0.05] * 5 + [20.0, 0.02], features.shape)
    return features, error, log_age, np.full(n, 0.05)


def giants(n: int, seed: int = 0) -> LabelTable:
    """Stars, every other one of the clump, whose mass tells the age."""
    random = np.random.default_rng(seed)
    names = np.array([str(i) for i in range(n)])
    mass = random.uniform(0.9, 1.8, n)
    return LabelTable(
        key=names,
        star=names,
        age=10 * mass**-3,
        age_error=np.full(n, 0.5),
        mass=mass,
        mass_error=np.full(n, 0.05),
        age_mass_correlation=np.zeros(n),
        state=np.where(np.arange(n) % 2, "RC", "RGB"),
        teff=random.normal(4700, 150, n),
        logg=random.uniform(1.9, 3.0, n),
        feh=random.normal(0, 0.2, n),
        alpha_fe=random.normal(0.04, 0.03, n),
        c_fe=random.normal(0, 0.05, n),
        n_fe=random.normal(0.2, 0.05, n),
    )


def small_survey(place: Path) -> Path:
    """Ten stars with a file each, in the official tree; the run's configuration names a tiny latent network."""
    names = [f"2M0000000{n}+0000000" for n in range(len(LOGGS))]
    table = Table({"APOGEE_ID": names, "FILE": [f"apStar-dr17-{name}.fits" for name in names]})
    table["TELESCOPE"], table["FIELD"] = "apo25m", "M67"
    for column, value in (("SNREV", 90.0), ("TEFF", 4600.0), ("FE_H", 0.0), ("ALPHA_M", 0.05)):
        table[column] = np.full(len(names), value, "f4")
    table["LOGG"] = np.array(LOGGS, "f4")
    folder = place / "spectra" / "apo25m" / "M67"
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        write_apstar(folder / f"apStar-dr17-{name}.fits", seed=seed, objid=name)
    table.write(place / "allStar.fits")
    tiny_latent(place / "bundle")
    content = {
        "survey": "apogee",
        "parent": {"path": "allStar.fits"},
        "spectra": {"root": "spectra", "chunk_rows": 64},
        "select": "1.5 < LOGG < 2.5 and SNREV > 30",
        "model": str(place / "bundle"),
        "product": "apogee_latent_age",
        "output": {"directory": "run", "formats": ["fits", "csv"], "report": False},
        "inference": {"device": "cpu"},
    }
    (place / "run.yaml").write_text(yaml.safe_dump(content))
    return place / "run.yaml"
