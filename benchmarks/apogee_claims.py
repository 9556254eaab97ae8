"""What Leung et al. 2023 show of their latent space, on the simulated survey; and the simulation-trained bundles.

Run: ``python -m benchmarks.apogee_claims DATA [--out DIR] [--latent-epochs 30] [--bcnn-epochs 15]``, with DATA holding
``labels/`` (APOKASC-2 and -3) and ``apogee/pixel_statistics_dr17_giants.npz``. Prints one line per claim.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from catalogue.models.apogee_inputs import ApogeeInputs, ApogeeInputSettings
from catalogue.models.astronn_bcnn import AstroNNArchitecture, AstroNNBayesian
from catalogue.models.base import InferenceSettings, LabelScale, SpectraBatch
from catalogue.models.bundle import Description
from catalogue.models.latent_age import LatentAge, latent_bundle
from catalogue.models.latent_forest import AgeForest, ForestSettings
from catalogue.models.latent_network import LatentArchitecture, frequency_grid
from catalogue.surveys.apogee import Apogee
from catalogue.training.apogee_simulation import peak_frequency, simulate_oscillations, simulate_spectra
from catalogue.training.apogee_training import TrainingSettings, train_astronn, train_latent_network
from catalogue.training.labels import LabelTable, apokasc_labels

SMALL = LatentArchitecture(encoder_filters=(8, 16), decoder_filters=(8, 8), decoder_depth=8)
TRAINING = {
    "data": "simulated spectra and power spectra of APOKASC stars; no real spectrum was used",
    "labels": "ages APOKASC-2, masses, gravities, temperatures and abundances APOKASC-3 gold",
    "pixels": "mean and spread of 9,769 DR17 giants (model parameters of astroNN_ages, MIT licence)",
}
CITATION = "Leung et al. 2023, MNRAS 522, 4577 (method); Pinsonneault et al. 2018, 2025 (labels)"


def say(claim: str, value: object) -> None:
    print(f"{claim:72s} {value}", flush=True)


def r2(model, train_x, train_y, test_x, test_y) -> float:
    return float(model.fit(train_x, train_y).score(test_x, test_y))


def forest() -> RandomForestRegressor:
    return RandomForestRegressor(60, min_samples_leaf=3, random_state=0)


def scatter(predicted, true) -> float:
    ratio = predicted / true
    return float(148.26 * np.median(np.abs(ratio - np.median(ratio))))


def prepared(inputs: ApogeeInputs, batch: SpectraBatch) -> torch.Tensor:
    n = len(batch)
    return torch.cat([inputs.granule(batch, slice(i, min(i + 64, n)))[0][: n - i] for i in range(0, n, 64)])


def encode(network, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        parts = [network.encoder(part) for part in pixels.split(256)]
    mean = torch.cat([part[0] for part in parts]).double().numpy()
    return mean, torch.cat([part[1] for part in parts]).double().mul(0.5).exp().numpy()


def domain(labels: LabelTable) -> dict[str, tuple[float, float]]:
    columns = {"teff": labels.teff, "logg": labels.logg, "fe_h": labels.feh}
    return {name: tuple(float(v) for v in np.quantile(x, [0.005, 0.995]).round(3)) for name, x in columns.items()}


def description(kind: str, labels: LabelTable, metrics: dict, architecture) -> Description:
    return Description(
        kind=kind,
        name=f"{kind}_simulated",
        version="1",
        survey="apogee",
        grid="apogee",
        labels=(),
        architecture=architecture.model_dump(mode="json"),
        domain=domain(labels),
        training={**TRAINING, "stars": len(labels)},
        metrics=metrics,
        citation=CITATION,
        licence="BSD-3-Clause",
        notes="Trained on simulations to exercise the pipeline: not for science with real spectra.",
    )


def latent_claims(train, test, batches, options) -> None:
    frequency = frequency_grid()
    inputs = ApogeeInputs.fit(ApogeeInputSettings(normalisation="standardise"), batches[0], Apogee.grid)
    pixels = [prepared(inputs, batch) for batch in batches]
    seismic = [simulate_oscillations(labels, frequency, seed) for seed, labels in ((11, train), (12, test))]
    settings = TrainingSettings(epochs=options.latent_epochs, batch=64, learning_rate=1e-3, patience=2, kl_weight=1e-3)
    network = train_latent_network(pixels[0], seismic[0].log_power, frequency, seismic[0].numax, SMALL, settings)
    (z, z_error), (z_test, _) = (encode(network, p) for p in pixels)

    with torch.inference_mode():
        power = network.decoder(torch.from_numpy(z_test.astype(np.float32))).numpy()
    peaks = np.log(peak_frequency(power, frequency) / seismic[1].numax)
    followed = f"{np.median(np.abs(peaks)):.3f}, {np.mean(np.abs(peaks) < 0.2):.2f}"
    say("reconstruction follows numax: median |ln(peak/numax)|, and within 20 %", followed)
    numax_r2 = r2(forest(), z, np.log(seismic[0].numax), z_test, np.log(seismic[1].numax))
    say("latent -> ln numax, R² on test stars", f"{numax_r2:.3f}")
    separation_r2 = r2(forest(), z, np.log(seismic[0].separation), z_test, np.log(seismic[1].separation))
    say("latent -> ln Δν, R²", f"{separation_r2:.3f}")
    pca = PCA(60, random_state=0).fit(pixels[0].numpy())
    scaler = StandardScaler().fit(pca.transform(pixels[0].numpy()))
    flat = [scaler.transform(pca.transform(p.numpy())) for p in pixels]
    alpha, alpha_test = ((labels.alpha_fe - 0.037) / 0.031 for labels in (train, test))
    direct = MLPRegressor(hidden_layer_sizes=(64,), alpha=1.0, early_stopping=True, max_iter=400, random_state=0)
    say("latent -> [α/M], R² (small is the point of the method)", f"{r2(forest(), z, alpha, z_test, alpha_test):.3f}")
    known = r2(direct, flat[0], alpha, flat[1], alpha_test)
    say("spectrum -> [α/M] directly, R² (network on 60 components)", f"{known:.3f}")
    pairs = zip(seismic, (train, test), strict=True)
    others = [np.column_stack([np.log(s.numax), np.log(s.separation), t.feh]) for s, t in pairs]
    leaked = r2(forest(), others[0], alpha, others[1], alpha_test)
    say("numax, Δν and [Fe/H] -> [α/M], R² (correlations of the sample itself)", f"{leaked:.3f}")
    state = [labels.state == "RC" for labels in (train, test)]
    classifier = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    accuracy, largest = r2(classifier, z, state[0], z_test, state[1]), max(state[1].mean(), 1 - state[1].mean())
    say("latent -> RC or RGB, accuracy", f"{accuracy:.3f} (largest class {largest:.3f})")

    stellar = [np.column_stack([b.columns["teff"], b.columns["fe_h"]]).astype(float) for b in batches]
    features, test_features = np.hstack([z, stellar[0]]), np.hstack([z_test, stellar[1]])
    errors = np.hstack([z_error, np.broadcast_to([30.0, 0.02], stellar[0].shape)])
    labelled = np.random.default_rng(0).permutation(len(train))[: options.labelled]
    log_age, log_error = np.log10(train.age), train.age_error / train.age / np.log(10)
    metrics: dict[str, float] = {"r2_ln_numax": round(numax_r2, 3), "r2_ln_separation": round(separation_r2, 3)}
    kept = None
    latent = [0, 1, 2, 3, 4]
    choices = {"all": [*latent, 5, 6], "without Teff": [*latent, 6], "without [Fe/H]": [*latent, 5]}
    for name, use in {**choices, "without latent": [5, 6]}.items():
        arrays = (features[labelled][:, use], errors[labelled][:, use], log_age[labelled], log_error[labelled])
        ages = AgeForest.train(*arrays, ForestSettings(), seed=0)
        found = ages.predict(test_features[:, use])["age"]
        parts = {"all": slice(None), "RC": state[1], "RGB": ~state[1]}
        widths = {part: scatter(found[rows], test.age[rows]) for part, rows in parts.items()}
        say(f"age scatter %, {name}: all, RC, RGB", ", ".join(f"{width:.1f}" for width in widths.values()))
        if name == "all":
            kept = ages
            metrics |= {f"age_scatter_percent_{part.lower()}": round(width, 1) for part, width in widths.items()}
    if options.out:
        text = description("latent_age", train, metrics, SMALL)
        place = options.out / "latent_age_simulated"
        bundle = latent_bundle(place, text, inputs, network, kept, {"frequency": frequency})
        again = LatentAge(bundle).predict(batches[1], InferenceSettings(device="cpu"))["age"]
        difference = np.abs(again / kept.predict(test_features)["age"] - 1).max()
        say("bundle's ages against those here, largest relative difference", f"{difference:.1e}")


def bcnn_claims(train, test, batches, options) -> None:
    inputs = ApogeeInputs.fit(ApogeeInputSettings(), batches[0], Apogee.grid)
    architecture = AstroNNArchitecture(hidden=(128, 64), activation="softplus")
    scale = LabelScale(False, (0.0, 0.0), (float(train.age.std()), float(train.mass.std())))
    labels = train.physical() / scale.scale
    errors = np.column_stack([train.age_error, train.mass_error]) / scale.scale
    settings = TrainingSettings(epochs=options.bcnn_epochs, batch=32, learning_rate=5e-4, l2=5e-9)
    network = train_astronn(prepared(inputs, batches[0]), labels, errors, architecture, settings)
    place = options.out or Path("bundles")
    values = description("astronn_bcnn", train, {}, architecture)
    bundle = AstroNNBayesian.to_bundle(place / "astronn_bcnn_simulated", values, inputs, network, scale)
    found = AstroNNBayesian(bundle).predict(batches[0], InferenceSettings(device="cpu", passes=20))
    slope, intercept = np.polyfit(train.age, found["age"].astype(float), 1)
    final = architecture.model_copy(update={"age_linear": (float(intercept), float(slope))})
    found = AstroNNBayesian(bundle).predict(batches[1], InferenceSettings(device="cpu"))
    metrics = {}
    for name, true, error in (("age", test.age, test.age_error), ("mass", test.mass, test.mass_error)):
        metrics[f"{name}_scatter_percent"] = round(scatter(found[name], true), 1)
        metrics[f"{name}_mean_percentage_error"] = round(float(100 * np.mean(np.abs(found[name] / true - 1))), 1)
        pull = (found[name] - true) / np.hypot(found[f"{name}_total_error"], error)
        metrics[f"{name}_pull_width"] = round(float(1.4826 * np.median(np.abs(pull - np.median(pull)))), 2)
    say("astronn_bcnn on test stars, T = 100", metrics)
    values = description("astronn_bcnn", train, metrics, final)
    AstroNNBayesian.to_bundle(place / "astronn_bcnn_simulated", values, inputs, network, scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--latent-epochs", type=int, default=30)
    parser.add_argument("--bcnn-epochs", type=int, default=15)
    parser.add_argument("--labelled", type=int, default=1287, help="stars with ages, as in the paper")
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--only", choices=["latent", "bcnn"])
    options = parser.parse_args()
    labels = apokasc_labels(options.data / "labels")
    labels = labels.take((labels.age > 0.1) & (labels.age < 20.0))
    order = np.random.default_rng(7).permutation(len(labels))
    test, train = labels.take(order[: options.test]), labels.take(order[options.test :])
    with np.load(options.data / "apogee" / "pixel_statistics_dr17_giants.npz") as statistics:
        mean, spread = (statistics[name].astype(float) for name in ("mean", "std"))
    batches = [simulate_spectra(part, mean, spread, seed) for seed, part in ((1, train), (2, test))]
    print(f"{len(train)} stars to train, {len(test)} to test")
    if options.only != "bcnn":
        latent_claims(train, test, batches, options)
    if options.only != "latent":
        bcnn_claims(train, test, batches, options)


if __name__ == "__main__":
    main()
