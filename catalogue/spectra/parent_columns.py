"""Which columns of a parent table are imported, under which names and types."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from catalogue.expressions import Expression
from catalogue.spectra.paths import PathTemplate
from catalogue.spectra.table_source import ParentError, TableSource
from catalogue.spectra.values import store_dtype
from catalogue.surveys.base import Survey

_WIDER = {"int64": "float64", "float64": "str"}
_SAMPLE_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ImportedColumn:
    """One column of the import.

    Attributes
    ----------
    name : str
        Name in the imported table.
    source : str or None
        Name in the parent table; None if it has no such column.
    dtype : str
        Store type.
    role : str
        ``survey`` and ``extra`` columns are stored; ``select`` columns are read for the selection alone.
    guessed : bool
        Whether the type was guessed from text and may have to be widened.
    """

    name: str
    source: str | None
    dtype: str
    role: Literal["survey", "extra", "select"]
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import reads and writes.

    Attributes
    ----------
    key : str
        Name of the key in the imported table.
    columns : tuple of ImportedColumn
    template : PathTemplate
    template_sources : dict of str to str
        Column in the template to column in the parent table.
    select : Expression or None
    select_names : dict of str to str
        Name in the selection to imported column.
    """

    key: str
    columns: tuple[ImportedColumn, ...]
    template: PathTemplate
    template_sources: dict[str, str]
    select: Expression | None
    select_names: dict[str, str]

    @property
    def stored(self) -> tuple[ImportedColumn, ...]:
        """Columns that the imported table has."""
        return tuple(column for column in self.columns if column.role != "select")

    @property
    def source_columns(self) -> list[str]:
        """Columns to read from the parent table, each once."""
        names = [column.source for column in self.columns if column.source is not None]
        return list(dict.fromkeys([*names, *self.template_sources.values()]))

    def widened(self, name: str) -> ImportPlan:
        """Plan in which a guessed column has the next wider type."""
        columns = tuple(
            replace(column, dtype=_WIDER[column.dtype], guessed=_WIDER[column.dtype] != "str")
            if column.name == name
            else column
            for column in self.columns
        )
        return replace(self, columns=columns)


def plan_import(
    table: TableSource,
    survey: Survey,
    key: str,
    template: PathTemplate,
    select: str | None,
    extra_columns: tuple[str, ...],
) -> ImportPlan:
    """Match everything that a run names to the columns of a parent table.

    Raises
    ------
    ParentError
        Naming all columns that are missing, with close matches.
    """
    columns = [
        ImportedColumn(column.name, _first_match(column.aliases, table), column.dtype, "survey")
        for column in survey.columns
        if column.aliases
    ]
    absent: list[str] = []
    key = _plan_key(key, columns, table, absent)
    for name in extra_columns:
        if name.lower() not in {column.name.lower() for column in columns}:
            _add(columns, name, "extra", table, absent)
    sources = {name: _source_of(name, columns, table, absent, "the path template") for name in template.columns}
    expression, select_names = _plan_select(select, columns, table)
    if absent:
        raise ParentError(f"{table.path}: " + "; ".join(absent))
    plan = ImportPlan(key, tuple(columns), template, sources, expression, select_names)
    return _with_types(plan, table)


def unmatched_columns(table: TableSource, survey: Survey) -> list[str]:
    """Columns that a survey takes from parent tables and ``table`` has under no known name: missing in every row."""
    return [c.name for c in survey.columns if c.aliases and _first_match(c.aliases, table) is None]


def _first_match(aliases: Sequence[str], table: TableSource) -> str | None:
    """First alias that the table has, as written or else ignoring case."""
    for alias in aliases:
        if alias in table.names:
            return alias
        for name in table.names:
            if name.lower() == alias.lower():
                return name
    return None


def _plan_key(key: str, columns: list[ImportedColumn], table: TableSource, absent: list[str]) -> str:
    for column in columns:
        known = {column.name.lower(), (column.source or column.name).lower()}
        if key.lower() in known:
            if column.source is None:
                absent.append(_missing(f"key {key}", key, table))
            return column.name
    _add(columns, key, "extra", table, absent, what="key ")
    return key


def _add(
    columns: list[ImportedColumn],
    name: str,
    role: Literal["extra", "select"],
    table: TableSource,
    absent: list[str],
    what: str = "column ",
) -> None:
    source = _first_match((name,), table)
    if source is None:
        absent.append(_missing(f"{what}{name}", name, table))
    columns.append(ImportedColumn(name, source, "int64", role, guessed=True))


def _source_of(name: str, columns: Sequence[ImportedColumn], table: TableSource, absent: list[str], user: str) -> str:
    source = _first_match((name,), table)
    if source is None:
        source = next((column.source for column in columns if column.name == name), None)
    if source is None:
        absent.append(_missing(f"column {name} of {user}", name, table))
        return name
    return source


def _plan_select(
    select: str | None, columns: list[ImportedColumn], table: TableSource
) -> tuple[Expression | None, dict[str, str]]:
    if select is None:
        return None, {}
    try:
        expression = Expression(select)
        store_names = [column.name for column in columns]
        lower = {name.lower() for name in store_names}
        # A store name hides the table's own spelling of the same column.
        available = [*store_names, *(name for name in table.names if name.lower() not in lower)]
        found = expression.resolve(available)
    except ValueError as error:
        raise ParentError(f"{table.path}: select: {error}") from error
    for name in dict.fromkeys(found.values()):
        if name not in store_names:
            columns.append(ImportedColumn(name, name, "int64", "select", guessed=True))
    return expression, found


def _missing(what: str, name: str, table: TableSource) -> str:
    lower = {candidate.lower(): candidate for candidate in table.names}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if close:
        return f"no {what}; close: {', '.join(close)}"
    shown = ", ".join(table.names[:20]) + (", ..." if len(table.names) > 20 else "")
    return f"no {what}; columns: {shown}"


def _with_types(plan: ImportPlan, table: TableSource) -> ImportPlan:
    """Replace guesses by the table's own types where it has any."""
    guessed = [column for column in plan.columns if column.guessed and column.source is not None]
    if not table.typed or not guessed:
        return plan
    sources = [column.source for column in guessed if column.source is not None]
    block = next(iter(table.batches(sources, _SAMPLE_ROWS)), None)
    if block is None:
        return plan
    columns = tuple(
        replace(column, dtype=store_dtype(block[column.source].type), guessed=False)
        if column.guessed and column.source is not None
        else column
        for column in plan.columns
    )
    return replace(plan, columns=columns)
