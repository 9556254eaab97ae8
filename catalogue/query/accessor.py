"""Questions to a catalogue: ``dataset.cat.good()``, ``.flagged()``, ``.cone()``, ``.xmatch()``, ``.spectra()``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from numpy.typing import NDArray

from catalogue.datamodels.roles import find_role
from catalogue.query.flags import FlagMeanings, flag_meanings
from catalogue.query.pruning import rows_near
from catalogue.query.selection import ROW, ROW_NUMBER, mask_of, row_blocks, select_rows, take_rows
from catalogue.query.sky import Matcher, in_cone, merged, separation
from catalogue.query.spectra import with_spectra
from catalogue.query.table import TableError

if TYPE_CHECKING:
    from astropy.table import Table


@xarray.register_dataset_accessor("cat")
class CatalogueAccessor:
    """Selections of rows by flag and position, and what belongs to a row.

    Every selection gives a dataset of the same columns, still lazy; only the columns that decide are read.
    """

    def __init__(self, dataset: xarray.Dataset) -> None:
        self._dataset = dataset

    def column(self, role: str) -> str:
        """Name of the column that plays a part (``"age"``, ``"ra"``), by its attribute ``role`` or its name.

        Raises
        ------
        KeyError
            Naming the columns, if none does.
        """
        names = [str(name) for name in self._dataset.variables]
        stated = [name for name in names if self._dataset[name].attrs.get("role") == role]
        found = stated[0] if stated else find_role(role, names)
        if found is None:
            raise KeyError(f"expected a column that gives {role}, there are {', '.join(names)}")
        return found

    def good(self) -> xarray.Dataset:
        """Rows of which no bit of level ``bad`` is set.

        Raises
        ------
        KeyError
            If the catalogue has neither ``FLAG_BAD`` nor flag levels.
        """
        if "FLAG_BAD" in self._dataset:
            return self._where(["FLAG_BAD"], lambda bad: ~bad.astype(bool))
        name, meanings = self._own_flag()
        if not meanings.levels:
            raise KeyError("expected a column FLAG_BAD or levels of flag bits, found neither")
        return self._where([name], lambda flag: (flag & meanings.mask_of_level("bad")) == 0)

    def flagged(self, *names: str, every: bool = False, invert: bool = False) -> xarray.Dataset:
        """Rows that have any of the named flags or statuses.

        Parameters
        ----------
        *names : str
            Names of flag bits (``"LOW_SNR"``) or of statuses (``"TRUNCATED"``); where both have a name, the flag bit.
        every : bool
            Only rows that have all of them.
        invert : bool
            The rows that would be left out instead.

        Raises
        ------
        KeyError
            If a name is not known, with the names that are.
        """
        if not names:
            raise KeyError("expected the name of a flag, got none")
        known = flag_meanings(self._dataset)
        wanted = []
        for name in names:
            column = next((column for column, meanings in known.items() if name in meanings.values), None)
            if column is None:
                listed = ", ".join(sorted({flag for meanings in known.values() for flag in meanings.values}))
                raise KeyError(f"no flag {name!r}; there are {listed}")
            wanted.append((column, known[column], name))
        columns = sorted({column for column, _, _ in wanted})

        def chosen(*values: NDArray[Any]) -> NDArray[np.bool_]:
            by_column = dict(zip(columns, values, strict=True))
            each = [meanings.has(by_column[column], name) for column, meanings, name in wanted]
            result = np.logical_and.reduce(each) if every else np.logical_or.reduce(each)
            return np.asarray(~result if invert else result)

        return self._where(columns, chosen)

    def cone(self, ra: Any, dec: Any, radius: Any) -> xarray.Dataset:
        """Rows within an angle of a direction.

        Parameters
        ----------
        ra, dec, radius : float or Quantity
            Degrees if they are numbers.

        Returns
        -------
        Dataset
            With the coordinate ``separation`` in degrees.
        """
        centre_ra, centre_dec, reach = (_degrees(angle) for angle in (ra, dec, radius))
        if not (np.isfinite([centre_ra, centre_dec]).all() and 0 <= reach <= 180 and abs(centre_dec) <= 90):
            raise ValueError(f"expected a direction and a radius of 0 to 180 degrees, got {ra}, {dec}, {radius}")
        names = [self.column("ra"), self.column("dec")]
        near = rows_near(self._dataset, (names[0], names[1]), centre_ra, centre_dec, reach)
        rows, angles = [np.empty(0, np.int64)], [np.empty(0)]
        for start, (longitude, latitude) in row_blocks(self._dataset, names, near):
            found = np.flatnonzero(in_cone(longitude, latitude, centre_ra, centre_dec, reach))
            rows.append(start + found)
            angles.append(separation(longitude[found], latitude[found], centre_ra, centre_dec))
        return take_rows(self._dataset, np.concatenate(rows)).assign_coords(separation=_angle(np.concatenate(angles)))

    def xmatch(self, table: Any, radius: Any, *, nearest: bool = True) -> xarray.Dataset:
        """Rows that lie near the positions of another table.

        Parameters
        ----------
        table : Table, Dataset, DataFrame or mapping
            With right ascension and declination in degrees; it must fit into memory, the catalogue need not.
        radius : float or Quantity
            Degrees if it is a number.
        nearest : bool
            One row for each position that has any; otherwise all pairs.

        Returns
        -------
        Dataset
            Matched rows in the order of ``table``, with the coordinates ``match`` (row of ``table``) and ``separation``
            (degrees). A row may occur several times.

        Raises
        ------
        KeyError
            If ``table`` has no positions.
        """
        matcher = Matcher(*_positions(table), _degrees(radius))
        names = [self.column("ra"), self.column("dec")]
        pairs = merged([
            matcher.pairs(start, ra.astype(float), dec.astype(float))
            for start, (ra, dec) in row_blocks(self._dataset, names)
        ])  # fmt: skip
        pairs = pairs.nearest() if nearest else pairs.sorted()
        return take_rows(self._dataset, pairs.row).assign_coords(
            match=(ROW, pairs.target, {"long_name": "row of the matched table"}), separation=_angle(pairs.separation)
        )

    def spectra(self, rows: Sequence[int] | NDArray[np.integer] | None = None, store: Any = None) -> xarray.Dataset:
        """Rows with their spectra.

        Parameters
        ----------
        rows : sequence of int, optional
            Positions in this dataset; all by default, which stays lazy.
        store : path, optional
            ``spectra.zarr``; by default the one beside the catalogue's file.

        Returns
        -------
        Dataset
            The columns, ``flux``, ``ivar`` and ``mask`` along ``(row, pixel)`` with the coordinate ``wavelength``, and
            ``reason``, which says why a row has no spectrum.

        Raises
        ------
        TableError
            If there is no store, or it is not of this catalogue.
        """
        source = Path(self._dataset.encoding.get("source", "."))
        chosen = self._dataset if rows is None else take_rows(self._dataset, np.atleast_1d(np.asarray(rows, np.int64)))
        if ROW_NUMBER not in chosen.coords:
            raise TableError(f"expected the coordinate {ROW_NUMBER}, which catalogue.open adds")
        return with_spectra(chosen, Path(store) if store is not None else source.parent / "spectra.zarr")

    def to_table(self) -> Table:
        """All columns along rows as an astropy table with units and descriptions, in memory.

        Missing integers are masked.
        """
        from astropy.table import Column, MaskedColumn, Table

        table = Table(meta=dict(self._dataset.attrs))
        loaded = self._dataset.compute()
        for name, variable in loaded.variables.items():
            if not variable.dims or variable.dims[0] != ROW:
                continue
            attributes = variable.attrs
            values = variable.values
            # astropy writes no variable-length text yet.
            values = np.array(values.tolist(), str) if values.dtype.kind in "TO" else values
            facts = {"unit": _unit(attributes.get("units")), "description": attributes.get("long_name")}
            null = attributes.get("null_value")
            if null is not None and values.dtype.kind in "iu" and (values == null).any():
                table[str(name)] = MaskedColumn(values, mask=values == null, fill_value=null, **facts)
            else:
                table[str(name)] = Column(values, **facts)
        return table

    def _own_flag(self) -> tuple[str, FlagMeanings]:
        bits = {name: meanings for name, meanings in flag_meanings(self._dataset).items() if meanings.bits}
        name = next((name for name in bits if name.upper() == "FLAG"), next(iter(bits), None))
        if name is None:
            raise KeyError("expected a column FLAG_BAD or a column of flag bits, found neither")
        return name, bits[name]

    def _where(self, names: list[str], chosen: Any) -> xarray.Dataset:
        return select_rows(self._dataset, mask_of(self._dataset, names, chosen))


def _degrees(angle: Any) -> float:
    return float(angle.to_value("deg")) if hasattr(angle, "to_value") else float(angle)


def _angle(values: NDArray[np.float64]) -> tuple[str, NDArray[np.float64], dict[str, str]]:
    return (ROW, values, {"units": "deg", "long_name": "angle on the sky"})


def _unit(text: str | None) -> Any:
    from astropy.units import Unit

    return Unit(text, parse_strict="silent") if text and text != "1" else None


def _positions(table: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination in degrees of a table of any kind."""
    if isinstance(table, xarray.Dataset):
        return tuple(np.asarray(table[table.cat.column(role)].values, float) for role in ("ra", "dec"))  # type: ignore[return-value]
    names = list(getattr(table, "colnames", None) or list(table.keys()))
    found = []
    for role in ("ra", "dec"):
        name = find_role(role, [str(name) for name in names])
        if name is None:
            raise KeyError(f"expected a column that gives {role}, there are {', '.join(map(str, names))}")
        values = table[name]
        if getattr(values, "unit", None) is not None and hasattr(values, "quantity"):
            values = values.quantity.to_value("deg")
        elif hasattr(values, "to_value"):
            values = values.to_value("deg")
        found.append(np.asarray(np.ma.filled(np.ma.asarray(values, float), np.nan), float))
    return found[0], found[1]
