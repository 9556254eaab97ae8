"""The fit for stellar parameters a second way: one spectrum at a time, in double precision, term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

Vector = NDArray[np.float64]


class PlainFit:
    """What a bundle learnt for fitting spectra.

    Parameters
    ----------
    weights : mapping
        Arrays of the bundle in double precision.
    """

    def __init__(self, weights: Mapping[str, Vector]) -> None:
        self.components = weights["inputs.components"]
        self.learnt = {
            name: weights[f"inputs.fit.{name}"]
            for name in ("weights", "scatter", "prior", "limits", "variance", "excess")
        }
        places = range(len(self.learnt["prior"]))
        self.terms: list[tuple[int, ...]] = [
            (),
            *((i,) for i in places),
            *((i, j) for i in places for j in places if i <= j),
            *((i, j, k) for i in places for j in places for k in places if i <= j <= k),
        ]

    def __call__(self, pixels: Vector, good: NDArray[np.bool_], noise: Vector, far: Vector) -> Vector:
        """Most probable standardised parameters; ``far`` is how many limits a pixel is from the components."""
        variance = (noise * self.learnt["excess"]) ** 2 + self.learnt["variance"]
        # what lies beyond the limit counts as if it lay as far within it
        share = np.array([1.0 if x <= 1.0 else max(2.0 / x - 1.0, 0.0) for x in far])
        weights = np.where(good, share / variance, 0.0)
        information = self.components @ (weights[:, None] * self.components.T)
        seen = self.components @ (weights * pixels)
        # of what is seen, this much is known whatever the scatter: (information^-1 + scatter)^-1, never inverted
        blurred = np.eye(len(seen)) + information @ self.learnt["scatter"]
        known: Vector = np.linalg.solve(blurred, np.column_stack([information, seen])).astype(np.float64)
        information, seen = known[:, :-1], known[:, -1]
        precision = np.linalg.inv(self.learnt["prior"])
        low, high = self.learnt["limits"]
        found = np.zeros(len(precision))
        for _ in range(8):
            expected, slopes = self._expected(found)
            self.information = slopes @ information @ slopes.T
            gradient = slopes @ (seen - information @ expected) - precision @ found
            step = np.linalg.solve(self.information + precision, gradient)
            found = np.clip(found + step / max(np.abs(step).max(), 1.0), low, high)
        return found

    def errors(self) -> Vector:
        """Standard errors of the parameters of the spectrum fitted last."""
        covariance = np.linalg.inv(self.information + np.linalg.inv(self.learnt["prior"]))
        return np.sqrt(np.diag(covariance))

    def mixture_labels(self, weights: Mapping[str, Vector], found: Vector, per_label: Vector) -> Vector:
        """Labels by the mixture of the training stars, for the spectrum fitted last.

        Parameters
        ----------
        weights : mapping
            Arrays of the bundle in double precision.
        found : ndarray
            What the fit found.
        per_label : ndarray
            Natural logarithm of a label per unit of the network's.
        """
        n = len(found)
        information = self.information / 1.1**2
        said = (self.information + np.linalg.inv(self.learnt["prior"])) @ found / 1.1**2
        logs, means, variances = [], [], []
        gaussians = zip(*(weights[f"mixture.{name}"] for name in ("weights", "means", "covariances")), strict=True)
        for weight, mean, covariance in gaussians:
            inside, across = covariance[:n, :n], covariance[:n, n:]
            # the covariance of the parameters given the spectrum, without inverting the spectrum's information
            after = np.linalg.solve(np.eye(n) + inside @ information, inside)
            change = after @ (said - information @ mean[:n])
            slope = np.linalg.solve(inside, across)
            left = covariance[n:, n:] - across.T @ slope
            means.append(mean[n:] + slope.T @ change)
            variances.append(np.diag(left + slope.T @ after @ slope))
            _, size = np.linalg.slogdet(np.eye(n) + inside @ information)
            pull = said @ mean[:n] - 0.5 * mean[:n] @ information @ mean[:n]
            logs.append(math.log(weight) - 0.5 * size + pull + 0.5 * (said - information @ mean[:n]) @ change)
        columns = zip(np.array(means).T, np.array(variances).T, per_label, strict=True)
        return np.array([_median(np.array(logs), *column) for column in columns])

    def _expected(self, parameters: Vector) -> tuple[Vector, Vector]:
        """Components that parameters lead to, and their slopes (parameters, components)."""
        values = [np.prod(parameters[list(term)]) for term in self.terms]
        slopes = np.zeros((len(parameters), len(values)))
        for number, term in enumerate(self.terms):
            for place, parameter in enumerate(term):
                others = [*term[:place], *term[place + 1 :]]
                slopes[parameter, number] += np.prod(parameters[others])
        return np.array(values) @ self.learnt["weights"], slopes @ self.learnt["weights"]


def _median(logs: Vector, means: Vector, variances: Vector, per_unit: float) -> float:
    """Median of a mixture whose density counts with the inverse of the label."""
    logs = logs - per_unit * means + 0.5 * per_unit**2 * variances
    shares = np.exp(logs - logs.max())
    shares /= shares.sum()
    means = means - per_unit * variances
    sigma = np.sqrt(variances)
    above = lambda x: float((shares * norm.cdf((x - means) / sigma)).sum()) - 0.5  # noqa: E731
    return float(brentq(above, (means - 8 * sigma).min(), (means + 8 * sigma).max(), xtol=1e-13))
