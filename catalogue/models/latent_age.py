"""Latent ages (Leung et al. 2023): the spectrum's five latent numbers, and the age that follows from them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from catalogue.models.apogee_inputs import ApogeeInputs
from catalogue.models.base import InferenceSettings, Model, Output, SpectraBatch
from catalogue.models.bundle import Bundle, BundleError, Description, save_bundle
from catalogue.models.dropout import map_granules
from catalogue.models.latent_forest import AgeForest
from catalogue.models.latent_network import LatentArchitecture, LatentNetwork
from catalogue.spectra.primitives import GRANULE_ROWS

MISSING_BELOW = -900.0
"""Teff and [Fe/H] below it are missing: allStar tables write -9999 and -999.99 up to DR16, NaN in DR17."""

_AGES = (
    Output("log_age", "float32", "dex(Gyr)", "log10 of the age, mean over the trees"),
    Output("log_age_error", "float32", "dex(Gyr)", "spread of log_age over the trees"),
    Output("age", "float32", "Gyr", "age, mean over the trees"),
    Output("age_error", "float32", "Gyr", "spread of age over the trees"),
)


class LatentAge(Model):
    """Encoder and probabilistic forest.

    ``age`` and its companions are NaN where Teff or [Fe/H] is missing, or where the bundle holds no forest; the
    latent numbers exist for every usable spectrum. Which rows a published table shows is the data model's matter.
    """

    kind: ClassVar[str] = "latent_age"
    inference_version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("teff", "fe_h")

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
        self._encoders: dict[str, tuple[ApogeeInputs, nn.Module]] = {}
        self._lock = threading.Lock()

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
        inputs, encoder = self._encoder(settings)
        n_latent = self.architecture.latent
        latent = np.full((len(batch), n_latent), np.nan, np.float32)
        fraction = np.full(len(batch), np.nan, np.float32)

        def granule(index: int) -> None:
            part = slice(index * GRANULE_ROWS, min((index + 1) * GRANULE_ROWS, len(batch)))
            usable = batch.usable[part]
            if usable.any():
                with torch.inference_mode():
                    pixels, bad = inputs.granule(batch, part)
                    mean = encoder(pixels)[0][: len(usable)].cpu().numpy()
                latent[part] = np.where((usable & (bad < 1))[:, None], mean, np.nan)
                fraction[part] = np.where(usable, bad, np.nan)

        threads = 1 if inputs.device.type == "cuda" else None
        map_granules(granule, -(-len(batch) // GRANULE_ROWS), threads)
        ages = self._ages(latent, batch)
        return {**{f"z{i}": latent[:, i] for i in range(n_latent)}, **ages, "bad_fraction": fraction}

    def _ages(self, latent: NDArray[np.float32], batch: SpectraBatch) -> dict[str, NDArray[np.float32]]:
        """Ages of all rows at once."""
        found = {output.name: np.full(len(latent), np.nan, np.float32) for output in _AGES}
        if self.forest is None:
            return found
        stellar = [np.asarray(batch.columns[name], dtype=np.float64) for name in self.inputs]
        stellar = [np.where(values > MISSING_BELOW, values, np.nan) for values in stellar]
        features = np.column_stack([latent.astype(np.float64), *stellar])
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

    def _encoder(self, settings: InferenceSettings) -> tuple[ApogeeInputs, nn.Module]:
        name = settings.device
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        with self._lock:
            if str(device) not in self._encoders:
                encoder = copy.deepcopy(self._network.encoder).to(device)
                self._encoders[str(device)] = (self._inputs.on(device), encoder)
            return self._encoders[str(device)]


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
