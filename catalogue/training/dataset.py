"""Training sets: spectra and labels in the same order, from a survey's store or simulated in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.models.base import SpectraBatch
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import open_store, read_rows
from catalogue.surveys import load_survey
from catalogue.surveys.base import Survey
from catalogue.training.apogee_simulation import ApogeeSimulation, Oscillations, simulate_apogee
from catalogue.training.emulator import GiantEmulator
from catalogue.training.labels import LabelError, LabelTable, check_labels
from catalogue.training.observation import ObservationSettings, with_noise
from catalogue.training.simulate import SimulationConfiguration, observe_stars, repeat_visits, simulated_stars

COLUMNS = ("z", "file_z", "snrg", "snrev", "teff", "logg", "feh", "fe_h", "teff_err", "fe_h_err")
"""Per-row columns that a training set keeps, of any survey."""

_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class TrainingSet:
    """Spectra with labels.

    Attributes
    ----------
    spectra : SpectraBatch
        The per-row columns of :data:`COLUMNS` that the survey has; ``teff``, ``logg`` and [Fe/H] of the labels where
        it has none.
    labels : LabelTable
        Row i belongs to spectrum i.
    survey : Survey
    digest : str
        SHA-256 of spectra and labels.
    unusable : int
        Rows with labels whose spectrum is missing, damaged or a duplicate; left out.
    oscillations : Oscillations or None
        Power spectrum i belongs to spectrum i.
    noiseless : ndarray of float32, shape (rows, pixels), or None
        Flux before noise, where a simulation knows it: a training then sees noise drawn anew, see :func:`redrawn`.
    observation : ObservationSettings or None
        How the simulation observed.
    """

    spectra: SpectraBatch
    labels: LabelTable
    survey: Survey
    digest: str
    unusable: int = 0
    noiseless: NDArray[np.float32] | None = None
    observation: ObservationSettings | None = None
    oscillations: Oscillations | None = None

    def __len__(self) -> int:
        return len(self.labels)


def load_training_set(survey: Survey, store: Path, labels: LabelTable, key: str, partial: bool = False) -> TrainingSet:
    """Match an ingested survey with labels by key.

    Parameters
    ----------
    survey : Survey
    store : Path
        ``spectra.zarr``.
    labels : LabelTable
    key : str
        Store column that the labels' key matches.
    partial : bool
        Whether labels without a row in the store are ignored instead of refused.

    Raises
    ------
    LabelError
        If keys of the labels are not in the store, or no row is usable.
    StoreError
        If the store cannot be read.
    """
    check_labels(labels)
    group: Any = open_store(store)
    n_rows = group["status"].shape[0]
    about = read_rows(group, [key, "status"], 0, n_rows)
    # of repeated rows the first is taken: the others are the same spectrum
    row_of_key = {str(value): row for row, value in reversed(list(enumerate(about[key].tolist())))}
    known = np.array([name in row_of_key for name in labels.key.tolist()], dtype=bool)
    if not known.all() and (not partial or not known.any()):
        examples = ", ".join(labels.key[~known][:5].tolist())
        raise LabelError(
            f"{(~known).sum()} of {len(labels)} label keys are not among the {n_rows} rows of {store} ({key}), "
            f"first {examples}" + ("" if partial else "; partial: true leaves them out")
        )
    rows = np.array([row_of_key[name] for name in labels.key[known].tolist()], dtype=np.int64)
    fine = about["status"][rows] == int(RowStatus.OK)
    if not fine.any():
        raise LabelError(f"none of {len(rows)} labelled rows of {store} has a usable spectrum")
    chosen = labels.take(np.flatnonzero(known)[fine])
    rows = rows[fine]
    order = np.argsort(rows)
    rows, chosen = rows[order], chosen.take(order)
    return _complete(_read(group, survey, rows), chosen, survey, int((~fine).sum()))


def simulate_training_set(configuration: SimulationConfiguration) -> TrainingSet:
    """What simulating a survey, ingesting it and loading it gives, without the files."""
    generator = np.random.default_rng(configuration.seed)
    emulator = GiantEmulator()
    survey = load_survey("lamost-lrs")
    labels = repeat_visits(simulated_stars(configuration, generator), configuration.visits)
    check_labels(labels)
    flux, ivar, noiseless = np.zeros((3, len(labels), survey.grid.n_pixels), dtype=np.float32)
    mask = np.zeros(flux.shape, dtype=survey.mask_dtype)
    shifts, snrg = np.zeros((2, len(labels)))
    for first in range(0, len(labels), 256):
        part = slice(first, min(first + 256, len(labels)))
        observed = observe_stars(emulator, labels.take(np.arange(part.start, part.stop)), generator, configuration)
        width = observed.flux.shape[1]
        flux[part, :width], ivar[part, :width] = observed.flux, observed.ivar
        noiseless[part, :width] = observed.noiseless
        mask[part, :width] = observed.andmask | (observed.ormask.astype(mask.dtype) << 8)
        shifts[part], snrg[part] = observed.redshift, observed.snr[:, 1]
    columns = {"z": shifts, "file_z": shifts, "snrg": snrg}
    spectra = SpectraBatch(0, flux, ivar, mask, np.ones(len(labels), dtype=bool), columns)
    data = _complete(spectra, labels, survey, 0)
    return replace(data, noiseless=noiseless, observation=configuration.observation)


def without_noise(data: TrainingSet, rows: NDArray[np.integer]) -> SpectraBatch | None:
    """Some rows with the flux before noise, where a simulation knows it."""
    if data.noiseless is None:
        return None
    return replace(data.spectra.take(rows), flux=data.noiseless[rows])


def redrawn(data: TrainingSet, rows: NDArray[np.integer], draws: int, seed: int) -> Iterator[SpectraBatch]:
    """Some rows observed again and again: with other noise, each time at the signal-to-noise ratio of another of them.

    The noise is drawn on the survey's pixels, before anything is fitted to them or interpolated, as only then what a
    model sees is as noisy, and as correlated from pixel to pixel, as what it will be given.

    Parameters
    ----------
    data : TrainingSet
        Nothing is yielded of one whose flux before noise is not known.
    rows : ndarray of int
    draws : int
    seed : int

    Yields
    ------
    SpectraBatch
        ``len(rows)`` spectra.
    """
    if data.noiseless is None or data.observation is None:
        return
    generator = np.random.default_rng(seed)
    observed = data.spectra.take(rows)
    snrg = observed.columns["snrg"].astype(np.float64)
    for _ in range(draws):
        # a star is seen at all ratios that occur, not at the few of its visits
        factor = (snrg / snrg[generator.permutation(len(rows))]).astype(np.float32)[:, None]
        flux, ivar = np.empty_like(observed.flux), observed.ivar / factor**2
        for part in np.split(np.arange(len(rows)), range(_BLOCK_ROWS, len(rows), _BLOCK_ROWS)):
            sigma = np.where(ivar[part] > 0, 1.0 / np.sqrt(np.where(ivar[part] > 0, ivar[part], 1.0)), 0.0)
            flux[part] = with_noise(data.noiseless[rows[part]], sigma, generator, data.observation)
        columns = {**observed.columns, "snrg": snrg / factor[:, 0]}
        yield replace(observed, flux=flux, ivar=ivar, columns=columns)


def simulate_apogee_set(configuration: ApogeeSimulation) -> TrainingSet:
    """Simulated APOGEE spectra and power spectra of stars with known ages."""
    labels, spectra, oscillations = simulate_apogee(configuration)
    return replace(_complete(spectra, labels, load_survey("apogee"), 0), oscillations=oscillations)


def read_oscillations(path: Path, labels: LabelTable) -> Oscillations:
    """Power spectra of the stars of a label table, in its order.

    Parameters
    ----------
    path : Path
        ``.npz`` with ``key`` (stars,) as in the label table, ``log_power`` (stars, frequencies), the natural logarithm
        of power over background on the grid of :func:`~catalogue.models.latent_network.frequency_grid`, and ``numax``
        and ``separation`` (stars,) in μHz.
    labels : LabelTable

    Raises
    ------
    LabelError
        If the file is not of this form, or a star of the labels is not in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            key, log_power, numax, separation = (file[name] for name in ("key", "log_power", "numax", "separation"))
    except (OSError, KeyError, ValueError) as error:
        raise LabelError(f"{path}: expected arrays key, log_power, numax and separation: {error}") from error
    position = {str(name): row for row, name in enumerate(key.tolist())}
    missing = [name for name in labels.key.tolist() if name not in position]
    if missing:
        raise LabelError(f"{path}: no power spectrum of {len(missing)} of {len(labels)} stars, first {missing[0]}")
    rows = np.array([position[name] for name in labels.key.tolist()])
    found = Oscillations(log_power[rows].astype(np.float32), numax[rows].astype(float), separation[rows].astype(float))
    if not (np.isfinite(found.log_power).all() and (found.numax > 0).all()):
        raise LabelError(f"{path}: expected finite power and positive numax")
    return found


def _read(group: Any, survey: Survey, rows: NDArray[np.int64]) -> SpectraBatch:
    names = [name for name in COLUMNS if name in group]
    n_rows = group["status"].shape[0]
    columns = {name: values[rows] for name, values in read_rows(group, names, 0, n_rows).items()}
    pixels: dict[str, list[NDArray[Any]]] = {"flux": [], "ivar": [], "mask": []}
    for start in range(0, n_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, n_rows)
        inside = rows[(rows >= start) & (rows < stop)] - start
        if inside.size:
            block = read_rows(group, list(pixels), start, stop)
            for name, parts in pixels.items():
                parts.append(block[name][inside])
    flux, ivar, mask = (np.concatenate(parts) for parts in pixels.values())
    return SpectraBatch(0, flux, ivar, mask, np.ones(len(rows), dtype=bool), columns)


def _complete(spectra: SpectraBatch, labels: LabelTable, survey: Survey, unusable: int) -> TrainingSet:
    digest = hashlib.sha256()
    for array in (spectra.flux, spectra.ivar, spectra.mask, labels.physical(), labels.covariance()):
        digest.update(np.ascontiguousarray(array).tobytes())
    columns = dict(spectra.columns)
    metallicity = "fe_h" if "fe_h" in columns else "feh"
    for name, label in (("teff", "teff"), ("logg", "logg"), (metallicity, "feh")):
        if name not in columns or not np.isfinite(columns[name].astype(np.float64)).any():
            columns[name] = getattr(labels, label)
    return TrainingSet(replace(spectra, columns=columns), labels, survey, digest.hexdigest(), unusable)


def split_by_star(labels: LabelTable, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of every row, 0 to ``folds - 1``; all rows of a star are in the same.

    Raises
    ------
    LabelError
        If there are fewer stars than folds.
    """
    stars, index = np.unique(labels.star, return_inverse=True)
    if len(stars) < folds:
        raise LabelError(f"{folds} folds need as many stars, found {len(stars)}")
    assigned = np.random.default_rng(seed).permutation(len(stars)) % folds
    return np.asarray(assigned[index], dtype=np.int64)
