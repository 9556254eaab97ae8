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


class OpenHistogram(Histogram):
    """Counts of a quantity whose range nobody knows beforehand.

    Bins are as wide as the smallest power of two with which at most :data:`MOST_BINS` hold every value, and begin at
    multiples of it, so that they depend on the smallest and the largest value and not on the order in which values
    come. Infinite values count as missing.

    Parameters
    ----------
    role : str
    """

    MOST_BINS = 128
    _FINEST = 12  # bins are no narrower than the largest value over 2 to this power

    def __init__(self, role: str) -> None:
        super().__init__(Axis(role, 0.0, 1.0, 1))
        self._exponent = -1000
        self._first = 0
        self._largest = 1e-30

    def add(self, values: NDArray[np.floating]) -> None:
        """Count values of shape ``(n,)``."""
        finite = values[np.isfinite(values)].astype(np.float64)
        self.missing += len(values) - len(finite)
        if not len(finite):
            return
        low, high = float(finite.min()), float(finite.max())
        if self.counts.any():
            low, high = min(low, self._first * 2.0**self._exponent), max(high, self._last * 2.0**self._exponent)
        self._largest = max(self._largest, float(np.abs(finite).max()))
        exponent = max(self._exponent, int(np.frexp(self._largest)[1]) - self._FINEST)
        while np.floor(high / 2.0**exponent) - np.floor(low / 2.0**exponent) >= self.MOST_BINS:
            exponent += 1
        first = int(np.floor(low / 2.0**exponent))
        counts = np.zeros(int(np.floor(high / 2.0**exponent)) - first + 1, np.int64)
        filled = np.flatnonzero(self.counts)
        np.add.at(counts, ((self._first + filled) >> (exponent - self._exponent)) - first, self.counts[filled])
        np.add.at(counts, np.floor(finite / 2.0**exponent).astype(np.int64) - first, 1)
        self._first, self._exponent, self.counts = first, exponent, counts
        self.axis = self._axis(first, len(counts))

    @property
    def _last(self) -> int:
        return self._first + len(self.counts) - 1

    def for_display(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges and counts; see :meth:`Histogram.for_display`."""
        if not self.counts.any():
            return self.axis.edges(), self.counts
        first, last = self._first - self._first % 4, self._last + 1
        padded = np.pad(self.counts, (self._first - first, -(last - first) % 4))
        shown = Histogram(self._axis(first, len(padded)))
        shown.counts = padded
        return shown.for_display()

    def _axis(self, first: int, bins: int) -> Axis:
        width = 2.0**self._exponent
        return Axis(self.axis.role, first * width, (first + bins) * width, bins)


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

    def add(self, status: NDArray[np.integer], flag: NDArray[np.integer], has_result: NDArray[np.bool_]) -> None:
        """Count rows of one block; all arrays have shape ``(n,)``."""
        if not len(status):
            return
        # One integer per state: flags have at most 31 bits and a status fits the rest.
        states = (status.astype(np.int64) << 32) | (flag.astype(np.int64) << 1) | has_result
        values, counts = np.unique(states, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._counts[(value >> 32, (value >> 1) & 0x7FFFFFFF, bool(value & 1))] += count

    def rows(self) -> list[tuple[int, int, bool, int]]:
        """``(status, flag, has a result, rows)`` of every combination that occurs, sorted."""
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
