"""SPT, the Spectral Transformer: PCA of the spectrum, Hadamard self-attention, age and mass jointly.

After Zhang et al. 2024 (arXiv 2401.04900), as far as its abstract and figure captions say. Ours, because
the paper's is not public: the enhanced softmax, layer normalisation, the sizes, the places of the dropout
layers, the head with a data covariance, the preprocessing and the novelty.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from catalogue.models.base import (
    Completion,
    InferenceSettings,
    LabelDistribution,
    LabelledSpectra,
    LabelScale,
    Model,
    NetworkInputs,
    Output,
    SpectraBatch,
    Trainable,
)
from catalogue.models.bundle import Bundle, BundleError, Description, Label, save_bundle
from catalogue.models.components import ComponentInputs, ComponentSettings, fit_components
from catalogue.models.dropout import Dropout, DropoutPasses
from catalogue.models.engines import Engines
from catalogue.models.label_mixture import LabelMixture, MixturePosterior, fit_mixture
from catalogue.models.moments import correlation, mean_and_covariance, mixture_percentiles
from catalogue.models.packing import Places, Rows
from catalogue.models.preprocessing import GridSettings, redshift
from catalogue.models.spectrum_fit import SpectrumModel
from catalogue.models.transfer import compute_granules, is_apart
from catalogue.spectra.primitives import PixelGrid

N_LABELS = 2
LN10 = math.log(10.0)
LEVELS = (0.16, 0.50, 0.84)


class SPTArchitecture(BaseModel):
    """Sizes of the network. The paper gives only ``head_width``; the other defaults are ours.

    Attributes
    ----------
    width : int
        Of the residual stream.
    blocks, heads : int
    head_width : int
        Of Q, K and V of every head (64 in the paper).
    hidden : int
        Of the layer before the output.
    dropout : float
    softmax : "enhanced" or "plain"
    covariance : "full", "diagonal" or "none"
        Data covariance of (log age, log mass) that the network predicts beside their means.
    attention : "hadamard" or "none"
        ``none`` puts a two-layer perceptron of equal size in its place, to see what attention is worth.
    auxiliary : int
        Stellar parameters that are learnt beside the labels. A bundle keeps nothing of them.
    mixture_share : float
        Share in the labels that is not the network's but that of the density of the training stars, see
        :mod:`catalogue.models.label_mixture`; needs ``estimator: fit`` in the preprocessing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(default=256, ge=1)
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    head_width: int = Field(default=64, ge=1)
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    softmax: Literal["enhanced", "plain"] = "enhanced"
    covariance: Literal["full", "diagonal", "none"] = "full"
    attention: Literal["hadamard", "none"] = "hadamard"
    auxiliary: int = Field(default=0, ge=0)
    mixture_share: float = Field(default=0.0, ge=0, lt=1)

    @property
    def n_outputs(self) -> int:
        """Width of the network's output."""
        return self.n_published + self.auxiliary

    @property
    def n_published(self) -> int:
        """Outputs that a bundle keeps."""
        return N_LABELS + {"full": 3, "diagonal": 2, "none": 0}[self.covariance]


class HadamardAttention(nn.Module):
    r"""Multi-head Hadamard self-attention: ``W_O [S(Q ⊙ K / √d) ⊙ V]`` over all heads.

    The elementwise gating follows the caption of the paper's figure 2. With ``enhanced`` the softmax S
    is rescaled to a mean of one over the head's width, so that the gate passes V on at its own size
    whatever the width; with ``plain`` it sums to one.
    """

    def __init__(self, architecture: SPTArchitecture, name: str) -> None:
        super().__init__()
        self.heads = architecture.heads
        self.head_width = architecture.head_width
        inner = self.heads * self.head_width
        self.gain = float(self.head_width) if architecture.softmax == "enhanced" else 1.0
        # one matrix for Q, K and V of all heads: the same projections, one product
        self.projection = nn.Linear(architecture.width, 3 * inner)
        self.dropout = Dropout(architecture.dropout, f"{name}.gated")
        self.out = nn.Linear(inner, architecture.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention of every row, shape (rows, width) in and out."""
        query, key, value = self.projection(x).chunk(3, dim=1)
        # in place, where backward needs the factors and not the product: these are memory-bound
        score = (query * key).mul_(1.0 / math.sqrt(self.head_width)).unflatten(1, (self.heads, self.head_width))
        gate = torch.softmax(score, dim=2).flatten(1)
        return self.out(self.dropout((gate * value).mul_(self.gain)))


class Perceptron(nn.Module):
    """What stands in the place of :class:`HadamardAttention` when attention is ablated; as many weights."""

    def __init__(self, architecture: SPTArchitecture, name: str) -> None:
        super().__init__()
        inner = 2 * architecture.heads * architecture.head_width
        self.projection = nn.Linear(architecture.width, inner)
        self.dropout = Dropout(architecture.dropout, f"{name}.gated")
        self.out = nn.Linear(inner, architecture.width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, width) in and out."""
        return self.out(self.dropout(nn.functional.gelu(self.projection(x))))


class SPTNetwork(nn.Module):
    """PCA coefficients to label means and data covariance.

    Parameters
    ----------
    architecture : SPTArchitecture
    n_components : int
        Width of the input.
    """

    def __init__(self, architecture: SPTArchitecture, n_components: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Linear(n_components, architecture.width)
        self.norms = nn.ModuleList(nn.LayerNorm(architecture.width) for _ in range(architecture.blocks))
        block = HadamardAttention if architecture.attention == "hadamard" else Perceptron
        self.attentions = nn.ModuleList(block(architecture, f"block{i}") for i in range(architecture.blocks))
        self.last_norm = nn.LayerNorm(architecture.width)
        self.hidden = nn.Linear(architecture.width, architecture.hidden)
        self.dropout = Dropout(architecture.dropout, "hidden")
        self.output = nn.Linear(architecture.hidden, architecture.n_outputs)

    def forward(self, components: Tensor) -> Tensor:
        """Raw outputs, shape (rows, n_outputs), of scaled components, shape (rows, n_components)."""
        x = self.embedding(components)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            x = x + attention(norm(x))
        hidden = nn.functional.gelu(self.hidden(self.last_norm(x)))
        return self.output(self.dropout(hidden))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors on the model and data errors of (log age, log mass), fitted on held-out data.

    1 leaves the dropout spread and the predicted data error as they are.
    """

    model: tuple[float, float] = (1.0, 1.0)
    data: tuple[float, float] = (1.0, 1.0)


class SpectralTransformer(Model, Trainable):
    """Age and mass of giants from low-resolution spectra, with MC-dropout and data errors."""

    kind: ClassVar[str] = "spt"
    inference_version: ClassVar[int] = 4
    inputs: ClassVar[tuple[str, ...]] = ("z", "file_z")
    novelty_limit: ClassVar[float | None] = 1.0
    learns_parameters: ClassVar[bool] = True
    labels: ClassVar[tuple[Label, ...]] = (
        Label(name="age", unit="Gyr", description="stellar age"),
        Label(name="mass", unit="solMass", description="stellar mass"),
    )

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        description = dict(bundle.description.architecture)
        try:
            scale = description.pop("label_scale")
            self.label_scale = LabelScale(True, tuple(scale["offset"]), tuple(scale["scale"]))
            self.calibration = Calibration(**{k: tuple(v) for k, v in description.pop("calibration", {}).items()})
            self.architecture = SPTArchitecture.model_validate(description)
            self._cpu_inputs = ComponentInputs.from_arrays(bundle.description.preprocessing, bundle.weights)
            self._network = SPTNetwork(self.architecture, self._cpu_inputs.n_features)
            given = {key: value for key, value in bundle.weights.items() if not key.startswith(("inputs.", "mixture."))}
            self._network.load_state_dict({key: torch.tensor(value) for key, value in given.items()})
            self._mixture = self._read_mixture(bundle)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"{bundle.path}: not a bundle of kind {self.kind!r}: {error}") from error
        self._engines = Engines(bundle, lambda passes, seed, device: _Engine(self, passes, seed, device))

    def _read_mixture(self, bundle: Bundle) -> LabelMixture | None:
        if not self.architecture.mixture_share:
            return None
        n_parameters = len(_fitted_parameters(bundle))
        return LabelMixture.from_arrays(dict(bundle.weights), n_parameters, N_LABELS)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Columns of :meth:`predict`, the same for every bundle of this kind."""
        return OUTPUTS

    def predict(self, batch: SpectraBatch, settings: InferenceSettings) -> dict[str, NDArray[np.floating]]:
        """Predict every row of a batch, see :meth:`Model.predict`."""
        engine = self._engines.of(settings)
        shifts = redshift(batch)
        results = np.full((len(OUTPUTS), len(batch)), np.nan, dtype=np.float32)

        def load(part: Rows) -> tuple[NDArray[Any], ...]:
            gather = engine.inputs.preprocessing.gather
            return gather(batch.flux[part], batch.ivar[part], batch.mask[part], shifts[part])

        def keep(part: Rows, values: NDArray[Any]) -> None:
            usable = batch.usable[part]
            results[:, part] = np.where(usable, values[:, : len(usable)], np.nan)

        compute_granules(engine.device, batch.usable, settings.granules, load, engine, keep, engine.places)
        return {output.name: values for output, values in zip(OUTPUTS, results, strict=True)}

    @classmethod
    def fit_inputs(
        cls,
        spectra: SpectraBatch,
        grid: PixelGrid,
        preprocessing: Mapping[str, Any],
        seed: int,
        noiseless: SpectraBatch | None = None,
        redrawn: Iterable[SpectraBatch] = (),
    ) -> ComponentInputs:
        """Learn pixel statistics and components; see :meth:`Trainable.fit_inputs`."""
        settings = ComponentSettings.model_validate({"grid": GridSettings.of(grid), **preprocessing})
        return fit_components(settings, spectra, seed, noiseless, redrawn)

    @classmethod
    def network(cls, architecture: Mapping[str, Any], n_features: int) -> SPTNetwork:
        """A new network; ``architecture`` holds fields of :class:`SPTArchitecture`."""
        return SPTNetwork(SPTArchitecture.model_validate(dict(architecture)), n_features)

    @classmethod
    def loss_outputs(cls, architecture: Mapping[str, Any], raw: Tensor) -> LabelDistribution:
        """Label means and, with a data head, covariances in the network's label space."""
        sizes = SPTArchitecture.model_validate(dict(architecture))
        parameters = raw[..., sizes.n_published :] if sizes.auxiliary else None
        return LabelDistribution(raw[..., :N_LABELS], data_covariance(raw, sizes.covariance), parameters)

    @classmethod
    def calibrate(cls, architecture: Mapping[str, Any], bundle: Bundle, held_out: LabelledSpectra) -> Completion:
        """Factors on the errors: 68.3 % of the labels then lie within their 16 to 84 % interval.

        Model and data part take the same factor, so that their ratio stays what the network says.
        """
        predictions = cls(bundle).predict(held_out.spectra, InferenceSettings(device="cpu"))
        if not np.isfinite(predictions["age"]).any():
            raise ValueError("none of the spectra that calibrate the errors has an age")
        factors = []
        for index, name in enumerate(("age", "mass")):
            low, middle, high = (np.log(predictions[f"{name}_p{level}"].astype(np.float64)) for level in (16, 50, 84))
            offset = np.log(held_out.labels[:, index]) - middle
            side = np.where(offset > 0, high - middle, middle - low)
            factors.append(round(float(np.nanquantile(np.abs(offset) / side, 0.683)), 4))
        return Completion({"calibration": {"model": factors, "data": factors}})

    @classmethod
    def complete(cls, architecture: Mapping[str, Any], bundle: Bundle, training: LabelledSpectra) -> Completion:
        """The mixture, if there is one."""
        if not architecture.get("mixture_share"):
            return Completion()
        names, fit = _fitted_parameters(bundle), SpectrumModel.from_arrays(bundle.weights)
        # a star counts once, however often it was observed
        _, once = np.unique(training.star, return_index=True)
        true = torch.from_numpy(np.stack([training.parameters[name][once] for name in names], axis=1))
        scale = bundle.description.architecture["label_scale"]
        labels = (np.log10(training.labels[once]) - np.array(scale["offset"])) / np.array(scale["scale"])
        return Completion(arrays=fit_mixture(fit.standardised(true).numpy(), labels).arrays())

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
        """Write a bundle; see :meth:`Trainable.to_bundle`."""
        if not label_scale.logarithmic:
            raise ValueError("SPT predicts log10(age) and log10(mass): the label scale must be logarithmic")
        given = dict(description.architecture)
        calibration = given.pop("calibration", None)
        sizes = SPTArchitecture.model_validate(given)
        architecture = {
            # in full, so that a later default changes no existing bundle
            **sizes.model_dump(),
            "auxiliary": 0,
            **({} if calibration is None else {"calibration": calibration}),
            "label_scale": {"offset": list(label_scale.offset), "scale": list(label_scale.scale)},
        }
        complete = description.model_copy(
            update={"architecture": architecture, "preprocessing": inputs.settings(), "labels": cls.labels}
        )
        state = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
        for key in ("output.weight", "output.bias"):
            state[key] = state[key][: sizes.n_published]
        return save_bundle(path, complete, {**state, **inputs.arrays(), **(arrays or {})})


def _fitted_parameters(bundle: Bundle) -> tuple[str, ...]:
    """Names of the parameters that a mixture is asked with."""
    settings = ComponentSettings.model_validate(bundle.description.preprocessing)
    if not settings.fits:
        raise ValueError("mixture_share needs parameters that are estimated by a fit (preprocessing.estimator)")
    return settings.parameters


def data_covariance(raw: Tensor, kind: str) -> Tensor | None:
    """Data covariance from the network's raw outputs, shape (..., 2, 2), through its Cholesky factor.

    The diagonal of the factor is ``exp`` of the raw value, held within e±5 of the label's spread, so
    that the loss stays finite whatever the network says.
    """
    if kind == "none":
        return None
    diagonal = torch.exp(raw[..., N_LABELS : N_LABELS + 2].clamp(-5.0, 5.0))
    below = raw[..., N_LABELS + 2] if kind == "full" else torch.zeros_like(raw[..., 0])
    first, second = diagonal[..., 0], diagonal[..., 1]
    off = first * below
    top = torch.stack([first * first, off], dim=-1)
    bottom = torch.stack([off, below * below + second * second], dim=-1)
    return torch.stack([top, bottom], dim=-2)


class _Engine:
    """A bundle on a device with its masks drawn: gathered pixels in, output columns out."""

    def __init__(self, model: SpectralTransformer, passes: int, seed: int, device: torch.device) -> None:
        apart = is_apart(device)
        self.device, self.places = device, Places()
        cpu = model._cpu_inputs
        self.inputs = cpu.on(device)
        network = copy.deepcopy(model._network) if apart else model._network
        self.passes = DropoutPasses(network, (self.inputs.n_features,), passes, seed, device)
        self.covariance = model.architecture.covariance
        self.share, self.mixture = model.architecture.mixture_share, None
        fit = cpu.learnt.fit
        if model._mixture is not None and fit is not None:
            self.mixture = MixturePosterior(model._mixture, fit.prior, model.label_scale.scale, device)
        as_tensor = lambda x: torch.tensor(x, dtype=torch.float64, device=device)  # noqa: E731
        self.offset, self.scale = as_tensor(model.label_scale.offset), as_tensor(model.label_scale.scale)
        self.model_factor, self.data_factor = (
            as_tensor(model.calibration.model),
            as_tensor(model.calibration.data),
        )

    def __call__(self, *gathered: Tensor) -> Tensor:
        """Output columns, shape (outputs, rows), of what :meth:`Preprocessing.gather` gave."""
        with torch.inference_mode():
            prepared = self.inputs.in_training_units(self.inputs.preprocessing.normalise(*gathered))
            coefficients = self.inputs.coefficients(prepared.pixels, prepared.good, prepared.noise)
            novelty = self.inputs.novelty(prepared, coefficients)
            fitted = self.inputs.fitted(coefficients, prepared.pixels, prepared.good, prepared.noise)
            features = self.inputs.assemble(coefficients, prepared.good, prepared.noise, fitted)
            raw = self.passes(features).double()
            if self.mixture is not None and fitted is not None:
                # the spread of the passes, smaller by the share then, and the data part are calibrated afterwards
                raw[..., :N_LABELS] += self.share * (self.mixture(*fitted) - raw[..., :N_LABELS])
            columns = self._summarise(raw)
            values = torch.stack([*columns, novelty.double()])
            values = torch.where(prepared.usable & torch.isfinite(values), values, torch.nan)
            together = torch.cat([values, prepared.bad_fraction.double()[None]])
            return together.float()

    def _summarise(self, raw: Tensor) -> list[Tensor]:
        """All columns but the last two, from the raw outputs (passes, rows, outputs) of the passes."""
        logs = raw[..., :N_LABELS] * self.scale + self.offset
        centre = logs.mean(dim=0)
        logs = centre + (logs - centre) * self.model_factor
        data = data_covariance(raw, self.covariance)
        if data is None:
            data = torch.zeros(*logs.shape, N_LABELS, dtype=logs.dtype, device=logs.device)
        factor = self.scale * self.data_factor
        data = data * factor[:, None] * factor
        values = torch.exp(LN10 * logs)
        log_mean, log_covariance = mean_and_covariance(logs)
        mean, covariance = mean_and_covariance(values)
        total = log_covariance + data.mean(dim=0)
        columns: list[Tensor] = []
        for i in range(N_LABELS):
            variance = data[..., i, i]
            data_error = (LN10 * values[..., i] * variance.sqrt()).square().mean(dim=0).sqrt()
            model_error = covariance[:, i, i].sqrt()
            percentiles = torch.exp(LN10 * mixture_percentiles(logs[..., i], variance.sqrt(), LEVELS))
            error = (model_error.square() + data_error.square()).sqrt()
            columns += [mean[:, i], error, model_error, data_error, *percentiles]
            if i == 0:
                columns += [log_mean[:, 0], total[:, 0, 0].sqrt()]
        return [*columns, correlation(total)]


def _columns(label: str, unit: str) -> tuple[Output, ...]:
    """Columns that age and mass have in common."""
    return (
        Output(label, "float32", unit, f"{label}, mean over the dropout passes"),
        Output(f"{label}_error", "float32", unit, f"total error of {label}: model and data part added in quadrature"),
        Output(f"{label}_model_error", "float32", unit, f"model error of {label}: spread over the dropout passes"),
        Output(f"{label}_data_error", "float32", unit, f"data error of {label}: predicted for this spectrum"),
        *(
            Output(f"{label}_p{p}", "float32", unit, f"{p} % percentile of {label}, model and data part")
            for p in (16, 50, 84)
        ),
    )


OUTPUTS: tuple[Output, ...] = (
    *_columns("age", "Gyr"),
    Output("log_age", "float32", "dex(Gyr)", "log10 of age in Gyr, mean over the dropout passes"),
    Output("log_age_error", "float32", "dex", "total error of log_age"),
    *_columns("mass", "solMass"),
    Output("age_mass_correlation", "float32", "", "correlation of the total errors of log10 age and log10 mass"),
    Output("novelty", "float32", "", "distance from the training spectra; 1 is exceeded by 1 % of them"),
    Output("bad_fraction", "float32", "", "fraction of the model's pixels that are masked or without ivar"),
)
"""Order of the rows that :class:`_Engine` returns."""
