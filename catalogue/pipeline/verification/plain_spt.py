"""The SPT model a second way: one spectrum at a time, NumPy in double precision, loops over pixels and passes.

Only the bundle's numbers, how many terms its regression has, and the generator of the dropout masks are shared with
:mod:`catalogue.models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtr

from catalogue.models import Bundle
from catalogue.models.dropout import unit_mask
from catalogue.pipeline.verification.plain_continuum import PlainContinuum
from catalogue.pipeline.verification.plain_fit import PlainFit

Vector = NDArray[np.float64]
LN10 = math.log(10.0)


class PlainTransformer:
    """A bundle of kind ``spt``.

    Parameters
    ----------
    bundle : Bundle
    passes, seed : int
    """

    def __init__(self, bundle: Bundle, passes: int, seed: int) -> None:
        self.settings = dict(bundle.description.preprocessing)
        self.architecture = dict(bundle.description.architecture)
        self.weights = {name: np.asarray(value, np.float64) for name, value in bundle.weights.items()}
        self.passes, self.seed = passes, seed
        grid = self.settings["grid"]
        self.first, self.step, self.size = grid["log10_first"], grid["log10_step"], grid["n_pixels"]
        lattice = [self.first + self.step * pixel for pixel in range(self.size)]
        edges = [(math.log10(low), math.log10(high)) for low, high in self.settings["windows"]]
        self.pixels = [i for i, x in enumerate(lattice) if any(low <= x <= high for low, high in edges)]
        lines, width = self.settings["sky_lines"], self.settings["sky_half_width"]
        self.sky = [any(abs(10**x - line) <= width for line in lines) for x in lattice]
        self.continuum = PlainContinuum(
            [lattice[pixel] for pixel in self.pixels],
            [(math.log10(low), math.log10(high)) for low, high in self.settings["arms"]],
            self.settings["continuum"],
        )
        fits = self.settings.get("parameters") and self.settings.get("estimator") == "fit"
        self.fit = PlainFit(self.weights) if fits else None
        passed_on = self.settings.get("passed_on")
        passed_on = self.settings["n_components"] if passed_on is None else passed_on
        first = passed_on + self.settings.get("noise_bands", 0)
        self._parameters = slice(first, first + len(self.settings.get("parameters", ())))

    def predict(
        self, flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any], columns: Mapping[str, float]
    ) -> dict[str, float]:
        """Outputs of one spectrum on the survey's grid, those that there are; ``columns`` are ``z`` and ``file_z``."""
        shifts = (columns[name] for name in ("z", "file_z") if name in columns)
        z = next((value for value in shifts if math.isfinite(value) and value > -1.0), math.nan)
        values, variance = self._rest_frame(flux, ivar, mask, z if math.isfinite(z) else 0.0)
        good = variance > 0
        bad_fraction = 1.0 - good.sum() / len(good) if math.isfinite(z) else math.nan
        continuum = self.continuum.fit(values, variance)
        if continuum is None or not math.isfinite(z):
            return {"bad_fraction": bad_fraction}
        values, variance = values / continuum, variance / continuum**2
        good &= ~self._spiked(values, variance)
        if good.sum() < self.settings["least_good"] * len(good):
            return {"bad_fraction": bad_fraction}
        clipped = np.where(good, np.clip(values, *self.settings["clip"]), 1.0)
        scale = self.weights["inputs.scale"]
        pixels = np.where(good, (clipped - self.weights["inputs.mean"]) / scale, 0.0)
        noise = np.where(good, np.sqrt(variance) / scale, 0.0)
        coefficients = self._coefficients(pixels, good, noise)
        inputs = self._inputs(coefficients, pixels, good, noise)
        raw = np.array([self._network(inputs, number) for number in range(self.passes)])
        share = self.architecture.get("mixture_share", 0.0)
        if share and self.fit is not None:
            per_label = LN10 * np.array(self.architecture["label_scale"]["scale"])
            found = inputs[self._parameters]
            raw[:, :2] += share * (self.fit.mixture_labels(self.weights, found, per_label) - raw[:, :2])
        return {
            **self._outputs(raw),
            "novelty": self._novelty(pixels, noise, good, coefficients),
            "bad_fraction": bad_fraction,
        }

    def _rest_frame(
        self, flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any], z: float
    ) -> tuple[Vector, Vector]:
        """Flux and variance at the model's pixels, interpolated from good neighbours alone; 0 where bad."""
        shift = math.log10(1.0 + z) / self.step
        whole = math.floor(shift)
        a = shift - whole
        cubic = (-a * (a - 1) * (a - 2) / 6, (a + 1) * (a - 1) * (a - 2) / 2,
                 -(a + 1) * a * (a - 2) / 2, (a + 1) * a * (a - 1) / 6)  # fmt: skip
        rejected = self.settings["rejected_bits"]

        def known(pixel: int) -> bool:
            if not 0 <= pixel < self.size or self.sky[pixel] or int(mask[pixel]) & rejected:
                return False
            return bool(ivar[pixel] > 0 and math.isfinite(flux[pixel]))

        values, variances = np.zeros(len(self.pixels)), np.zeros(len(self.pixels))
        for number, pixel in enumerate(self.pixels):
            near = [pixel + whole + offset for offset in (-1, 0, 1, 2)]
            good = [known(neighbour) for neighbour in near]
            if all(good):
                shares = dict(zip(near, cubic, strict=True))
            elif good[1] and good[2]:
                shares = {near[1]: 1 - a, near[2]: a}
            elif good[1 if a < 0.5 else 2]:
                shares = {near[1 if a < 0.5 else 2]: 1.0}
            else:
                continue
            values[number] = sum(share * float(flux[n]) for n, share in shares.items())
            variances[number] = sum(share**2 / max(float(ivar[n]), 1e-30) for n, share in shares.items())
        return values, variances

    def _spiked(self, values: Vector, variance: Vector) -> NDArray[np.bool_]:
        """Pixels too far above the continuum, and two on either side."""
        limit = self.settings["spike"] ** 2 * (variance + self.settings["continuum"]["scatter"] ** 2)
        over = np.maximum(values - 1.0, 0.0) ** 2 > limit
        return np.array([over[max(i - 2, 0) : i + 3].any() for i in range(len(over))])

    def _coefficients(self, pixels: Vector, good: NDArray[np.bool_], noise: Vector) -> Vector:
        components = self.weights["inputs.components"]
        coefficients = components @ pixels
        limit = self._limit(noise)
        for _ in range(self.settings["refinements"]):
            expected = components.T @ coefficients
            size = np.abs(pixels - expected)
            size = np.where(size > limit, np.maximum(2 * limit - size, 0.0), size)
            coefficients = components @ np.where(good, expected + np.copysign(size, pixels - expected), expected)
        return np.asarray(coefficients / self.weights["inputs.component_scale"])

    def _limit(self, noise: Vector) -> Vector:
        """Residuals from which on a pixel counts less."""
        rejection = self.settings.get("rejection") or math.inf
        return np.asarray(rejection * np.sqrt(noise**2 + self.weights["inputs.residual_variance"]))

    def _inputs(self, coefficients: Vector, pixels: Vector, good: NDArray[np.bool_], noise: Vector) -> Vector:
        """What the network sees: leading coefficients, noise, and estimated stellar parameters, if any."""
        bands = self._band_noise(noise, good)
        seen = [*coefficients[: self.settings.get("passed_on")], *bands]
        if not self.settings.get("parameters"):
            return np.array(seen)
        if self.fit is not None:
            expected = self.weights["inputs.components"].T @ (coefficients * self.weights["inputs.component_scale"])
            far = np.abs(pixels - expected) / self._limit(noise)
            found = self.fit(pixels, good, noise, far)
            told = np.log(self.fit.errors()) if self.settings.get("parameter_errors") else ()
            return np.array([*seen, *found, *told])
        level = sum(bands) / len(bands)
        terms = [1.0, *coefficients, *bands, level**2, *(coefficients * level)]
        curved = coefficients[: self.settings.get("curved", 25)]
        terms += [curved[i] * curved[j] for i in range(len(curved)) for j in range(i, len(curved))]
        return np.array([*seen, *(self.weights["inputs.parameter_weights"].T @ np.array(terms))])

    def _band_noise(self, noise: Vector, good: NDArray[np.bool_]) -> list[float]:
        """log10 of the root mean square noise of the good pixels in bands, if the network is told."""
        bands = self.settings.get("noise_bands", 0)
        if not bands:
            return []
        parts = zip(np.array_split(noise, bands), np.array_split(good, bands), strict=True)
        means = [(part**2).sum() / max(kept.sum(), 1) for part, kept in parts]
        return [0.5 * math.log10(min(max(mean, 1e-4), 1e4)) for mean in means]

    def _novelty(self, pixels: Vector, noise: Vector, good: NDArray[np.bool_], coefficients: Vector) -> float:
        """Distance from the training set outside and within the components, the larger of both."""
        components, scale = self.weights["inputs.components"], self.weights["inputs.component_scale"]
        left = (pixels - components.T @ (coefficients * scale)) ** 2
        squared = np.minimum(left / (noise**2 + self.weights["inputs.residual_variance"]), 25.0)
        residual = squared[good].sum() / max(good.sum(), 1)
        expected = (components / scale[:, None]) ** 2 @ noise**2 + self.weights["inputs.signal_variance"]
        references = self.weights["inputs.references"]
        return float(max(residual / references[0], (coefficients**2 / expected).mean() / references[1]))

    def _network(self, features: Vector, number: int) -> Vector:
        """Raw outputs of one dropout pass."""
        sizes = self.architecture
        x = self._linear("embedding", features)
        for block in range(sizes["blocks"]):
            normed = self._norm(f"norms.{block}", x)
            if sizes.get("attention") == "none":
                inner = _gelu(self._linear(f"attentions.{block}.projection", normed))
                x = x + self._linear(f"attentions.{block}.out", self._dropped(inner, f"block{block}.gated", number))
                continue
            query, key, value = np.split(self._linear(f"attentions.{block}.projection", normed), 3)
            score = (query * key / math.sqrt(sizes["head_width"])).reshape(sizes["heads"], sizes["head_width"])
            gate = np.exp(score - score.max(axis=1, keepdims=True))
            gate /= gate.sum(axis=1, keepdims=True)
            gain = sizes["head_width"] if sizes["softmax"] == "enhanced" else 1.0
            gated = self._dropped(gate.ravel() * value * gain, f"block{block}.gated", number)
            x = x + self._linear(f"attentions.{block}.out", gated)
        hidden = _gelu(self._linear("hidden", self._norm("last_norm", x)))
        return self._linear("output", self._dropped(hidden, "hidden", number))

    def _linear(self, name: str, x: Vector) -> Vector:
        return np.asarray(self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Vector) -> Vector:
        centred = x - x.mean()
        scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
        return np.asarray(scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])

    def _dropped(self, x: Vector, layer: str, number: int) -> Vector:
        share = self.architecture["dropout"]
        return np.where(_mask(self.seed, layer, number, share, len(x)), x / (1.0 - share), 0.0) if share else x

    def _outputs(self, raw: Vector) -> dict[str, float]:
        """Columns from the raw outputs (passes, outputs)."""
        scale, offset = (np.array(self.architecture["label_scale"][name]) for name in ("scale", "offset"))
        calibration = self.architecture.get("calibration", {"model": (1.0, 1.0), "data": (1.0, 1.0)})
        logs = raw[:, :2] * scale + offset
        logs = logs.mean(axis=0) + (logs - logs.mean(axis=0)) * np.array(calibration["model"])
        factor = scale * np.array(calibration["data"])
        data = np.array([_covariance(line, self.architecture["covariance"]) for line in raw]) * np.outer(factor, factor)
        total = np.cov(logs.T, bias=True) + data.mean(axis=0)
        found = {"log_age": logs[:, 0].mean(), "log_age_error": math.sqrt(total[0, 0])}
        spread = math.sqrt(total[0, 0] * total[1, 1])
        found["age_mass_correlation"] = min(max(total[0, 1] / spread, -1.0), 1.0) if spread > 0 else math.nan
        for i, label in enumerate(("age", "mass")):
            values, sigma = 10.0 ** logs[:, i], np.sqrt(data[:, i, i])
            model_error = values.std()
            data_error = math.sqrt(((LN10 * values * sigma) ** 2).mean())
            found |= {label: values.mean(), f"{label}_error": math.hypot(model_error, data_error)}
            found |= {f"{label}_model_error": model_error, f"{label}_data_error": data_error}
            for percent in (16, 50, 84):
                found[f"{label}_p{percent}"] = 10.0 ** _percentile(logs[:, i], sigma, percent / 100)
        return {name: float(value) for name, value in found.items()}


@lru_cache(maxsize=4096)
def _mask(seed: int, layer: str, number: int, share: float, units: int) -> NDArray[np.bool_]:
    return unit_mask(seed, layer, number, share, units)


def _gelu(x: Vector) -> Vector:
    return np.asarray(x * 0.5 * (1.0 + erf(x / math.sqrt(2.0))))


def _covariance(raw: Vector, kind: str) -> Vector:
    """Data covariance of one pass in the network's label space."""
    if kind == "none":
        return np.zeros((2, 2))
    factor = np.diag(np.exp(np.clip(raw[2:4], -5.0, 5.0)))
    factor[1, 0] = raw[4] if kind == "full" else 0.0
    return np.asarray(factor @ factor.T)


def _percentile(mean: Vector, sigma: Vector, level: float) -> float:
    """Quantile of an equal mixture of Gaussians, by bisection; each at least a tenth of the whole spread wide."""
    spread = math.sqrt((sigma**2 + (mean - mean.mean()) ** 2).mean()) or 1.0
    width = np.maximum(sigma / spread, 0.1)
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        z = (middle - (mean - mean.mean()) / spread) / width
        # passes below are counted, so that what the tails add is not lost in rounding where no pass is near
        excess = (z >= 0).sum() - level * len(mean) + np.where(z < 0, ndtr(z), -ndtr(-z)).sum()
        low, high = (middle, high) if excess < 0 else (low, middle)
    return float(middle * spread + mean.mean())
