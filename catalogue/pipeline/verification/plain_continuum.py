"""The pseudo-continuum of :mod:`catalogue.models.continuum` a second way: one spectrum, double precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
BIN, BLOCK, FLOOR, RIDGE = 4, 12, 0.005, 1e-3


class PlainContinuum:
    """Penalised splines, one per arm, fitted robustly.

    Parameters
    ----------
    x : sequence of float
        log10 wavelength of the pixels.
    arms : sequence of (float, float)
    settings : mapping
        Of :class:`catalogue.models.continuum.ContinuumSettings`.
    """

    def __init__(self, x: Sequence[float], arms: Sequence[tuple[float, float]], settings: Mapping[str, Any]) -> None:
        self.settings = settings
        left = set(range(len(x)))
        parts, penalties = [], []
        for low, high in arms:
            inside = [i for i in sorted(left) if low <= x[i] <= high]
            if not inside:
                continue
            left -= set(inside)
            part = np.zeros((len(x), 0))
            begin, end = x[inside[0]], x[inside[-1]]
            intervals = max(1, round((end - begin) / settings["knot_spacing"]))
            knots = [begin] * 3 + list(np.linspace(begin, end, intervals + 1)) + [end] * 3
            part = np.zeros((len(x), intervals + 3))
            for i in inside:
                part[i] = [_spline(knots, number, 3, x[i]) for number in range(intervals + 3)]
            parts.append(part)
            difference = np.diff(np.eye(intervals + 3), 2, axis=0)
            penalties.append(difference.T @ difference + RIDGE * np.eye(intervals + 3))
        self.basis = np.hstack(parts)
        size = self.basis.shape[1]
        self.penalty = np.zeros((size, size))
        at = 0
        for block in penalties:
            self.penalty[at : at + len(block), at : at + len(block)] = block
            at += len(block)
        filled = [*range(len(x)), *[len(x) - 1] * (-len(x) % BIN)]
        self.binned = np.array([self.basis[filled[i : i + BIN]].mean(axis=0) for i in range(0, len(filled), BIN)])

    def fit(self, flux: Vector, variance: Vector) -> Vector | None:
        """Continuum of one spectrum, whose flux and variance are 0 where bad; None if it cannot be fitted."""
        flux, variance, count = _bins(flux, variance)
        medians = _block_medians(flux, count)
        level = _lower_median(medians)
        if not level > 0:
            return None
        flux, variance, medians = flux / level, variance / level**2, medians / level
        variance = np.maximum(variance, _spread(_block_medians(variance, count), len(flux)))
        weight = _spread(np.maximum(medians, FLOOR) ** -2.0, len(flux))
        coefficients = self._solve(weight, _spread(medians, len(flux)), np.ones(self.basis.shape[1]))
        for _ in range(self.settings["iterations"]):
            continuum = np.maximum(self.binned @ coefficients, FLOOR)
            weight = count * np.array([
                self._weight(f - c, v, c) for f, v, c in zip(flux, variance, continuum, strict=True)
            ])  # fmt: skip
            coefficients = self._solve(weight, flux, np.maximum(coefficients, FLOOR))
        if not np.isfinite(coefficients).all():
            return None
        return np.asarray(np.maximum(self.basis @ coefficients, FLOOR) * level)

    def _weight(self, residual: float, variance: float, continuum: float) -> float:
        """Inverse variance, less the farther a bin lies from the fit."""
        total = variance + (self.settings["scatter"] * continuum) ** 2
        width = self.settings["upper"] if residual > 0 else self.settings["lower"]
        return 1.0 / (total * (1.0 + residual**2 / width**2 / total) ** 2)

    def _solve(self, weight: Vector, flux: Vector, before: Vector) -> Vector:
        mean = (weight * (self.binned @ before) ** 2).mean()
        weight = weight / (mean if mean > 0 else 1.0)
        strength = self.settings["stiffness"] * len(flux) / len(before)
        scaled = self.binned * before
        normal = scaled.T @ (scaled * weight[:, None]) + strength * self.penalty
        right = scaled.T @ (weight * flux) + strength * RIDGE
        return np.asarray(np.linalg.solve(normal, right) * before)


def _spline(knots: Sequence[float], number: int, degree: int, x: float) -> float:
    """B-spline by the recursion of Cox and de Boor; the last one includes its right end."""
    if degree == 0:
        last = x == knots[-1] and knots[number] < knots[number + 1] == knots[-1]
        return 1.0 if knots[number] <= x < knots[number + 1] or last else 0.0
    value = 0.0
    if (width := knots[number + degree] - knots[number]) > 0 and knots[number] <= x:
        value += (x - knots[number]) / width * _spline(knots, number, degree - 1, x)
    if (width := knots[number + degree + 1] - knots[number + 1]) > 0 and x <= knots[number + degree + 1]:
        value += (knots[number + degree + 1] - x) / width * _spline(knots, number + 1, degree - 1, x)
    return value


def _bins(flux: Vector, variance: Vector) -> tuple[Vector, Vector, Vector]:
    """Mean flux, mean variance and number of the good pixels of every bin."""
    rows = []
    for start in range(0, len(flux), BIN):
        good = [i for i in range(start, min(start + BIN, len(flux))) if variance[i] > 0]
        n = max(len(good), 1)
        rows.append((sum(flux[i] for i in good) / n, sum(variance[i] for i in good) / n, float(len(good))))
    means, variances, counts = np.array(rows).T
    return means, variances, counts


def _block_medians(values: Vector, count: Vector) -> Vector:
    blocks = range(0, len(values), BLOCK)
    return np.array([
        _lower_median(np.array([v for v, n in zip(values[i : i + BLOCK], count[i : i + BLOCK], strict=True) if n > 0]))
        for i in blocks
    ])  # fmt: skip


def _lower_median(values: Vector) -> float:
    """Median of what is not NaN, the lower one of an even number."""
    known = sorted(value for value in values if not math.isnan(value))
    return float(known[(len(known) - 1) // 2]) if known else math.nan


def _spread(blocks: Vector, n: int) -> Vector:
    """Values of blocks at each of their bins, 0 for NaN."""
    return np.array([0.0 if math.isnan(blocks[i // BLOCK]) else blocks[i // BLOCK] for i in range(n)])
