"""Latent ages (Leung et al. 2023): the spectrum's five latent numbers, and the age that follows from them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
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
from catalogue.models.engines import Engines
from catalogue.models.latent_forest import AgeForest, ForestSettings
from catalogue.models.latent_network import (
    LatentArchitecture,
    LatentNetwork,
    frequency_grid,
    frequency_weight,
    latent_loss,
)
from catalogue.models.packing import Places, Rows
from catalogue.models.transfer import compute_granules
from catalogue.spectra.primitives import PixelGrid

MISSING_BELOW = -900.0
"""Teff and [Fe/H] below it are missing: allStar tables write -9999 and -999.99 up to DR16, NaN in DR17."""

STELLAR_ERRORS = {"teff_err": 30.0, "fe_h_err": 0.02}
"""Errors of Teff (K) and [Fe/H] with which the forest is trained where the training set gives none."""

_AGES = (
    Output("log_age", "float32", "dex(Gyr)", "log10 of the age, mean over the trees"),
    Output("log_age_error", "float32", "dex(Gyr)", "spread of log_age over the trees"),
    Output("age", "float32", "Gyr", "age, mean over the trees"),
    Output("age_error", "float32", "Gyr", "spread of age over the trees"),
)


class LatentAge(Model, Trainable):
    """Encoder and probabilistic forest.

    ``age`` and its companions are NaN where Teff or [Fe/H] is missing, or where the bundle holds no forest; the
    latent numbers exist for every usable spectrum. Which rows a published table shows is the data model's matter.
    """

    kind: ClassVar[str] = "latent_age"
    inference_version: ClassVar[int] = 4
    inputs: ClassVar[tuple[str, ...]] = ("teff", "fe_h")
    labels: ClassVar[tuple[Label, ...]] = (
        Label(name="age", unit="Gyr", description="stellar age"),
        Label(name="mass", unit="solMass", description="stellar mass, not used"),
    )
    learns_oscillations: ClassVar[bool] = True

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        description = dict(bundle.description.architecture)
        try:
            forest_settings = description.pop("forest", None)
            self.architecture = LatentArchitecture.model_validate(description)
            self._inputs = ApogeeInputs.from_arrays(bundle.description.preprocessing, bundle.weights)
            self._network = LatentNetwork(self.architecture).eval()
            parts = ("encoder.", "decoder.")
            state = {key: torch.tensor(value) for key, value in bundle.weights.items() if key.startswith(parts)}
            self._network.load_state_dict(state)
            self.forest = None
            if forest_settings is not None:
                self.forest = AgeForest.from_arrays(forest_settings, bundle.weights)
                if self.forest.forest.n_features != self.architecture.latent + len(self.inputs):
                    raise ValueError(
                        f"expected a forest of {self.architecture.latent + len(self.inputs)} features, "
                        f"found {self.forest.forest.n_features}"
                    )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"{bundle.path}: not a bundle of kind {self.kind!r}: {error}") from error
        self._engines = Engines(bundle, self._engine)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """z0, z1, ..., then the ages, then ``bad_fraction``."""
        latent = tuple(
            Output(f"z{i}", "float32", "", f"latent dimension {i}, mean") for i in range(self.architecture.latent)
        )
        bad = Output("bad_fraction", "float32", "", "fraction of the network's pixels without usable flux")
        return (*latent, *_AGES, bad)

    def predict(self, batch: SpectraBatch, settings: InferenceSettings) -> dict[str, NDArray[np.floating]]:
        """Predict every row of a batch, see :meth:`Model.predict`. There is no dropout: T and seed do nothing."""
        latent, _, fraction = self.encode(batch, settings)
        ages = self._ages(latent, batch)
        return {**{f"z{i}": latent[:, i] for i in range(latent.shape[1])}, **ages, "bad_fraction": fraction}

    def encode(
        self, batch: SpectraBatch, settings: InferenceSettings
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Latent means and standard deviations, shape (rows, latent), and bad fractions, shape (rows,)."""
        inputs, encoder, places = self._engines.of(settings)
        latent, spread = np.full((2, len(batch), self.architecture.latent), np.nan, np.float32)
        fraction = np.full(len(batch), np.nan, np.float32)

        def load(part: Rows) -> list[NDArray[np.float32]]:
            pixels, bad = inputs.gather(batch, part)
            fraction[part] = np.where(batch.usable[part], bad, np.nan)
            return [pixels]

        def compute(pixels: Tensor) -> Tensor:
            return torch.stack(encoder(inputs.normalise(pixels)))

        def keep(part: Rows, values: NDArray[np.float32]) -> None:
            known = fraction[part, None] < 1
            mean, log_variance = values[:, : len(known)]
            latent[part] = np.where(known, mean, np.nan)
            spread[part] = np.where(known, np.exp(0.5 * log_variance), np.nan)

        compute_granules(inputs.device, batch.usable, settings.granules, load, compute, keep, places)
        return latent, spread, fraction

    def _features(self, latent: NDArray[np.float32], batch: SpectraBatch) -> NDArray[np.float64]:
        """What the forest sees, shape (rows, latent + 2): NaN where missing."""
        stellar = [np.asarray(batch.columns[name], dtype=np.float64) for name in self.inputs]
        stellar = [np.where(values > MISSING_BELOW, values, np.nan) for values in stellar]
        return np.column_stack([latent.astype(np.float64), *stellar])

    def _ages(self, latent: NDArray[np.float32], batch: SpectraBatch) -> dict[str, NDArray[np.float32]]:
        """Ages of all rows at once."""
        found = {output.name: np.full(len(latent), np.nan, np.float32) for output in _AGES}
        if self.forest is None:
            return found
        features = self._features(latent, batch)
        complete = np.isfinite(features).all(axis=1)
        if complete.any():
            for name, values in self.forest.predict(features[complete]).items():
                found[name][complete] = values
        return found

    def reconstruct(self, latent: NDArray[np.floating]) -> NDArray[np.float32]:
        """Natural logarithm of the power spectrum of latent vectors, shape (rows, frequencies)."""
        with torch.inference_mode():
            power = self._network.decoder(torch.from_numpy(np.asarray(latent, dtype=np.float32)))
        return np.asarray(power.numpy())

    def _engine(self, passes: int, seed: int, device: torch.device) -> tuple[ApogeeInputs, nn.Module, Places]:
        return self._inputs.on(device), copy.deepcopy(self._network.encoder).to(device), Places()

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
        """Learn mean and spread of every pixel; see :meth:`Trainable.fit_inputs`. ``seed`` is not used."""
        settings = ApogeeInputSettings.model_validate({"normalisation": "standardise", **preprocessing})
        return ApogeeInputs.fit(settings, spectra, grid)

    @classmethod
    def network(cls, architecture: Mapping[str, Any], n_features: int) -> LatentNetwork:
        """A new network; ``architecture`` holds fields of :class:`LatentArchitecture`, and ``forest``."""
        return LatentNetwork(_sizes({**architecture, "n_pixels": n_features}))

    @classmethod
    def loss(cls, architecture: Mapping[str, Any], raw: Any, targets: Mapping[str, Tensor]) -> Tensor:
        """Reconstruction of the power spectrum and Kullback-Leibler term."""
        power, mean, log_variance = raw
        sizes = _sizes(architecture)
        weight = frequency_weight(frequency_grid(sizes.n_frequencies), targets["numax"].cpu().numpy())
        weights = torch.from_numpy(weight).to(power)
        target = targets["log_power"]
        return latent_loss(power, target, weights, mean, log_variance, sizes.kl_weight, sizes.reduction)

    @classmethod
    def complete(cls, architecture: Mapping[str, Any], bundle: Bundle, training: LabelledSpectra) -> Completion:
        """Train the forest on the first spectrum of every training star that has an age; see :class:`AgeForest`."""
        model = cls(bundle)
        _, first = np.unique(training.star, return_index=True)
        latent, spread, _ = model.encode(training.spectra, InferenceSettings(device="cpu"))
        features = model._features(latent, training.spectra)
        given = [training.spectra.columns.get(name) for name in STELLAR_ERRORS]
        defaults = STELLAR_ERRORS.values()
        stellar = [np.full(len(features), d) if e is None else e for e, d in zip(given, defaults, strict=True)]
        errors = np.column_stack([spread, *stellar]).astype(np.float64)
        age, age_error = training.labels[:, 0], training.label_errors[:, 0]
        known = np.asarray(np.isfinite(np.column_stack([features, errors, age, age_error])).all(axis=1))
        settings = ForestSettings.model_validate(architecture.get("forest") or {})
        rows = np.random.default_rng(bundle.description.seed).permutation(first[known[first]])[: settings.stars]
        log_error = age_error[rows] / age[rows] / np.log(10.0)
        seed = bundle.description.seed
        forest = AgeForest.train(features[rows], errors[rows], np.log10(age[rows]), log_error, settings, seed)
        frequency = frequency_grid(model.architecture.n_frequencies)
        return Completion({"forest": settings.model_dump(mode="json")}, {**forest.arrays(), "frequency": frequency})

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
        """Write a bundle; see :meth:`Trainable.to_bundle`. ``label_scale`` is not used."""
        assert isinstance(inputs, ApogeeInputs)
        assert isinstance(network, LatentNetwork)
        forest = {"forest": description.architecture["forest"]} if arrays else {}
        architecture = {**_sizes(description.architecture).model_dump(mode="json"), **forest}
        complete = description.model_copy(update={"architecture": architecture})
        return latent_bundle(path, complete, inputs, network, None, arrays)


def _sizes(architecture: Mapping[str, Any]) -> LatentArchitecture:
    return LatentArchitecture.model_validate({k: v for k, v in architecture.items() if k != "forest"})


def latent_bundle(
    path: Path,
    description: Description,
    inputs: ApogeeInputs,
    network: LatentNetwork,
    forest: AgeForest | None,
    arrays: Mapping[str, NDArray[np.generic]] | None = None,
) -> Bundle:
    """Write a bundle of kind ``latent_age``.

    Parameters
    ----------
    path : Path
    description : Description
        ``architecture`` holds fields of :class:`~catalogue.models.latent_network.LatentArchitecture`.
    inputs : ApogeeInputs
    network : LatentNetwork
    forest : AgeForest or None
        None for a bundle that gives latent numbers only.
    arrays : mapping, optional
        Further arrays, such as ``frequency``.
    """
    architecture = {**description.architecture}
    if forest is not None:
        architecture["forest"] = forest.settings.model_dump(mode="json")
    complete = description.model_copy(update={"architecture": architecture, "preprocessing": inputs.settings()})
    state = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    ages = forest.arrays() if forest is not None else {}
    return save_bundle(path, complete, {**state, **inputs.arrays(), **ages, **(arrays or {})})
