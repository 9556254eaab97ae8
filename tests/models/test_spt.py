from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from catalogue.models import InferenceSettings, SpectraBatch, load_model
from catalogue.models.base import LabelScale
from catalogue.models.bundle import save_bundle
from catalogue.models.spt import (
    OUTPUTS,
    HadamardAttention,
    SpectralTransformer,
    SPTArchitecture,
    data_covariance,
)
from tests.factories.bundles import LAMOST_GRID, TINY_PREPROCESSING, giant_spectra, tiny_spt_bundle

CPU = InferenceSettings(device="cpu")
PER_LABEL = ("", "_error", "_model_error", "_data_error", "_p16", "_p50", "_p84")
NAMES = [f"age{end}" for end in PER_LABEL] + ["log_age", "log_age_error"]
NAMES += [f"mass{end}" for end in PER_LABEL] + ["age_mass_correlation", "novelty", "bad_fraction"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SpectralTransformer:
    return load_model(tiny_spt_bundle(tmp_path_factory.mktemp("spt")).path)


@pytest.fixture(scope="module")
def stars() -> SpectraBatch:
    """Four granules and a part of a fifth, with rows that hold no spectrum."""
    stars = giant_spectra(270, seed=1)
    stars.usable[[0, 70, 71, 269]] = False
    stars.usable[128:192] = False
    stars.columns["z"][5] = stars.columns["file_z"][5] = np.nan
    return stars


def take(stars: SpectraBatch, rows: slice) -> SpectraBatch:
    columns = {name: values[rows] for name, values in stars.columns.items()}
    parts = (x[rows] for x in (stars.flux, stars.ivar, stars.mask, stars.usable))
    return SpectraBatch(rows.start, *parts, columns)


def changed(stars: SpectraBatch, **arrays: object) -> SpectraBatch:
    return dataclasses.replace(stars, **arrays)


def rebundled(model: SpectralTransformer, path: Path, **architecture: object) -> SpectralTransformer:
    """The model with another architecture entry in its description."""
    description = model.bundle.description
    description = description.model_copy(update={"architecture": {**description.architecture, **architecture}})
    return load_model(save_bundle(path, description, model.bundle.weights).path)


def test_every_row_has_every_output_and_unusable_rows_are_missing(model, stars):
    found = model.predict(stars, CPU)
    assert list(found) == NAMES == [output.name for output in model.outputs]
    for name, values in found.items():
        assert values.shape == (270,)
        assert values.dtype == np.float32
        expected = stars.usable.copy()
        expected[5] = False
        np.testing.assert_array_equal(np.isfinite(values), expected, err_msg=name)


def test_outputs_have_units_and_descriptions():
    units = {output.name: output.unit for output in OUTPUTS}
    assert units["age_p16"] == "Gyr"
    assert units["mass_error"] == "solMass"
    assert all(output.description and output.dtype == "float32" for output in OUTPUTS)


def test_errors_add_in_quadrature_and_percentiles_are_in_order(model, stars):
    found = {name: values[stars.usable] for name, values in model.predict(stars, CPU).items()}
    for label in ("age", "mass"):
        total = np.hypot(found[f"{label}_model_error"], found[f"{label}_data_error"])
        np.testing.assert_allclose(found[f"{label}_error"], total, rtol=1e-5)
        known = np.isfinite(total)
        low, mid, high = (found[f"{label}_p{p}"][known] for p in (16, 50, 84))
        assert (low < mid).all()
        assert (mid < high).all()
        assert (low < found[label][known]).all()
        assert (found[label][known] < high).all()
    known = np.isfinite(found["log_age"])
    np.testing.assert_allclose(10 ** found["log_age"][known], found["age"][known], rtol=0.1)
    assert (np.abs(found["age_mass_correlation"][known]) <= 1).all()


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("granules", [1, 8])
def test_bytes_do_not_depend_on_threads_or_granules_at_a_time(model, stars, threads, granules):
    expected = model.predict(stars, CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = model.predict(stars, InferenceSettings(device="cpu", granules=granules))
    finally:
        torch.set_num_threads(before)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in NAMES)


def test_bytes_do_not_depend_on_batches_or_their_order(model, stars):
    expected = model.predict(stars, CPU)
    for size in (64, 128, 192):
        pieces = [slice(start, min(start + size, 270)) for start in range(0, 270, size)]
        for piece in reversed(pieces):
            found = model.predict(take(stars, piece), CPU)
            assert all(found[name].tobytes() == expected[name][piece].tobytes() for name in NAMES)


def test_bytes_do_not_depend_on_memory_layout_or_on_another_instance(model, stars):
    expected = model.predict(take(stars, slice(64, 128)), CPU)
    piece = take(stars, slice(64, 128))
    # a view that starts at an odd address, as slices of a larger chunk do
    flux = np.empty(piece.flux.size + 3, np.float32)[3:].reshape(piece.flux.shape)
    flux[:] = piece.flux
    again = load_model(model.bundle.path).predict(changed(piece, flux=flux), CPU)
    assert all(again[name].tobytes() == expected[name].tobytes() for name in NAMES)


def test_a_row_does_not_depend_on_its_neighbours(model, stars):
    piece = take(stars, slice(64, 128))
    flux = piece.flux.copy()
    flux[1:] = np.nan
    usable = np.zeros(64, dtype=bool)
    usable[0] = True
    alone = model.predict(changed(piece, flux=flux, usable=usable), CPU)
    together = model.predict(piece, CPU)
    assert all(alone[name][0] == together[name][0] for name in NAMES)


def test_bytes_do_not_depend_on_which_other_rows_have_a_spectrum(model, stars):
    some = stars.usable & (np.arange(270) % 23 == 1)
    whole, scattered = model.predict(stars, CPU), model.predict(changed(stars, usable=some), CPU)
    for name in NAMES:
        np.testing.assert_array_equal(scattered[name], np.where(some, whole[name], np.nan), err_msg=name)


def test_no_rows_and_one_row(model, stars):
    nothing = model.predict(take(stars, slice(64, 64)), CPU)
    assert all(values.shape == (0,) for values in nothing.values())
    one = model.predict(take(stars, slice(64, 65)), CPU)
    whole = model.predict(take(stars, slice(64, 128)), CPU)
    assert all(one[name].tobytes() == whole[name][:1].tobytes() for name in NAMES)


def test_a_missing_redshift_is_taken_from_the_file(model, stars):
    piece = take(stars, slice(64, 96))
    columns = {"z": np.full(32, np.nan), "file_z": piece.columns["z"]}
    expected, found = model.predict(piece, CPU), model.predict(changed(piece, columns=columns), CPU)
    assert all(found[name].tobytes() == expected[name].tobytes() for name in NAMES)


def test_an_empty_spectrum_gives_its_bad_fraction_and_nothing_else(model, stars):
    piece = take(stars, slice(72, 74))
    ivar = piece.ivar.copy()
    ivar[0] = 0
    found = model.predict(changed(piece, ivar=ivar), CPU)
    assert found["bad_fraction"][0] == 1.0
    assert all(np.isnan(found[name][0]) for name in NAMES if name != "bad_fraction")
    assert all(np.isfinite(found[name][1]) for name in NAMES)


def test_more_passes_and_another_seed_change_the_numbers_little(model, stars):
    piece = take(stars, slice(64, 128))
    base = model.predict(piece, InferenceSettings(device="cpu", passes=400))
    other = model.predict(piece, InferenceSettings(device="cpu", passes=400, seed=9))
    assert not np.array_equal(base["age"], other["age"])
    known = np.isfinite(base["age"])
    # means of 400 passes differ by 0.07 of the spread of one
    assert (np.abs(base["age"] - other["age"]) < 0.35 * base["age_model_error"])[known].all()
    ratio = base["age_model_error"] / other["age_model_error"]
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.15)


def test_calibration_scales_the_errors_and_not_the_values(model, stars, tmp_path):
    piece = take(stars, slice(72, 120))
    base = model.predict(piece, CPU)
    double = rebundled(model, tmp_path / "a", calibration={"model": [2.0, 1.0], "data": [1.0, 3.0]})
    found = double.predict(piece, CPU)
    np.testing.assert_allclose(found["age_model_error"], 2 * base["age_model_error"], rtol=0.1)
    np.testing.assert_allclose(found["mass_data_error"], 3 * base["mass_data_error"], rtol=1e-4)
    np.testing.assert_allclose(found["mass_model_error"], base["mass_model_error"], rtol=1e-4)
    np.testing.assert_allclose(found["log_age"], base["log_age"], rtol=1e-4)


def test_columns_are_those_of_the_passes_written_out(model, tmp_path):
    """Every formula from raw outputs to columns once more, in numpy, percentiles by random draws."""
    factors = {"model": [1.5, 0.5], "data": [0.8, 1.2]}
    engine = rebundled(model, tmp_path / "a", calibration=factors)._engines.of(CPU)
    scale, offset = engine.scale.numpy(), engine.offset.numpy()
    rng = np.random.default_rng(3)
    passes, rows = 30, 4
    raw = rng.normal(0, 0.3, (passes, rows, 5)) - [0, 0, 0.5, 1.0, 0.4]
    columns = dict(zip(NAMES, engine._summarise(torch.from_numpy(raw)), strict=False))
    logs = offset + scale * raw[..., :2]
    logs = logs.mean(axis=0) + (logs - logs.mean(axis=0)) * factors["model"]
    factor = np.zeros((passes, rows, 2, 2))  # of Cholesky, in the network's units
    factor[..., 0, 0], factor[..., 1, 1], factor[..., 1, 0] = np.exp(raw[..., 2]), np.exp(raw[..., 3]), raw[..., 4]
    unit = scale * factors["data"]
    covariance = factor @ factor.swapaxes(-1, -2) * unit[:, None] * unit
    for i, label in enumerate(("age", "mass")):
        values = 10 ** logs[..., i]
        sigma = np.sqrt(covariance[..., i, i])
        model_error = values.std(axis=0)
        data_error = np.sqrt(np.mean((np.log(10) * values * sigma) ** 2, axis=0))
        assert columns[label].numpy() == pytest.approx(values.mean(axis=0))
        assert columns[f"{label}_model_error"].numpy() == pytest.approx(model_error)
        assert columns[f"{label}_data_error"].numpy() == pytest.approx(data_error)
        assert columns[f"{label}_error"].numpy() == pytest.approx(np.sqrt(model_error**2 + data_error**2))
        draws = (logs[..., i] + sigma * rng.standard_normal((20000, passes, rows))).reshape(-1, rows)
        for level in (16, 50, 84):
            expected = 10 ** np.percentile(draws, level, axis=0)
            assert columns[f"{label}_p{level}"].numpy() == pytest.approx(expected, rel=0.01)
    deviation = logs - logs.mean(axis=0)
    total = np.einsum("tri,trj->rij", deviation, deviation) / passes + covariance.mean(axis=0)
    assert columns["log_age"].numpy() == pytest.approx(logs[..., 0].mean(axis=0))
    assert columns["log_age_error"].numpy() == pytest.approx(np.sqrt(total[:, 0, 0]))
    expected = total[:, 0, 1] / np.sqrt(total[:, 0, 0] * total[:, 1, 1])
    assert columns["age_mass_correlation"].numpy() == pytest.approx(expected)


@pytest.mark.parametrize(("covariance", "softmax"), [("none", "plain"), ("diagonal", "enhanced")])
def test_other_architectures_predict(tmp_path, stars, covariance, softmax):
    model = load_model(tiny_spt_bundle(tmp_path / "b", covariance=covariance, softmax=softmax).path)
    found = model.predict(take(stars, slice(72, 80)), CPU)
    assert np.isfinite(found["age_error"]).all()
    assert (found["age_data_error"] == 0).all() == (covariance == "none")


def test_spectra_unlike_the_training_set_stand_out(model):
    stars = giant_spectra(64, seed=5)
    usual = model.predict(stars, CPU)["novelty"]
    rng = np.random.default_rng(0)
    x = LAMOST_GRID.wavelength()
    weird = stars.flux.copy()
    weird[0] *= 1 + 0.5 * np.sin(x / 8.0)
    weird[1] = rng.permutation(weird[1])
    weird[2] = np.roll(weird[2], 40)
    found = model.predict(changed(stars, flux=weird), CPU)["novelty"]
    assert (found[:3] > 1.5 * usual.max()).all()
    np.testing.assert_array_equal(found[3:], usual[3:])


def test_the_enhanced_softmax_passes_values_on_at_their_own_size():
    sizes = {"width": 16, "heads": 2, "head_width": 8, "dropout": 0.0}
    gates = {}
    for kind in ("enhanced", "plain"):
        attention = HadamardAttention(SPTArchitecture.model_validate({**sizes, "softmax": kind}), "a")
        with torch.no_grad():
            attention.projection.weight.zero_()
            attention.projection.bias.copy_(torch.cat([torch.randn(32), torch.ones(16)]))
            attention.out.weight.copy_(torch.eye(16))
            attention.out.bias.zero_()
            gates[kind] = attention(torch.zeros(1, 16)).view(2, 8)
    torch.testing.assert_close(gates["enhanced"].mean(dim=1), torch.ones(2))
    torch.testing.assert_close(gates["plain"].sum(dim=1), torch.ones(2))


def test_attention_is_the_hadamard_gate_of_the_formula():
    torch.manual_seed(0)
    attention = HadamardAttention(SPTArchitecture(width=12, heads=3, head_width=4, dropout=0.0), "a").eval()
    x = torch.randn(5, 12)
    weight, bias = attention.projection.weight, attention.projection.bias
    q, k, v = (x @ weight[i * 12 : (i + 1) * 12].T + bias[i * 12 : (i + 1) * 12] for i in range(3))
    heads = []
    for h in range(3):
        columns = slice(4 * h, 4 * h + 4)
        gate = 4 * torch.softmax(q[:, columns] * k[:, columns] / 2.0, dim=1)
        heads.append(gate * v[:, columns])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, dim=1)))


def test_data_covariances_are_positive_definite_whatever_the_network_says():
    raw = torch.randn(500, 5) * 30
    for kind in ("full", "diagonal"):
        covariance = data_covariance(raw.double(), kind)
        assert (torch.linalg.eigvalsh(covariance) > 0).all()
    assert data_covariance(raw, "none") is None


def test_a_network_learns_labels_that_the_spectra_carry(tmp_path):
    """The training interface end to end: inputs, network, loss, bundle, prediction."""
    stars = giant_spectra(128, seed=2)
    inputs = SpectralTransformer.fit_inputs(stars, LAMOST_GRID, TINY_PREPROCESSING, seed=0)
    prepared = inputs.prepare(stars)
    features = inputs.features(prepared.pixels, prepared.good, prepared.noise)
    age = 5 * 10 ** (0.2 * features[:, 0].clamp(-2, 2)).double().numpy()
    labels = np.stack([age, 1.2 * (age / 5) ** -0.3], axis=1)
    scale = LabelScale.fit(labels)
    target = torch.from_numpy(scale.to_network(labels)).float()
    architecture = {"width": 32, "blocks": 1, "heads": 2, "head_width": 8, "hidden": 16, "dropout": 0.05}
    torch.manual_seed(0)
    network = SpectralTransformer.network(architecture, inputs.n_features)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    network.train()
    for _ in range(150):
        said = SpectralTransformer.loss_outputs(architecture, network(features))
        loss = -torch.distributions.MultivariateNormal(said.mean, said.covariance).log_prob(target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bundle = tiny_spt_bundle(tmp_path / "tiny").description.model_copy(update={"architecture": architecture})
    saved = SpectralTransformer.to_bundle(tmp_path / "learnt", bundle, inputs, network, scale)
    assert saved.description.architecture["softmax"] == "enhanced", "defaults are written out"
    found = load_model(saved.path).predict(stars, CPU)
    assert np.median(np.abs(found["age"] / age - 1)) < 0.15
    assert np.median(np.abs(found["mass"] / labels[:, 1] - 1)) < 0.05


def test_label_scales_return_labels_and_covariances():
    labels = np.random.default_rng(0).uniform(0.5, 12, (400, 2))
    scale = LabelScale.fit(labels)
    network = scale.to_network(labels)
    np.testing.assert_allclose(network.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(network.std(axis=0), 1)
    np.testing.assert_allclose(scale.from_network(network), labels)
    errors = 0.01 * labels
    covariance = np.zeros((400, 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = (errors**2).T
    found = np.sqrt(scale.covariance_to_network(labels, covariance)[:, 0, 0])
    moved = scale.to_network(labels + errors)[:, 0] - network[:, 0]
    np.testing.assert_allclose(found, moved, rtol=0.02)
    for bad, words in (([[1.0, -1.0]], "positive"), ([[1.0, np.nan]], "positive"), ([[1.0, 2.0]] * 3, "the same")):
        with pytest.raises(ValueError, match=words):
            LabelScale.fit(np.array(bad))


def test_unknown_architecture_keys_are_refused_by_name():
    with pytest.raises(ValidationError, match="layers"):
        SpectralTransformer.network({"layers": 3}, 8)


def test_linear_label_scales_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="logarithmic"):
        SpectralTransformer.to_bundle(
            tmp_path, model.bundle.description, model._cpu_inputs, model._network, LabelScale(False, (0, 0), (1, 1))
        )
