"""How far simulated LAMOST giants are from real ones, and what a bundle says of the real ones.

Run: ``python -m benchmarks.reality_gap DATA [--bundle spt-lamost] [--table FILE] [--instrument DIR]`` with DATA holding
``lamost/dr10_stellar_subset.csv`` and its files in ``lamost/dr10``. Prints the differences between emulated and real
giants by wavelength, for giants that the correction has not been measured on, then ages, masses and novelty of all real
giants against the survey's own parameters. ``--table`` measures the correction on all good giants and writes it,
``--instrument`` the tables of noise, response and masks that simulated spectra are observed with.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.codecs import chunk
from catalogue.models import InferenceSettings, SpectraBatch, find_bundle, load_model
from catalogue.models.preprocessing import GridSettings, Preprocessing, PreprocessingSettings, redshift
from catalogue.surveys import load_survey
from catalogue.training.correction import (
    EmulatorCorrection,
    load_correction,
    measure_correction,
    rest_wavelengths,
    save_correction,
)
from catalogue.training.emulator import GiantEmulator
from catalogue.training.instrument import InstrumentTable, measure_instrument, save_instrument
from catalogue.training.observation import N_PIXELS, at_redshift
from catalogue.training.population import draw_population

REGIONS = (3820, 4300, 4700, 5300, 5740, 7000, 8930)
ALPHA = ("om", "mgm", "sim", "cam", "tim")
ABUNDANCES = {"cm": "c_fe", "nm": "n_fe", **dict.fromkeys(ALPHA, "alpha_fe")}
FITTED = {"c_fe": 0.2, "n_fe": 0.2, "alpha_fe": 0.1}
"""Abundances that every real giant has its own of, and the prior standard deviation about the typical one, dex."""
LARGEST_OFFSET, STEP = 0.4, 0.1
UNLIKE = 0.03
"""Standard deviation, relative, by which real giants differ from emulated ones beyond noise."""


def giants(data: Path) -> SpectraBatch:
    """The real giants: rows of the parent table with a file, 3,900 < Teff < 5,600 K and log g < 3.6."""
    survey = load_survey("lamost-lrs")
    table = np.genfromtxt(
        data / "lamost" / "dr10_stellar_subset.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    rows, read = [], []
    for row in table:
        path = data / "lamost" / "dr10" / str(row["filename"])
        if path.is_file() and 3900 < row["teff"] < 5600 and row["logg"] < 3.6:
            rows.append(row)
            read.append(survey.read(path))
    arrays = chunk(survey, read, 1)
    columns = {name: np.array([row[name] for row in rows]) for name in ("z", "teff", "logg", "feh", "snrg")}
    return SpectraBatch(0, arrays["flux"], arrays["ivar"], arrays["mask"], np.ones(len(rows), bool), columns)


def instrument_of(stars: SpectraBatch) -> InstrumentTable:
    """Noise, response and masks of the stars' native pixels."""
    flux, ivar, mask = stars.flux[:, :N_PIXELS], stars.ivar[:, :N_PIXELS], stars.mask[:, :N_PIXELS]
    bits = load_survey("lamost-lrs").mask_bits
    chosen = [sum(1 << bit.bit for bit in bits if bit.name.startswith(kind)) for kind in ("AND_", "OR_")]
    columns = numbers(stars)
    masks = [mask & bits_of_kind for bits_of_kind in chosen]
    lines = emulated(columns, load_correction(), N_PIXELS, redshift(stars))
    return measure_instrument(np.nan_to_num(flux), ivar, masks, lines, columns["teff"], columns["snrg"])


def emulated(
    columns: dict[str, NDArray[np.float64]],
    correction: EmulatorCorrection | None,
    pixels: int,
    shift: NDArray[np.float64] | None = None,
    offsets: NDArray[np.float64] | None = None,
) -> NDArray:
    """The same stars from the emulator, with abundances that are typical of their Teff, log g and [Fe/H].

    At rest, or at the redshifts ``shift``; with the abundances :data:`FITTED` higher by ``offsets``, shape (stars, 3).
    """
    emulator = GiantEmulator()
    typical = draw_population(20_000, np.random.default_rng(0))
    design = lambda x: np.stack([np.ones(len(x["teff"])), x["teff"] / 500, x["logg"], x["feh"]], axis=1)  # noqa: E731
    known = design({name: getattr(typical, name) for name in ("teff", "logg", "feh")})
    labels = {"teff": columns["teff"], "logg": columns["logg"], "mh": columns["feh"]}
    for name, column in ABUNDANCES.items():
        if name in emulator.label_names:
            solution = np.linalg.lstsq(known, np.nan_to_num(getattr(typical, column)), rcond=None)[0]
            labels[name] = design(columns) @ solution
            if offsets is not None:
                labels[name] = labels[name] + offsets[:, list(FITTED).index(column)]
    spectra = emulator.spectra(emulator.complete(labels))
    if correction is not None:
        spectra = spectra * correction.factors(rest_wavelengths(), columns["teff"], columns["feh"])
    found = np.zeros((len(spectra), pixels), np.float32)
    found[:, :N_PIXELS] = at_redshift(spectra, np.zeros(len(spectra)) if shift is None else shift)
    return found


def numbers(stars: SpectraBatch) -> dict[str, NDArray[np.float64]]:
    """Columns of the stars."""
    return {name: values.astype(np.float64) for name, values in stars.columns.items()}


def normalised(settings: PreprocessingSettings, flux: NDArray, ivar: NDArray, shift: NDArray) -> tuple:
    """Wavelength, flux, noise and goodness as a bundle's preprocessing makes them."""
    preprocessing = Preprocessing(settings)
    result = preprocessing(flux, ivar, np.zeros(flux.shape, np.uint16), shift)
    return preprocessing.wavelength, result.flux.numpy(), result.variance.sqrt().numpy(), result.good.numpy()


def fitted_abundances(
    stars: SpectraBatch,
    settings: PreprocessingSettings,
    correction: EmulatorCorrection | None,
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Offsets of the abundances :data:`FITTED` from typical ones by one step of least squares from ``start``, dex."""
    _, real, noise, fine = normalised(settings, stars.flux, stars.ivar, redshift(stars))

    def model(offsets: NDArray[np.float64]) -> tuple:
        flux = emulated(numbers(stars), correction, stars.flux.shape[1], offsets=offsets)
        ivar = np.where(flux > 0, 1e6, 0).astype(np.float32)
        return normalised(settings, flux, ivar, np.zeros(len(flux)))

    _, middle, _, kept = model(start)
    slopes = np.stack([(model(start + STEP * one)[1] - middle) / STEP for one in np.eye(len(FITTED))], axis=1)
    weight = np.where(fine & kept, 1 / (noise.astype(float) ** 2 + UNLIKE**2), 0.0)
    prior = np.array([sigma**-2 for sigma in FITTED.values()])
    normal = np.einsum("sap,sbp,sp->sab", slopes, slopes, weight, optimize=True) + np.diag(prior)
    right = np.einsum("sap,sp->sa", slopes, weight * (real - middle)) - prior * start
    found = start + np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return np.asarray(np.clip(found, -LARGEST_OFFSET, LARGEST_OFFSET))


def correction_of(
    stars: SpectraBatch, settings: PreprocessingSettings
) -> tuple[EmulatorCorrection, NDArray[np.float64]]:
    """The correction measured on the stars with abundances of their own, and the offsets of those from typical ones.

    With typical abundances, bands of molecules whose strength changes otherwise with Teff than the built-in population
    has it would go into the correction's slopes. The abundances are fitted with only the mean difference corrected: it
    would go into them otherwise, more into those of cool stars, and slopes would hide the abundances that made them.
    """
    grid, given = load_survey("lamost-lrs").grid, settings.model_dump(exclude={"grid"})

    def measured(offsets: NDArray[np.float64]) -> EmulatorCorrection:
        model = emulated(numbers(stars), None, stars.flux.shape[1], offsets=offsets)
        return measure_correction(stars, grid, given, model)

    offsets = np.zeros((len(stars), len(FITTED)))
    correction = measured(offsets)
    for _ in range(2):
        mean = replace(correction, terms=correction.terms * np.array([[1.0], [0.0], [0.0]]))
        offsets = fitted_abundances(stars, settings, mean, offsets)
        # what all stars have in common is as much the emulator's error as theirs
        offsets -= offsets.mean(axis=0)
        correction = measured(offsets)
    return correction, offsets


def print_differences(stars: SpectraBatch, settings: PreprocessingSettings) -> None:
    """Root mean square differences on giants that the correction was not measured on, and once they are fitted too."""
    pixels = stars.flux.shape[1]
    good = np.flatnonzero(numbers(stars)["snrg"] > 60)
    measured, unseen = good[: round(0.6 * len(good))], good[round(0.6 * len(good)) :]
    correction, _ = correction_of(stars.take(measured), settings)
    test = stars.take(unseen)
    wavelength, real, noise, fine = normalised(settings, test.flux, test.ivar, redshift(test))
    print(f"\nRMS difference in % on {len(unseen)} giants with S/N > 60; correction measured on {len(measured)} others")
    columns = []
    own = fitted_abundances(test, settings, correction, np.zeros((len(test), len(FITTED))))
    for table, offsets in ((None, None), (correction, None), (correction, own)):
        flux = emulated(numbers(test), table, pixels, offsets=offsets)
        ivar = np.where(flux > 0, 1e6, 0).astype(np.float32)
        _, model, _, kept = normalised(settings, flux, ivar, np.zeros(len(flux)))
        columns.append(np.where(fine & kept, real - model, np.nan))
    columns.append(np.where(fine, noise, np.nan))
    print(f"{'Å':>12s} {'emulated':>9s} {'corrected':>9s} {'fitted':>9s} {'noise':>9s}")
    for low, high in itertools.pairwise(REGIONS):
        inside = (wavelength >= low) & (wavelength < high)
        values = [100 * np.sqrt(np.nanmean(column[:, inside] ** 2)) for column in columns]
        print(f"{low:>6d}-{high:<5d} " + " ".join(f"{value:9.1f}" for value in values))


def print_predictions(stars: SpectraBatch, bundle: str) -> None:
    """Ages, masses and novelty of the real giants."""
    model = load_model(find_bundle(bundle, Path()))
    found = model.predict(stars, InferenceSettings(device="cpu"))
    about = model.bundle.description
    columns, limit = numbers(stars), about.novelty_limit or np.inf
    inside = np.ones(len(stars), bool)
    for name, (low, high) in about.domain.items():
        inside &= (columns[name] >= low) & (columns[name] <= high)
    print(f"\n{about.name} {about.version}: {len(stars)} real giants, {inside.sum()} of them within the domain")
    for text, chosen in (("all", np.ones(len(stars), bool)), ("within the domain", inside)):
        answered = chosen & np.isfinite(found["age"])
        novelty = found["novelty"][chosen]
        print(f"{text}: {answered.sum()} of {chosen.sum()} have an age; novelty above {limit}: "
              f"{(novelty > limit).sum()}, median {np.nanmedian(novelty):.2f}")  # fmt: skip
        for name, unit in (("age", "Gyr"), ("mass", "solMass")):
            spread = np.quantile(found[name][answered], [0.16, 0.5, 0.84])
            print(f"  {name}: 16, 50, 84 % at {', '.join(f'{v:.2f}' for v in spread)} {unit}")
        ranks = [_rank_correlation(found["age"][answered], columns[n][answered]) for n in ("teff", "logg", "feh")]
        print("  rank correlation of age with teff, logg, feh: " + ", ".join(f"{value:+.2f}" for value in ranks))
    bright = columns["snrg"] > 60
    novelty = found["novelty"][bright]
    print(f"S/N > 60: {(novelty > limit).sum()} of {bright.sum()} above, median {np.nanmedian(novelty):.2f}")


def _rank_correlation(one: NDArray, other: NDArray) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", default="spt-lamost")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--instrument", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    stars = giants(options.data)
    used = load_model(find_bundle(options.bundle, Path())).bundle.description.preprocessing
    fields = {name: used[name] for name in PreprocessingSettings.model_fields if name in used and name != "grid"}
    survey = load_survey("lamost-lrs")
    settings = PreprocessingSettings.model_validate({"grid": GridSettings.of(survey.grid), **fields})
    print_differences(stars, settings)
    print_predictions(stars, options.bundle)
    if options.table:
        good = stars.take(np.flatnonzero(numbers(stars)["snrg"] > 30))
        found, offsets = correction_of(good, settings)
        shipped = load_correction()
        at = found.log10_wavelength
        middle = np.interp(at, shipped.log10_wavelength, shipped.terms[0])
        print(f"\ncorrection of {len(good)} giants: RMS {100 * found.terms[0].std():.2f} %, "
              f"difference from the shipped one {100 * (found.terms[0] - middle).std():.2f} %")  # fmt: skip
        for name, values in zip(FITTED, offsets.T, strict=True):
            slope = np.polyfit(numbers(good)["teff"] / 250, values, 1)[0]
            print(f"{name} from typical: mean {values.mean():+.3f}, standard deviation {values.std():.3f}, "
                  f"{slope:+.3f} per 250 K, {(np.abs(values) >= LARGEST_OFFSET).sum()} at the limit")  # fmt: skip
        save_correction(found, options.table)
    if options.instrument:
        save_instrument(instrument_of(stars), options.instrument)


if __name__ == "__main__":
    main()
