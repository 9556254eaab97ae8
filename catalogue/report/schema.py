"""What the page needs to know of a data model: which column plays which part, and what the flag bits mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalogue.datamodels import DataModel
from catalogue.datamodels.roles import ROLE_NAMES, find_role

AXIS_WORDS = {
    "teff": "Teff",
    "logg": "log g",
    "feh": "[Fe/H]",
    "alpha": "[α/M]",
    "age": "age",
    "mass": "mass",
    "age_error": "age error",
    "mass_error": "mass error",
    "ra": "right ascension",
    "dec": "declination",
}
_UNIT_SIGNS = {"solMass": "M☉", "solRad": "R☉", "Angstrom": "Å", "1": ""}

TEXT_ROLES = frozenset({"key", "class", "subclass"})
INTEGER_ROLES = frozenset({"flag", "status"})


@dataclass(frozen=True)
class ColumnFacts:
    """Name, unit and description of one catalogue column."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class FlagFacts:
    """One named bit of the catalogue's own flag; ``level`` is ``"bad"``, ``"warn"`` or ``"info"``."""

    bit: int
    name: str
    description: str
    level: str


@dataclass(frozen=True)
class ReportSchema:
    """Roles and flags of a product.

    Attributes
    ----------
    roles : dict of str to ColumnFacts
        Role (a key of :data:`~catalogue.datamodels.roles.ROLE_NAMES` or ``"key"``) to the column that plays it.
    flags : tuple of FlagFacts
    result : str
        Role of the quantity for whose sake the catalogue is made: ``age``, or that of the first column that a model
        gives, which is ``result`` where it plays no other; empty if there is none.
    """

    roles: dict[str, ColumnFacts]
    flags: tuple[FlagFacts, ...]
    result: str = ""

    @property
    def result_words(self) -> str:
        """What a row with a result has."""
        return "an age" if self.result == "age" else f"a value of {self.roles[self.result].name}" if self.result else ""

    @property
    def bad_mask(self) -> int:
        """Bits of level ``"bad"``."""
        return sum(1 << flag.bit for flag in self.flags if flag.level == "bad")

    def has(self, *roles: str) -> bool:
        """Whether the catalogue has a column for every one of ``roles``."""
        return all(role in self.roles for role in roles)

    def label(self, role: str) -> str:
        """Axis label: what the quantity is and its unit."""
        facts = self.roles[role]
        words = AXIS_WORDS.get(role, facts.name)
        words = f"S/N ({facts.name})" if role == "snr" else words
        return f"{words} [{facts.unit}]" if facts.unit else words


def readable_unit(unit: str) -> str:
    """A FITS unit string as one writes it on an axis."""
    return _UNIT_SIGNS.get(unit, unit)


def find_roles(columns: Sequence[ColumnFacts]) -> dict[str, ColumnFacts]:
    """Match columns to the parts of ``ROLE_NAMES`` by name; parts that none plays are left out."""
    by_name = {column.name: column for column in columns}
    found = {role: find_role(role, by_name) for role in ROLE_NAMES}
    return {role: by_name[name] for role, name in found.items() if name is not None}


def schema_of(data_model: DataModel) -> ReportSchema:
    """Roles and flags of a data model.

    Parameters
    ----------
    data_model : DataModel
        A column plays the role that it states; roles that no column states are found by name.
    """
    columns = [
        ColumnFacts(column.name, readable_unit(column.unit), column.description) for column in data_model.columns
    ]
    stated = {column.role: facts for column, facts in zip(data_model.columns, columns, strict=True) if column.role}
    flags = tuple(FlagFacts(flag.bit, flag.name, flag.description, flag.level) for flag in data_model.flags)
    roles = {**find_roles(columns), **stated}
    result = "age" if "age" in roles else ""
    if not result and (facts := _first_prediction(data_model, columns)) is not None:
        others = TEXT_ROLES | INTEGER_ROLES
        result = next((role for role, player in roles.items() if player == facts and role not in others), "result")
        roles[result] = facts
    return ReportSchema(roles, flags, result)


def _first_prediction(data_model: DataModel, columns: Sequence[ColumnFacts]) -> ColumnFacts | None:
    """The first column of numbers that is an output of a model as it stands."""
    for column, facts in zip(data_model.columns, columns, strict=True):
        alias = column.value.partition(".")[0]
        if column.is_float and alias in data_model.uses and column.value_expression.names == (column.value,):
            return facts
    return None
