"""astroNN's networks built in Keras with random weights, and directories such as astroNN saves.

In an environment with keras, torch and h5py (that of the project need not be in it)::

    KERAS_BACKEND=torch python tests/factories/keras_models.py OUT
    catalogue models import-astronn OUT/bcnn-old BUNDLE        # and bcnn-new, latent-old, latent-new

writes four directories, "old" as Keras 2 lays a file out and "new" as Keras 3 does, and beside each what Keras says of
some input (``reference.npz``). The tests against Keras itself, which skip without it, run there with the project's
packages on the path: ``KERAS_BACKEND=torch python -m pytest tests/models/test_keras_import.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

BCNN = {
    "id": "ApogeeBCNN",
    "activation": "relu",
    "last_layer_activation": "softplus",
    "filternum": [2, 4],
    "filterlen": 8,
    "pool_length": 4,
    "hidden": [10, 6],
    "dropout_rate": 0.3,
    "input_norm_mode": 3,
    "labels_norm_mode": 4,
    "input_mean": {"input": [0.95] * 7514},
    "input_std": {"input": [1.0] * 7514},
    "labels_mean": {"output": [0.0, 0.0], "variance_output": [0.0, 0.0]},
    "labels_std": {"output": [3.0, 0.5], "variance_output": [3.0, 0.5]},
    "targetname": ["age", "mass"],
}
LATENT = {
    "id": "ApokascEncoderDecoder",
    "activation": "relu",
    "filternum": [32, 64, 16, 16],
    "filterlen": [8, 32],
    "hidden": [16, 16],
    "dropout_rate": 0.0,
    "latent": 5,
    "input_norm_mode": 2,
    "labels_norm_mode": 0,
    "input_mean": {"input": [0.95] * 7514},
    "input_std": {"input": [0.05] * 7514},
    "labels_mean": {"output": [0.0]},
    "labels_std": {"output": [1.0]},
}


def write_directory(path, parameters):
    path.mkdir(parents=True, exist_ok=True)
    (path / "astroNN_model_parameter.json").write_text(json.dumps(parameters))
    return path


def keras_bcnn(keras, always_drop):
    layers = keras.layers
    start = {"kernel_initializer": keras.initializers.RandomNormal(0, 0.2, seed=1), "bias_initializer": "ones"}
    inputs = layers.Input((7514, 1), name="input")
    x = layers.Conv1D(2, 8, padding="same", activation="relu", **start)(inputs)
    x = layers.Dropout(0.3)(x, training=always_drop)
    x = layers.Conv1D(4, 8, padding="same", activation="relu", **start)(x)
    x = layers.Flatten()(layers.MaxPooling1D(4)(x))
    x = layers.Dropout(0.3)(x, training=always_drop)
    small = {"kernel_initializer": keras.initializers.RandomNormal(0, 0.01, seed=2)}
    x = layers.Dense(10, activation="relu", **small)(x)
    x = layers.Dropout(0.3)(x, training=always_drop)
    x = layers.Dense(6, activation="relu", **start)(x)
    output = layers.Dense(2, activation="softplus", name="output", **small)(x)
    variance = layers.Dense(2, name="variance_output", **small)(x)
    return keras.Model(inputs, [output, variance])


def keras_latent(keras):
    layers = keras.layers
    inputs = layers.Input((7514, 1), name="input")
    x = layers.Conv1D(32, 8, strides=2, padding="same", activation="relu")(inputs)
    x = layers.Conv1D(64, 8, strides=2, padding="same", activation="relu")(x)
    x = layers.Flatten()(layers.MaxPooling1D(2)(x))
    x = layers.Dense(16, activation="tanh")(x)
    mean, log_variance = layers.Dense(5, name="z_mean")(x), layers.Dense(5, name="z_log_var")(x)
    encoder = keras.Model(inputs, [mean, log_variance])
    latent = layers.Input((5,))
    x = layers.Reshape((523, 16))(layers.Dense(523 * 16, activation="relu")(latent))
    x = layers.Conv1DTranspose(16, 32, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv1DTranspose(16, 32, strides=2, padding="same", activation="relu")(x)
    decoder = keras.Model(latent, layers.Conv1DTranspose(1, 32, padding="same")(x))
    whole = keras.Model(inputs, [decoder(encoder(inputs)[0]), encoder(inputs)[1]])
    for weight in whole.weights:
        if weight.ndim == 1:
            weight.assign(np.random.default_rng(0).normal(0, 0.1, weight.shape))
    return whole, encoder, decoder


def main(out: Path) -> None:
    """Write the four directories."""
    import keras

    keras.utils.set_random_seed(3)
    spectra = np.random.default_rng(1).normal(0, 0.1, (16, 7514)).astype("f4")
    bcnn = keras_bcnn(keras, False)
    labels = [keras.ops.convert_to_numpy(values) for values in bcnn(spectra[..., None])]
    whole, encoder, _ = keras_latent(keras)
    latent = [keras.ops.convert_to_numpy(values) for values in encoder(spectra[..., None])]
    for name, model, parameters, answer in (("bcnn", bcnn, BCNN, labels), ("latent", whole, LATENT, latent)):
        for layout in ("old", "new"):
            directory = write_directory(out / f"{name}-{layout}", parameters)
            if layout == "old":
                model.save(directory / "model_weights.h5")
            else:
                model.save_weights(directory / "model.weights.h5")
            np.savez(directory / "reference.npz", spectra=spectra, first=answer[0], second=answer[1])
            print(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
