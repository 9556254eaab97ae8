"""The result of a comparison, as text, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from catalogue.difference.schema import Change, SchemaDifference
from catalogue.difference.values import BitChange, ColumnDifference, QuantityDifference, Transition

_CHANGES = {
    "renamed": "renamed",
    "retyped": "type",
    "unit_changed": "unit",
    "null_changed": "missing value",
    "description_changed": "description",
    "bits_changed": "flag bits",
}


@dataclass(frozen=True)
class Difference:
    """What differs between two catalogues.

    Attributes
    ----------
    first, second : str
        Paths.
    rows : pair of int
    how : str
        ``"row"``: row i belongs to row i; ``"key"``: joined by ``key``.
    key : pair of str or None
        Key columns in the first and second table.
    matched, only_first, only_second, repeated : int
        Paired rows, rows without a partner, and repeated keys of the first.
    made : tuple of Change
        Entries of provenance that differ: product, parent table, models and settings; not dates and packages.
    schema : SchemaDifference
    columns : tuple of ColumnDifference
        Columns in which some row differs.
    unchanged : tuple of str
    bits : tuple of BitChange
    statuses : tuple of Transition
    quantities : tuple of QuantityDifference
        Age and mass; of tables with neither, every column of floating-point numbers.
    """

    first: str
    second: str
    rows: tuple[int, int]
    how: str
    key: tuple[str, str] | None
    matched: int
    only_first: int
    only_second: int
    repeated: int
    made: tuple[Change, ...]
    schema: SchemaDifference
    columns: tuple[ColumnDifference, ...]
    unchanged: tuple[str, ...]
    bits: tuple[BitChange, ...]
    statuses: tuple[Transition, ...]
    quantities: tuple[QuantityDifference, ...]

    @property
    def identical(self) -> bool:
        """Whether both have the same columns, and the same values in every row."""
        return self.how == "row" and self.schema.same and not (self.columns or self.only_first or self.only_second)

    def json(self) -> str:
        """Everything as JSON."""
        content = {"identical": self.identical, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def text(self) -> str:
        """Everything that differs, for a terminal."""
        lines = [f"first   {self.first}: {self.rows[0]:,} rows", f"second  {self.second}: {self.rows[1]:,} rows"]
        lines.append(self.pairing())
        if self.identical:
            return "\n".join([*lines, "identical: the same columns, rows and values"]) + "\n"
        for title, part in self.parts():
            lines += ["", title, *("  " + line for line in part)]
        return "\n".join(lines) + "\n"

    def pairing(self) -> str:
        """One sentence on which rows were compared."""
        if self.how == "row":
            by = f", the same {self.key[0]} in each" if self.key else ", by number, for want of a key"
            return f"rows are in one order{by}: {self.matched:,} compared"
        assert self.key is not None
        name = self.key[0] if self.key[0] == self.key[1] else " = ".join(self.key)
        repeated = f"; {self.repeated:,} repeated keys, paired in their order" if self.repeated else ""
        if not (self.only_first or self.only_second):
            repeated += "; the second has the rows of the first in another order"
        return (
            f"joined by {name}: {self.matched:,} rows compared, {self.only_first:,} in the first alone, "
            f"{self.only_second:,} in the second alone{repeated}"
        )

    def parts(self) -> list[tuple[str, list[str]]]:
        """Titles and lines of what differs."""
        parts = [("made by", [f"{c.column}: {c.before or '(none)'} -> {c.after or '(none)'}" for c in self.made])]
        parts.append(("columns", _schema_lines(self.schema)))
        parts.append(("values", [_column_line(column, self.matched) for column in self.columns]))
        parts.append(("statuses", [f"{t.column}: {t.before} -> {t.after}: {t.rows:,} rows" for t in self.statuses]))
        flags = [f"{b.column} {b.bit}: set in {b.set:,} rows, cleared in {b.cleared:,}" for b in self.bits]
        parts.append(("flags", flags))
        for quantity in self.quantities:
            parts.append((quantity.quantity, summary_lines(quantity) + _mover_lines(quantity)))
        return [(title, lines) for title, lines in parts if lines]


def _schema_lines(schema: SchemaDifference) -> list[str]:
    lines = []
    if schema.added:
        lines.append(f"added: {', '.join(schema.added)}")
    if schema.removed:
        lines.append(f"removed: {', '.join(schema.removed)}")
    for name, words in _CHANGES.items():
        changes: tuple[Change, ...] = getattr(schema, name)
        for change in changes:
            what = "" if name == "renamed" else f"{change.column}: "
            lines.append(f"{words}: {what}{change.before or '(none)'} -> {change.after or '(none)'}")
    if schema.reordered:
        lines.append(f"moved: {', '.join(schema.reordered)}")
    return lines


def _column_line(column: ColumnDifference, matched: int) -> str:
    line = f"{column.column}: {column.changed:,} of {matched:,} rows differ"
    if column.appeared or column.vanished:
        line += f" ({column.appeared:,} appeared, {column.vanished:,} vanished)"
    return line + (f", by at most {column.largest:.6g}" if column.largest is not None else "")


def summary_lines(quantity: QuantityDifference) -> list[str]:
    """How a quantity changed, in at most three lines; none if it did not."""
    if not (quantity.gained or quantity.lost or quantity.movers):
        return []
    unit = f" {quantity.unit}" if quantity.unit else ""
    lines = [f"in both {quantity.both:,} rows, gained in {quantity.gained:,}, lost in {quantity.lost:,}"]
    if quantity.mean is not None:
        lines.append(f"change {quantity.mean:+.4g} ± {quantity.spread:.4g}{unit}")
    if quantity.sigma_mean is not None:
        beyond = ", ".join(f"> {limit}: {rows:,}" for limit, rows in quantity.beyond.items())
        lines.append(f"in units of both errors {quantity.sigma_mean:+.3f} ± {quantity.sigma_spread:.3f}; {beyond}")
    return lines


def _mover_lines(quantity: QuantityDifference) -> list[str]:
    lines = []
    unit = f" {quantity.unit}" if quantity.unit else ""
    for mover in quantity.movers[:10]:
        sigma = "" if mover.sigma is None else f"  {mover.sigma:+.2f} sigma"
        lines.append(f"{mover.key} (row {mover.row}): {mover.before:.4g} -> {mover.after:.4g}{unit}{sigma}")
    return lines
