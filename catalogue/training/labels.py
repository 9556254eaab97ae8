"""Label tables: what the training stars' ages and masses are, and which star a spectrum is of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from catalogue.spectra.table_source import ParentError
from catalogue.spectra.tables import open_table

Values = NDArray[np.float64]
_NEEDED = ("age", "age_error", "mass", "mass_error")
_OPTIONAL = ("age_mass_correlation", "teff", "logg", "feh", "alpha_fe", "c_fe", "n_fe")
_MISSING = ("", "nan", "null", "none", "na", "n/a", "--", "-")
_LARGEST = 100.0
"""Gyr and solar masses: a table in Myr or years is above it, APOKASC's oldest star is not."""
_ROWS_AT_ONCE = 65_536


class LabelError(ValueError):
    """A label table that cannot be trained on; the message says which rows and why."""


@dataclass(frozen=True)
class LabelTable:
    """Labels of stars, one row per spectrum.

    Attributes
    ----------
    key : ndarray of str, shape (rows,)
        Matches the survey's key column, as text.
    star : ndarray of str, shape (rows,)
        Identity of the star: rows that share it never fall on both sides of a split.
    age, age_error, mass, mass_error : ndarray of float64, shape (rows,)
        Gyr and solar masses, one standard deviation.
    age_mass_correlation : ndarray of float64, shape (rows,)
        Of the label errors; 0 where unknown.
    state : ndarray of str, shape (rows,)
        Evolutionary state (``RGB``, ``RC``), empty where unknown.
    teff, logg, feh, alpha_fe, c_fe, n_fe : ndarray of float64, shape (rows,)
        NaN where unknown.
    """

    key: NDArray[np.str_]
    star: NDArray[np.str_]
    age: Values
    age_error: Values
    mass: Values
    mass_error: Values
    age_mass_correlation: Values
    state: NDArray[np.str_]
    teff: Values
    logg: Values
    feh: Values
    alpha_fe: Values
    c_fe: Values
    n_fe: Values

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> LabelTable:
        """The given rows."""
        return LabelTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def physical(self) -> Values:
        """Age and mass, shape (rows, 2)."""
        return np.stack([self.age, self.mass], axis=1)

    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the label errors, shape (rows, 2, 2)."""
        off = self.age_mass_correlation * self.age_error * self.mass_error
        top = np.stack([self.age_error**2, off], axis=1)
        return np.stack([top, np.stack([off, self.mass_error**2], axis=1)], axis=1)


def check_labels(labels: LabelTable, source: str | Path = "labels") -> None:
    """Refuse labels that no loss can use.

    Raises
    ------
    LabelError
        For ages, masses or errors that are NaN, zero or negative, ages and masses that cannot be in Gyr and solar
        masses, correlations outside (-1, 1) and empty or repeated keys, with ``source``, the number of rows, and the
        first of them, counted from 0, with their keys.
    """
    for name in _NEEDED:
        values = getattr(labels, name)
        _refuse(labels, ~np.isfinite(values), source, f"{name} is NaN or infinite")
        _refuse(labels, values <= 0, source, f"{name} is zero or negative")
    for name, unit in (("age", "Gyr, not Myr"), ("mass", "solar masses")):
        _refuse(labels, getattr(labels, name) > _LARGEST, source, f"{name} is above {_LARGEST:g} (expected {unit})")
    off = ~(np.abs(labels.age_mass_correlation) < 1)
    _refuse(labels, off, source, "age_mass_correlation is not between -1 and 1")
    _refuse(labels, labels.key == "", source, "the key is empty")
    _, first = np.unique(labels.key, return_index=True)
    repeated = np.ones(len(labels), dtype=bool)
    repeated[first] = False
    _refuse(labels, repeated, source, "the key occurs earlier")


def _refuse(labels: LabelTable, wrong: NDArray[np.bool_], source: str | Path, reason: str) -> None:
    if wrong.any():
        rows = np.flatnonzero(wrong)[:5].tolist()
        keys = ", ".join(f"{labels.key[row]} (row {row})" for row in rows)
        raise LabelError(f"{source}: {reason} in {wrong.sum()} of {len(labels)} rows, first keys {keys}")


def read_labels(path: Path, key: str = "obsid") -> LabelTable:
    """Read a label table of any format that a parent table may have, and check it.

    Needed columns: the key, ``age`` and ``age_error`` (Gyr), ``mass`` and ``mass_error`` (solar masses). Optional:
    ``star`` (by default the key), ``state``, ``age_mass_correlation``, ``teff``, ``logg``, ``feh``, ``alpha_fe``,
    ``c_fe``, ``n_fe``. Blanks around keys, stars and states do not count.

    Raises
    ------
    LabelError
        For a missing or damaged file, a missing column, text where a number should be, and see :func:`check_labels`.
    """
    try:
        table = open_table(path)
        missing = [name for name in (key, *_NEEDED) if name not in table.names]
        if missing:
            raise LabelError(f"{path}: no column {', '.join(missing)}; found {', '.join(table.names)}")
        known = [name for name in (key, *_NEEDED, *_OPTIONAL, "state", "star") if name in table.names]
        parts: dict[str, list[Any]] = {name: [] for name in known}
        for batch in table.batches(list(parts), _ROWS_AT_ONCE):
            for name, cells in parts.items():
                cells += batch[name].to_pylist()
    except ParentError as error:
        raise LabelError(str(error)) from error
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror or error}") from error
    n_rows = len(parts[key])
    if not n_rows:
        raise LabelError(f"{path}: no rows")

    def numbers(name: str) -> Values:
        if name not in parts:
            return np.full(n_rows, np.nan)
        return np.array([_number(cell, path, row, name) for row, cell in enumerate(parts[name])])

    def text(name: str) -> NDArray[np.str_]:
        cells = parts.get(name, [""] * n_rows)
        return np.array([_text(cell) for cell in cells], dtype=np.str_)

    values = {name: numbers(name) for name in (*_NEEDED, *_OPTIONAL)}
    values["age_mass_correlation"] = np.nan_to_num(values["age_mass_correlation"], nan=0.0)
    star = text("star") if "star" in parts else text(key)
    labels = LabelTable(key=text(key), star=star, state=text("state"), **values)
    check_labels(labels, path)
    return labels


def _number(cell: Any, path: Path, row: int, name: str) -> float:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError) as error:
        raise LabelError(f"{path}, row {row}: {name}: expected a number, found {cell!r}") from error


def _text(cell: Any) -> str:
    """A cell as the store spells it: integers without the ``.0`` that they get beside a missing value."""
    text = "" if cell is None or cell != cell else str(cell).strip()
    whole, dot, decimals = text.partition(".")
    return whole if dot and whole.isdigit() and decimals.strip("0") == "" else text


def write_labels(path: Path, labels: LabelTable, key: str = "obsid") -> None:
    """Write a table that :func:`read_labels` reads."""
    columns = {field.name: getattr(labels, field.name) for field in fields(labels)}
    columns = {key: columns.pop("key"), **columns}
    pyarrow.csv.write_csv(pa.table({name: pa.array(values.tolist()) for name, values in columns.items()}), path)


def apokasc_labels(directory: Path) -> LabelTable:
    """APOKASC stars with age, mass and abundances.

    Ages are of APOKASC-2 (Pinsonneault et al. 2018, column LogAge, log10 Myr), masses, gravities, temperatures and
    abundances of the APOKASC-3 gold sample, joined by KIC. APOKASC-2 gives no age error in this form: it follows from
    that of its mass with d ln age / d ln mass = -3.2 (a stellar lifetime, cf. the exponent -3.06 of the red-giant
    relation in Leung et al. 2023), which also makes the two anticorrelated. That of the mass, s_M(cor), is a fraction,
    as s_R(cor) and s_Rho are: the same 4 to 5 % for light and heavy stars of the giant branch.

    Parameters
    ----------
    directory : Path
        With ``apokasc2.tsv`` and ``apokasc3_gold_apoor.csv``.

    Raises
    ------
    LabelError
        If a column is missing, or no star is in both.
    """
    second = _read_tsv(directory / "apokasc2.tsv")
    try:
        third = pyarrow.csv.read_csv(directory / "apokasc3_gold_apoor.csv").to_pydict()
    except pa.ArrowInvalid as error:
        raise LabelError(f"{directory / 'apokasc3_gold_apoor.csv'}: {error}") from error
    _expect(directory / "apokasc2.tsv", second, ("KIC", "LogAge", "s_M(cor)"))
    _expect(directory / "apokasc3_gold_apoor.csv", third, _GOLD)
    position = {kic: i for i, kic in enumerate(second["KIC"])}
    rows = [(i, position[str(kic)]) for i, kic in enumerate(third["KIC"]) if str(kic) in position]
    if not rows:
        raise LabelError(f"{directory}: no KIC is in both apokasc2.tsv and apokasc3_gold_apoor.csv")
    here, there = np.array(rows).T

    def gold(name: str) -> Values:
        return np.array(third[name], dtype=np.float64)[here]

    log_age = _numbers(second["LogAge"])[there]
    relative = _numbers(second["s_M(cor)"])[there]
    age = 10.0 ** (log_age - 3.0)
    labels = LabelTable(
        key=np.array([str(third["KIC"][i]) for i in here]),
        star=np.array([str(third["KIC"][i]) for i in here]),
        age=age,
        age_error=3.2 * relative * age,
        mass=gold("Mass"),
        mass_error=gold("S_Mass"),
        age_mass_correlation=np.full(len(here), -0.8),
        state=np.array(third["Evol_State"])[here],
        teff=gold("Teff"),
        logg=gold("Logg_Seis"),
        feh=gold("[Fe/H]"),
        alpha_fe=gold("[Alp/Fe]"),
        c_fe=gold("[C/Fe]"),
        n_fe=gold("[N/Fe]"),
    )
    numbers = [getattr(labels, name) for name in (*_NEEDED, *_OPTIONAL)]
    complete = np.all([np.isfinite(values) for values in numbers], axis=0) & (relative > 0)
    return labels.take(complete)


_GOLD = (
    "KIC", "Mass", "S_Mass", "Evol_State", "Teff", "Logg_Seis", "[Fe/H]", "[Alp/Fe]", "[C/Fe]", "[N/Fe]",
)  # fmt: skip


def _expect(path: Path, table: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise LabelError(f"{path}: no column {', '.join(missing)}; found {', '.join(table)}")


def _read_tsv(path: Path) -> dict[str, list[str]]:
    header, *lines = path.read_text().splitlines()
    names = [name.strip() for name in header.split("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.count("|") == header.count("|")]
    return dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))


def _numbers(cells: list[str]) -> Values:
    return np.array([float(cell) if cell else np.nan for cell in cells])
