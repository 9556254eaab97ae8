"""The astroNN network a second way: one spectrum at a time, NumPy in double precision, one pass after another.

Only the bundle's numbers and the generator of the dropout masks are shared with :mod:`catalogue.models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from catalogue.models import Bundle
from catalogue.models.dropout import unit_mask

Vector = NDArray[np.float64]
DETECTORS = (range(246, 3274), range(3585, 6080), range(6344, 8335))
ERROR_FLOOR = 1e-8


class PlainAstroNN:
    """A bundle of kind ``astronn_bcnn``.

    Parameters
    ----------
    bundle : Bundle
    passes, seed : int
    """

    def __init__(self, bundle: Bundle, passes: int, seed: int) -> None:
        self.settings = dict(bundle.description.preprocessing)
        self.architecture = dict(bundle.description.architecture)
        self.labels = [label.name for label in bundle.description.labels]
        self.weights = {name: np.asarray(value, np.float64) for name, value in bundle.weights.items()}
        self.pool = self.architecture.get("pool", 4)
        share = self.architecture.get("dropout", 0.3)
        pixels = sum(map(len, DETECTORS))
        sizes = {
            "drop1": len(self.weights["conv1.weight"]) * pixels,
            "drop2": self.weights["hidden1.weight"].shape[1],
            "drop3": len(self.weights["hidden1.weight"]),
        }
        self.factors = [
            {name: unit_mask(seed, name, number, share, size) / (1.0 - share) for name, size in sizes.items()}
            for number in range(passes)
        ]

    def predict(
        self, flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any], columns: Mapping[str, float]
    ) -> dict[str, float]:
        """All outputs of one spectrum on the survey's grid; none where there is no answer. ``columns`` is not used."""
        values, bad_fraction = self._normalise(flux.astype(np.float64), ivar.astype(np.float64), mask.astype(np.int64))
        if bad_fraction == 1.0:
            return {}
        pixels = (values - self.weights["inputs.mean"]) / self.weights["inputs.spread"]
        features = np.maximum(self._convolved("conv1", pixels[None]), 0.0)
        raw = np.array([self._pass(features, factors) for factors in self.factors])
        return {**self._outputs(raw), "bad_fraction": bad_fraction}

    def _normalise(self, flux: Vector, ivar: Vector, mask: NDArray[np.int64]) -> tuple[Vector, float]:
        """Flux over a Chebyshev polynomial per detector, 1 where bad; and the fraction of bad pixels."""
        target = sum(1 << bit for bit in self.settings["target_bits"])
        limit = math.inf if self.settings["upper_limit"] is None else self.settings["upper_limit"]
        parts, bad, begin = [], 0, 0
        for detector in DETECTORS:
            here = slice(detector.start, detector.stop)
            light, weight, bits = flux[here], ivar[here], mask[here]
            chosen = self.weights["inputs.continuum_pixels"][begin : begin + len(detector)] == 1
            begin += len(detector)
            continuum = self._continuum(light, weight, chosen)
            if continuum is None:
                parts.append(np.ones(len(detector)))
                bad += len(detector)
                continue
            finite, targeted = np.isfinite(light), bits & target != 0
            ratio = np.maximum(np.where(finite, light, 0.0) / continuum, 0.0)
            parts.append(np.where(finite & ~targeted & (ratio <= limit), ratio, 1.0))
            bad += int((~finite | targeted | ~(weight > 0)).sum())
        return np.concatenate(parts), bad / begin

    def _continuum(self, light: Vector, ivar: Vector, chosen: NDArray[np.bool_]) -> Vector | None:
        """Fitted to the chosen pixels that hold something; None without enough of them, or without light."""
        degree = self.settings["degree"]
        fitted = chosen & np.isfinite(light) & (ivar > 0) & np.isfinite(ivar)
        x = np.linspace(-1.0, 1.0, len(light))
        weight = 1.0 / (1.0 / ivar[fitted] + ERROR_FLOOR)
        if fitted.sum() <= degree or not (weight**2 * light[fitted]).sum() > 0:
            return None
        return np.asarray(chebyshev.chebval(x, chebyshev.chebfit(x[fitted], light[fitted], degree, w=weight)))

    def _convolved(self, name: str, channels: Vector) -> Vector:
        """A convolution as Keras's ``same``, shape (filters, pixels), of (channels, pixels)."""
        weight, size = self.weights[f"{name}.weight"], channels.shape[1]
        taps = weight.shape[2]
        padded = np.pad(channels, ((0, 0), ((taps - 1) // 2, taps // 2)))
        total = np.zeros((len(weight), size)) + self.weights[f"{name}.bias"][:, None]
        for tap in range(taps):
            total += weight[:, :, tap] @ padded[:, tap : tap + size]
        return total

    def _pass(self, features: Vector, factors: Mapping[str, Vector]) -> Vector:
        """Labels and logarithmic variances of one dropout pass, from the first convolution's (filters, pixels)."""
        x = np.maximum(self._convolved("conv2", features * factors["drop1"].reshape(features.shape)), 0.0)
        windows = x.shape[1] // self.pool
        pooled = x[:, : windows * self.pool].reshape(len(x), windows, self.pool).max(axis=2)
        hidden = np.maximum(self._dense("hidden1", pooled.T.ravel() * factors["drop2"]), 0.0)
        hidden = np.maximum(self._dense("hidden2", hidden * factors["drop3"]), 0.0)
        labels = self._dense("output", hidden)
        if self.architecture.get("activation") == "softplus":
            labels = np.logaddexp(labels, 0.0)
        return np.concatenate([labels, self._dense("log_variance", hidden)])

    def _dense(self, name: str, x: Vector) -> Vector:
        return np.asarray(self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"])

    def _outputs(self, raw: Vector) -> dict[str, float]:
        """Columns from what the passes say, shape (passes, 2 · labels)."""
        found: dict[str, Any] = {}
        for name in ("age", "mass"):
            label = self.labels.index(name)
            offset, scale = (self.architecture["label_scale"][key][label] for key in ("offset", "scale"))
            values = raw[:, label] * scale + offset
            predictive = scale * math.exp(0.5 * raw[:, len(self.labels) + label].mean())
            found |= {name: values.mean(), f"{name}_model_error": values.std()}
            found |= {
                f"{name}_predictive_error": predictive,
                f"{name}_total_error": math.hypot(values.std(), predictive),
            }
        if self.architecture.get("age_linear") is not None:
            intercept, slope = self.architecture["age_linear"]
            found["age_linear_correct"] = (found["age"] - intercept) / slope
        if "lowess.prediction" in self.weights:
            x, y = self.weights["lowess.prediction"], self.weights["lowess.age"]
            # the piece of the relation in which the age lies, the first or last one beyond the ends
            at = int(np.clip(np.searchsorted(x, found["age"]), 1, len(x) - 1))
            slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
            found["age_lowess_correct"] = y[at] + (found["age"] - x[at]) * slope
        return {name: float(value) for name, value in found.items()}
