"""Import of astroNN model directories: against files of both layouts, and against Keras where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.models.astronn_bcnn import AstroNNBayesian
from catalogue.models.astronn_passes import AstroNNPasses
from catalogue.models.base import InferenceSettings
from catalogue.models.bundle import BundleError
from catalogue.models.keras_import import import_astronn, read_keras_layers
from catalogue.models.latent_age import LatentAge
from tests.factories.apogee import spectra_batch
from tests.factories.keras_models import BCNN, LATENT, keras_bcnn, keras_latent, write_directory

h5py = pytest.importorskip("h5py", reason="the keras extra is not installed")

BCNN_SHAPES = [
    ("conv1d_7", (8, 1, 2)),
    ("conv1d_8", (8, 2, 4)),
    ("dense_3", (7512, 10)),
    ("dense_4", (10, 6)),
    ("variance_output", (6, 2)),
    ("output", (6, 2)),
]


def random_layers(shapes, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(0, 0.2, shape).astype("f4"), random.normal(0, 0.1, shape[-1]).astype("f4"))
        for name, shape in shapes
    }


def write_old(path, layers, nested=True):
    """As Keras 2's ``model.save``: order in attributes, a group per layer."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        root.attrs["layer_names"] = [b"input", *(name.encode() for name in layers)]
        root.create_group("input").attrs["weight_names"] = np.zeros(0, "S1")
        for name, arrays in layers.items():
            group = root.create_group(name)
            names = [f"{name}/kernel:0", f"{name}/bias:0"]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for weight, array in zip(names, arrays, strict=True):
                group[weight] = array


def assert_has(network, layers):
    for ours, theirs in (("conv1", "conv1d_7"), ("conv2", "conv1d_8"), ("hidden1", "dense_3"), ("hidden2", "dense_4")):
        np.testing.assert_array_equal(getattr(network, ours).weight.detach().numpy(), layers[theirs][0].T)
    np.testing.assert_array_equal(network.output.weight.detach().numpy(), layers["output"][0].T)
    np.testing.assert_array_equal(network.log_variance.bias.detach().numpy(), layers["variance_output"][1])


@pytest.mark.parametrize("nested", [True, False])
def test_old_layout(tmp_path, nested):
    directory = write_directory(tmp_path / "net", BCNN)
    layers = random_layers(BCNN_SHAPES)
    write_old(directory / "model_weights.h5", layers, nested)
    bundle = import_astronn(directory, tmp_path / "out", age_linear=(0.1, 0.9), licence="MIT")
    model = AstroNNBayesian(bundle)
    assert_has(model._network, layers)
    assert bundle.description.licence == "MIT"
    assert "own" in bundle.description.notes
    assert model.label_scale.scale == (3.0, 0.5)
    assert np.isfinite(model.predict(spectra_batch(2), InferenceSettings(device="cpu", passes=2))["age"]).all()


def test_new_layout(tmp_path):
    directory = write_directory(tmp_path / "net", BCNN)
    layers = random_layers(BCNN_SHAPES)
    keys = ["conv1d", "conv1d_1", "dense", "dense_1", "dense_2", "dense_3"]
    with h5py.File(directory / "model.weights.h5", "w") as file:
        for key, (name, arrays) in zip(keys, layers.items(), strict=True):
            group = file.create_group(f"layers/{key}/vars")
            group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group[str(i)] = array
        file.create_group("optimizer/vars")["0"] = np.zeros((6, 2))
    assert_has(AstroNNBayesian(import_astronn(directory, tmp_path / "out"))._network, layers)


def test_labels_may_be_in_the_other_order(tmp_path):
    directory = write_directory(tmp_path / "net", {**BCNN, "targetname": ["MASS", "AGE"]})
    write_old(directory / "model_weights.h5", random_layers(BCNN_SHAPES))
    model = AstroNNBayesian(import_astronn(directory, tmp_path / "out"))
    samples = torch.zeros(2, 1, 4)
    samples[..., 0] = 5.0  # the first label is the mass, scale 3
    values = model.summarise(model.moments(samples).numpy())[:, 0]
    assert values[4] == pytest.approx(3 * np.log1p(np.exp(5.0)), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "StarNet2017"}, "StarNet2017"),
        ({"hidden": [11, 6]}, r"\(7512, 11\)"),
        ({"targetname": ["TEFF", "LOGG"]}, "age and mass"),
        ({"input_norm_mode": 1}, "input_norm_mode"),
        ({"activation": "tanh"}, "relu"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    directory = write_directory(tmp_path / "net", {**BCNN, **change})
    write_old(directory / "model_weights.h5", random_layers(BCNN_SHAPES))
    with pytest.raises(BundleError, match=message):
        import_astronn(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_directories_are_refused(tmp_path):
    with pytest.raises(BundleError, match="astroNN_model_parameter"):
        import_astronn(tmp_path, tmp_path / "out")
    directory = write_directory(tmp_path / "net", BCNN)
    with pytest.raises(BundleError, match=r"model_weights\.h5"):
        import_astronn(directory, tmp_path / "out")
    (directory / "model_weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(BundleError, match="not an HDF5"):
        import_astronn(directory, tmp_path / "out")
    with h5py.File(directory / "model_weights.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(BundleError, match="no layer"):
        read_keras_layers(directory / "model_weights.h5")
    (directory / "astroNN_model_parameter.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        import_astronn(directory, tmp_path / "out")
    (directory / "astroNN_model_parameter.json").write_text("[]")
    with pytest.raises(BundleError, match="expected keys and values, found list"):
        import_astronn(directory, tmp_path / "out")


def test_a_missing_key_is_named_with_its_file(tmp_path):
    directory = write_directory(tmp_path / "net", {key: BCNN[key] for key in BCNN if key != "filternum"})
    write_old(directory / "model_weights.h5", random_layers(BCNN_SHAPES))
    with pytest.raises(BundleError, match=r"astroNN_model_parameter.json: key 'filternum' is missing"):
        import_astronn(directory, tmp_path / "out")


@pytest.mark.parametrize("names", [["nowhere"], 3])
def test_a_file_of_another_program_is_not_taken_for_keras(tmp_path, names):
    with h5py.File(tmp_path / "model_weights.h5", "w") as file:
        file.attrs["layer_names"] = names
    with pytest.raises(BundleError, match="not a file of Keras's weights"):
        read_keras_layers(tmp_path / "model_weights.h5")


# Against Keras itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="Keras is not installed: see tests/factories/keras_models.py")


@pytest.mark.parametrize("file", ["model_weights.h5", "model.weights.h5"])
def test_bcnn_equals_keras(keras, tmp_path, file):
    keras.utils.set_random_seed(3)
    reference, dropping = keras_bcnn(keras, False), keras_bcnn(keras, True)
    dropping.set_weights(reference.get_weights())
    directory = write_directory(tmp_path / "net", BCNN)
    (reference.save if file == "model_weights.h5" else reference.save_weights)(str(directory / file))
    model = AstroNNBayesian(import_astronn(directory, tmp_path / "out"))
    spectra = np.random.default_rng(1).normal(0, 0.1, (64, 7514)).astype("f4")
    label, variance = (np.asarray(keras.ops.convert_to_numpy(v)) for v in reference(spectra[..., None]))
    with torch.no_grad():
        ours = model._network.eval()(torch.from_numpy(spectra))
    found = torch.cat([torch.nn.functional.softplus(ours[:, :2]), ours[:, 2:]], 1).numpy()
    expected = np.hstack([label, variance])
    print(f"{keras.backend.backend()}, dropout off: largest difference {np.abs(found - expected).max():.1e}")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    passes = 300
    theirs = np.stack(
        [np.hstack([keras.ops.convert_to_numpy(v) for v in dropping(spectra[:8, :, None])]) for _ in range(passes)]
    )
    raw = AstroNNPasses(model._network, passes, 0, torch.device("cpu"))(torch.from_numpy(spectra))[:, :8]
    mine = torch.cat([torch.nn.functional.softplus(raw[..., :2]), raw[..., 2:]], -1).numpy()
    error = np.sqrt((theirs.var(0) + mine.var(0)) / passes)
    distance = np.abs((mine.mean(0) - theirs.mean(0)) / error).max()
    ratio = mine.std(0) / theirs.std(0)
    print(
        f"{passes} passes with dropout: means at most {distance:.1f} standard errors apart, "
        f"ratio of the spreads {ratio.min():.2f} to {ratio.max():.2f}"
    )
    assert distance < 5
    assert 0.75 < ratio.min() < ratio.max() < 1.33


@pytest.mark.parametrize("file", ["model_weights.h5", "model.weights.h5"])
def test_encoder_decoder_equals_keras(keras, tmp_path, file):
    keras.utils.set_random_seed(4)
    whole, encoder, decoder = keras_latent(keras)
    directory = write_directory(tmp_path / "net", LATENT)
    (whole.save if file == "model_weights.h5" else whole.save_weights)(str(directory / file))
    model = LatentAge(import_astronn(directory, tmp_path / "out"))
    spectra = np.random.default_rng(1).normal(0, 1, (4, 7514)).astype("f4")
    expected = [keras.ops.convert_to_numpy(v) for v in encoder(spectra[..., None])]
    with torch.no_grad():
        found = model._network.encoder(torch.from_numpy(spectra))
    for ours, theirs in zip(found, expected, strict=True):
        print(f"{keras.backend.backend()}, encoder: largest difference {np.abs(ours.numpy() - theirs).max():.1e}")
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)
    latent = np.random.default_rng(2).normal(0, 1, (4, 5)).astype("f4")
    power = keras.ops.convert_to_numpy(decoder(latent))[..., 0]
    assert power.shape == (4, 2092)
    found = model.reconstruct(latent)
    print(f"decoder: largest difference {np.abs(found - power).max():.1e}")
    np.testing.assert_allclose(found, power, rtol=1e-5, atol=1e-5)
