"""From labelled spectra to a bundle."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from catalogue.config import ConfigurationError
from catalogue.models import load_model, model_class
from catalogue.models.base import (
    Completion,
    InferenceSettings,
    LabelledSpectra,
    LabelScale,
    NetworkInputs,
    SpectraBatch,
    Trainable,
)
from catalogue.models.bundle import Bundle, Description
from catalogue.surveys import load_survey
from catalogue.surveys.base import Survey
from catalogue.training.apogee_simulation import ApogeeSimulation
from catalogue.training.dataset import (
    TrainingSet,
    load_training_set,
    read_oscillations,
    redrawn,
    simulate_apogee_set,
    simulate_training_set,
    split_by_star,
    without_noise,
)
from catalogue.training.fit import FitResult, FitSettings, Progress, Targets, fit
from catalogue.training.labels import LabelError, read_labels
from catalogue.training.observe import Observed, observe
from catalogue.training.simulate import SimulationConfiguration

Parameter = Literal["teff", "logg", "feh", "alpha_fe", "c_fe", "n_fe"]
"""Column of a label table that inputs and networks may learn."""


class TrainingConfiguration(BaseModel):
    """What to train, on what.

    Attributes
    ----------
    survey, model : str
        Registered names.
    store, labels : Path or None
        An ingested ``spectra.zarr`` and a label table whose ``key`` column matches the store's.
    oscillations : Path or None
        Power spectra of the stars of ``labels``, for models that learn them; see
        :func:`~catalogue.training.dataset.read_oscillations`.
    simulation : SimulationConfiguration, ApogeeSimulation or None
        Instead of these files: spectra simulated in memory, the same as from the simulated files.
    partial : bool
        Whether label keys that are not in the store are ignored instead of refused.
    name, version : str
        Of the bundle.
    preprocessing, architecture : dict
        Departures from the model's defaults.
    fit : FitSettings
    companions : SimulationConfiguration or None
        Simulated stars, none of them of the sample, from which the model's inputs are learnt instead of from the
        sample's spectra: components, and the regression for stellar parameters.
    auxiliary : tuple of str
        Columns of the label table, as ``teff``, that the network learns beside age and mass. A bundle keeps
        nothing of them.
    draws : int
        Times that every star of a simulated training set is observed with other noise; each step of the fit takes one
        of these observations at random.
    companion_draws : int
        The same for the companions.
    held_out : float
        Fraction of the stars that stop the training, and again of those, others, that calibrate the errors.
    relearn : bool
        Whether the network is trained once more, now on all stars and as long as the first time, after stars held out
        have told when to stop and how large the errors are. The units of labels and, without companions, the inputs
        stay those of the first training; what a bundle says of unseen stars is of that one too, and called so.
    require_states : tuple of str
        Evolutionary states of which there must be stars, as ``[RGB, RC]``.
    passes, seed : int
        Of MC-dropout.
    citation, licence, notes : str
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    survey: str = "lamost-lrs"
    model: str = "spt"
    store: Path | None = None
    labels: Path | None = None
    key: str = "obsid"
    partial: bool = False
    oscillations: Path | None = None
    simulation: ApogeeSimulation | SimulationConfiguration | None = None
    name: str
    version: str = "0.1.0"
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    architecture: dict[str, Any] = Field(default_factory=dict)
    fit: FitSettings = FitSettings()
    companions: SimulationConfiguration | None = None
    auxiliary: tuple[Parameter, ...] = ()
    draws: int = Field(default=12, ge=1)
    companion_draws: int = Field(default=4, ge=0)
    held_out: float = Field(default=0.06, gt=0, lt=0.4)
    relearn: bool = False
    require_states: tuple[str, ...] = ()
    passes: int = Field(default=100, ge=2)
    seed: int = 0
    citation: str = ""
    licence: str = "BSD-3-Clause"
    notes: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> TrainingConfiguration:
        given = self.store is not None and self.labels is not None
        if given == (self.simulation is not None):
            raise ValueError("give either store and labels, or simulation")
        return self


_HELD_OUT, _ALL_STARS = "held-out", "all-stars"
"""Folders of the states of a training's two fits."""

_NOT_RECORDED = {"store", "labels", "oscillations", "architecture", "preprocessing"}


@dataclass(frozen=True)
class TrainedModel:
    """A bundle, and what its training took.

    Attributes
    ----------
    bundle : Bundle
    result : FitResult
    seconds : float
        Wall time from spectra to bundle, or from what was observed once for several trainings.
    """

    bundle: Bundle
    result: FitResult
    seconds: float


def train(configuration: TrainingConfiguration, directory: Path, progress: Progress | None = None) -> Path:
    """Train a model and write its bundle to ``directory``.

    An interrupted training goes on from its last epoch when called again; its state lies in
    ``<directory>.training`` and is removed at the end.

    Returns
    -------
    Path
        ``directory``.

    Raises
    ------
    ConfigurationError
        For a survey or model that is unknown or cannot be trained.
    LabelError
        For labels that cannot be used, keys that do not match, fewer usable stars than components or a missing state.
    """
    _trainable(configuration)  # before minutes of simulating
    data = training_set(configuration)
    checkpoint = directory.with_name(directory.name + ".training")
    observed = observe_once(configuration, data)
    train_on(configuration, data, np.arange(len(data)), directory, progress, checkpoint, observed)
    for part in (_HELD_OUT, _ALL_STARS):
        shutil.rmtree(checkpoint / part, ignore_errors=True)
    with suppress(OSError):  # what else lies there is not of this training
        checkpoint.rmdir()
    return directory


def training_set(configuration: TrainingConfiguration) -> TrainingSet:
    """The training set of a configuration, checked."""
    if isinstance(configuration.simulation, ApogeeSimulation):
        data = simulate_apogee_set(configuration.simulation)
    elif configuration.simulation is not None:
        data = simulate_training_set(configuration.simulation)
    else:
        assert configuration.store is not None
        assert configuration.labels is not None
        labels = read_labels(configuration.labels, configuration.key)
        try:
            survey = load_survey(configuration.survey)
        except KeyError as error:
            raise ConfigurationError(f"survey: {error.args[0]}") from error
        data = load_training_set(survey, configuration.store, labels, configuration.key, configuration.partial)
        if configuration.oscillations is not None:
            data = replace(data, oscillations=read_oscillations(configuration.oscillations, data.labels))
    for state in configuration.require_states:
        if not (data.labels.state == state).any():
            found = ", ".join(sorted(set(data.labels.state.tolist()))) or "none"
            raise LabelError(f"no star of state {state!r} has labels and a usable spectrum; states found: {found}")
    return data


def learn_inputs(configuration: TrainingConfiguration, survey: Survey) -> NetworkInputs | None:
    """Inputs learnt from the configuration's companions, which are the same for every split; None without them."""
    if configuration.companions is None:
        return None
    data = simulate_training_set(configuration.companions)
    columns = {name: getattr(data.labels, name) for name in get_args(Parameter)}
    everyone = np.arange(len(data))
    spectra = replace(data.spectra, columns={**data.spectra.columns, **columns})
    noiseless = without_noise(data, everyone)
    model = _trainable(configuration)
    others = redrawn(data, everyone, configuration.companion_draws, configuration.seed)
    return model.fit_inputs(spectra, survey.grid, configuration.preprocessing, configuration.seed, noiseless, others)


_DECIDE_OBSERVATIONS = ("survey", "model", "preprocessing", "companions", "companion_draws", "draws", "seed")


def observe_once(configuration: TrainingConfiguration, data: TrainingSet) -> Observed | None:
    """All rows of a training set with inputs learnt from companions, for any number of trainings on some of them.

    None without companions, as inputs are then learnt from the rows of each training.
    """
    inputs = learn_inputs(configuration, data.survey)
    if inputs is None:
        return None
    return observe(inputs, data, np.arange(len(data)), configuration.draws, configuration.seed)


def observes_alike(one: TrainingConfiguration, other: TrainingConfiguration) -> bool:
    """Whether :func:`observe_once` gives the same for two configurations on the same training set."""
    return all(getattr(one, name) == getattr(other, name) for name in _DECIDE_OBSERVATIONS)


def _trainable(configuration: TrainingConfiguration) -> type[Trainable]:
    model = model_class(configuration.model)
    if not issubclass(model, Trainable):
        raise ConfigurationError(f"model: {configuration.model!r} cannot be trained here: it is not Trainable")
    if configuration.auxiliary and not model.learns_parameters:
        raise ConfigurationError(f"auxiliary: model {configuration.model!r} learns no auxiliary parameters")
    return model


@contextmanager
def _told_of(configuration: TrainingConfiguration, n_spectra: int) -> Iterator[None]:
    """Context in which what a model's preprocessing refuses is said of the labelled spectra that it was given."""
    try:
        yield
    except ValidationError:
        raise
    except ValueError as error:
        raise LabelError(f"model {configuration.model!r} on {n_spectra} labelled spectra: {error}") from error


def train_on(
    configuration: TrainingConfiguration,
    data: TrainingSet,
    rows: NDArray[np.integer],
    directory: Path,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    observed: Observed | None = None,
) -> TrainedModel:
    """Train on some rows of a training set.

    ``observed`` is that of :func:`observe_once`, of all rows, of which none but ``rows`` reach the fit; without it
    inputs are learnt from the rows.
    """
    began = time.perf_counter()
    model = _trainable(configuration)
    learn, stop, calibrate = stars_apart(configuration, data, rows)
    used = np.sort(rows if configuration.relearn else np.concatenate([learn, stop]))
    if observed is None:
        inputs = _fit_inputs(configuration, data, learn)
        seen = observe(inputs, data, used, configuration.draws, configuration.seed)
    else:
        inputs, seen = observed.inputs, observed.take(used)
    with _told_of(configuration, len(learn)):
        scale = model.fit_labels(data.labels.physical()[learn])
    fits = _Fits(configuration, data, used, inputs, seen, scale, _targets(configuration, data, used, learn, scale))
    result = fits.fit(learn, stop, configuration.fit, progress, checkpoint and checkpoint / _HELD_OUT)
    description = _description(configuration, data, learn, model)
    with tempfile.TemporaryDirectory() as folder:
        learnt = fits.complete(Path(folder) / "raw", description, result, learn)
        complete = fits.bundle(Path(folder) / "complete", description, result, learnt)
        with _told_of(configuration, len(calibrate)):
            calibration = model.calibrate(description.architecture, complete, _labelled(data, calibrate))
        calibrated = fits.bundle(Path(folder) / "calibrated", description, result, learnt, calibration)
        unseen = _unseen(data, calibrate, predict_rows(calibrated.path, data.spectra.take(calibrate)))
        best = result.history[result.best_epoch]
        metrics = {"best_epoch": result.best_epoch, "validation_loss": best["validation"], **unseen}
        if configuration.relearn:
            metrics = {f"before_relearning_{name}": value for name, value in metrics.items()}
            metrics["epochs"] = len(result.history)
            as_long = configuration.fit.model_copy(update={"epochs": len(result.history)})
            result = fits.fit(used, None, as_long, progress, checkpoint and checkpoint / _ALL_STARS)
            description = _description(configuration, data, used, model)
            learnt = fits.complete(Path(folder) / "again", description, result, used)
    metrics["training_seconds"] = round(time.perf_counter() - began, 1)
    bundle = fits.bundle(directory, description.model_copy(update={"metrics": metrics}), result, learnt, calibration)
    return TrainedModel(bundle, result, time.perf_counter() - began)


@dataclass(frozen=True)
class _Fits:
    """The fits of one training, and bundles of them: what they have in common.

    ``used`` are the rows of the training set that ``seen`` and ``targets`` are of.
    """

    configuration: TrainingConfiguration
    data: TrainingSet
    used: NDArray[np.integer]
    inputs: NetworkInputs
    seen: Observed
    scale: LabelScale
    targets: Targets

    def fit(
        self,
        learn: NDArray[np.integer],
        stop: NDArray[np.integer] | None,
        settings: FitSettings,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> FitResult:
        """Fit a network to the usable of the rows ``learn``."""
        return fit(
            _trainable(self.configuration), _architecture(self.configuration), self.inputs, self.seen.prepared,
            self.targets, self._usable(learn), None if stop is None else self._usable(stop), settings, progress,
            checkpoint, self.seen.draws, self.seen.features,
        )  # fmt: skip

    def _usable(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Where among the used rows those of ``rows`` are that can be used."""
        found = np.flatnonzero(np.isin(self.used, rows) & self.seen.usable)
        if not len(found):
            raise LabelError(
                f"of {len(self.used)} spectra {self.seen.usable.sum()} are usable in all observations: none is left to "
                "learn from"
            )
        return found

    def complete(
        self, path: Path, description: Description, result: FitResult, learn: NDArray[np.integer]
    ) -> Completion:
        """What the model learns beside its network from the same rows."""
        raw = self.bundle(path, description, result)
        with _told_of(self.configuration, len(learn)):
            labelled = _labelled(self.data, learn)
            return _trainable(self.configuration).complete(description.architecture, raw, labelled)

    def bundle(self, path: Path, description: Description, result: FitResult, *completions: Completion) -> Bundle:
        """Write a bundle with what completions add."""
        architecture = dict(description.architecture)
        arrays: dict[str, NDArray[np.generic]] = {}
        for completion in completions:
            architecture |= completion.architecture
            arrays |= completion.arrays
        complete = description.model_copy(update={"architecture": architecture})
        model = _trainable(self.configuration)
        return model.to_bundle(path, complete, self.inputs, result.network, self.scale, arrays)


def _fit_inputs(configuration: TrainingConfiguration, data: TrainingSet, learn: NDArray[np.integer]) -> NetworkInputs:
    """Inputs learnt from the rows that the network learns from."""
    with _told_of(configuration, len(learn)):
        return _trainable(configuration).fit_inputs(
            data.spectra.take(learn),
            data.survey.grid,
            configuration.preprocessing,
            configuration.seed,
            without_noise(data, learn),
            redrawn(data, learn, configuration.companion_draws, configuration.seed),
        )


def _unseen(
    data: TrainingSet, rows: NDArray[np.integer], predictions: dict[str, NDArray[np.floating]]
) -> dict[str, float]:
    """Mean absolute percentage errors on stars that have so far calibrated the errors and nothing else."""
    labels = data.labels.take(rows)
    found = {}
    for name, truth in (("age", labels.age), ("mass", labels.mass)):
        relative = np.abs(predictions[name] / truth - 1.0) if name in predictions else np.zeros(0)
        if np.isfinite(relative).any():
            found[f"{name}_delta_p"] = round(100 * float(np.nanmean(relative)), 2)
    return {**found, "unseen_stars": len(np.unique(labels.star))} if found else {}


def stars_apart(
    configuration: TrainingConfiguration, data: TrainingSet, rows: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]:
    """Rows that are learnt from, that stop the training and that calibrate the errors, of different stars."""
    stars = len(np.unique(data.labels.star[rows]))
    # no correction can be fitted on fewer than three stars
    parts = max(3, min(round(1 / configuration.held_out), stars // 3))
    components = 0 if configuration.companions else configuration.preprocessing.get("n_components", 0)
    if stars * (parts - 2) <= components * parts:
        raise LabelError(f"{components} components need more training stars, found {stars}, some of them held out")
    folds = split_by_star(data.labels.take(rows), parts, configuration.seed)
    return rows[folds > 1], rows[folds == 0], rows[folds == 1]


def _architecture(configuration: TrainingConfiguration) -> dict[str, Any]:
    """What a network is made from: the configuration's, and how many parameters it learns beside the labels."""
    auxiliary = {"auxiliary": len(configuration.auxiliary)} if configuration.auxiliary else {}
    return {**configuration.architecture, **auxiliary}


def _targets(
    configuration: TrainingConfiguration,
    data: TrainingSet,
    used: NDArray[np.integer],
    learn: NDArray[np.integer],
    scale: LabelScale,
) -> Targets:
    """Labels of the used rows in the network's space, and what else the network learns."""
    model = _trainable(configuration)
    physical, covariance = data.labels.physical()[used], data.labels.covariance()[used]
    others = _oscillations(configuration, data, used) if model.learns_oscillations else {}
    if configuration.auxiliary:
        values = np.stack([getattr(data.labels, name) for name in configuration.auxiliary], axis=1)
        for name, column in zip(configuration.auxiliary, values[learn].T, strict=True):
            if len(np.unique(column[np.isfinite(column)])) < 2:
                raise LabelError(f"auxiliary parameter {name} is unknown or the same for all training stars")
        middle, spread = np.nanmean(values[learn], axis=0), np.nanstd(values[learn], axis=0)
        others = {**others, "auxiliary": (values[used] - middle) / spread}
    relative = np.log(data.labels.physical()[learn]).std(axis=0)
    return Targets(scale.to_network(physical), scale.covariance_to_network(physical, covariance), relative, others)


def _labelled(data: TrainingSet, rows: NDArray[np.integer]) -> LabelledSpectra:
    labels = data.labels.take(rows)
    errors = np.stack([labels.age_error, labels.mass_error], axis=1)
    parameters = {name: np.asarray(getattr(labels, name), np.float64) for name in get_args(Parameter)}
    return LabelledSpectra(data.spectra.take(rows), labels.physical(), errors, labels.star, parameters)


def _oscillations(
    configuration: TrainingConfiguration, data: TrainingSet, rows: NDArray[np.integer]
) -> dict[str, NDArray[np.floating]]:
    if data.oscillations is None:
        raise LabelError(f"model {configuration.model!r} learns power spectra: give oscillations or simulate APOGEE")
    return {"log_power": data.oscillations.log_power[rows], "numax": data.oscillations.numax[rows]}


def domain_name(survey: Survey, name: str) -> str:
    """Name of a label in a bundle's domain: the survey's column for it."""
    columns = {column.name for column in survey.columns}
    return "fe_h" if name == "feh" and "fe_h" in columns else name


def recorded_configuration(configuration: TrainingConfiguration) -> dict[str, Any]:
    """What a bundle tells of its training: all but paths, and what it says in places of their own."""
    recorded = configuration.model_dump(mode="json", exclude=_NOT_RECORDED)
    paths = ("apokasc", "labels", "pixel_statistics")
    for part in ("simulation", "companions"):
        if recorded.get(part):
            recorded[part] = {k: v for k, v in recorded[part].items() if k not in paths}
    return recorded


def _description(
    configuration: TrainingConfiguration, data: TrainingSet, learn: NDArray[np.integer], model: type[Trainable]
) -> Description:
    about = data.labels.take(learn)
    domain = {}
    for name in ("teff", "logg", "feh"):
        values = getattr(about, name)
        if np.isfinite(values).any():
            low, high = np.nanquantile(values, [0.002, 0.998])
            domain[domain_name(data.survey, name)] = (round(float(low), 3), round(float(high), 3))
    states, counts = np.unique(about.state, return_counts=True)
    return Description(
        kind=configuration.model,
        name=configuration.name,
        version=configuration.version,
        survey=data.survey.name,
        grid=data.survey.grid.name,
        labels=model.labels,
        architecture=_architecture(configuration),
        passes=configuration.passes,
        seed=configuration.seed,
        domain=domain,
        novelty_limit=model.novelty_limit,
        training={
            "stars": len(np.unique(about.star)),
            "spectra": len(about),
            "spectra_by_state": dict(zip(states.tolist(), counts.tolist(), strict=True)),
            "age_range": [float(about.age.min()), float(about.age.max())],
            "mass_range": [float(about.mass.min()), float(about.mass.max())],
            "simulated": configuration.simulation is not None,
            "set_digest": data.digest,
            "configuration": recorded_configuration(configuration),
        },
        citation=configuration.citation,
        licence=configuration.licence,
        notes=configuration.notes,
    )


def predict_rows(bundle: Path, spectra: SpectraBatch) -> dict[str, NDArray[np.floating]]:
    """Predictions of a bundle for every row."""
    return load_model(bundle).predict(spectra, InferenceSettings(device="cpu"))
