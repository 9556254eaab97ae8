"""Simulated catalogues with every kind of row, and a spectra store that goes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from catalogue.datamodels import DataModel, load_data_model
from catalogue.spectra.primitives import MISSING_INTEGER, RowStatus
from catalogue.spectra.store import create_store, write_rows
from catalogue.surveys.lamost import LamostLowResolution
from catalogue.writers import writer_for

PROVENANCE = {
    "PRODUCT": "lamost_age_mass",
    "ORIGIN": "simulated",
    "MODEL1": "tiny-spt 1 (spt)",
    "MODELDG1": "0123456789abcdef" * 4,
}


def lamost_model() -> DataModel:
    return load_data_model("lamost_age_mass")


def simulated_namespace(rows: int, seed: int = 0) -> dict:
    """What the merge hands to a data model: parent values, file values and predictions of made-up giants."""
    random = np.random.default_rng(seed)
    age = random.gamma(3.0, 2.0, rows).clip(0.3, 15.5)
    feh = (0.15 - 0.05 * age + random.normal(0, 0.2, rows)).clip(-2.4, 0.5)
    mass = 1.02 * (10.0 / age) ** 0.32 * (1 + random.normal(0, 0.05, rows)) + 0.1 * feh
    teff = 4900 + 80 * (mass - 1.2) - 350 * feh - 240 * (2.6 - random.gamma(3.0, 0.5, rows).clip(0.2, 3.6)).clip(0, 3)
    logg = (2.6 + (teff - 4800) / 600 + random.normal(0, 0.15, rows)).clip(0.2, 4.9)
    snrg = 10 ** random.uniform(0.7, 2.6, rows)
    status = np.full(rows, RowStatus.OK, np.uint8)
    status[random.random(rows) < 0.2] = RowStatus.NO_SPECTRUM
    status[random.random(rows) < 0.02] = RowStatus.TRUNCATED
    if rows > 4:
        status[3], status[4] = RowStatus.KEY_MISMATCH, RowStatus.DUPLICATE
    unusable = ~np.isin(status, [RowStatus.OK, RowStatus.DUPLICATE])
    relative = 0.08 + 3.0 / snrg + np.abs(random.normal(0, 0.05, rows))
    predictions = {
        "age": age, "age_error": relative * age, "age_model_error": 0.5 * relative * age,
        "age_data_error": 0.85 * relative * age, "age_p16": age * (1 - 0.85 * relative), "age_p50": 0.98 * age,
        "age_p84": age * (1 + 1.1 * relative), "log_age": np.log10(age), "log_age_error": relative / 2.3,
        "mass": mass, "mass_error": 0.3 * relative * mass, "mass_model_error": 0.15 * relative * mass,
        "mass_data_error": 0.25 * relative * mass, "mass_p16": mass * (1 - 0.3 * relative), "mass_p50": mass,
        "mass_p84": mass * (1 + 0.3 * relative), "age_mass_correlation": np.full(rows, -0.8),
        "novelty": random.chisquare(4, rows), "bad_fraction": random.beta(1, 12, rows),
    }  # fmt: skip
    namespace: dict = {
        "obsid": 100_000_000 + np.arange(rows) * 7, "ra": random.uniform(0, 360, rows),
        "dec": np.degrees(np.arcsin(random.uniform(-0.15, 0.95, rows))), "snrg": snrg, "teff": teff, "logg": logg,
        "feh": feh, "z": random.normal(0, 1e-4, rows), "file_z": random.normal(0, 1e-4, rows), "file_snrg": snrg,
        "status": status,
        "class": np.array(["STAR"] * rows, np.dtypes.StringDType()),
        "subclass": random.choice(np.array(["G5", "K0", "K3"], np.dtypes.StringDType()), rows),
        "prediction.domain.teff": (3800.0, 5500.0), "prediction.domain.logg": (0.5, 3.6),
        "prediction.domain.feh": (-2.0, 0.5), "prediction.novelty_limit": 12.0, "row": np.arange(rows),
    }  # fmt: skip
    for name, values in predictions.items():
        namespace[f"prediction.{name}"] = np.where(unusable, np.nan, values).astype(np.float32)
    return namespace


def simulated_columns(rows: int, seed: int = 0) -> dict:
    """Columns of the shipped LAMOST product, with a missing position, key and parameter where there are rows enough."""
    namespace = simulated_namespace(rows, seed)
    if rows > 8:
        namespace["ra"][6] = namespace["dec"][6] = np.nan
        namespace["obsid"][7] = MISSING_INTEGER
        namespace["teff"][8] = np.nan
    return lamost_model().evaluate(namespace)


def slices(columns: dict, start: int, stop: int) -> dict:
    return {name: values[start:stop] for name, values in columns.items()}


def write_catalogue(path: Path, format_name: str, columns: dict, model: DataModel | None = None) -> Path:
    """Write columns with the project's own writer, in two blocks where there are rows enough."""
    rows = len(next(iter(columns.values())))
    writer = writer_for(format_name)(path, model or lamost_model(), rows, PROVENANCE)
    for start, stop in ((0, rows // 3), (rows // 3, rows)):
        writer.write(slices(columns, start, stop))
    writer.close()
    return path


def write_spectra(path: Path, columns: dict, seed: int = 0, chunk_rows: int = 64) -> Path:
    """A spectra store with a smooth continuum, a few lines and noise for every usable row of a catalogue."""
    survey = LamostLowResolution()
    rows = len(columns["STATUS"])
    create_store(path, survey, rows, chunk_rows, chunk_rows, "obsid")
    wavelength = survey.grid.wavelength()
    random = np.random.default_rng(seed)
    for start in range(0, rows, chunk_rows):
        stop = min(start + chunk_rows, rows)
        status = columns["STATUS"][start:stop]
        teff = np.nan_to_num(columns["teff"][start:stop], nan=5000.0)[:, None]
        shape = 1.0 / (wavelength / 1e4) ** 5 / (np.exp(1.4388e8 / wavelength / teff) - 1)
        for line, depth in ((5175.0, 0.4), (6564.6, 0.3), (8544.0, 0.35), (4863.0, 0.3), (5891.0, 0.3)):
            shape *= 1 - depth * np.exp(-0.5 * ((wavelength - line) / 5.0) ** 2)
        error = np.median(shape, axis=1, keepdims=True) / columns["snrg"][start:stop, None]
        flux = shape + error * random.normal(size=shape.shape)
        usable = np.isin(status, [RowStatus.OK, RowStatus.DUPLICATE])[:, None]
        ivar = np.where(usable, 1 / error**2, 0) * np.ones_like(shape)
        ivar[:, 2000:2020] = 0
        block = {
            "flux": np.where(usable, flux, np.nan).astype(np.float32), "ivar": ivar.astype(np.float32),
            "mask": np.zeros(flux.shape, np.uint16), "status": status,
            "reason": np.array([RowStatus(int(value)).meaning for value in status], np.dtypes.StringDType()),
            "obsid": columns["obsid"][start:stop], "ra": columns["ra"][start:stop], "dec": columns["dec"][start:stop],
            "snrg": columns["snrg"][start:stop],
        }  # fmt: skip
        write_rows(path, block, start)
    return path
