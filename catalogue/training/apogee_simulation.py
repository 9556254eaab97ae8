"""A simulated APOGEE survey of giants with known ages: spectra, and the power spectra of their oscillations.

Nothing here is a synthesis of stellar spectra. Pixels have the mean and the spread of real DR17 giants, and the
part of that spread that is due to a label is a fixed random pattern of line-like width per label. So what a label
does to a spectrum is realistic in size and number of pixels, not in which lines respond. Power spectra
follow the scaling relations, with a pattern of modes that differs between core-helium-burning and shell-burning giants.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalogue.models.apogee_continuum import CHIPS, N_PIXELS
from catalogue.models.base import SpectraBatch
from catalogue.models.latent_network import frequency_grid, large_separation
from catalogue.surveys.apogee import Apogee
from catalogue.training.labels import LabelTable, apokasc_labels
from catalogue.training.simulate import repeat_visits

Values = NDArray[np.float64]

NUMAX_SUN, SEPARATION_SUN, TEFF_SUN, LOGG_SUN = 3076.0, 135.146, 5780.0, 4.438
"""μHz, μHz, K and dex(cm/s²): the constants of the authors' code (ALGORITHMS 2.4)."""

RESPONSES: dict[str, tuple[float, float, float]] = {
    "teff": (4700.0, 170.0, 0.55),
    "logg": (2.55, 0.30, 0.45),
    "feh": (0.0, 0.19, 0.50),
    "alpha_fe": (0.04, 0.031, 0.30),
    "c_n": (-0.26, 0.11, 0.35),
    "mass": (1.3, 0.20, 0.10),
}
"""Label: centre, spread, and share of a pixel's standard deviation per spread of the label.

Mass itself leaves a weak mark; most of what a spectrum knows of it is in [C/N], as in real giants.
"""

_BLOCK_ROWS = 512
_LINE_WIDTH_PIXELS = 3.0
_PATTERN_SEED = 20230512


class ApogeeSimulation(BaseModel):
    """What to simulate.

    Attributes
    ----------
    apokasc : Path
        Folder with the two APOKASC tables, see :func:`~catalogue.training.labels.apokasc_labels`.
    pixel_statistics : Path
        ``.npz`` with ``mean`` and ``std`` of the 7,514 normalised pixels of real giants.
    visits : int
        Spectra and power spectra per star, with noise drawn anew.
    ages : (Gyr, Gyr)
        Stars with other ages are left out.
    seed : int
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    apokasc: Path
    pixel_statistics: Path
    visits: int = Field(default=1, ge=1)
    ages: tuple[float, float] = (0.1, 20.0)
    seed: int = 0


@dataclass(frozen=True)
class Oscillations:
    """Power spectra of stars.

    Attributes
    ----------
    log_power : ndarray of float32, shape (stars, frequencies)
        Natural logarithm of power over background.
    numax, separation : ndarray of float64, shape (stars,)
        μHz.
    """

    log_power: NDArray[np.float32]
    numax: Values
    separation: Values


def simulate_apogee(configuration: ApogeeSimulation) -> tuple[LabelTable, SpectraBatch, Oscillations]:
    """Stars, their spectra and their power spectra, row by row."""
    labels = apokasc_labels(configuration.apokasc)
    youngest, oldest = configuration.ages
    labels = repeat_visits(labels.take((labels.age > youngest) & (labels.age < oldest)), configuration.visits)
    with np.load(configuration.pixel_statistics, allow_pickle=False) as statistics:
        mean, spread = (statistics[name].astype(float) for name in ("mean", "std"))
    frequency = frequency_grid()
    seeds = iter(np.random.SeedSequence(configuration.seed).generate_state(2 * len(labels)).tolist())
    batches, powers = [], []
    for first in range(0, len(labels), _BLOCK_ROWS):
        part = labels.take(np.arange(first, min(first + _BLOCK_ROWS, len(labels))))
        batches.append(simulate_spectra(part, mean, spread, next(seeds)))
        powers.append(simulate_oscillations(part, frequency, next(seeds)))
    joined = [np.concatenate(parts) for parts in zip(*map(astuple, powers), strict=True)]
    return labels, _join(batches), Oscillations(*joined)


def _join(batches: list[SpectraBatch]) -> SpectraBatch:
    flux, ivar, mask, usable = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("flux", "ivar", "mask", "usable")
    )
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    return SpectraBatch(0, flux, ivar, mask, usable, columns)


def seismic_parameters(labels: LabelTable) -> tuple[Values, Values]:
    """Numax and Δν in μHz from gravity, temperature and mass by the scaling relations, each of shape (stars,)."""
    gravity = 10.0 ** (labels.logg - LOGG_SUN)
    numax = NUMAX_SUN * gravity / np.sqrt(labels.teff / TEFF_SUN)
    radius = np.sqrt(labels.mass / gravity)
    return numax, SEPARATION_SUN * np.sqrt(labels.mass / radius**3)


def simulate_oscillations(labels: LabelTable, frequency: Values, seed: int, independent: float = 6.0) -> Oscillations:
    """Power spectra with the background divided out.

    Parameters
    ----------
    labels : LabelTable
        ``state`` decides the pattern of the dipole modes: narrow for ``RGB``, spread out for ``RC``.
    frequency : ndarray, shape (frequencies,)
        μHz.
    seed : int
    independent : float
        Independent bins of the raw power spectrum per frequency; the noise is gamma distributed.
    """
    random = np.random.default_rng(seed)
    numax, separation = seismic_parameters(labels)
    phase = (frequency[None, :] / separation[:, None] - _offset(separation)[:, None]) % 1.0
    clump = np.char.startswith(np.char.upper(labels.state.astype(str)), "RC")[:, None]
    dipole_width = np.where(clump, 0.14, 0.035)
    modes = _bump(phase, 0.0, 0.03) + 0.7 * _bump(phase, 0.88, 0.03) + 1.2 * _bump(phase, 0.5, dipole_width)
    envelope_width = 0.66 * numax**0.88 / 2.355
    envelope = np.exp(-0.5 * ((frequency[None, :] - numax[:, None]) / envelope_width[:, None]) ** 2)
    height = np.where(clump, 4.0, 5.0) * (labels.mass[:, None] / 1.3) ** -0.5
    power = 1.0 + height * envelope * modes
    noise = random.gamma(independent, 1.0 / independent, power.shape)
    return Oscillations(np.log(power * noise).astype(np.float32), numax, separation)


def _bump(phase: Values, centre: float, width: Values | float) -> Values:
    distance = np.abs((phase - centre + 0.5) % 1.0 - 0.5)
    return np.asarray(np.exp(-0.5 * (distance / width) ** 2))


def _offset(separation: Values) -> Values:
    """Phase of the radial modes, which rises slowly with Δν."""
    return np.asarray(0.63 + 0.6 * np.log10(separation))


def label_patterns() -> dict[str, Values]:
    """Per label, the pattern of its effect over the 7,514 pixels, of unit variance and mutually orthogonal."""
    random = np.random.default_rng(_PATTERN_SEED)
    offsets = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (offsets / _LINE_WIDTH_PIXELS) ** 2)
    raw = random.standard_normal((len(RESPONSES), N_PIXELS)) ** 3
    smooth = np.stack([np.convolve(row, kernel, mode="same") for row in raw])
    basis, _ = np.linalg.qr(smooth.T)
    return {name: basis[:, k] * np.sqrt(N_PIXELS) for k, name in enumerate(RESPONSES)}


def standard_labels(labels: LabelTable) -> dict[str, Values]:
    """Labels in units of their spread, per entry of :data:`RESPONSES`; unknown ones are 0."""
    known = {name: getattr(labels, name, None) for name in RESPONSES}
    known["c_n"] = labels.c_fe - labels.n_fe
    return {
        name: np.nan_to_num((np.asarray(known[name]) - centre) / spread)
        for name, (centre, spread, _) in RESPONSES.items()
    }


def simulate_spectra(
    labels: LabelTable, pixel_mean: Values, pixel_spread: Values, seed: int, first_row: int = 0
) -> SpectraBatch:
    """Spectra on the native grid, as ingest would store them.

    Parameters
    ----------
    labels : LabelTable
    pixel_mean, pixel_spread : ndarray, shape (7514,)
        Of real normalised giants.
    seed : int
        Of noise, brightness and bad pixels; the patterns of the labels are fixed.
    first_row : int

    Returns
    -------
    SpectraBatch
        With columns ``teff``, ``logg``, ``fe_h`` that carry ASPCAP-like errors of 30 K, 0.05 and 0.02 dex, these
        errors, and ``snrev``.
    """
    random = np.random.default_rng(seed)
    n, n_pixels = len(labels), Apogee.grid.n_pixels
    standard, patterns = standard_labels(labels), label_patterns()
    change = sum(standard[k][:, None] * share * patterns[k][None] for k, (_, _, share) in RESPONSES.items())
    change = change + 0.12 * (standard["teff"] * standard["feh"])[:, None] * patterns["teff"][None]
    normalised = np.clip(pixel_mean + pixel_spread * np.asarray(change), 0.05, 1.6)
    flux = np.full((n, n_pixels), np.nan, np.float32)
    ivar = np.zeros((n, n_pixels), np.float32)
    mask = np.zeros((n, n_pixels), np.uint32)
    brightness = 10.0 ** random.uniform(2.0, 3.3, (n, 1))
    signal_to_noise = 10.0 ** random.uniform(1.9, 2.5, (n, 1))
    start = 0
    for first, last in CHIPS:
        x = np.linspace(-1.0, 1.0, last - first)
        tilt = 1.0 + random.normal(0.0, 0.15, (n, 1)) * x + random.normal(0.0, 0.05, (n, 1)) * x**2
        sigma = brightness / signal_to_noise
        clean = brightness * tilt * normalised[:, start : start + last - first]
        flux[:, first:last] = clean + sigma * random.standard_normal(clean.shape)
        ivar[:, first:last] = 1.0 / sigma**2
        start += last - first
    inside = ivar > 0
    mask[~inside] = 1
    mask[inside & (random.random((n, n_pixels)) < 0.01)] |= 1 << 12
    columns = {
        "teff": (labels.teff + random.normal(0, 30.0, n)).astype(np.float32),
        "logg": (labels.logg + random.normal(0, 0.05, n)).astype(np.float32),
        "fe_h": (labels.feh + random.normal(0, 0.02, n)).astype(np.float32),
        "teff_err": np.full(n, 30.0, np.float32),
        "fe_h_err": np.full(n, 0.02, np.float32),
        "snrev": signal_to_noise[:, 0].astype(np.float32),
    }
    return SpectraBatch(first_row, flux, ivar, mask, np.ones(n, np.bool_), columns)


def peak_frequency(log_power: NDArray[np.floating], frequency: Values) -> Values:
    """Frequency at which the power, smoothed over about two large separations, is greatest; shape (stars,)."""
    excess = np.clip(np.exp(np.asarray(log_power, np.float64)) - 1.0, 0.0, None)
    distance = (frequency[None, :] - frequency[:, None]) / (1.2 * large_separation(frequency))[:, None]
    weight = np.exp(-0.5 * distance**2)
    smooth = excess @ (weight / weight.sum(axis=1, keepdims=True)).T
    return np.asarray(frequency[np.argmax(smooth, axis=1)])
