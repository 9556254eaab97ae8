"""Positions on the sky: cones and matches, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELL_DEGREES = 0.5


def unit_vectors(ra: NDArray[np.floating], dec: NDArray[np.floating]) -> NDArray[np.float64]:
    """Directions as unit vectors, shape ``(n, 3)``; angles in degrees."""
    longitude, latitude = np.radians(ra), np.radians(dec)
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    )


def separation(
    ra: NDArray[np.floating], dec: NDArray[np.floating], centre_ra: float, centre_dec: float
) -> NDArray[np.float64]:
    """Angle in degrees between positions and a centre, by the haversine, which is exact for small angles."""
    half_ra, half_dec = np.radians(ra - centre_ra) / 2, np.radians(dec - centre_dec) / 2
    square = np.sin(half_dec) ** 2 + np.cos(np.radians(dec)) * np.cos(np.radians(centre_dec)) * np.sin(half_ra) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(square, 0, 1)))))


def in_cone(
    ra: NDArray[np.floating], dec: NDArray[np.floating], centre_ra: float, centre_dec: float, radius: float
) -> NDArray[np.bool_]:
    """Rows within ``radius`` degrees of a centre; rows without a position are not.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,)
        Degrees.
    centre_ra, centre_dec, radius : float
        Degrees.
    """
    inside = np.abs(dec - centre_dec) <= radius
    # The band in declination leaves few rows for the trigonometry.
    rows = np.flatnonzero(inside)
    inside[rows] = separation(ra[rows], dec[rows], centre_ra, centre_dec) <= radius
    return inside


def _chord(degrees: float) -> float:
    return float(2 * np.sin(np.radians(min(degrees, 180.0)) / 2))


@dataclass(frozen=True)
class Matches:
    """Pairs of near positions.

    Attributes
    ----------
    row : ndarray of int64, shape (n,)
        Row of the catalogue.
    target : ndarray of int64, shape (n,)
        Row of the table that was matched to it.
    separation : ndarray of float64, shape (n,)
        Degrees.
    """

    row: NDArray[np.int64]
    target: NDArray[np.int64]
    separation: NDArray[np.float64]

    def nearest(self) -> Matches:
        """One pair for each target that has any: the nearest, the earliest row of equally near ones."""
        order = np.lexsort((self.row, self.separation, self.target))
        first = np.unique(self.target[order], return_index=True)[1]
        kept = order[first]
        return Matches(self.row[kept], self.target[kept], self.separation[kept])

    def sorted(self) -> Matches:
        """By target, then separation, then row."""
        order = np.lexsort((self.row, self.separation, self.target))
        return Matches(self.row[order], self.target[order], self.separation[order])


class Matcher:
    """Matches blocks of a catalogue to a table of targets that fits into memory.

    Parameters
    ----------
    ra, dec : ndarray, shape (targets,)
        Degrees; targets without a position match nothing.
    radius : float
        Degrees, greater than 0.

    Raises
    ------
    ValueError
        If the radius is not between 0 and 180 degrees.
    """

    def __init__(self, ra: NDArray[np.floating], dec: NDArray[np.floating], radius: float) -> None:
        if not 0 < radius <= 180:
            raise ValueError(f"expected a radius between 0 and 180 degrees, got {radius}")
        from scipy.spatial import cKDTree

        ra, dec = np.asarray(ra, float), np.asarray(dec, float)
        self.radius = radius
        self._known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        self._tree = cKDTree(unit_vectors(ra[self._known], dec[self._known])) if len(self._known) else None
        self._cells = _occupied(ra[self._known], dec[self._known], radius)

    def pairs(self, first_row: int, ra: NDArray[np.floating], dec: NDArray[np.floating]) -> Matches:
        """All pairs within the radius of one block of the catalogue.

        Parameters
        ----------
        first_row : int
        ra, dec : ndarray, shape (rows,)
        """
        rows = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        rows = rows[self._cells[_cell(ra[rows], dec[rows])]]
        if self._tree is None or not len(rows):
            return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        # A little more than the chord, so that rounding loses no pair; the exact angle decides.
        vectors = unit_vectors(ra[rows], dec[rows])
        near = self._tree.query_ball_point(vectors, _chord(self.radius) * (1 + 1e-9) + 1e-12)
        counts = np.array([len(targets) for targets in near])
        found = rows[np.repeat(np.arange(len(rows)), counts)]
        index = np.array([target for targets in near for target in targets], np.int64)
        # The angle between two unit vectors from their difference keeps its digits where they are close.
        chord = np.linalg.norm(unit_vectors(ra[found], dec[found]) - self._tree.data[index], axis=1)
        angle = np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))
        kept = angle <= self.radius
        return Matches(first_row + found[kept], self._known[index[kept]], angle[kept])


def merged(parts: list[Matches]) -> Matches:
    """Pairs of several blocks together."""
    empty = Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    parts = parts or [empty]
    return Matches(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.separation for part in parts]),
    )


_BANDS = round(180 / CELL_DEGREES)
_SECTORS = round(360 / CELL_DEGREES)


def _cell(ra: NDArray[np.floating], dec: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of the cell of equal right ascension and declination that holds a position."""
    band = np.clip(np.floor((dec + 90) / CELL_DEGREES), 0, _BANDS - 1).astype(np.int64)
    sector = np.floor((ra % 360) / CELL_DEGREES).astype(np.int64) % _SECTORS
    return np.asarray(band * _SECTORS + sector)


def _occupied(ra: NDArray[np.floating], dec: NDArray[np.floating], radius: float) -> NDArray[np.bool_]:
    """Which cells come within ``radius`` of a position: what lies in no such cell needs no tree."""
    cells = np.zeros((_BANDS, _SECTORS), bool)
    reach = radius + 1e-6
    low = np.clip(np.floor((dec - reach + 90) / CELL_DEGREES), 0, _BANDS - 1).astype(int)
    high = np.clip(np.floor((dec + reach + 90) / CELL_DEGREES), 0, _BANDS - 1).astype(int)
    for position, bottom, top in zip(range(len(ra)), low, high, strict=True):
        # Half width in right ascension of a cap: asin(sin r / cos dec), all of it where the cap holds a pole.
        if abs(dec[position]) + reach >= 90:
            cells[bottom : top + 1] = True
            continue
        width = np.degrees(np.arcsin(min(1.0, np.sin(np.radians(reach)) / np.cos(np.radians(dec[position])))))
        first = int(np.floor((ra[position] % 360 - width) / CELL_DEGREES))
        last = int(np.floor((ra[position] % 360 + width) / CELL_DEGREES))
        sectors = np.arange(first, min(last, first + _SECTORS - 1) + 1) % _SECTORS
        cells[bottom : top + 1, sectors] = True
    return cells.ravel()
