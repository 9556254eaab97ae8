"""What differs between the columns of two tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from catalogue.datamodels.roles import ROLE_NAMES, find_role
from catalogue.query.table import Table, TableColumn


@dataclass(frozen=True)
class Change:
    """One fact of a column, or one entry of provenance, that is another in the second table."""

    column: str
    before: str
    after: str


@dataclass(frozen=True)
class SchemaDifference:
    """Columns of the first table against those of the second.

    Attributes
    ----------
    added, removed : tuple of str
        Columns of the second, and of the first, that have no partner.
    renamed : tuple of Change
        Partners under two names: they differ in case alone, play one role, or have one description, unit and type.
    retyped, unit_changed, null_changed, description_changed, bits_changed : tuple of Change
        ``bits_changed`` names the flag bits whose meaning differs.
    reordered : tuple of str
        Partners out of the order that they have in the first table; empty for Zarr, which knows no order.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[Change, ...] = ()
    retyped: tuple[Change, ...] = ()
    unit_changed: tuple[Change, ...] = ()
    null_changed: tuple[Change, ...] = ()
    description_changed: tuple[Change, ...] = ()
    bits_changed: tuple[Change, ...] = ()
    reordered: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self == SchemaDifference()


def pair_columns(first: Table, second: Table, key: tuple[str, str] | None = None) -> dict[str, str]:
    """Partners: column of the first table to column of the second.

    Parameters
    ----------
    first, second : Table
    key : pair of str, optional
        Columns that are partners whatever they are called.

    Notes
    -----
    In turn: the key, one name, one name but for case, one role, one description with one unit and type.
    """
    pairs: dict[str, str] = dict([key] if key else [])

    def pair(one: str, other: str) -> None:
        if one not in pairs and other not in pairs.values():
            pairs[one] = other

    for name in first.columns:
        if name in second.columns:
            pair(name, name)
    lower = {name.lower(): name for name in reversed(second.columns)}
    for name in first.columns:
        if name.lower() in lower:
            pair(name, lower[name.lower()])
    for role in ROLE_NAMES:
        one, other = role_column(first, role), role_column(second, role)
        if one is not None and other is not None:
            pair(one, other)
    facts = {_facts(column): name for name, column in reversed(second.columns.items()) if column.description}
    for name, column in first.columns.items():
        if _facts(column) in facts:
            pair(name, facts[_facts(column)])
    return {name: pairs[name] for name in first.columns if name in pairs}


def role_column(table: Table, role: str) -> str | None:
    """Column that plays a role, by its own statement or by its name."""
    stated = next((name for name, column in table.columns.items() if column.attributes.get("role") == role), None)
    return stated or find_role(role, table.columns)


def _facts(column: TableColumn) -> tuple[str, str, str]:
    return (column.description, column.unit, _type(column))


def _type(column: TableColumn) -> str:
    name = "text" if column.dtype.kind == "T" else str(column.dtype)
    return f"{name}{list(column.shape)}" if column.shape else name


def compare_schemas(first: Table, second: Table, pairs: dict[str, str], ordered: bool = True) -> SchemaDifference:
    """Differences of paired columns and columns without a partner.

    Parameters
    ----------
    first, second : Table
    pairs : dict of str to str
        See :func:`pair_columns`.
    ordered : bool
        Whether both tables have an order of columns.
    """
    common = [(first.columns[one], second.columns[other]) for one, other in pairs.items()]

    def changes(fact: str) -> tuple[Change, ...]:
        found = ((one.name, str(_fact(one, fact)), str(_fact(other, fact))) for one, other in common)
        return tuple(Change(*change) for change in found if change[1] != change[2])

    return SchemaDifference(
        added=tuple(name for name in second.columns if name not in pairs.values()),
        removed=tuple(name for name in first.columns if name not in pairs),
        renamed=tuple(Change(one, one, other) for one, other in pairs.items() if one != other),
        retyped=changes("type"),
        unit_changed=changes("unit"),
        null_changed=changes("null"),
        description_changed=changes("description"),
        bits_changed=_changed_bits(common),
        reordered=_reordered(pairs, list(second.columns)) if ordered else (),
    )


def _fact(column: TableColumn, fact: str) -> object:
    return _type(column) if fact == "type" else getattr(column, fact)


def _changed_bits(common: list[tuple[TableColumn, TableColumn]]) -> tuple[Change, ...]:
    """Bits that only one of both columns has, or under another name."""
    found = []
    for one, other in common:
        before, after = _bits(one), _bits(other)
        alone = [
            ", ".join(bit for bit in first if bit not in second) for first, second in ((before, after), (after, before))
        ]
        if any(alone):
            found.append(Change(one.name, *alone))
    return tuple(found)


def _bits(column: TableColumn) -> list[str]:
    masks, names = column.attributes.get("flag_masks", ()), str(column.attributes.get("flag_meanings", "")).split()
    return [f"{mask} {name}" for mask, name in zip(masks, names, strict=False)]


def _reordered(pairs: dict[str, str], second: list[str]) -> tuple[str, ...]:
    """The fewest columns that one would have to move: those outside a longest run that keeps its order."""
    places = [second.index(other) for other in pairs.values()]
    best: list[tuple[int, int]] = []
    for at, place in enumerate(places):
        earlier = [(best[before][0], before) for before in range(at) if places[before] < place]
        length, previous = max(earlier, default=(0, -1), key=lambda found: (found[0], -found[1]))
        best.append((length + 1, previous))
    kept = set()
    at = max(range(len(best)), key=lambda index: best[index][0], default=-1)
    while at >= 0:
        kept.add(at)
        at = best[at][1]
    return tuple(name for index, name in enumerate(pairs) if index not in kept)


_PROVENANCE = re.compile(
    r"PRODUCT|PRODVER|SURVEY|PARENT|PARENTDG|CONFDG|DMODELDG|COMPLETE|CREATOR|(MODEL|MODELDG|PASSES|SEED)[0-9]+"
)
_DIGITS_SHOWN = 12


def compare_provenance(first: Table, second: Table) -> tuple[Change, ...]:
    """Entries of provenance in which two tables differ, as far as both hold any.

    Dates and packages are left out: they differ between any two runs and change no value.
    """
    before, after = (
        {name: str(value) for name, value in table.attributes.items() if _PROVENANCE.fullmatch(str(name))}
        for table in (first, second)
    )
    if not (before and after):
        return ()
    return tuple(
        Change(name, *(_shown(name, entries.get(name, "")) for entries in (before, after)))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    )


def _shown(name: str, value: str) -> str:
    return value[:_DIGITS_SHOWN] if name.rstrip("0123456789").endswith("DG") else value
