"""astroNN's Bayesian convolutional network: age and mass with dropout (ALGORITHMS 3).

Two convolutions, pooling, two dense layers, and two heads: the labels and the logarithm of their variance.
Dropout stays on at prediction time. Sizes and rules are astroNN's ``ApogeeBCNN``; the hidden widths, the softplus
and the corrections of ages are those of the DR17 age and mass network where a bundle says so.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
from catalogue.models.astronn_passes import AstroNNPasses, moments
from catalogue.models.base import (
    Completion,
    InferenceSettings,
    LabelledSpectra,
    LabelScale,
    Model,
    NetworkInputs,
    Output,
    SpectraBatch,
    Trainable,
)
from catalogue.models.bundle import Bundle, BundleError, Description, Label, save_bundle
from catalogue.models.dropout import Dropout
from catalogue.models.engines import Engines
from catalogue.models.packing import Places, Rows
from catalogue.models.transfer import compute_granules
from catalogue.spectra.primitives import PixelGrid

MISSING_LABEL = -9999.0
_INPUTS = "inputs."


class AstroNNArchitecture(BaseModel):
    """Sizes of the network; the defaults are those of astroNN's ``ApogeeBCNN``.

    Attributes
    ----------
    n_pixels, n_labels : int
    filters : tuple of int
        Of the two convolutions.
    kernel, pool : int
    hidden : tuple of int
        Widths of the two dense layers.
    dropout : float
    activation : "linear" or "softplus"
        Of the label head.
    age_linear : tuple of float or None
        (intercept, slope) of the linear relation of predicted to true training ages; the corrected age is
        (age - intercept)/slope. None if the bundle has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    n_pixels: int = Field(default=7514, ge=16)
    n_labels: int = Field(default=2, ge=1)
    filters: tuple[int, int] = (2, 4)
    kernel: int = Field(default=8, ge=1)
    pool: int = Field(default=4, ge=2)
    hidden: tuple[int, int] = (196, 96)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    activation: Literal["linear", "softplus"] = "linear"
    age_linear: tuple[float, float] | None = None


class AstroNNNetwork(nn.Module):
    """Centred spectra (rows, pixels) to labels and logarithmic variances (rows, 2 · labels).

    The label head's activation is not applied here, so that all passes can share it.
    """

    def __init__(self, architecture: AstroNNArchitecture) -> None:
        super().__init__()
        first, second = architecture.filters
        self.n_pixels, self.kernel, self.pool = architecture.n_pixels, architecture.kernel, architecture.pool
        self.left, self.right = (self.kernel - 1) // 2, self.kernel // 2
        self.conv1 = nn.Conv1d(1, first, self.kernel)
        self.drop1 = Dropout(architecture.dropout, "drop1")
        self.conv2 = nn.Conv1d(first, second, self.kernel)
        self.drop2 = Dropout(architecture.dropout, "drop2")
        self.hidden1 = nn.Linear(self.n_pixels // self.pool * second, architecture.hidden[0])
        self.drop3 = Dropout(architecture.dropout, "drop3")
        self.hidden2 = nn.Linear(*architecture.hidden)
        self.output = nn.Linear(architecture.hidden[1], architecture.n_labels)
        self.log_variance = nn.Linear(architecture.hidden[1], architecture.n_labels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.05)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, spectra: Tensor) -> Tensor:
        """Raw outputs; padding and flattening are Keras's (``same``, channels innermost)."""
        x = nn.functional.pad(spectra.unsqueeze(1), (self.left, self.right))
        x = nn.functional.relu(self.conv1(x))
        x = nn.functional.pad(self.drop1(x), (self.left, self.right))
        x = nn.functional.max_pool1d(nn.functional.relu(self.conv2(x)), self.pool)
        x = self.drop2(x.transpose(1, 2).flatten(1))
        x = self.drop3(nn.functional.relu(self.hidden1(x)))
        x = nn.functional.relu(self.hidden2(x))
        return torch.cat([self.output(x), self.log_variance(x)], dim=1)


def _outputs() -> tuple[Output, ...]:
    columns = []
    for name, unit in (("age", "Gyr"), ("mass", "solMass")):
        columns += [
            Output(name, "float32", unit, f"{name}, mean over the dropout passes"),
            Output(f"{name}_total_error", "float32", unit, f"total error of {name}"),
            Output(f"{name}_model_error", "float32", unit, f"spread of {name} over the dropout passes"),
            Output(f"{name}_predictive_error", "float32", unit, f"error of {name} that the network predicts"),
        ]
    columns += [
        Output("age_linear_correct", "float32", "Gyr", "age corrected by the linear relation of the training set"),
        Output("age_lowess_correct", "float32", "Gyr", "age corrected by the smoothed relation of the training set"),
        Output("bad_fraction", "float32", "", "fraction of the network's pixels without usable flux"),
    ]
    return tuple(columns)


OUTPUTS = _outputs()


class AstroNNBayesian(Model, Trainable):
    """Age and mass of APOGEE giants with model and predictive errors."""

    kind: ClassVar[str] = "astronn_bcnn"
    inference_version: ClassVar[int] = 4
    inputs: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[tuple[Label, ...]] = (
        Label(name="age", unit="Gyr", description="stellar age"),
        Label(name="mass", unit="solMass", description="stellar mass"),
    )

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        description = dict(bundle.description.architecture)
        try:
            scale = description.pop("label_scale")
            self.label_scale = LabelScale(False, tuple(scale["offset"]), tuple(scale["scale"]))
            self.architecture = AstroNNArchitecture.model_validate(description)
            self._inputs = ApogeeInputs.from_arrays(bundle.description.preprocessing, bundle.weights)
            self._network = AstroNNNetwork(self.architecture)
            extra = (_INPUTS, "lowess.")
            state = {key: torch.tensor(value) for key, value in bundle.weights.items() if not key.startswith(extra)}
            self._network.load_state_dict(state)
            self._order = [[label.name for label in bundle.description.labels].index(n) for n in ("age", "mass")]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"{bundle.path}: not a bundle of kind {self.kind!r}: {error}") from error
        self._engines = Engines(bundle, self._engine)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Columns of :meth:`predict`, the same for every bundle of this kind."""
        return OUTPUTS

    def predict(self, batch: SpectraBatch, settings: InferenceSettings) -> dict[str, NDArray[np.floating]]:
        """Predict every row of a batch, see :meth:`Model.predict`."""
        inputs, passes, places = self._engines.of(settings)
        results = np.full((len(OUTPUTS), len(batch)), np.nan, dtype=np.float32)

        def load(part: Rows) -> list[NDArray[np.float32]]:
            pixels, results[-1, part] = inputs.gather(batch, part)
            return [pixels]

        def compute(pixels: Tensor) -> Tensor:
            return self.moments(passes(inputs.normalise(pixels)))

        def keep(part: Rows, values: NDArray[np.float64]) -> None:
            fraction, usable = results[-1, part].copy(), batch.usable[part]
            columns = np.vstack([self.summarise(values[:, : len(usable)]), fraction])
            results[:, part] = np.where(usable & (fraction < 1), columns, np.nan)

        compute_granules(passes.device, batch.usable, settings.granules, load, compute, keep, places)
        return {output.name: values for output, values in zip(OUTPUTS, results, strict=True)}

    def moments(self, samples: Tensor) -> Tensor:
        """:func:`moments` of raw network outputs (passes, rows, 2 · labels)."""
        n_labels = self.architecture.n_labels
        if self.architecture.activation == "softplus":
            samples = torch.cat([nn.functional.softplus(samples[..., :n_labels]), samples[..., n_labels:]], dim=-1)
        return moments(samples, n_labels)

    def summarise(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Output columns but the last, shape (columns, rows), from what :meth:`moments` gives."""
        mean, model, predictive = values
        offset, scale = np.asarray(self.label_scale.offset), np.asarray(self.label_scale.scale)
        columns = []
        for label in self._order:
            errors = [np.sqrt(v[:, label]) * scale[label] for v in (model + predictive, model, predictive)]
            columns += [mean[:, label] * scale[label] + offset[label], *errors]
        columns += [self._linear(columns[0]), self._lowess(columns[0])]
        return np.stack(columns).astype(np.float32)

    def _linear(self, age: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.architecture.age_linear is None:
            return np.full_like(age, np.nan)
        intercept, slope = self.architecture.age_linear
        return np.asarray((age - intercept) / slope)

    def _lowess(self, age: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolated in the bundle's relation, linear beyond its ends."""
        weights = self.bundle.weights
        if "lowess.prediction" not in weights:
            return np.full_like(age, np.nan)
        x, y = (weights[f"lowess.{name}"].astype(np.float64) for name in ("prediction", "age"))
        inside = np.interp(age, x, y)
        below = y[0] + (age - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
        above = y[-1] + (age - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.where(age < x[0], below, np.where(age > x[-1], above, inside))

    def _engine(self, passes: int, seed: int, device: torch.device) -> tuple[ApogeeInputs, AstroNNPasses, Places]:
        network = copy.deepcopy(self._network).eval()
        return self._inputs.on(device), AstroNNPasses(network, passes, seed, device), Places()

    @classmethod
    def fit_inputs(
        cls,
        spectra: SpectraBatch,
        grid: PixelGrid,
        preprocessing: Mapping[str, Any],
        seed: int,
        noiseless: SpectraBatch | None = None,
        redrawn: Iterable[SpectraBatch] = (),
    ) -> ApogeeInputs:
        """Learn the mean spectrum; see :meth:`Trainable.fit_inputs`. ``seed`` is not used."""
        return ApogeeInputs.fit(ApogeeInputSettings.model_validate(dict(preprocessing)), spectra, grid)

    @classmethod
    def network(cls, architecture: Mapping[str, Any], n_features: int) -> AstroNNNetwork:
        """A new network; ``architecture`` holds fields of :class:`AstroNNArchitecture`."""
        return AstroNNNetwork(AstroNNArchitecture.model_validate({**architecture, "n_pixels": n_features}))

    @classmethod
    def fit_labels(cls, labels: NDArray[np.floating]) -> LabelScale:
        """Labels divided by their spread and not centred, as for astroNN's age network, so that all are positive."""
        scale = LabelScale.fit(labels, logarithmic=False)
        return LabelScale(False, (0.0,) * labels.shape[1], scale.scale)

    @classmethod
    def start(cls, architecture: Mapping[str, Any], network: nn.Module, mean_labels: Tensor) -> None:
        """Set the bias of the label head, as labels are not centred and a mass is some seven units."""
        softplus = AstroNNArchitecture.model_validate(dict(architecture)).activation == "softplus"
        # the inverse of softplus, written so that a large mean does not overflow
        mean = mean_labels.clamp(min=1e-3)
        bias = mean + torch.log(-torch.expm1(-mean)) if softplus else mean_labels
        cast(AstroNNNetwork, network).output.bias.data.copy_(bias)

    @classmethod
    def loss(cls, architecture: Mapping[str, Any], raw: Any, targets: Mapping[str, Tensor]) -> Tensor:
        """AstroNN's loss with the errors of the labels, see :func:`label_loss`."""
        settings = AstroNNArchitecture.model_validate(dict(architecture))
        mean, log_variance = raw[:, : settings.n_labels], raw[:, settings.n_labels :]
        if settings.activation == "softplus":
            mean = nn.functional.softplus(mean)
        error = targets["covariance"].diagonal(dim1=-2, dim2=-1).sqrt()
        return label_loss(torch.cat([mean, log_variance], dim=1), targets["mean"], error)

    @classmethod
    def calibrate(cls, architecture: Mapping[str, Any], bundle: Bundle, held_out: LabelledSpectra) -> Completion:
        """Corrections of the age, fitted on the held-out stars: the published ones are of the training stars."""
        found = cls(bundle).predict(held_out.spectra, InferenceSettings(device="cpu"))["age"].astype(np.float64)
        known = np.isfinite(found)
        age, truth = found[known], held_out.labels[known, 0]
        slope, intercept = np.polyfit(truth, age, 1)
        arrays = dict(zip(("lowess.prediction", "lowess.age"), smoothed_relation(age, truth), strict=True))
        return Completion({"age_linear": (float(intercept), float(slope))}, arrays)

    @classmethod
    def to_bundle(
        cls,
        path: Path,
        description: Description,
        inputs: NetworkInputs,
        network: nn.Module,
        label_scale: LabelScale,
        arrays: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> Bundle:
        """Write a bundle; see :meth:`Trainable.to_bundle`.

        ``arrays`` may hold ``lowess.prediction`` (rising) and ``lowess.age``, the smoothed relation.
        """
        if label_scale.logarithmic:
            raise ValueError("astronn_bcnn predicts age and mass themselves: the label scale cannot be logarithmic")
        scale = {"offset": list(label_scale.offset), "scale": list(label_scale.scale)}
        architecture = {**description.architecture, "n_pixels": inputs.n_features, "label_scale": scale}
        complete = description.model_copy(
            update={
                "architecture": architecture,
                "preprocessing": inputs.settings(),
                "labels": description.labels or cls.labels,
            }
        )
        state = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
        return save_bundle(path, complete, {**state, **inputs.arrays(), **(arrays or {})})


def label_loss(raw: Tensor, labels: Tensor, label_error: Tensor) -> Tensor:
    r"""AstroNN's loss: ½[(y-ŷ)²/(e^s + σ²) + ln(e^s + σ²)] with known label errors σ.

    Missing labels (:data:`MISSING_LABEL` or NaN) do not count, and the mean is rescaled by all over present.

    Parameters
    ----------
    raw : Tensor, shape (rows, 2 · labels)
    labels, label_error : Tensor, shape (rows, labels)
        In the network's label space.
    """
    n_labels = labels.shape[1]
    present = torch.isfinite(labels) & (labels != MISSING_LABEL)
    variance = raw[:, n_labels:].exp() + torch.where(present, label_error, 1.0).square()
    residual = torch.where(present, labels, 0.0) - raw[:, :n_labels]
    terms = 0.5 * (residual.square() / variance + variance.log())
    return torch.where(present, terms, 0.0).sum() / present.sum().clamp(min=1)


def smoothed_relation(
    prediction: NDArray[np.float64], age: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True age as a smooth function of the predicted one: lowess with the catalogue's fraction 0.8 and delta 0.1.

    Returns
    -------
    ndarray of float64
        Predicted ages, rising, no two of them alike.
    ndarray of float64
        Smoothed true ages.

    Raises
    ------
    ValueError
        If statsmodels is missing, or there are fewer than three different predictions.
    """
    try:
        from statsmodels.nonparametric.smoothers_lowess import lowess
    except ImportError as error:
        message = "the corrections of ages need statsmodels: pip install 'stellar-catalogue[training]'"
        raise ValueError(message) from error
    curve = lowess(age, prediction, frac=0.8, delta=0.1)
    rising, first = np.unique(curve[:, 0], return_index=True)
    smooth = curve[first, 1]
    known = np.isfinite(smooth)
    if known.sum() < 3:
        raise ValueError(f"expected at least three different predicted ages, found {known.sum()}")
    return rising[known], smooth[known]
