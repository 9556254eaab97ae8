"""What the page needs to know of a data model: which column plays which part, and what the flag bits mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalogue.datamodels import DataModel

ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_icrs", "objra", "file_ra"),
    "dec": ("dec", "dej2000", "dec_icrs", "objdec", "file_dec"),
    "snr": ("snrg", "snr", "snrev", "file_snrg"),
    "teff": ("teff",),
    "logg": ("logg",),
    "feh": ("feh", "fe_h", "m_h"),
    "alpha": ("alpha_m", "alpha_fe", "afe", "mg_fe"),
    "age": ("age",),
    "age_error": ("age_error", "age_total_error", "age_err", "e_age"),
    "age_model_error": ("age_model_error",),
    "age_low": ("age_p16",),
    "age_median": ("age_p50",),
    "age_high": ("age_p84",),
    "mass": ("mass",),
    "mass_error": ("mass_error", "mass_total_error", "mass_err", "e_mass"),
    "mass_low": ("mass_p16",),
    "mass_median": ("mass_p50",),
    "mass_high": ("mass_p84",),
    "correlation": ("age_mass_corr", "age_mass_correlation"),
    "class": ("class",),
    "subclass": ("subclass",),
    "status": ("status",),
    "flag": ("flag",),
}
"""Names, in order of preference and compared without case, by which a column that states no role is taken for one."""

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
        Role (a key of :data:`ROLE_NAMES` or ``"key"``) to the column that plays it.
    flags : tuple of FlagFacts
    """

    roles: dict[str, ColumnFacts]
    flags: tuple[FlagFacts, ...]

    @property
    def bad_mask(self) -> int:
        """Bits of level ``"bad"``."""
        return sum(1 << flag.bit for flag in self.flags if flag.level == "bad")

    @property
    def warn_mask(self) -> int:
        """Bits of level ``"warn"``."""
        return sum(1 << flag.bit for flag in self.flags if flag.level == "warn")

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
    """Match columns to the parts of :data:`ROLE_NAMES`, ignoring case.

    Parameters
    ----------
    columns : sequence of ColumnFacts

    Returns
    -------
    dict of str to ColumnFacts
        Parts that no column plays are left out.
    """
    by_name = {column.name.lower(): column for column in reversed(columns)}
    found = {}
    for role, names in ROLE_NAMES.items():
        match = next((by_name[name] for name in names if name in by_name), None)
        if match is not None:
            found[role] = match
    return found


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
    return ReportSchema({**find_roles(columns), **stated}, flags)
