"""How the values of paired rows differ, counted block by block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.query.table import TableColumn

SIGMA_BINS = np.linspace(-10, 10, 201)
LARGEST = 20


@dataclass(frozen=True)
class ColumnDifference:
    """One pair of columns.

    Attributes
    ----------
    column : str
        Name in the first table.
    compared, changed : int
        Paired rows, and those of them that differ. NaN equals NaN, missing equals missing; where the types differ
        in precision, values are compared in the lower.
    appeared, vanished : int
        Rows that are missing in the first, or in the second table alone.
    largest : float or None
        Largest difference of two values that are both there; None for text and for flags.
    """

    column: str
    compared: int
    changed: int
    appeared: int
    vanished: int
    largest: float | None


@dataclass(frozen=True)
class BitChange:
    """Rows in which a flag bit was set or cleared."""

    column: str
    bit: str
    set: int
    cleared: int


@dataclass(frozen=True)
class Transition:
    """Rows whose status went from one value to another."""

    column: str
    before: str
    after: str
    rows: int


@dataclass(frozen=True)
class Mover:
    """A row whose value changed by much."""

    key: str
    row: int
    other_row: int
    before: float
    after: float
    sigma: float | None


@dataclass(frozen=True)
class QuantityDifference:
    """Change of an age, a mass or another quantity.

    Attributes
    ----------
    quantity : str
    unit : str
    both, gained, lost : int
        Rows with a value in both tables, in the second alone, in the first alone.
    mean, spread : float or None
        Of the change (second minus first), in the unit.
    with_sigma : int
        Rows for which both tables give an error.
    sigma_mean, sigma_spread : float or None
        Of the change over the root of the sum of both errors' squares.
    beyond : dict of str to int
        Rows that changed by more than 1, 2, 3 and 5 such errors.
    histogram : tuple of int
        Rows per bin of :data:`SIGMA_BINS`, the outermost bins holding all beyond.
    movers : tuple of Mover
        Largest changes in sigma, or in the unit where there are no errors.
    """

    quantity: str
    unit: str
    both: int
    gained: int
    lost: int
    mean: float | None
    spread: float | None
    with_sigma: int
    sigma_mean: float | None
    sigma_spread: float | None
    beyond: dict[str, int]
    histogram: tuple[int, ...]
    movers: tuple[Mover, ...]


def missing(values: NDArray[Any], column: TableColumn) -> NDArray[np.bool_]:
    """Where a column holds no value, shape of ``values``."""
    if values.dtype.kind in "fc":
        return np.asarray(np.isnan(values))
    if values.dtype.kind == "T":
        return np.asarray(values == "")
    if column.null is not None and values.dtype.kind in "iu":
        return np.asarray(values == column.null)
    return np.zeros(values.shape, bool)


def common_type(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both arrays in a type in which equal values are equal: text with text, floats in the lower precision."""
    one, other = first.dtype, second.dtype
    if one == other:
        return first, second
    if "T" in (one.kind, other.kind):
        text = np.dtypes.StringDType()
        return first.astype(text), second.astype(text)
    if one.kind == other.kind == "f":
        lower = min(one, other, key=lambda kind: kind.itemsize)
        with np.errstate(over="ignore"):
            return first.astype(lower), second.astype(lower)
    return first, second


class ColumnTally:
    """Counts the differences of one pair of columns."""

    def __init__(self, first: TableColumn, second: TableColumn) -> None:
        self.first, self.second = first, second
        self.compared = self.changed = self.appeared = self.vanished = 0
        self.largest: float | None = None
        self._numbers = "flag_meanings" not in {**first.attributes, **second.attributes}

    def add(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Compare values of shape ``(rows, ...)``; a vector differs if any of its elements does."""
        none, nothing = missing(first, self.first), missing(second, self.second)
        one, other = common_type(first, second)
        both = ~none & ~nothing
        differs = (none != nothing) | (both & np.asarray(one != other))
        self.compared += len(first)
        self.changed += int(_rows(differs).sum())
        self.appeared += int(_rows(none & ~nothing).sum())
        self.vanished += int(_rows(nothing & ~none).sum())
        here = both & differs
        if self._numbers and one.dtype.kind in "iuf" and other.dtype.kind in "iuf" and here.any():
            with np.errstate(invalid="ignore", over="ignore"):
                change = np.abs(other[here].astype(np.float64) - one[here].astype(np.float64))
            change = change[~np.isnan(change)]
            self.largest = float(max([self.largest or 0.0, *(change.max(keepdims=True) if len(change) else ())]))

    def result(self) -> ColumnDifference:
        """What was counted."""
        return ColumnDifference(
            self.first.name, self.compared, self.changed, self.appeared, self.vanished, self.largest
        )


def _rows(elements: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(elements.reshape(len(elements), -1).any(axis=1)) if elements.ndim > 1 else elements


class FlagTally:
    """Counts the flag bits that were set and cleared, and the statuses that changed."""

    def __init__(self, first: TableColumn, second: TableColumn) -> None:
        self.name = first.name
        self.bits = _bit_names(second) or _bit_names(first)
        self.statuses = {**_status_names(first), **_status_names(second)}
        self.set: Counter[str] = Counter()
        self.cleared: Counter[str] = Counter()
        self.transitions: Counter[tuple[int, int]] = Counter()

    @staticmethod
    def wanted(first: TableColumn, second: TableColumn) -> bool:
        """Whether a pair of columns has bits or values with names."""
        names = "flag_masks", "flag_values"
        both = first.dtype.kind in "iu" and second.dtype.kind in "iu" and not first.shape
        return both and any(name in column.attributes for name in names for column in (first, second))

    def add(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Compare values of shape ``(rows,)``."""
        rows = np.flatnonzero(first.astype(np.int64) != second.astype(np.int64))
        one, other = first[rows].astype(np.int64), second[rows].astype(np.int64)
        for mask, name in self.bits.items():
            before, after = (one & mask) != 0, (other & mask) != 0
            self.set[name] += int((after & ~before).sum())
            self.cleared[name] += int((before & ~after).sum())
        if self.statuses:
            pairs, counts = np.unique(np.stack([one, other], axis=1), axis=0, return_counts=True)
            for (before_value, after_value), count in zip(pairs.tolist(), counts.tolist(), strict=True):
                self.transitions[before_value, after_value] += count

    def changed_bits(self) -> list[BitChange]:
        """Bits that changed in some row."""
        names = [name for name in self.bits.values() if self.set[name] or self.cleared[name]]
        return [BitChange(self.name, name, self.set[name], self.cleared[name]) for name in names]

    def changed_statuses(self) -> list[Transition]:
        """Transitions, the most frequent first."""
        name = lambda value: self.statuses.get(value, str(value))  # noqa: E731
        ordered = sorted(self.transitions.items(), key=lambda item: (-item[1], item[0]))
        return [Transition(self.name, name(before), name(after), rows) for (before, after), rows in ordered]


def _bit_names(column: TableColumn) -> dict[int, str]:
    names = str(column.attributes.get("flag_meanings", "")).split()
    return dict(zip(map(int, column.attributes.get("flag_masks", ())), names, strict=False))


def _status_names(column: TableColumn) -> dict[int, str]:
    names = str(column.attributes.get("flag_meanings", "")).split()
    return dict(zip(map(int, column.attributes.get("flag_values", ())), names, strict=False))


@dataclass
class QuantityTally:
    """Follows the change of one quantity.

    Parameters
    ----------
    quantity, unit : str
    """

    quantity: str
    unit: str
    both: int = 0
    gained: int = 0
    lost: int = 0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIGMA_BINS) - 1, np.int64))
    beyond: Counter[str] = field(default_factory=Counter)
    _change: _Moments = field(default_factory=lambda: _Moments())
    _sigma: _Moments = field(default_factory=lambda: _Moments())
    _movers: list[tuple[float, Mover]] = field(default_factory=list)

    def add(
        self,
        first: tuple[NDArray[Any], NDArray[Any] | None],
        second: tuple[NDArray[Any], NDArray[Any] | None],
        keys: NDArray[Any],
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
    ) -> None:
        """Take values and errors of paired rows; all arrays have shape ``(rows,)``."""
        before, after = first[0].astype(np.float64), second[0].astype(np.float64)
        has, will = np.isfinite(before), np.isfinite(after)
        self.both += int((has & will).sum())
        self.gained += int((will & ~has).sum())
        self.lost += int((has & ~will).sum())
        change = after - before
        self._change.add(change[has & will])
        sigma = np.full(len(change), np.nan)
        if first[1] is not None and second[1] is not None:
            errors = np.hypot(first[1].astype(np.float64), second[1].astype(np.float64))
            usable = has & will & np.isfinite(errors) & (errors > 0)
            sigma[usable] = change[usable] / errors[usable]
            self._sigma.add(sigma[usable])
            self.histogram += np.histogram(np.clip(sigma[usable], -9.99, 9.99), SIGMA_BINS)[0]
            for limit in (1, 2, 3, 5):
                self.beyond[str(limit)] += int((np.abs(sigma[usable]) > limit).sum())
        self._remember(change, sigma, before, after, keys, rows, others)

    def _remember(
        self,
        change: NDArray[np.float64],
        sigma: NDArray[np.float64],
        before: NDArray[np.float64],
        after: NDArray[np.float64],
        keys: NDArray[Any],
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
    ) -> None:
        size = np.abs(sigma if self._sigma.count else change)
        moved = np.flatnonzero(size > 0)
        moved = moved[np.argsort(-size[moved], kind="stable")[:LARGEST]]
        for at in moved.tolist():
            known = None if np.isnan(sigma[at]) else float(sigma[at])
            mover = Mover(str(keys[at]), int(rows[at]), int(others[at]), float(before[at]), float(after[at]), known)
            self._movers.append((float(size[at]), mover))
        self._movers.sort(key=lambda item: (-item[0], item[1].row))
        del self._movers[LARGEST:]

    def result(self) -> QuantityDifference:
        """What was followed."""
        return QuantityDifference(
            self.quantity, self.unit, self.both, self.gained, self.lost, self._change.mean, self._change.spread,
            self._sigma.count, self._sigma.mean, self._sigma.spread, dict(self.beyond), tuple(self.histogram.tolist()),
            tuple(mover for _, mover in self._movers),
        )  # fmt: skip


class _Moments:
    """Mean and standard deviation of a stream (Chan, Golub & LeVeque 1983, equation 1.5)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        mean, total = float(values.mean()), self.count + len(values)
        offset = mean - self._mean
        self._squares += float(((values - mean) ** 2).sum()) + offset**2 * self.count * len(values) / total
        self._mean += offset * len(values) / total
        self.count = total

    @property
    def mean(self) -> float | None:
        return self._mean if self.count else None

    @property
    def spread(self) -> float | None:
        return float(np.sqrt(self._squares / self.count)) if self.count else None
