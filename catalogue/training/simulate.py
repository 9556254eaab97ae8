"""A survey that looks real: LAMOST files and a parent table of stars whose ages and masses are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalogue.config import ConfigurationError
from catalogue.training.coadd import write_coadd
from catalogue.training.correction import load_correction, rest_wavelengths
from catalogue.training.emulator import GiantEmulator
from catalogue.training.instrument import LOG10_FIRST, LOG10_STEP
from catalogue.training.labels import LabelError, LabelTable, apokasc_labels, read_labels, write_labels
from catalogue.training.observation import N_PIXELS, Observations, ObservationSettings, observe
from catalogue.training.population import draw_population, scattered

PARENT_COLUMNS = ("obsid", "class", "subclass", "snrg", "teff", "logg", "feh", "ra", "dec", "z", "filename")
_ALPHA = ("om", "mgm", "sim", "cam", "tim")
_OTHERS = ("nam", "alm", "vm", "crm", "mnm", "com", "nim", "scm", "bam", "cem", "ndm", "zrm")
_BLOCK = 256
_FIRST_OBSID = 900_000_000


class SimulationConfiguration(BaseModel):
    """What to simulate.

    Attributes
    ----------
    apokasc : Path or None
        Folder with the two APOKASC tables; their stars are simulated.
    labels : Path or None
        A label table instead, with ``teff``, ``logg``, ``feh`` and, if known, ``alpha_fe``, ``c_fe``, ``n_fe``.
    stars : int or None
        With neither: drawn from the built-in population (300 by default). Otherwise a random subset of that size.
    scattered : bool
        Whether parameters and abundances are scattered afterwards, see :func:`.population.scattered`.
    visits : int
        Spectra per star, with noise, velocity and instrument drawn anew.
    missing, damaged, duplicate : float
        Fractions of the rows without a file, with a damaged file, and that repeat an earlier row.
    element_scatter : float
        Scatter in dex of the abundances that the labels do not give.
    corrected : bool
        Whether emulated spectra are multiplied with the measured ratio of real to emulated ones, see
        :mod:`catalogue.training.correction`.
    parameter_errors : (K, dex, dex)
        Errors of Teff, log g and [Fe/H] in the parent table.
    observation : ObservationSettings
    seed : int
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    apokasc: Path | None = None
    labels: Path | None = None
    stars: int | None = Field(default=None, ge=1)
    scattered: bool = False
    visits: int = Field(default=1, ge=1)
    missing: float = Field(default=0.0, ge=0, lt=1)
    damaged: float = Field(default=0.0, ge=0, lt=1)
    duplicate: float = Field(default=0.0, ge=0, lt=1)
    element_scatter: float = Field(default=0.03, ge=0)
    corrected: bool = True
    parameter_errors: tuple[float, float, float] = (60.0, 0.12, 0.06)
    observation: ObservationSettings = ObservationSettings()
    seed: int = 0


@dataclass(frozen=True)
class SimulatedSurvey:
    """Where a simulated survey lies.

    Attributes
    ----------
    parent : Path
        Columns ``obsid, class, subclass, snrg, teff, logg, feh, ra, dec, z, filename``.
    spectra : Path
        Folder of the files that ``filename`` names.
    labels : Path
        Key ``obsid``; one row per distinct spectrum, see :func:`catalogue.training.labels.read_labels`.
    rows, files : int
    """

    parent: Path
    spectra: Path
    labels: Path
    rows: int
    files: int


def simulate(
    configuration: SimulationConfiguration, directory: Path, progress: Callable[[int, int], None] | None = None
) -> SimulatedSurvey:
    """Write a simulated survey.

    Parameters
    ----------
    configuration : SimulationConfiguration
    directory : Path
        Gets ``parent.csv``, ``labels.csv``, ``simulation.json`` and ``spectra/``.
    progress : callable, optional
        Called with (spectra written, spectra in all).

    Raises
    ------
    EmulatorError
        If the package with the emulators is not installed.
    LabelError
        If the label table cannot be used.
    """
    generator = np.random.default_rng(configuration.seed)
    emulator = GiantEmulator()
    stars = simulated_stars(configuration, generator)
    spectra = repeat_visits(stars, configuration.visits)
    root = directory / "spectra"
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for first in range(0, len(spectra), _BLOCK):
        part = spectra.take(np.arange(first, min(first + _BLOCK, len(spectra))))
        observed = observe_stars(emulator, part, generator, configuration)
        rows += _write_files(root, part, observed, generator, configuration)
        if progress:
            progress(first + len(part), len(spectra))
    files = _disturb(root, rows, generator, configuration)
    with (directory / "parent.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, PARENT_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    write_labels(directory / "labels.csv", spectra)
    settings = configuration.model_dump(mode="json", exclude={"apokasc", "labels"})
    (directory / "simulation.json").write_text(json.dumps(settings, indent=1) + "\n")
    return SimulatedSurvey(directory / "parent.csv", root, directory / "labels.csv", len(rows), files)


def simulated_stars(configuration: SimulationConfiguration, generator: np.random.Generator) -> LabelTable:
    """The stars of a configuration, one row each."""
    stars = _stars(configuration, generator)
    return scattered(stars, generator) if configuration.scattered else stars


def _stars(configuration: SimulationConfiguration, generator: np.random.Generator) -> LabelTable:
    if configuration.apokasc and configuration.labels:
        raise ConfigurationError("simulation: give apokasc or labels, not both")
    if configuration.apokasc:
        stars = apokasc_labels(configuration.apokasc)
    elif configuration.labels:
        stars = read_labels(configuration.labels)
        for name in ("teff", "logg", "feh"):
            unknown = np.flatnonzero(~np.isfinite(getattr(stars, name)))
            if len(unknown):
                raise LabelError(
                    f"{configuration.labels}: {name} is needed for a spectrum and unknown in {len(unknown)} of "
                    f"{len(stars)} rows, first key {stars.key[unknown[0]]} (row {unknown[0]})"
                )
    else:
        return draw_population(configuration.stars or 300, generator)
    if configuration.stars is None or configuration.stars >= len(stars):
        return stars
    return stars.take(np.sort(generator.choice(len(stars), configuration.stars, replace=False)))


def repeat_visits(stars: LabelTable, visits: int) -> LabelTable:
    """Every star ``visits`` times, shuffled into visits one after the other, with obsids as keys."""
    repeated = stars.take(np.tile(np.arange(len(stars)), visits))
    keys = np.array([str(_FIRST_OBSID + number) for number in range(len(repeated))])
    return replace(repeated, key=keys)


def observe_stars(
    emulator: GiantEmulator, stars: LabelTable, generator: np.random.Generator, configuration: SimulationConfiguration
) -> Observations:
    """One observation of each star."""
    columns = {
        "teff": stars.teff, "logg": stars.logg, "mh": stars.feh,
        "cm": np.nan_to_num(stars.c_fe), "nm": np.nan_to_num(stars.n_fe),
    }  # fmt: skip
    columns |= {name: np.nan_to_num(stars.alpha_fe) for name in _ALPHA}
    columns |= {name: generator.normal(0, configuration.element_scatter, len(stars)) for name in _OTHERS}
    normalised = emulator.spectra(emulator.complete(columns))
    if configuration.corrected:
        normalised = normalised * load_correction().factors(rest_wavelengths(), stars.teff, stars.feh)
    return observe(normalised, stars.teff, generator, configuration.observation)


def _write_files(
    root: Path,
    stars: LabelTable,
    observed: Observations,
    generator: np.random.Generator,
    configuration: SimulationConfiguration,
) -> list[dict[str, object]]:
    wavelength = 10.0 ** (LOG10_FIRST + LOG10_STEP * np.arange(N_PIXELS))
    sigma = configuration.parameter_errors
    ra, dec = generator.uniform(280, 300, len(stars)), generator.uniform(37, 52, len(stars))
    measured = np.stack([stars.teff, stars.logg, stars.feh], axis=1) + generator.normal(0, sigma, (len(stars), 3))
    rows: list[dict[str, object]] = []
    for i in range(len(stars)):
        obsid = int(stars.key[i])
        fiber = obsid - _FIRST_OBSID
        name = f"spec-59000-SIM{fiber // 4000:05d}_sp{fiber // 250 % 16 + 1:02d}-{fiber % 250 + 1:03d}.fits.gz"
        teff, logg, feh = measured[i]
        row: dict[str, object] = {
            "obsid": obsid, "class": "STAR", "subclass": "K1" if teff < 4900 else "G8",
            "snrg": round(float(observed.snr[i, 1]), 2), "teff": round(teff, 2), "logg": round(logg, 3),
            "feh": round(feh, 3), "ra": round(float(ra[i]), 7), "dec": round(float(dec[i]), 7),
            "z": float(f"{observed.redshift[i]:.8g}"), "filename": name,
        }  # fmt: skip
        flux = observed.flux[i]
        columns = (flux, observed.ivar[i], wavelength, observed.andmask[i], observed.ormask[i], _normalised(flux))
        write_coadd(root / name, columns, _cards(row, fiber, observed.snr[i]))
        rows.append(row)
    return rows


def _normalised(flux: NDArray[np.float32]) -> NDArray[np.floating]:
    """Flux over its running mean, which is all that the file's own continuum is used for here."""
    window = np.ones(201) / 201
    return flux / np.maximum(np.convolve(np.pad(flux, 100, mode="edge"), window, mode="valid"), 1e-3)


def _cards(row: dict[str, object], fiber: int, snr: NDArray[np.float64]) -> dict[str, bool | int | float | str]:
    cards: dict[str, bool | int | float | str] = {
        "FILENAME": str(row["filename"])[:-3], "OBSID": int(str(row["obsid"])), "DATA_V": "LAMOST DR10",
        "N_EXTEN": 2, "NORM": 1, "ORIGIN": "simulated", "LMJD": 59000, "MJD": 58999,
        "PLANID": f"SIM{fiber // 4000:05d}", "RA": float(str(row["ra"])), "DEC": float(str(row["dec"])),
        "SPID": fiber // 250 % 16 + 1, "FIBERID": fiber % 250 + 1, "HELIO": True, "VACUUM": True,
        "COEFF0": LOG10_FIRST, "COEFF1": LOG10_STEP, "CRVAL1": LOG10_FIRST, "CD1_1": LOG10_STEP,
        "CLASS": "STAR", "SUBCLASS": str(row["subclass"]), "Z": float(str(row["z"])), "Z_ERR": 1.3e-5,
    }  # fmt: skip
    return cards | {f"SNR{band}": round(float(value), 2) for band, value in zip("UGRIZ", snr, strict=True)}


def _disturb(
    root: Path, rows: list[dict[str, object]], generator: np.random.Generator, configuration: SimulationConfiguration
) -> int:
    """Remove, damage and repeat as configured; the number of files that are left."""
    number = len(rows)
    order = generator.permutation(number)
    missing = order[: round(configuration.missing * number)]
    damaged = order[len(missing) : len(missing) + round(configuration.damaged * number)]
    for row in missing:
        (root / str(rows[row]["filename"])).unlink()
    for count, row in enumerate(damaged):
        path = root / str(rows[row]["filename"])
        content = path.read_bytes()
        path.write_bytes((content[: len(content) // 2], b"", b"not a FITS file")[count % 3])
    for row in order[: round(configuration.duplicate * number)]:
        rows.append(dict(rows[row]))
    return number - len(missing)
