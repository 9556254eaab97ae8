"""Bundles from astroNN model directories: ``astroNN_model_parameter.json`` and Keras's ``model_weights.h5``.

Reads the HDF5 files of Keras 2 (and of Keras 3's ``model.save("x.h5")``) and the ``.weights.h5`` layout of Keras 3.
Neither Keras nor astroNN is needed, and nothing is unpickled. Layers are recognised by their shapes, because their
names depend on the session in which a model was built; names only tell the two heads of equal shape apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from catalogue.models.apogee_continuum import N_PIXELS, read_continuum_pixels
from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
from catalogue.models.astronn_bcnn import AstroNNArchitecture, AstroNNBayesian, AstroNNNetwork
from catalogue.models.base import LabelScale
from catalogue.models.bundle import Bundle, BundleError, Description, Label
from catalogue.models.latent_age import latent_bundle
from catalogue.models.latent_network import LatentArchitecture, LatentNetwork

PARAMETERS = "astroNN_model_parameter.json"
WEIGHT_FILES = ("model_weights.h5", "model.weights.h5", "model_weights.weights.h5")
_VARIANCE = re.compile(r"var|sigma|logvar", re.IGNORECASE)
_UNITS = {"age": "Gyr", "mass": "solMass"}


@dataclass(frozen=True)
class KerasLayer:
    """Kernel and bias of one layer, in Keras's axis order."""

    name: str
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]


def import_astronn(
    directory: Path,
    out: Path,
    *,
    continuum_pixels: Path | None = None,
    labels: Sequence[str] | None = None,
    age_linear: tuple[float, float] | None = None,
    licence: str = "",
    citation: str = "",
) -> Bundle:
    """Turn an astroNN model directory into a bundle.

    Parameters
    ----------
    directory : Path
        Of an ``ApogeeBCNN`` (age and mass) or an ``ApokascEncoderDecoder``.
    out : Path
        Directory of the new bundle.
    continuum_pixels : Path, optional
        The list with which the network was trained, such as astroNN's ``dr17_contmask.npy``; see
        :func:`~catalogue.models.apogee_continuum.read_continuum_pixels`. Without it the package's own.
    labels : sequence of str, optional
        Names of the network's labels where the directory does not call them age and mass.
    age_linear : tuple of float, optional
        (intercept, slope) for ``age_linear_correct``.
    licence, citation : str
        Of the imported model.

    Returns
    -------
    Bundle
        For an encoder-decoder without a forest: latent numbers only, until ages are trained on them.

    Raises
    ------
    BundleError
        If a file is missing or damaged, or the network is of another kind or shape.
    """
    parameters = _read_parameters(directory)
    layers = read_keras_layers(_weights_file(directory))
    pixels = read_continuum_pixels(continuum_pixels)
    kind = str(parameters.get("id", ""))
    origin = f"imported from astroNN model {directory.name} ({kind}); continuum pixels: "
    origin += continuum_pixels.name if continuum_pixels else "the package's own, not those of the training"
    common = {"licence": licence, "citation": citation, "notes": origin}
    try:
        if kind == "ApogeeBCNN":
            return _import_bcnn(directory, out, parameters, layers, pixels, labels, age_linear, common)
        if kind == "ApokascEncoderDecoder":
            return _import_latent(directory, out, parameters, layers, pixels, common)
    except KeyError as error:
        raise BundleError(f"{directory / PARAMETERS}: key {error} is missing, which an {kind} has") from error
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{directory}: cannot be imported as {kind}: {error}") from error
    raise BundleError(f"{directory}: expected an ApogeeBCNN or an ApokascEncoderDecoder, found {kind!r}")


def read_keras_layers(path: Path) -> list[KerasLayer]:
    """Layers with a kernel and a bias, in the model's order.

    Raises
    ------
    BundleError
        If the file is not HDF5 of a layout that Keras writes, or h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise BundleError("reading Keras weights needs h5py: pip install 'stellar-catalogue[keras]'") from error
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            arrays = _old_layout(root) if "layer_names" in root.attrs else _new_layout(root)
    except OSError as error:
        raise BundleError(f"{path}: not an HDF5 file: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # groups and attributes of another's file
        raise BundleError(f"{path}: not a file of Keras's weights: {error}") from error
    layers, position = [], 0
    while position + 1 < len(arrays):
        (name, kernel), (_, bias) = arrays[position : position + 2]
        if kernel.ndim in (2, 3) and bias.ndim == 1:
            layers.append(KerasLayer(name, kernel, bias))
            position += 2
        else:
            position += 1
    if not layers:
        raise BundleError(f"{path}: no layer with kernel and bias in it")
    return layers


def _old_layout(root: Any) -> list[tuple[str, NDArray[np.float32]]]:
    """Arrays of a Keras 2 file, whose attributes hold the order."""
    arrays = []
    for layer in root.attrs["layer_names"]:
        group = root[_text(layer)]
        for weight in group.attrs["weight_names"]:
            arrays.append((f"{_text(layer)}/{_text(weight)}", np.asarray(group[_text(weight)], np.float32)))
    return arrays


def _new_layout(root: Any) -> list[tuple[str, NDArray[np.float32]]]:
    """Arrays of a Keras 3 weights file: ``.../<layer>/vars/<number>``, numbered per class of layer."""
    found: list[tuple[str, NDArray[np.float32]]] = []

    def visit(group: Any, path: str) -> None:
        for key in sorted(group, key=_natural):
            if path == "" and key == "optimizer":
                continue
            item = group[key]
            if not hasattr(item, "keys"):
                continue
            if key == "vars":
                name = f"{path}/{_text(group.attrs.get('name', ''))}/{_text(item.attrs.get('name', ''))}"
                found.extend((name, np.asarray(item[number], np.float32)) for number in sorted(item, key=_natural))
            else:
                visit(item, f"{path}/{key}")

    visit(root, "")
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(name: str) -> tuple[str, int]:
    """Order ``dense``, ``dense_1``, ``dense_10`` by number."""
    match = re.fullmatch(r"(.*?)_?(\d+)?", name)
    assert match is not None
    return match.group(1), int(match.group(2) or 0)


def _read_parameters(directory: Path) -> dict[str, Any]:
    try:
        parameters = json.loads((directory / PARAMETERS).read_text())
    except OSError as error:
        raise BundleError(f"{directory / PARAMETERS}: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{directory / PARAMETERS}: not JSON: {error}") from error
    if not isinstance(parameters, dict):
        raise BundleError(f"{directory / PARAMETERS}: expected keys and values, found {type(parameters).__name__}")
    return parameters


def _weights_file(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise BundleError(f"{directory}: expected one of {', '.join(WEIGHT_FILES)}, found none")


def _first(value: Any) -> Any:
    """The value of a dictionary of one input or output; of several, that of the label head."""
    if not isinstance(value, Mapping):
        return value
    return value["output"] if "output" in value else next(iter(value.values()))


def _inputs(parameters: Mapping[str, Any], pixels: NDArray[np.bool_]) -> ApogeeInputs:
    mode = str(parameters["input_norm_mode"])
    if mode not in ("0", "2", "3"):
        raise ValueError(f"expected input_norm_mode 0, 2 or 3, found {mode}")
    mean, spread = (np.asarray(_first(parameters[name]), np.float32).ravel() for name in ("input_mean", "input_std"))
    mean, spread = (np.broadcast_to(values, (N_PIXELS,)).copy() for values in (mean, spread))
    settings = ApogeeInputSettings(normalisation="standardise" if mode == "2" else "centre")
    if mode != "2":
        spread = np.ones_like(spread)
    return ApogeeInputs(settings, pixels, np.zeros_like(mean) if mode == "0" else mean, spread)


def _take(layers: list[KerasLayer], shape: tuple[int, ...], what: str, *, variance: bool | None = None) -> KerasLayer:
    """Remove and return the first layer of a kernel shape; of two heads, the one that the name tells."""
    fitting = [layer for layer in layers if layer.kernel.shape == shape]
    if not fitting:
        found = ", ".join(str(layer.kernel.shape) for layer in layers) or "none left"
        raise ValueError(f"expected a layer {shape} for {what}, found {found}")
    if variance is not None:
        named = [layer for layer in fitting if (_VARIANCE.search(layer.name.split("/", 1)[-1]) is not None) == variance]
        fitting = named or fitting
    chosen = fitting[0]
    layers[:] = [layer for layer in layers if layer is not chosen]
    return chosen


def _load(module: nn.Module, layer: KerasLayer) -> None:
    """Copy a layer, turning (kernel, in, out), (kernel, out, in) and (in, out) to torch's axis order."""
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(layer.kernel.T)))  # type: ignore[operator]
        module.bias.copy_(torch.from_numpy(layer.bias))  # type: ignore[operator]


def _import_bcnn(
    directory: Path,
    out: Path,
    parameters: Mapping[str, Any],
    layers: list[KerasLayer],
    pixels: NDArray[np.bool_],
    labels: Sequence[str] | None,
    age_linear: tuple[float, float] | None,
    common: Mapping[str, str],
) -> Bundle:
    names = [str(name).lower() for name in (labels or parameters.get("targetname") or ())]
    if sorted(names) != ["age", "mass"]:
        raise ValueError(f"expected the labels age and mass, found {names}; name them in their order")
    first, second = (int(n) for n in parameters["filternum"])
    hidden = tuple(int(n) for n in parameters["hidden"])
    kernel = int(parameters["filterlen"])
    settings: dict[str, Any] = {
        "filters": (first, second),
        "kernel": kernel,
        "pool": int(parameters["pool_length"]),
        "hidden": hidden,
        "dropout": float(parameters["dropout_rate"]),
        "activation": str(parameters.get("last_layer_activation") or "linear"),
        "age_linear": age_linear,
    }
    if parameters.get("activation", "relu") != "relu":
        raise ValueError(f"expected the activation relu, found {parameters['activation']}")
    architecture = AstroNNArchitecture.model_validate(settings)
    network = AstroNNNetwork(architecture)
    rest = list(layers)
    flat = architecture.n_pixels // architecture.pool * second
    _load(network.conv1, _take(rest, (kernel, 1, first), "the first convolution"))
    _load(network.conv2, _take(rest, (kernel, first, second), "the second convolution"))
    _load(network.hidden1, _take(rest, (flat, hidden[0]), "the first dense layer"))
    _load(network.hidden2, _take(rest, (hidden[0], hidden[1]), "the second dense layer"))
    _load(network.output, _take(rest, (hidden[1], 2), "the labels", variance=False))
    _load(network.log_variance, _take(rest, (hidden[1], 2), "the variances", variance=True))
    offset, scale = (_broadcast(parameters[name], 2) for name in ("labels_mean", "labels_std"))
    description = _description("astronn_bcnn", directory, architecture.model_dump(mode="json"), common, tuple(names))
    return AstroNNBayesian.to_bundle(
        out, description, _inputs(parameters, pixels), network, LabelScale(False, offset, scale)
    )


def _import_latent(
    directory: Path,
    out: Path,
    parameters: Mapping[str, Any],
    layers: list[KerasLayer],
    pixels: NDArray[np.bool_],
    common: Mapping[str, str],
) -> Bundle:
    filters = [int(n) for n in parameters["filternum"]]
    kernels = [int(n) for n in parameters["filterlen"]]
    bottleneck, depth = (int(n) for n in parameters["hidden"])
    latent = int(parameters.get("latent", 5))
    architecture = LatentArchitecture(
        encoder_filters=(filters[0], filters[1]),
        decoder_filters=(filters[2], filters[3]),
        encoder_kernel=kernels[0],
        decoder_kernel=kernels[1],
        bottleneck=bottleneck,
        decoder_depth=depth,
        latent=latent,
    )
    network = LatentNetwork(architecture)
    rest = list(layers)
    encoder, decoder = network.encoder, network.decoder
    _load(encoder.conv1, _take(rest, (kernels[0], 1, filters[0]), "the encoder's first convolution"))
    _load(encoder.conv2, _take(rest, (kernels[0], filters[0], filters[1]), "the encoder's second convolution"))
    _load(encoder.hidden, _take(rest, (architecture.flattened, bottleneck), "the encoder's dense layer"))
    _load(encoder.mean, _take(rest, (bottleneck, latent), "the latent mean", variance=False))
    _load(encoder.log_variance, _take(rest, (bottleneck, latent), "the latent variance", variance=True))
    start = architecture.decoder_start * depth
    _load(decoder.hidden, _take(rest, (latent, start), "the decoder's dense layer"))
    _load(decoder.conv1, _take(rest, (kernels[1], filters[2], depth), "the decoder's first convolution"))
    _load(decoder.conv2, _take(rest, (kernels[1], filters[3], filters[2]), "the decoder's second convolution"))
    _load(decoder.conv3, _take(rest, (kernels[1], 1, filters[3]), "the decoder's last convolution"))
    description = _description("latent_age", directory, architecture.model_dump(mode="json"), common, ())
    return latent_bundle(out, description, _inputs(parameters, pixels), network, None)


def _broadcast(value: Any, n: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.broadcast_to(np.asarray(_first(value), np.float64).ravel(), (n,)))


def _description(
    kind: str, directory: Path, architecture: dict[str, Any], common: Mapping[str, str], labels: tuple[str, ...]
) -> Description:
    return Description(
        kind=kind,
        name=directory.name,
        version="imported",
        survey="apogee",
        grid="apogee",
        labels=tuple(Label(name=name, unit=_UNITS.get(name, ""), description=name) for name in labels),
        architecture=architecture,
        licence=common["licence"],
        citation=common["citation"],
        notes=common["notes"],
    )
