"""How good a configuration is: splits by star, baselines on the same splits, calibration, a page."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalogue.models import BundleError, load_bundle, load_model, model_class
from catalogue.models.base import Trainable
from catalogue.models.spt import SpectralTransformer
from catalogue.training.baselines import BASELINES, predict_baseline
from catalogue.training.dataset import TrainingSet, split_by_star
from catalogue.training.evaluation_page import write_page
from catalogue.training.observe import Observed
from catalogue.training.train import (
    TrainedModel,
    TrainingConfiguration,
    observe_once,
    observes_alike,
    predict_rows,
    train_on,
    training_set,
)

Rows = list[dict[str, Any]]
LABELS = ("age", "mass")
_BINS: dict[str, tuple[float, ...]] = {
    "age": (0, 2, 4, 6, 8, 20),
    "mass": (0, 1.0, 1.2, 1.4, 1.6, 4),
    "snr": (0, 20, 40, 70, 120, 200, 10_000),
    "feh": (-3, -0.3, -0.1, 0.1, 1),
}


class EvaluationConfiguration(BaseModel):
    """What to evaluate.

    Attributes
    ----------
    training : TrainingConfiguration
    folds : int
        Splits by star; each part is the test set once.
    baselines : tuple of str
    ablations : mapping of str to mapping
        Name to departures from ``training``: ``{"architecture": {...}, "fit": {...}}``; each runs on the first split.
    learning_curve : tuple of float
        Fractions of the training stars, on the first split.
    regions : int
        Wavelength regions of which the spectra are exchanged between stars, on the first split; 0 for none.
    seed : int
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    training: TrainingConfiguration
    folds: int = Field(default=5, ge=2)
    baselines: tuple[str, ...] = BASELINES
    ablations: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    learning_curve: tuple[float, ...] = ()
    regions: int = Field(default=0, ge=0)
    seed: int = 0


def evaluate(
    bundle: Path | None,
    configuration: EvaluationConfiguration,
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a training configuration, and a bundle on the same spectra.

    A bundle has seen its own training stars: only what is trained here on the other parts of each split is a
    test. The bundle's own numbers are given as ``seen`` for comparison.

    Parameters
    ----------
    bundle : Path or None
    configuration : EvaluationConfiguration
    directory : Path
        Gets ``evaluation.json``, ``table.md`` and ``index.html`` with plots.
    progress : callable, optional
        Called with a line for every finished part.

    Returns
    -------
    dict
        Contents of ``evaluation.json``.

    Raises
    ------
    BundleError
        If the bundle is for another survey.
    """
    say = progress or (lambda text: None)
    if bundle is not None:
        _check_survey(bundle, configuration.training.survey)
    directory.mkdir(parents=True, exist_ok=True)
    data = training_set(configuration.training)
    observed = observe_once(configuration.training, data)
    folds = split_by_star(data.labels, configuration.folds, configuration.seed)
    truth = data.labels.physical()
    collected: dict[str, NDArray[np.floating]] = {}
    methods: Rows = []
    first: TrainedModel | None = None
    result = {**_facts(configuration, data), "methods": methods, "bins": [], "variants": [], "regions": []}

    def save(**parts: Any) -> None:
        # after every part, so that an evaluation that is broken off has told what it knew
        result.update(parts)
        (directory / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        for fold in range(configuration.folds):
            train_rows, test_rows = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            place = Path(folder) / f"fold{fold}"
            trained = train_on(configuration.training, data, train_rows, place, observed=observed)
            first = first or trained
            predictions = predict_rows(trained.bundle.path, data.spectra.take(test_rows))
            for name, values in predictions.items():
                collected.setdefault(name, np.full(len(data), np.nan))[test_rows] = values
            summary = summarise(predictions, truth[test_rows])
            methods.append({"method": "model", "fold": fold, "seconds": trained.seconds, **summary})
            say(f"fold {fold}: {_line(summary)}")
            methods += _run_baselines(configuration, trained, data, train_rows, test_rows, fold, say)
            save()
        save(bins=binned(collected, data))
        assert first is not None
        train_rows, test_rows = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
        save(regions=_exchange_regions(configuration, first, data, test_rows))
        variants = _variants(configuration, data, observed, train_rows, test_rows, Path(folder), say)
        save(variants=variants)
    if bundle is not None:
        save(seen=summarise(predict_rows(bundle, data.spectra), truth), bundle=load_bundle(bundle).digest)
    write_page(directory, result, collected, truth)
    return result


def _facts(configuration: EvaluationConfiguration, data: TrainingSet) -> dict[str, Any]:
    """What was evaluated, on what."""
    return {
        "model": configuration.training.model,
        "survey": configuration.training.survey,
        "folds": configuration.folds,
        "stars": len(np.unique(data.labels.star)),
        "spectra": len(data),
        "median_snr": float(np.median(signal_to_noise(data))),
        "set_digest": data.digest,
    }


def _check_survey(bundle: Path, survey: str) -> None:
    """Refuse a bundle for the spectra of another survey, whose pixels it would take for its own."""
    description = load_bundle(bundle).description
    if description.survey != survey:
        raise BundleError(
            f"{bundle}: bundle {description.name} is for survey {description.survey}, training.survey is {survey}"
        )


def _line(summary: Mapping[str, float]) -> str:
    """A summary in a line of progress; see :func:`summarise` for what its entries are."""
    return ", ".join(f"{name} {value:.3g}" for name, value in summary.items())


def summarise(predictions: dict[str, NDArray[np.floating]], truth: NDArray[np.float64]) -> dict[str, float]:
    """Δ_P, bias and scatter in per cent, and the calibration of the errors.

    Δ_P is the mean absolute relative error; bias and scatter are median and robust standard deviation of
    the relative error; ``pull`` is the robust width of (prediction - truth) / total error; ``cover68`` and
    ``cover95`` are the fractions of truths inside the intervals, which without percentiles reach one error to both
    sides; ``sharpness`` is the median relative total error.
    """
    summary = {}
    for index, name in enumerate(LABELS):
        if name not in predictions:
            continue
        value, true = np.asarray(predictions[name], dtype=np.float64), truth[:, index]
        relative = (value - true) / true
        summary[f"{name}_delta_p"] = 100 * float(np.nanmean(np.abs(relative)))
        summary[f"{name}_bias"] = 100 * float(np.nanmedian(relative))
        summary[f"{name}_scatter"] = 148.26 * float(np.nanmedian(np.abs(relative - np.nanmedian(relative))))
        total = f"{name}_error" if f"{name}_error" in predictions else f"{name}_total_error"
        if total not in predictions:
            continue
        error = np.asarray(predictions[total], dtype=np.float64)
        # a forest's trees may agree, which makes an error 0
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = (value - true) / error
        low, high = predictions.get(f"{name}_p16", value - error), predictions.get(f"{name}_p84", value + error)
        inside = (true > low) & (true < high)
        known = np.isfinite(value)
        summary[f"{name}_pull"] = 1.4826 * float(np.nanmedian(np.abs(pull - np.nanmedian(pull))))
        summary[f"{name}_cover68"] = float(inside[known].mean())
        summary[f"{name}_cover95"] = float((np.abs(pull[known]) < 1.96).mean())
        summary[f"{name}_sharpness"] = 100 * float(np.nanmedian(error / value))
    return summary


def binned(predictions: dict[str, NDArray[np.floating]], data: TrainingSet) -> Rows:
    """:func:`summarise` in bins of age, mass, S/N, [Fe/H] and evolutionary state."""
    truth = data.labels.physical()
    values = {"age": truth[:, 0], "mass": truth[:, 1], "snr": signal_to_noise(data), "feh": data.labels.feh}
    parts = [
        (name, _interval(low, high, edges), (values[name] >= low) & (values[name] < high))
        for name, edges in _BINS.items()
        for low, high in itertools.pairwise(edges)
    ]
    parts += [("state", str(state), data.labels.state == state) for state in np.unique(data.labels.state)]
    rows = []
    for name, text, inside in parts:
        if inside.sum() >= 10:
            chosen = {key: column[inside] for key, column in predictions.items()}
            rows.append({"by": name, "bin": text, "spectra": int(inside.sum()), **summarise(chosen, truth[inside])})
    return rows


def _interval(low: float, high: float, edges: tuple[float, ...]) -> str:
    """Words for a bin; the outermost edges stand for none."""
    if low == edges[0]:
        return f"below {high:g}"
    return f"above {low:g}" if high == edges[-1] else f"{low:g} to {high:g}"


def signal_to_noise(data: TrainingSet) -> NDArray[np.float64]:
    """The survey's signal-to-noise ratio of every spectrum: ``snrg``, or ``snrev`` of APOGEE."""
    columns = data.spectra.columns
    return np.asarray(columns["snrg"] if "snrg" in columns else columns["snrev"], dtype=np.float64)


def _components(trained: TrainedModel, data: TrainingSet, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    model = load_model(trained.bundle.path)
    if not isinstance(model, SpectralTransformer):
        raise ValueError(f"baselines need the components of an SPT bundle, found kind {trained.bundle.kind!r}")
    prepared = model._cpu_inputs.prepare(data.spectra.take(rows))
    return np.asarray(model._cpu_inputs.coefficients(prepared.pixels, prepared.good, prepared.noise).numpy())


def _run_baselines(
    configuration: EvaluationConfiguration,
    trained: TrainedModel,
    data: TrainingSet,
    train_rows: NDArray[np.integer],
    test_rows: NDArray[np.integer],
    fold: int,
    say: Callable[[str], None],
) -> Rows:
    if not configuration.baselines or not issubclass(model_class(configuration.training.model), Trainable):
        return []
    truth = data.labels.physical()
    seen, unseen = _components(trained, data, train_rows), _components(trained, data, test_rows)
    rows: Rows = []
    for name in configuration.baselines:
        began = time.perf_counter()
        values = predict_baseline(name, seen, truth[train_rows], unseen, configuration.seed)
        summary = summarise(dict(zip(LABELS, values.T, strict=True)), truth[test_rows])
        rows.append({"method": name, "fold": fold, "seconds": time.perf_counter() - began, **summary})
        say(f"fold {fold}, {name}: {_line(summary)}")
    return rows


def _variants(
    configuration: EvaluationConfiguration,
    data: TrainingSet,
    observed: Observed | None,
    train_rows: NDArray[np.integer],
    test_rows: NDArray[np.integer],
    folder: Path,
    say: Callable[[str], None],
) -> Rows:
    """Ablations and the learning curve, on the first split."""
    tasks: list[tuple[str, TrainingConfiguration, NDArray[np.integer]]] = []
    for name, changes in configuration.ablations.items():
        updated = configuration.training.model_dump()
        for section, values in changes.items():
            updated[section] = {**updated[section], **values}
        tasks.append((name, TrainingConfiguration.model_validate(updated), train_rows))
    stars = np.unique(data.labels.star[train_rows])
    order = np.random.default_rng(configuration.seed).permutation(stars)
    for fraction in configuration.learning_curve:
        chosen = np.isin(data.labels.star[train_rows], order[: max(1, round(fraction * len(stars)))])
        tasks.append((f"{fraction:g} of the stars", configuration.training, train_rows[chosen]))
    rows: Rows = []
    for number, (name, training, chosen_rows) in enumerate(tasks):
        alike = observes_alike(training, configuration.training)
        seen = observed if alike else observe_once(training, data)
        trained = train_on(training, data, chosen_rows, folder / f"variant{number}", observed=seen)
        predictions = predict_rows(trained.bundle.path, data.spectra.take(test_rows))
        summary = summarise(predictions, data.labels.physical()[test_rows])
        rows.append({"variant": name, **summary})
        say(f"{name}: {_line(summary)}")
    return rows


def _exchange_regions(
    configuration: EvaluationConfiguration, trained: TrainedModel, data: TrainingSet, test_rows: NDArray[np.integer]
) -> Rows:
    """Which wavelengths carry the labels: flux and ivar of a region taken from another star."""
    if configuration.regions == 0:
        return []
    spectra, truth = data.spectra.take(test_rows), data.labels.physical()[test_rows]
    before = summarise(predict_rows(trained.bundle.path, spectra), truth)
    wavelength = data.survey.grid.wavelength()
    edges = np.linspace(3850.0, 8950.0, configuration.regions + 1)
    other = np.random.default_rng(configuration.seed).permutation(len(test_rows))
    level = np.median(np.maximum(spectra.flux, 0), axis=1)
    ratio = (level / np.maximum(level[other], 1e-6))[:, None]
    rows: Rows = []
    for low, high in itertools.pairwise(edges):
        inside = np.flatnonzero((wavelength >= low) & (wavelength < high))
        mixed = spectra.take(np.arange(len(test_rows)))
        mixed.flux[:, inside] = spectra.flux[other][:, inside] * ratio
        mixed.ivar[:, inside] = spectra.ivar[other][:, inside] / ratio**2
        after = summarise(predict_rows(trained.bundle.path, mixed), truth)
        increase = {name: after[f"{name}_delta_p"] - before[f"{name}_delta_p"] for name in LABELS}
        rows.append({"from": float(low), "to": float(high), **increase})
    return rows
