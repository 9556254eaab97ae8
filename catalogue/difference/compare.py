"""Comparing two catalogues: columns first, then the values of rows that belong together."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.difference.alignment import Alignment, PairedBlocks, align
from catalogue.difference.difference import Difference
from catalogue.difference.schema import compare_provenance, compare_schemas, pair_columns, role_column
from catalogue.difference.values import ColumnTally, FlagTally, QuantityTally
from catalogue.query.formats import format_of, open_table
from catalogue.query.table import Table

QUANTITIES = ("age", "mass")
"""Roles of the quantities that are followed star by star; tables with neither have others, see :func:`_others`."""


def compare(first: str | Path, second: str | Path, key: str | None = None) -> Difference:
    """What differs between two catalogues.

    Parameters
    ----------
    first, second : path
        FITS, Parquet, CSV or Zarr, each of its own format; the second may be somebody else's.
    key : str, optional
        Column that identifies rows, or ``"name in first=name in second"``; by default the column that says so, or has
        a usual name.

    Returns
    -------
    Difference

    Raises
    ------
    TableError
        If a table cannot be read, or nothing says which rows belong together.

    Notes
    -----
    Tables whose rows are in one order are compared block by block in constant memory.
    """
    paths = [Path(path).expanduser() for path in (first, second)]
    one, other = (open_table(path) for path in paths)
    ordered = "zarr" not in {format_of(path) for path in paths}
    alignment = align(one, other, key)
    pairs = pair_columns(one, other, alignment.key)
    tallies = _Tallies(one, other, pairs, alignment.key)
    with tempfile.TemporaryDirectory(prefix="catalogue-diff-") as directory:
        blocks = PairedBlocks(one, other, alignment, Path(directory))
        for rows, others, before, after in blocks(list(pairs), list(pairs.values())):
            tallies.add(rows, others, before, after)
    return _result(paths, (one, other), alignment, pairs, tallies, ordered)


@dataclass(frozen=True)
class _Quantity:
    """Columns of one quantity: value and error in both tables, and the second table's unit in that of the first."""

    tally: QuantityTally
    value: str
    error: str | None
    factor: float


def _unit_factor(first: str, second: str) -> float | None:
    """Size of the second unit in the first; 1 if one is not stated, None if they are of different kinds."""
    if not (first and second) or first == second:
        return 1.0
    from astropy.units import Unit, UnitConversionError

    units = [Unit(text, parse_strict="silent") for text in (first, second)]
    try:
        return float(units[1].to(units[0]))
    except (UnitConversionError, TypeError):
        return None


def _others(table: Table) -> list[tuple[str | None, str | None]]:
    """Floating-point columns of a table without ages and masses, each with that of its error, if there is one."""
    floats = {name.lower(): name for name, c in table.columns.items() if c.dtype.kind == "f" and not c.shape}
    errors = {
        name: floats[error]
        for name in floats
        for error in (f"{name}_error", f"{name}_err", f"e_{name}")
        if error in floats
    }
    return [(floats[name], errors.get(name)) for name in floats if floats[name] not in errors.values()]


class _Tallies:
    """All that is counted while the blocks go by."""

    def __init__(self, first: Table, second: Table, pairs: dict[str, str], key: tuple[str, str] | None) -> None:
        self.pairs = pairs
        self.key = key
        both = {one: (first.columns[one], second.columns[other]) for one, other in pairs.items()}
        comparable = {one: two for one, two in both.items() if two[0].shape == two[1].shape}
        self.columns = {one: ColumnTally(*two) for one, two in comparable.items()}
        self.flags = {one: FlagTally(*two) for one, two in comparable.items() if FlagTally.wanted(*two)}
        names = [(role_column(first, name), role_column(first, f"{name}_error")) for name in QUANTITIES]
        if not any(value for value, _ in names):
            names = _others(first)
        self.quantities = [quantity for each in names if (quantity := self._quantity(*each, first, second)) is not None]

    def _quantity(self, value: str | None, error: str | None, first: Table, second: Table) -> _Quantity | None:
        if value is None or self.pairs.get(value) is None or value not in self.columns:
            return None
        if {first.columns[value].dtype.kind, second.columns[self.pairs[value]].dtype.kind} - set("iuf"):
            return None
        error = error if error in self.columns else None
        unit = first.columns[value].unit
        factor = _unit_factor(unit, second.columns[self.pairs[value]].unit)
        return None if factor is None else _Quantity(QuantityTally(value, unit), value, error, factor)

    def add(
        self,
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
        before: dict[str, NDArray[Any]],
        after: dict[str, NDArray[Any]],
    ) -> None:
        """Take a block of paired rows."""
        for name, tally in self.columns.items():
            tally.add(before[name], after[self.pairs[name]])
        for name, flags in self.flags.items():
            flags.add(before[name], after[self.pairs[name]])
        keys = before[self.key[0]] if self.key else rows
        for quantity in self.quantities:
            first, second = (
                (
                    part[names.get(quantity.value, quantity.value)] * factor,
                    None if quantity.error is None else part[names.get(quantity.error, quantity.error)] * factor,
                )
                for part, names, factor in ((before, {}, 1.0), (after, self.pairs, quantity.factor))
            )
            quantity.tally.add(first, second, keys, rows, others)


def _result(
    paths: list[Path],
    tables: tuple[Table, Table],
    alignment: Alignment,
    pairs: dict[str, str],
    tallies: _Tallies,
    ordered: bool,
) -> Difference:
    columns = [tally.result() for tally in tallies.columns.values()]
    return Difference(
        first=str(paths[0]),
        second=str(paths[1]),
        rows=(tables[0].n_rows, tables[1].n_rows),
        how=alignment.how,
        key=alignment.key,
        matched=alignment.matched,
        only_first=alignment.only_first,
        only_second=alignment.only_second,
        repeated=alignment.repeated,
        made=compare_provenance(*tables),
        schema=compare_schemas(*tables, pairs, ordered),
        columns=tuple(column for column in columns if column.changed),
        unchanged=tuple(column.column for column in columns if not column.changed),
        bits=tuple(change for tally in tallies.flags.values() for change in tally.changed_bits()),
        statuses=tuple(change for tally in tallies.flags.values() for change in tally.changed_statuses()),
        quantities=tuple(quantity.tally.result() for quantity in tallies.quantities),
    )
