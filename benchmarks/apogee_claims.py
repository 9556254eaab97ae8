"""What Leung et al. 2023 claim of their latent space, checked on the simulated survey with stars held out of training.

Run: ``python -m benchmarks.apogee_claims configs/training/latent_age.yaml BUNDLE [--out FILE]``, with a bundle
that ``catalogue train`` made from that configuration. Prints one line per claim; ``--out`` also writes a table.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catalogue.cli.learning import TRAINING_PATHS
from catalogue.config import load_section
from catalogue.models.base import InferenceSettings
from catalogue.models.bundle import load_bundle
from catalogue.models.latent_age import STELLAR_ERRORS, LatentAge
from catalogue.models.latent_forest import AgeForest, ForestSettings
from catalogue.models.latent_network import frequency_grid
from catalogue.training.apogee_simulation import peak_frequency
from catalogue.training.dataset import TrainingSet
from catalogue.training.train import TrainingConfiguration, stars_apart, training_set

CPU = InferenceSettings(device="cpu")
Values = NDArray[np.float64]
LINES: list[tuple[str, str]] = []


def say(claim: str, value: str) -> None:
    LINES.append((claim, value))
    print(f"{claim:92s} {value}", flush=True)


class Part:
    """One spectrum of every star of the training or of the held-out stars, and what is known of them."""

    def __init__(self, model: LatentAge, data: TrainingSet, rows: NDArray[np.integer]) -> None:
        _, first = np.unique(data.labels.star[rows], return_index=True)
        rows = rows[np.sort(first)]
        self.spectra, self.labels = data.spectra.take(rows), data.labels.take(rows)
        z, error, _ = model.encode(self.spectra, CPU)
        self.z, self.z_error = z.astype(float), error.astype(float)
        assert data.oscillations is not None
        self.numax, self.separation = np.log(data.oscillations.numax[rows]), np.log(data.oscillations.separation[rows])
        self.clump = (self.labels.state == "RC").astype(float)
        self.alpha = self.labels.alpha_fe
        # all that the simulated power spectrum depends on
        self.seismic = np.column_stack([self.numax, self.separation, self.clump, self.labels.mass])
        self.atmosphere = np.column_stack([self.seismic, self.labels.teff, self.labels.feh])
        # all that the simulated spectrum depends on, but [α/M]
        self.chemistry = np.column_stack([self.atmosphere, self.labels.c_fe - self.labels.n_fe])
        self.stellar = np.column_stack([self.spectra.columns["teff"], self.spectra.columns["fe_h"]]).astype(float)


def trees() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(200, min_samples_leaf=3, random_state=0)


def network() -> MLPRegressor:
    regressor = MLPRegressor(hidden_layer_sizes=(64,), alpha=1.0, early_stopping=True, max_iter=400, random_state=0)
    return make_pipeline(StandardScaler(), regressor)


def probed(train: Values, target: Values, test: Values, truth: Values) -> Values:
    """What the better of a forest and a network predicts for stars held out."""
    centre, spread = target.mean(), target.std()
    found = [probe.fit(train, (target - centre) / spread).predict(test) for probe in (trees(), network())]
    return max((spread * values + centre for values in found), key=lambda values: r2_score(truth, values))


def best(train: Values, target: Values, test: Values, truth: Values) -> float:
    """R² on stars held out, of the better of a forest and a network."""
    return float(r2_score(truth, probed(train, target, test, truth)))


def gain(fewer: Values, more: Values, truth: Values) -> str:
    """How much larger the R² of ``more`` is, with its standard error over resampled stars."""
    random, values = np.random.default_rng(0), []
    for _ in range(1000):
        rows = random.integers(0, len(truth), len(truth))
        values.append(r2_score(truth[rows], more[rows]) - r2_score(truth[rows], fewer[rows]))
    return f"{r2_score(truth, more) - r2_score(truth, fewer):+.3f} ± {np.std(values):.3f}"


def scatter(predicted: Values, true: Values) -> float:
    ratio = predicted / true
    return float(148.26 * np.median(np.abs(ratio - np.median(ratio))))


def divergence(model: LatentAge, part: Part) -> Values:
    """Kullback-Leibler term of every latent dimension in nats, mean over the stars."""
    variance = part.z_error**2
    return np.asarray((0.5 * (variance + part.z**2 - 1.0 - np.log(variance))).mean(axis=0))


def space(model: LatentAge, learn: Part, test: Part) -> None:
    frequency = frequency_grid()
    peaks = np.log(peak_frequency(model.reconstruct(test.z), frequency)) - test.numax
    spread = np.median(np.abs(test.numax - np.median(test.numax)))
    close = f"{np.median(np.abs(peaks)):.3f}; {np.mean(np.abs(peaks) < 0.2):.2f} (numax itself: {spread:.3f})"
    say("reconstruction follows numax: median absolute ln(peak/numax); share within 20 %", close)
    for name in ("numax", "separation"):
        value = best(learn.z, getattr(learn, name), test.z, getattr(test, name))
        say(f"latent → ln {name}: R²", f"{value:.3f}")
    classifier = ExtraTreesClassifier(200, min_samples_leaf=3, random_state=0)
    accuracy = classifier.fit(learn.z, learn.clump).score(test.z, test.clump)
    from_labels = classifier.fit(learn.seismic[:, [0, 1, 3]], learn.clump).score(test.seismic[:, [0, 1, 3]], test.clump)
    most = max(test.clump.mean(), 1 - test.clump.mean())
    say("latent → clump or giant branch: accuracy", f"{accuracy:.3f} (larger class {most:.3f})")
    say("the same from true numax, Δν and mass", f"{from_labels:.3f}")


def abundance(model: LatentAge, learn: Part, test: Part) -> None:
    """How much of [α/M] is in the latent space, next to what the power spectrum's own parameters tell of it."""
    components = PCA(60, random_state=0)
    pixels = [model._inputs.prepare(part.spectra).pixels.numpy() for part in (learn, test)]
    flat = [components.fit_transform(pixels[0]), components.transform(pixels[1])]
    say("[α/M] from the spectrum directly: R²", f"{best(flat[0], learn.alpha, flat[1], test.alpha):.3f}")
    say("[α/M] from the latent numbers: R²", f"{best(learn.z, learn.alpha, test.z, test.alpha):.3f}")
    floors = {
        "seismic": "true numax, Δν, state and mass, all that makes the power spectrum",
        "atmosphere": "true numax, Δν, state, mass, Teff and [Fe/H]",
        "chemistry": "these six and true [C/N], all else that makes the spectrum",
    }
    for known, words in floors.items():
        given = [getattr(part, known) for part in (learn, test)]
        both = [np.hstack([getattr(part, known), part.z]) for part in (learn, test)]
        fewer, more = (probed(x[0], learn.alpha, x[1], test.alpha) for x in (given, both))
        say(f"[α/M] from {words}: R²", f"{r2_score(test.alpha, fewer):.3f}")
        joined = f"{r2_score(test.alpha, more):.3f} ({gain(fewer, more, test.alpha)})"
        say("[α/M] from these and the latent numbers together: R² (gain)", joined)
        rest = learn.alpha - cross_val_predict(trees(), given[0], learn.alpha, cv=10)
        rest_test = test.alpha - trees().fit(given[0], learn.alpha).predict(given[1])
        value = best(learn.z, rest, test.z, rest_test)
        say("what is left of [α/M] without these, from the latent numbers: R²", f"{value:.3f}")
        say("the same from the spectrum directly: R²", f"{best(flat[0], rest, flat[1], rest_test):.3f}")
    edges = np.quantile(learn.numax, [0.0, 0.25, 0.5, 0.75, 1.0])
    inside = [
        (part.numax >= low) & (part.numax < high) for low, high in itertools.pairwise(edges) for part in (learn, test)
    ]
    values = [
        best(learn.z[a], rest[a], test.z[b], rest_test[b]) for a, b in zip(inside[::2], inside[1::2], strict=True)
    ]
    say(
        "left without the seven, from the latent numbers in quarters of numax: R²",
        ", ".join(f"{value:.3f}" for value in values),
    )


def ages(learn: Part, test: Part, settings: ForestSettings) -> None:
    features = [np.hstack([part.z, part.stellar]) for part in (learn, test)]
    errors = np.hstack([learn.z_error, np.broadcast_to(list(STELLAR_ERRORS.values()), learn.stellar.shape)])
    age, error = learn.labels.age, learn.labels.age_error
    rows = np.random.default_rng(0).permutation(len(age))[: settings.stars]
    latent = [0, 1, 2, 3, 4]
    clump = test.clump.astype(bool)
    choices = {"all": [*latent, 5, 6], "without Teff": [*latent, 6], "without [Fe/H]": [*latent, 5]}
    for name, use in {**choices, "without latent numbers": [5, 6]}.items():
        given = (
            features[0][rows][:, use],
            errors[rows][:, use],
            np.log10(age[rows]),
            error[rows] / age[rows] / np.log(10),
        )
        forest = AgeForest.train(*given, settings, seed=0)
        found = forest.predict(features[1][:, use])["age"]
        widths = [scatter(found[part], test.labels.age[part]) for part in (slice(None), clump, ~clump)]
        bias = 100 * float(np.median(found / test.labels.age - 1))
        text = ", ".join(f"{width:.1f}" for width in widths)
        say(f"age scatter, {name}: all, clump, giant branch (per cent); bias", f"{text}; {bias:+.1f}")
    label = 100 * float(np.median(test.labels.age_error / test.labels.age))
    say("median error of the labels themselves (per cent)", f"{label:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, help="Markdown table")
    options = parser.parse_args()
    configuration = load_section(TrainingConfiguration, options.configuration, None, paths=TRAINING_PATHS)
    data = training_set(configuration)
    model = LatentAge(load_bundle(options.bundle))
    training = model.bundle.description.training
    if training["set_digest"] != data.digest or training["configuration"]["held_out"] != configuration.held_out:
        raise SystemExit(f"{options.bundle}: was not trained on what {options.configuration} simulates")
    learnt_from, *held_out = stars_apart(configuration, data, np.arange(len(data)))
    learn, test = (Part(model, data, rows) for rows in (learnt_from, np.sort(np.concatenate(held_out))))
    say("stars to train; held out", f"{len(learn.z)}; {len(test.z)}")
    kept = ", ".join(f"{value:.2f}" for value in divergence(model, test))
    say("divergence per latent dimension, squared error summed over frequencies (nats)", kept)
    space(model, learn, test)
    abundance(model, learn, test)
    assert model.forest is not None
    ages(learn, test, model.forest.settings)
    if options.out:
        rows = "\n".join(f"| {claim} | {value} |" for claim, value in LINES)
        options.out.write_text(f"| | |\n|---|---|\n{rows}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
