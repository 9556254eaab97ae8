"""The training loop: any network of a trainable model, on prepared spectra."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from catalogue.models.base import LabelDistribution, NetworkInputs, PreparedSpectra, Trainable
from catalogue.models.device import choose_device
from catalogue.models.transfer import full_precision
from catalogue.training.losses import FRACTIONAL, LossName, auxiliary_loss, distribution_loss, fractional, point_loss

Progress = Callable[[int, int, str, float], None]
"""Called after every epoch with (epoch, epochs, "validation" or "training", loss): training where no rows validate."""


class CheckpointError(ValueError):
    """A checkpoint that this fit cannot go on from."""


class DivergedError(ValueError):
    """A fit whose loss was never finite."""


class FitSettings(BaseModel):
    """How a network is fitted.

    Attributes
    ----------
    loss : str
        One of :data:`~catalogue.training.losses.LossName`.
    head_weight : float
        Weight of the data head's likelihood. Its gradient does not reach the predicted means.
    auxiliary_weight : float
        Weight of the mean squared error of the auxiliary outputs, for networks that have them.
    epochs, batch, patience : int
        ``patience`` epochs without a better validation loss end the training.
    learning_rate, weight_decay : float
        AdamW; the rate rises over the first 5 % of the steps and falls to zero along a cosine.
    noise : float
        Noise added to every pixel at every step, in units of its own, uniform in 0 to ``noise`` per spectrum.
    masked_stretches : float
        Mean number of stretches hidden per spectrum and step. Neither is used where observations are simulated anew.
    average : float
        Decay per step of the running average of the weights that is validated and kept.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    precision : "auto", "float32" or "bfloat16"
        In which the network runs; ``auto`` is bfloat16 on a GPU that computes in it (Ampere and later), else float32.
    threads : int or None
    seed : int
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    loss: LossName = "mahalanobis"
    head_weight: float = Field(default=0.3, ge=0)
    auxiliary_weight: float = Field(default=0.3, ge=0)
    epochs: int = Field(default=60, ge=1)
    batch: int = Field(default=256, ge=2)
    patience: int = Field(default=15, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.03, ge=0)
    noise: float = Field(default=0.3, ge=0)
    masked_stretches: float = Field(default=1.0, ge=0)
    average: float = Field(default=0.99, ge=0, lt=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class Targets:
    """Labels in the network's space: means (rows, 2), covariances (rows, 2, 2), and others by name (rows, ...).

    ``spread`` (2,) is that of the labels' natural logarithms; ``auxiliary``, among the others, are standardised
    parameters.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    spread: NDArray[np.float64]
    others: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)


@dataclass
class FitResult:
    """A fitted network in evaluation mode on the CPU, and the losses epoch by epoch."""

    network: nn.Module
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Data:
    prepared: PreparedSpectra
    targets: dict[str, Tensor]
    spread: Tensor


def fit(
    trainable: type[Trainable],
    architecture: Mapping[str, Any],
    inputs: NetworkInputs,
    prepared: PreparedSpectra,
    targets: Targets,
    train_rows: NDArray[np.integer],
    validation_rows: NDArray[np.integer] | None,
    settings: FitSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    redrawn: Tensor | None = None,
    features: Tensor | None = None,
) -> FitResult:
    """Fit a network with early stopping on the validation rows, or for all epochs where there are none.

    Parameters
    ----------
    trainable : class
    architecture : mapping
    inputs, prepared, targets
        Rows of ``prepared`` and ``targets`` correspond.
    train_rows : ndarray of int
    validation_rows : ndarray of int or None
    settings : FitSettings
    progress : callable, optional
    checkpoint : Path, optional
        Directory in which the state is kept after every epoch and from which an interrupted fit goes on; on the
        CPU the result is the same as without the interruption. A GPU draws other random numbers than the CPU, and
        some gradients of convolutional networks are summed there in no fixed order, which changes the last bits.
    redrawn : Tensor, shape (draws, rows, features), optional
        Network inputs of the same stars observed with other noise: every step sees one of them, at random, instead
        of the prepared spectrum.
    features : Tensor, shape (rows, features), optional
        Network inputs of ``prepared``; computed without them.

    Returns
    -------
    FitResult

    Raises
    ------
    CheckpointError
        If the checkpoint is of another fit.
    DivergedError
        If no loss is finite, or without validation rows the last.
    DeviceError
        If CUDA was asked for by name and is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device, "fit.device")
    inputs, data = inputs.on(device), _to(prepared, targets, device)
    train = torch.from_numpy(np.asarray(train_rows)).to(device)
    loop = _Loop(trainable, architecture, inputs, data, settings, train, features)
    loop.redrawn = None if redrawn is None else redrawn.to(device)
    loop.plan(len(train))
    state = None
    if checkpoint:
        learnt_from = _digest(inputs, prepared, targets, architecture, train_rows, validation_rows, redrawn)
        state = _Checkpoint(checkpoint, loop, learnt_from)
        state.load()
    held_out = None if validation_rows is None else torch.from_numpy(np.asarray(validation_rows)).to(device)
    loop.run(train, held_out, state, progress)
    if not math.isfinite(loop.best_loss):
        raise DivergedError(
            f"no finite loss in {loop.epoch} epochs: expected the fit to converge; a lower fit.learning_rate may help"
        )
    loop.network.load_state_dict(loop.best)
    return FitResult(loop.network.to("cpu").eval(), loop.best_epoch, loop.history)


def chosen_precision(name: str, device: torch.device) -> str:
    """Precision of a setting: for ``auto`` bfloat16 on a GPU that computes in it, which older ones only imitate."""
    if name != "auto":
        return name
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def _to(prepared: PreparedSpectra, targets: Targets, device: torch.device) -> _Data:
    names = ("pixels", "noise", "good", "bad_fraction", "usable")
    moved = PreparedSpectra(**{name: getattr(prepared, name).to(device) for name in names})
    arrays = {"mean": targets.mean, "covariance": targets.covariance, **targets.others}
    tensors = {name: torch.tensor(array, dtype=torch.float32).to(device) for name, array in arrays.items()}
    spread = torch.tensor(targets.spread, dtype=torch.float32, device=device)
    return _Data(moved, tensors, spread)


class _Loop:
    """Network, optimiser and running average of one fit."""

    def __init__(
        self,
        trainable: type[Trainable],
        architecture: Mapping[str, Any],
        inputs: NetworkInputs,
        data: _Data,
        settings: FitSettings,
        train: Tensor,
        features: Tensor | None = None,
    ) -> None:
        self.settings, self.inputs, self.data, self.device = settings, inputs, data, train.device
        self.trainable, self.architecture = trainable, architecture
        self.precision = chosen_precision(settings.precision, train.device)
        self.network = trainable.network(architecture, inputs.n_features).to(train.device)
        trainable.start(architecture, self.network, data.targets["mean"][train].mean(dim=0))
        self.average = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.best = {key: value.clone() for key, value in self.average.items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scatter = torch.cov(data.targets["mean"][train].T)
        self.features = self._features() if features is None else features.to(train.device)
        self.redrawn: Tensor | None = None
        self.epoch, self.step, self.steps = 0, 0, 1
        self.best_epoch, self.best_loss = 0, math.inf
        self.history: list[dict[str, float]] = []

    def _features(self) -> Tensor:
        prepared = self.data.prepared
        with torch.inference_mode():
            parts = [values.split(1024) for values in (prepared.pixels, prepared.good, prepared.noise)]
            features = [self.inputs.features(*part) for part in zip(*parts, strict=True)]
        # cloned outside inference mode, so that training may differentiate through what is made of them
        return torch.cat(features).clone()

    def plan(self, rows: int) -> None:
        self.steps = self.settings.epochs * max(1, rows // self.settings.batch)

    def run(self, train: Tensor, held_out: Tensor | None, state: _Checkpoint | None, progress: Progress | None) -> None:
        """All epochs that are left, or as many as patience allows."""
        epochs = self.settings.epochs
        for epoch in range(self.epoch, epochs):
            # asked before an epoch, not after: a fit that was finished when it is called again stays what it was
            if epoch - 1 - self.best_epoch >= self.settings.patience:
                break
            with full_precision():
                training = self.train_epoch(train, epoch)
                validation = None if held_out is None else self.validate(held_out)
            self.record(epoch, training, validation)
            if state:
                state.save()
            if progress:
                told = ("training", training) if validation is None else ("validation", validation)
                progress(epoch + 1, epochs, *told)

    def rate(self) -> float:
        part = self.step / self.steps
        return self.settings.learning_rate * min(part / 0.05 + 1e-3, 0.5 * (1 + math.cos(math.pi * min(part, 1.0))))

    def train_epoch(self, rows: Tensor, epoch: int) -> float:
        # seeded by the epoch, so that a resumed fit draws what an uninterrupted one would have drawn
        torch.manual_seed(self.settings.seed * 100_003 + epoch)
        self.network.train()
        order = rows[torch.randperm(len(rows), device=rows.device)]
        batches = order.split(self.settings.batch)
        total = 0.0
        for batch in batches[: max(1, len(order) // self.settings.batch)]:
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate()
            loss = self.loss(batch, augment=True)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            decay = min(self.settings.average, self.step / (self.step + 10))
            for key, value in self.network.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
            total += float(loss.detach())
        return total / max(1, len(order) // self.settings.batch)

    def loss(self, rows: Tensor, augment: bool) -> Tensor:
        features = self._augmented(rows) if augment else self.features[rows]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = self.network(features)
        raw: Any = tuple(part.float() for part in outputs) if isinstance(outputs, tuple) else outputs.float()
        targets = {name: values[rows] for name, values in self.data.targets.items()}
        own = self.trainable.loss(self.architecture, raw, targets)
        if own is not None:
            return own
        predicted = self.trainable.loss_outputs(self.architecture, raw)
        error = predicted.mean - targets["mean"]
        # the labels' own scatter is 1 by construction; their errors add to it star by star
        scatter = self.scatter + targets["covariance"]
        compared = fractional(error, self.data.spread) if self.settings.loss in FRACTIONAL else error
        loss = point_loss(compared, scatter, self.settings.loss)
        if predicted.auxiliary is not None and "auxiliary" in targets:
            loss = loss + self.settings.auxiliary_weight * auxiliary_loss(predicted.auxiliary, targets["auxiliary"])
        detached = LabelDistribution(predicted.mean.detach(), predicted.covariance)
        return loss + self.settings.head_weight * distribution_loss(error.detach(), detached)

    def _augmented(self, rows: Tensor) -> Tensor:
        """Network inputs of a step's spectra."""
        settings, prepared = self.settings, self.data.prepared
        if self.redrawn is not None:
            return self.redrawn[torch.randint(len(self.redrawn), rows.shape, device=rows.device), rows]
        if settings.noise == 0 and settings.masked_stretches == 0:
            return self.features[rows]
        pixels, good, noise = prepared.pixels[rows], prepared.good[rows], prepared.noise[rows]
        return self.inputs.features(*_augment(pixels, good, noise, settings))

    def validate(self, rows: Tensor) -> float:
        current = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        with torch.inference_mode():
            total = sum(float(self.loss(part, augment=False)) * len(part) for part in rows.split(1024))
        self.network.load_state_dict(current)
        return total / len(rows)

    def record(self, epoch: int, training: float, validation: float | None) -> None:
        self.epoch = epoch + 1
        self.history.append({"epoch": epoch, "training": training})
        if validation is not None:
            self.history[-1]["validation"] = validation
        if validation is None or validation < self.best_loss:
            self.best_loss, self.best_epoch = training if validation is None else validation, epoch
            self.best = {key: value.clone() for key, value in self.average.items()}


def _augment(pixels: Tensor, good: Tensor, noise: Tensor, settings: FitSettings) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = pixels.shape
    if settings.noise > 0:
        amount = settings.noise * torch.rand(rows, 1, device=pixels.device)
        pixels = pixels + amount * noise * torch.randn_like(pixels)
        noise = noise * torch.sqrt(1.0 + amount**2)
    if settings.masked_stretches > 0:
        number = torch.poisson(torch.full((rows,), settings.masked_stretches, device=pixels.device))
        position = torch.arange(width, device=pixels.device)
        for k in range(int(number.max())):
            start = torch.randint(0, width, (rows, 1), device=pixels.device)
            length = torch.randint(5, 80, (rows, 1), device=pixels.device)
            hidden = (position >= start) & (position < start + length) & (number > k)[:, None]
            good = good & ~hidden
        pixels = torch.where(good, pixels, 0.0)
        noise = torch.where(good, noise, 0.0)
    return pixels, good, noise


def _digest(
    inputs: NetworkInputs,
    prepared: PreparedSpectra,
    targets: Targets,
    architecture: Mapping[str, Any],
    train_rows: NDArray[np.integer],
    validation_rows: NDArray[np.integer] | None,
    redrawn: Tensor | None,
) -> str:
    """SHA-256 of what a fit learns from, so that none goes on with anything else."""
    digest = hashlib.sha256(json.dumps([inputs.settings(), dict(architecture)], sort_keys=True, default=str).encode())
    held_out = np.zeros(0, np.int64) if validation_rows is None else validation_rows
    arrays = [*inputs.arrays().values(), targets.mean, targets.covariance, targets.spread, train_rows, held_out]
    arrays += [targets.others[name] for name in sorted(targets.others)]
    arrays += [tensor.cpu().numpy() for tensor in (prepared.pixels, redrawn) if tensor is not None]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Checkpoint:
    """State of a fit in a directory: safetensors and JSON, no pickle; the JSON is written last."""

    def __init__(self, directory: Path, loop: _Loop, learnt_from: str) -> None:
        self.directory, self.loop = directory, loop
        directory.mkdir(parents=True, exist_ok=True)
        self.settings = {**loop.settings.model_dump(mode="json"), "learnt_from": learnt_from}

    def save(self) -> None:
        loop = self.loop
        tensors = {f"network.{k}": v for k, v in loop.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in loop.average.items()}
        tensors |= {f"best.{k}": v for k, v in loop.best.items()}
        for index, state in loop.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        name = f"epoch-{loop.epoch}.safetensors"
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        save_file(copies, self.directory / name)
        numbers = {
            "tensors": name,
            "settings": self.settings,
            "epoch": loop.epoch,
            "step": loop.step,
            "best_epoch": loop.best_epoch,
            "best_loss": loop.best_loss,
            "history": loop.history,
        }
        partial = self.directory / "state.json.partial"
        partial.write_text(json.dumps(numbers))
        partial.replace(self.directory / "state.json")
        for other in self.directory.glob("epoch-*.safetensors"):
            if other.name != name:
                other.unlink()

    def load(self) -> None:
        path = self.directory / "state.json"
        if not path.is_file():
            return
        numbers = json.loads(path.read_text())
        if numbers["settings"] != self.settings:
            raise CheckpointError(
                f"{path}: is of a fit with other settings or other data, or of inputs computed on another number of "
                f"threads; remove {self.directory} to start anew"
            )
        loop = self.loop
        tensors = load_file(self.directory / numbers["tensors"], device=str(loop.device))

        def part(prefix: str) -> dict[str, Tensor]:
            return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

        loop.network.load_state_dict(part("network."))
        loop.average, loop.best = part("average."), part("best.")
        state = loop.optimiser.state_dict()
        for key, value in part("optimiser.").items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value.cpu() if name == "step" else value
        loop.optimiser.load_state_dict(state)
        loop.epoch, loop.step, loop.history = numbers["epoch"], numbers["step"], numbers["history"]
        loop.best_epoch, loop.best_loss = numbers["best_epoch"], numbers["best_loss"]
