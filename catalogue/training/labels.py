"""Label tables: what the training stars' ages and masses are, and which star a spectrum is of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

Values = NDArray[np.float64]
_NEEDED = ("age", "age_error", "mass", "mass_error")
_OPTIONAL = ("age_mass_correlation", "teff", "logg", "feh", "alpha_fe", "c_fe", "n_fe")


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


def check_labels(labels: LabelTable) -> None:
    """Refuse labels that no loss can use.

    Raises
    ------
    LabelError
        For ages, masses or errors that are NaN, zero or negative, correlations outside (-1, 1) and
        repeated keys, with the number of rows and the first keys.
    """
    for name in _NEEDED:
        values = getattr(labels, name)
        _refuse(labels, ~np.isfinite(values), f"{name} is NaN or infinite")
        _refuse(labels, values <= 0, f"{name} is zero or negative")
    _refuse(labels, ~(np.abs(labels.age_mass_correlation) < 1), "age_mass_correlation is not between -1 and 1")
    _, first = np.unique(labels.key, return_index=True)
    repeated = np.ones(len(labels), dtype=bool)
    repeated[first] = False
    _refuse(labels, repeated, "the key occurs earlier")


def _refuse(labels: LabelTable, wrong: NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        keys = ", ".join(labels.key[wrong][:5].tolist())
        raise LabelError(f"labels: {reason} in {wrong.sum()} of {len(labels)} rows, first keys {keys}")


def read_labels(path: Path, key: str = "obsid") -> LabelTable:
    """Read a CSV or Parquet label table and check it.

    Needed columns: the key, ``age`` and ``age_error`` (Gyr), ``mass`` and ``mass_error`` (solar masses). Optional:
    ``star`` (by default the key), ``state``, ``age_mass_correlation``, ``teff``, ``logg``, ``feh``, ``alpha_fe``,
    ``c_fe``, ``n_fe``.

    Raises
    ------
    LabelError
        For a missing file or column, and see :func:`check_labels`.
    """
    if not path.is_file():
        raise LabelError(f"labels: no such file: {path}")
    table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    missing = [name for name in (key, *_NEEDED) if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names)
        raise LabelError(f"{path}: expected columns {', '.join((key, *_NEEDED))}; found {found}")

    def numbers(name: str, default: float) -> Values:
        if name not in table.column_names:
            return np.full(len(table), default)
        return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

    def text(name: str) -> NDArray[np.str_]:
        values = table[name].cast(pa.string()).fill_null("").to_pylist()
        return np.array(values, dtype=np.str_)

    values = {name: numbers(name, np.nan) for name in (*_NEEDED, *_OPTIONAL)}
    values["age_mass_correlation"] = np.nan_to_num(values["age_mass_correlation"], nan=0.0)
    state = text("state") if "state" in table.column_names else np.full(len(table), "", dtype=np.str_)
    star = text("star") if "star" in table.column_names else text(key)
    labels = LabelTable(key=text(key), star=star, state=state, **values)
    check_labels(labels)
    return labels


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
    """
    second = _read_tsv(directory / "apokasc2.tsv")
    third = pyarrow.csv.read_csv(directory / "apokasc3_gold_apoor.csv").to_pydict()
    position = {kic: i for i, kic in enumerate(second["KIC"])}
    rows = [(i, position[str(kic)]) for i, kic in enumerate(third["KIC"]) if str(kic) in position]
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


def _read_tsv(path: Path) -> dict[str, list[str]]:
    header, *lines = path.read_text().splitlines()
    names = [name.strip() for name in header.split("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.count("|") == header.count("|")]
    return dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))


def _numbers(cells: list[str]) -> Values:
    return np.array([float(cell) if cell else np.nan for cell in cells])
