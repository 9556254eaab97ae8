"""Exact counts over all rows, taken block by block: statuses, flags, histograms and maps of the plane."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """Bins of one quantity.

    Attributes
    ----------
    role : str
    low, high : float
        In the column's unit, or in dex of it if ``logarithmic``.
    bins : int
    logarithmic : bool
    """

    role: str
    low: float
    high: float
    bins: int
    logarithmic: bool = False

    def edges(self) -> NDArray[np.float64]:
        """Bin edges in the column's unit, shape ``(bins + 1,)``."""
        edges = np.linspace(self.low, self.high, self.bins + 1)
        return np.asarray(10.0**edges if self.logarithmic else edges)

    def index(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Bin of each value: -1 below or missing, ``bins`` at or above the upper end."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.log10(values) if self.logarithmic else values.astype(np.float64)
            position = np.floor((scaled - self.low) * (self.bins / (self.high - self.low)))
        position = np.where(np.isnan(position), -1, position)
        return np.asarray(np.clip(position, -1, self.bins).astype(np.int64))


AXES: dict[str, Axis] = {
    axis.role: axis
    for axis in (
        Axis("age", 0.0, 20.0, 80),
        Axis("age_error", -2.0, 1.5, 72, logarithmic=True),
        Axis("mass", 0.0, 5.0, 100),
        Axis("mass_error", -3.0, 1.0, 80, logarithmic=True),
        Axis("teff", 3000.0, 10000.0, 140),
        Axis("logg", -1.0, 6.0, 140),
        Axis("feh", -3.0, 1.0, 80),
        Axis("alpha", -0.5, 1.0, 60),
        Axis("snr", 0.0, 3.5, 72, logarithmic=True),
        Axis("ra", 0.0, 360.0, 180),
        Axis("dec", -90.0, 90.0, 90),
    )
}
"""Bins in which all rows are counted: wide enough for giants of any survey; what falls outside is counted and said."""

HISTOGRAMS = ("age", "mass", "feh", "age_error", "mass_error")
"""Quantities whose histograms are drawn; the numbers of their bins are multiples of 4."""

PLANES: tuple[tuple[str, str, str], ...] = (
    ("teff", "logg", "age"),
    ("age", "mass", "feh"),
    ("feh", "age", "mass"),
    ("feh", "alpha", "age"),
    ("snr", "age_error", ""),
    ("ra", "dec", ""),
)
"""Planes that are mapped: horizontal axis, vertical axis, quantity whose mean is the colour."""


class Histogram:
    """Counts of one quantity in fixed bins, with what lies below, above and is missing."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.counts = np.zeros(axis.bins, np.int64)
        self.below = self.above = self.missing = 0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count values of shape ``(n,)``; NaN counts as missing."""
        finite = values[~np.isnan(values)]
        self.missing += len(values) - len(finite)
        counts = np.bincount(self.axis.index(finite) + 1, minlength=self.axis.bins + 2)
        self.below += int(counts[0])
        self.above += int(counts[-1])
        self.counts += counts[1:-1]

    def for_display(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges and counts of bins as wide as the rows ask for.

        Two or four bins are made one where about the root of the number of rows is left of those that hold any.
        """
        filled = np.flatnonzero(self.counts)
        width = filled[-1] - filled[0] + 1 if len(filled) else 0
        wanted = 1.2 * np.sqrt(self.counts.sum())
        factor = next((size for size in (4, 2) if width / size >= wanted), 1)
        return self.axis.edges()[::factor], self.counts.reshape(-1, factor).sum(axis=1)


class Plane:
    """Counts, and sums of a third quantity, in cells of two."""

    def __init__(self, horizontal: Axis, vertical: Axis, colour: str) -> None:
        self.horizontal, self.vertical, self.colour = horizontal, vertical, colour
        shape = (horizontal.bins, vertical.bins)
        self.counts = np.zeros(shape, np.int64)
        self.coloured = np.zeros(shape, np.int64)
        self.sums = np.zeros(shape)

    def add(
        self,
        horizontal: NDArray[np.floating],
        vertical: NDArray[np.floating],
        colour: NDArray[np.floating] | None,
    ) -> None:
        """Count rows; rows outside the axes are left out."""
        first, second = self.horizontal.index(horizontal), self.vertical.index(vertical)
        inside = (first >= 0) & (first < self.horizontal.bins) & (second >= 0) & (second < self.vertical.bins)
        cells = first[inside] * self.vertical.bins + second[inside]
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)
        if colour is None:
            return
        values = colour[inside]
        known = np.isfinite(values)
        self.coloured += np.bincount(cells[known], minlength=self.counts.size).reshape(self.counts.shape)
        self.sums += np.bincount(cells[known], values[known], self.counts.size).reshape(self.counts.shape)

    def mean(self) -> NDArray[np.float64]:
        """Mean colour per cell, shape ``(horizontal, vertical)``, NaN where no row has one."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(self.coloured > 0, self.sums / np.maximum(self.coloured, 1), np.nan))


class StateCounts:
    """How many rows have each combination of status and flag value."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int, bool]] = Counter()

    def add(self, status: NDArray[np.integer], flag: NDArray[np.integer], has_age: NDArray[np.bool_]) -> None:
        """Count rows of one block; all arrays have shape ``(n,)``."""
        if not len(status):
            return
        # One integer per state: flags have at most 31 bits and a status fits the rest.
        states = (status.astype(np.int64) << 32) | (flag.astype(np.int64) << 1) | has_age
        values, counts = np.unique(states, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._counts[(value >> 32, (value >> 1) & 0x7FFFFFFF, bool(value & 1))] += count

    def rows(self) -> list[tuple[int, int, bool, int]]:
        """``(status, flag, has an age, rows)`` of every combination that occurs, sorted."""
        return [(*state, count) for state, count in sorted(self._counts.items())]

    @property
    def total(self) -> int:
        """Rows counted."""
        return sum(self._counts.values())

    def by_status(self) -> dict[int, int]:
        """Rows of every status that occurs."""
        counts: Counter[int] = Counter()
        for status, _, _, rows in self.rows():
            counts[status] += rows
        return dict(sorted(counts.items()))

    def with_bit(self, bit: int) -> int:
        """Rows whose flag has a bit set."""
        return sum(rows for _, flag, _, rows in self.rows() if flag >> bit & 1)
