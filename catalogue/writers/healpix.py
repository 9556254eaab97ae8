"""Rows brought into the order of HEALPix without holding them in memory.

Blocks are sorted one by one and laid aside in temporary Arrow files that are mapped, not loaded; then the rows of one
pixel after the other are gathered from all of them. Needs ``mocpy`` (extra ``hats``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.arrow import record_batch, schema_metadata, schema_of

HEALPIX_COLUMN = "_healpix_29"
HEALPIX_ORDER = 29
ROW_COLUMN = "row_number"
_FINEST_ORDER = 8
"""Finest pixels into which rows are split: 0.23 degrees wide, 786,432 over the sky."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows of one nested HEALPix pixel.

    Attributes
    ----------
    order, pixel, rows : int
    """

    order: int
    pixel: int
    rows: int


def healpix_index(ra: NDArray[np.floating], dec: NDArray[np.floating]) -> NDArray[np.int64]:
    """Nested HEALPix index of order 29; -1 where there is no position.

    Parameters
    ----------
    ra, dec : ndarray, shape (rows,)
        Degrees.
    """
    from astropy import units
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    index = np.full(len(ra), -1, np.int64)
    known = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    if len(known):
        longitude, latitude = Longitude(ra[known] % 360, units.deg), Latitude(dec[known], units.deg)
        index[known] = lonlat_to_healpix(longitude, latitude, HEALPIX_ORDER).astype(np.int64)
    return index


class HealpixRows:
    """Rows of a catalogue, taken in its order and given in the order of HEALPix.

    Parameters
    ----------
    directory : Path
        For temporary files, as large as the rows; it is made here and removed by :meth:`discard`.
    data_model : DataModel
        With columns of the roles ``ra`` and ``dec``.
    provenance : mapping of str to str

    Attributes
    ----------
    schema : pyarrow.Schema
        The data model's columns, :data:`HEALPIX_COLUMN` and :data:`ROW_COLUMN`.
    counts : ndarray of int64
        Rows per pixel of the finest order.
    without_position : int
        Rows that lie nowhere.

    Raises
    ------
    ValueError
        If the data model has no positions.
    """

    def __init__(self, directory: Path, data_model: DataModel, provenance: Mapping[str, str]) -> None:
        names = {column.role: column.name for column in data_model.columns if column.role in ("ra", "dec")}
        if len(names) != 2:
            raise ValueError(f"{data_model.name}: expected columns of the roles ra and dec, found {sorted(names)}")
        self.ra, self.dec = names["ra"], names["dec"]
        self.directory = directory
        self.data_model = data_model
        added = [
            pa.field(HEALPIX_COLUMN, pa.int64(), metadata=_facts("nested HEALPix pixel of order 29", "-1")),
            pa.field(ROW_COLUMN, pa.int64(), metadata=_facts("row of the catalogue, counted from 0", "")),
        ]
        self._own = schema_of(data_model)
        self.schema = pa.schema([*self._own, *added], schema_metadata(data_model, provenance))
        self.counts = np.zeros(12 << 2 * _FINEST_ORDER, np.int64)
        self.without_position = 0
        self._rows = 0
        self._files: list[Path] = []
        self._runs: list[tuple[pa.Table, NDArray[np.int64]]] = []
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()

    def add(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Lay a block of rows aside, sorted."""
        index = healpix_index(np.asarray(block[self.ra], float), np.asarray(block[self.dec], float))
        order = np.argsort(index, kind="stable")
        batch = record_batch(self.data_model, self._own, block)
        numbers = pa.array(np.arange(self._rows, self._rows + len(index)))
        whole = pa.record_batch([*batch.columns, pa.array(index), numbers], schema=self.schema).take(pa.array(order))
        path = self.directory / f"{len(self._files):06d}.arrow"
        with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, self.schema) as writer:
            writer.write_batch(whole)
        self._files.append(path)
        self._rows += len(index)
        known = index[index >= 0] >> 2 * (HEALPIX_ORDER - _FINEST_ORDER)
        self.without_position += len(index) - len(known)
        pixels, counts = np.unique(known, return_counts=True)
        self.counts[pixels] += counts

    def partitions(self, most_rows: int) -> list[Partition]:
        """Pixels that together hold every row with a position: the largest ones with at most ``most_rows``.

        In the order of HEALPix; a pixel of the finest order may hold more.
        """
        levels = [self.counts]
        while len(levels[-1]) > 12:
            levels.append(levels[-1].reshape(-1, 4).sum(axis=1))
        levels.reverse()
        found: list[Partition] = []
        open_pixels = [(0, pixel) for pixel in reversed(range(12))]
        while open_pixels:
            order, pixel = open_pixels.pop()
            rows = int(levels[order][pixel])
            if rows and rows > most_rows and order < _FINEST_ORDER:
                open_pixels.extend((order + 1, 4 * pixel + child) for child in (3, 2, 1, 0))
            elif rows:
                found.append(Partition(order, pixel, rows))
        return found

    def rows_of(self, partition: Partition) -> pa.Table:
        """Rows of a pixel, by HEALPix index and then by row number."""
        shift = 2 * (HEALPIX_ORDER - partition.order)
        return self._gather(partition.pixel << shift, (partition.pixel + 1) << shift)

    def rows_without_position(self) -> pa.Table:
        """Rows that lie nowhere, by row number."""
        return self._gather(-1, 0)

    def tables(self, most_rows: int) -> Iterator[pa.Table]:
        """All rows: pixel by pixel, then those without a position, in tables of about ``most_rows`` rows."""
        for partition in self.partitions(most_rows):
            yield self.rows_of(partition)
        if self.without_position:
            yield self.rows_without_position()

    def discard(self) -> None:
        """Remove the temporary files."""
        self._runs.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _gather(self, low: int, high: int) -> pa.Table:
        if not self._runs:
            self._runs = [_mapped(path) for path in self._files]
        parts = []
        for table, index in self._runs:
            first, last = np.searchsorted(index, [low, high])
            parts.append(table.slice(first, last - first))
        joined = pa.concat_tables(parts) if parts else self.schema.empty_table()
        return joined.take(pa.array(np.argsort(joined[HEALPIX_COLUMN].to_numpy(), kind="stable")))


def _mapped(path: Path) -> tuple[pa.Table, NDArray[np.int64]]:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table, table[HEALPIX_COLUMN].to_numpy()


def _facts(description: str, null: str) -> dict[str, str]:
    return {"description": description, **({"null_value": null} if null else {})}
