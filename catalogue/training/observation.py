"""From an emulated spectrum to what the survey's pipeline would have written for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalogue.training.emulator import WAVELENGTH_AIR, air_to_vacuum
from catalogue.training.instrument import (
    LOG10_FIRST,
    LOG10_STEP,
    InstrumentTable,
    load_instrument,
    log10_planck,
)

N_PIXELS = 3909
"""Pixels of most LAMOST files."""

_SPEED_OF_LIGHT = 299792.458  # km/s
_FINE_FIRST = 3.5450
_FINE_STEP = LOG10_STEP / 2
_FINE_PIXELS = 9600
_ARMS_MEET = 5850.0
_TELLURIC = ((6860.0, 6960.0, 0.25), (7160.0, 7340.0, 0.08), (7590.0, 7710.0, 0.45), (8130.0, 8350.0, 0.10))
_SKY_LINES = (4047.6, 4359.6, 5462.2, 5578.9, 6302.0, 6365.5, 6865.0, 7278.0, 7718.0, 8346.0, 8432.0, 8830.0)
_ANDMASK_BIT, _ORMASK_BIT = 8, 16


class ObservationSettings(BaseModel):
    """How stars are observed. Response, noise and S/N come from the measured table unless given here.

    Attributes
    ----------
    snrg : (float, float) or None
        Median and standard deviation in dex of SNRG instead of the measured distribution.
    velocity_sigma : float
        Radial velocities, km/s.
    redshift_error : float
        Error of the published redshift, km/s.
    blue_sigma, red_sigma : (float, float)
        Mean and scatter over fibres of the line-spread function's standard deviation in native pixels, in the
        two arms. R = 1800 is 1.02 pixels; fits of emulated to real spectra prefer a little more in the blue.
    reddening : float
        Scale of an exponential distribution of E(B-V), beyond the measured response.
    shape_scale : float
        Scale of the star-to-star variation of the response.
    sky_residual : float
        Typical sky-line residual in units of the noise.
    cosmic_rays : float
        Mean number per spectrum.
    masked_stretches : float
        Mean number of stretches without inverse variance per spectrum.
    telluric : float
        Strength of what is left of the telluric bands (1 would be uncorrected); the real DR10 giants show none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    snrg: tuple[float, float] | None = None
    velocity_sigma: float = Field(default=40.0, ge=0)
    redshift_error: float = Field(default=4.0, ge=0)
    blue_sigma: tuple[float, float] = (1.12, 0.10)
    red_sigma: tuple[float, float] = (1.10, 0.10)
    reddening: float = Field(default=0.05, ge=0)
    shape_scale: float = Field(default=1.0, ge=0)
    sky_residual: float = Field(default=2.0, ge=0)
    cosmic_rays: float = Field(default=1.0, ge=0)
    masked_stretches: float = Field(default=0.7, ge=0)
    telluric: float = Field(default=0.05, ge=0)


@dataclass(frozen=True)
class Observations:
    """Simulated survey spectra on the native lattice.

    Attributes
    ----------
    flux, ivar : ndarray of float32, shape (stars, 3909)
    andmask, ormask : ndarray of uint8, shape (stars, 3909)
    redshift : ndarray of float64, shape (stars,)
        As published, with its error.
    snr : ndarray of float64, shape (stars, 5)
        Per pixel in u, g, r, i, z.
    noiseless : ndarray of float32, shape (stars, 3909)
        ``flux`` before noise, sky residuals and cosmic rays.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    andmask: NDArray[np.uint8]
    ormask: NDArray[np.uint8]
    redshift: NDArray[np.float64]
    snr: NDArray[np.float64]
    noiseless: NDArray[np.float32]


def observe(
    normalised: NDArray[np.float32],
    teff: NDArray[np.float64],
    generator: np.random.Generator,
    settings: ObservationSettings | None = None,
    table: InstrumentTable | None = None,
) -> Observations:
    """Observe stars once each.

    Parameters
    ----------
    normalised : ndarray of float32, shape (stars, 14001)
        From :meth:`GiantEmulator.spectra`.
    teff : ndarray, shape (stars,)
        K, for the continuum.
    generator : numpy Generator
    settings, table : optional

    Returns
    -------
    Observations
    """
    settings, table = settings or ObservationSettings(), table or load_instrument()
    stars = len(normalised)
    velocity = generator.normal(0, settings.velocity_sigma, stars)
    clean = _broadened(normalised, velocity, generator, settings)
    lattice = LOG10_FIRST + LOG10_STEP * np.arange(N_PIXELS, dtype=np.float64)
    clean *= _response(lattice, teff, generator, settings, table)
    clean *= _telluric(lattice, generator, stars, settings.telluric)
    snrg = _draw_snrg(generator, stars, settings, table)
    scores = generator.normal(size=(stars, len(table.noise_components))).clip(-2.5, 2.5)
    profile = _at(lattice, table, table.noise) + scores @ _at(lattice, table, table.noise_components)
    sigma = np.median(clean, axis=1, keepdims=True) * _noise_shape(clean, profile, snrg, lattice)
    flux = with_noise(clean, sigma, generator, settings, table)
    ivar = 1.0 / sigma**2
    andmask, ormask = _masks(ivar, lattice, generator, settings, table)
    flux[ivar == 0] = 0.0  # as in real files
    error = generator.normal(0, settings.redshift_error, stars)
    scale = 10.0 ** generator.normal(3.0, 0.5, (stars, 1))
    return Observations(
        flux=(flux * scale).astype(np.float32),
        ivar=(ivar / scale**2).astype(np.float32),
        andmask=andmask,
        ormask=ormask,
        redshift=(velocity + error) / _SPEED_OF_LIGHT,
        snr=_band_snr(clean / sigma, lattice),
        noiseless=np.where(ivar > 0, clean * scale, 0.0).astype(np.float32),
    )


def with_noise(
    clean: NDArray[np.floating],
    sigma: NDArray[np.floating],
    generator: np.random.Generator,
    settings: ObservationSettings,
    table: InstrumentTable | None = None,
) -> NDArray[np.floating]:
    """Spectra on the native lattice with noise, sky residuals and cosmic rays.

    Parameters
    ----------
    clean, sigma : ndarray, shape (stars, pixels)
        Flux without noise, and its error as published: the measured excess comes on top.
    generator : numpy Generator
    settings : ObservationSettings
    table : InstrumentTable, optional

    Returns
    -------
    ndarray of float, shape (stars, pixels)
    """
    table = table or load_instrument()
    lattice = LOG10_FIRST + LOG10_STEP * np.arange(clean.shape[1], dtype=np.float64)
    noise = generator.standard_normal(clean.shape, dtype=np.float32) * sigma * _at(lattice, table, table.excess)
    flux = clean + noise + _sky(lattice, sigma, generator, settings.sky_residual)
    _add_cosmic_rays(flux, sigma, generator, settings.cosmic_rays)
    return np.asarray(flux)


def at_redshift(
    normalised: NDArray[np.float32], redshift: NDArray[np.float64], settings: ObservationSettings | None = None
) -> NDArray[np.float32]:
    """Emulated spectra on the native lattice at the survey's mean resolution: no response, telluric bands or noise.

    Parameters
    ----------
    normalised : ndarray of float32, shape (stars, 14001)
    redshift : ndarray of float64, shape (stars,)
        0 for the rest frame.
    settings : ObservationSettings, optional
        Its line-spread functions are used.

    Returns
    -------
    ndarray of float32, shape (stars, 3909)
    """
    settings = settings or ObservationSettings()
    mean = {"blue_sigma": (settings.blue_sigma[0], 0.0), "red_sigma": (settings.red_sigma[0], 0.0)}
    velocity = redshift * _SPEED_OF_LIGHT
    generator = np.random.default_rng(0)
    return _broadened(normalised, velocity, generator, settings.model_copy(update=mean)).astype(np.float32)


def _broadened(
    normalised: NDArray[np.float32],
    velocity: NDArray[np.float64],
    generator: np.random.Generator,
    settings: ObservationSettings,
) -> NDArray[np.float64]:
    """Doppler shift and line-spread function in one multiplication in Fourier space, then native pixels."""
    fine = _FINE_FIRST + _FINE_STEP * np.arange(_FINE_PIXELS)
    log10_vacuum = np.log10(air_to_vacuum(WAVELENGTH_AIR))
    rest = np.stack([np.interp(fine, log10_vacuum, row) for row in normalised])
    transform = np.fft.rfft(rest, axis=1)
    frequency = np.fft.rfftfreq(_FINE_PIXELS)
    shift = np.log10(1.0 + velocity / _SPEED_OF_LIGHT) / _FINE_STEP
    transform *= np.exp(-2j * np.pi * frequency * shift[:, None])
    first = round((LOG10_FIRST - _FINE_FIRST) / _FINE_STEP)
    native = slice(first, first + 2 * N_PIXELS, 2)
    arms = []
    for mean, scatter in (settings.blue_sigma, settings.red_sigma):
        sigma = 2.0 * np.maximum(generator.normal(mean, scatter, (len(rest), 1)), 0.7)
        arms.append(np.fft.irfft(transform * np.exp(-2 * (np.pi * sigma * frequency) ** 2), _FINE_PIXELS)[:, native])
    blue = 10.0 ** fine[native] < _ARMS_MEET
    return np.where(blue, arms[0], arms[1])


def _response(
    lattice: NDArray[np.float64],
    teff: NDArray[np.float64],
    generator: np.random.Generator,
    settings: ObservationSettings,
    table: InstrumentTable,
) -> NDArray[np.float64]:
    scores = generator.normal(size=(len(teff), len(table.shape_components))).clip(-2.5, 2.5) * settings.shape_scale
    shape = _at(lattice, table, table.shape) + scores @ _at(lattice, table, table.shape_components)
    # A_lambda in units of E(B-V): a power law through R_V = 3.1 is enough for giants between 3,700 and 9,000 Å
    extinction = 3.1 * (10.0**lattice / 5500.0) ** -1.3
    reddening = generator.exponential(settings.reddening, len(teff)) if settings.reddening > 0 else np.zeros(len(teff))
    exponent = log10_planck(lattice, teff) + shape - 0.4 * reddening[:, None] * extinction
    return np.asarray(10.0 ** (exponent - np.median(exponent, axis=1, keepdims=True)))


def _at(lattice: NDArray[np.float64], table: InstrumentTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of the table at every pixel."""
    if values.ndim == 1:
        return np.interp(lattice, table.log10_wavelength, values)
    return np.stack([np.interp(lattice, table.log10_wavelength, row) for row in values])


def _draw_snrg(
    generator: np.random.Generator, stars: int, settings: ObservationSettings, table: InstrumentTable
) -> NDArray[np.float64]:
    if settings.snrg is not None:
        return np.asarray(settings.snrg[0] * 10.0 ** generator.normal(0, settings.snrg[1], stars))
    quantiles = np.linspace(0, 1, len(table.snrg_quantiles))
    return np.asarray(10.0 ** np.interp(generator.random(stars), quantiles, np.log10(table.snrg_quantiles)))


def _noise_shape(
    clean: NDArray[np.float64], profile: NDArray[np.float64], snrg: NDArray[np.float64], lattice: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise per pixel in units of the median flux, such that the median S/N in g is ``snrg``."""
    level = clean / np.median(clean, axis=1, keepdims=True)
    smooth = np.maximum(_running_mean(level, 49), 1e-3)
    ratio = 10.0**profile
    green = (10.0**lattice > 4000) & (10.0**lattice < 5500)
    ratio /= np.median(ratio[:, green], axis=1, keepdims=True)
    return np.asarray(np.sqrt(smooth * np.maximum(level, 0.05)) / (ratio * snrg[:, None]))


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    padded = np.pad(values, ((0, 0), (width // 2 + 1, width // 2)), mode="edge")
    total = np.cumsum(padded, axis=1)
    return (total[:, width:] - total[:, :-width]) / width


def _telluric(
    lattice: NDArray[np.float64], generator: np.random.Generator, stars: int, strength: float
) -> NDArray[np.float64]:
    wavelength = 10.0**lattice
    depth = np.zeros((stars, len(lattice)))
    for low, high, typical in _TELLURIC:
        inside = (wavelength > low) & (wavelength < high)
        x = (wavelength[inside] - low) / (high - low)
        ragged = 0.6 + 0.4 * np.cos(2 * np.pi * x * (high - low) / 18.0)
        amount = typical * strength * generator.lognormal(0, 0.3, (stars, 1))
        depth[:, inside] = amount * np.sqrt(np.sin(np.pi * x)) * ragged
    return np.exp(-depth)


def _sky(
    lattice: NDArray[np.float64], sigma: NDArray[np.floating], generator: np.random.Generator, amount: float
) -> NDArray[np.float64]:
    residual = np.zeros(sigma.shape)
    for line in _SKY_LINES:
        profile = np.exp(-0.5 * ((lattice - np.log10(line)) / (1.2 * LOG10_STEP)) ** 2)
        near = profile > 1e-4
        strength = generator.normal(0, amount * (4.0 if line == 5578.9 else 1.0), (len(sigma), 1))
        residual[:, near] += strength * profile[near] * sigma[:, near]
    return residual


def _add_cosmic_rays(
    flux: NDArray[np.floating], sigma: NDArray[np.floating], generator: np.random.Generator, mean: float
) -> None:
    for star, number in enumerate(generator.poisson(mean, len(flux))):
        for _ in range(number):
            pixel = int(generator.integers(1, flux.shape[1] - 1))
            height = sigma[star, pixel] * generator.exponential(30.0)
            flux[star, pixel - 1 : pixel + 2] += height * np.array([0.3, 1.0, 0.3])


def _masks(
    ivar: NDArray[np.float64],
    lattice: NDArray[np.float64],
    generator: np.random.Generator,
    settings: ObservationSettings,
    table: InstrumentTable,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mask bits at the measured rates; ``ivar`` becomes 0 in stretches and in isolated pixels."""
    shape = ivar.shape
    andmask = (generator.random(shape, dtype=np.float32) < _at(lattice, table, table.andmask)).astype(np.uint8)
    ormask = (generator.random(shape, dtype=np.float32) < _at(lattice, table, table.ormask)).astype(np.uint8)
    isolated = generator.random(shape, dtype=np.float32) < 0.5 * _at(lattice, table, table.missing)
    ivar[isolated] = 0.0
    numbers: NDArray[np.int64] = np.asarray(generator.poisson(settings.masked_stretches, shape[0]))
    for star, number in enumerate(numbers):
        for _ in range(number):
            start, length = int(generator.integers(0, shape[1])), int(generator.integers(5, 80))
            ivar[star, start : start + length] = 0.0
            andmask[star, start : start + length] = 1
    return andmask * np.uint8(_ANDMASK_BIT), (andmask | ormask) * np.uint8(_ORMASK_BIT)


def _band_snr(ratio: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    wavelength = 10.0**lattice
    bands = ((3700, 4000), (4000, 5500), (5500, 7000), (7000, 8300), (8300, 9000))
    return np.stack([np.median(ratio[:, (wavelength > a) & (wavelength < b)], axis=1) for a, b in bands], axis=1)
