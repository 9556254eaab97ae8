"""Rows as the merge hands them to a data model: good stars, of which a test changes what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np

from catalogue.datamodels import DataModel
from catalogue.spectra.primitives import RowStatus

_TEXT = ("class", "subclass", "apogee_id", "telescope", "field")
_INTEGERS = ("obsid", "starflag", "aspcapflag", "extratarg", "location_id")
_GOOD_STAR: dict[str, Any] = {
    "obsid": 101001,
    "class": "STAR",
    "subclass": "K1",
    "apogee_id": "2M00000001+0000001",
    "telescope": "apo25m",
    "field": "M67",
    "starflag": 0,
    "aspcapflag": 0,
    "extratarg": 0,
    "location_id": 4162,
    "ra": 10.0,
    "dec": -5.0,
    "snrg": 80.0,
    "snrev": 150.0,
    "teff": 4800.0,
    "logg": 2.8,
    "feh": -0.1,
    "fe_h": -0.1,
    "alpha_m": 0.05,
    "z": 1e-4,
    "file_z": 1e-4,
    "file_snrg": 80.0,
}
_GOOD_OUTPUT = {
    "age": 5.0,
    "age_error": 1.0,
    "age_total_error": 1.0,
    "age_model_error": 0.6,
    "age_data_error": 0.8,
    "mass": 1.2,
    "mass_error": 0.1,
    "mass_total_error": 0.1,
    "novelty": 0.5,
    "bad_fraction": 0.01,
    "log_age": 0.7,
    "domain.teff": (4000.0, 5500.0),
    "domain.logg": (1.0, 3.6),
    "domain.feh": (-2.0, 0.5),
    "domain.fe_h": (-2.0, 0.5),
    "novelty_limit": 1.0,
}


def good_rows(model: DataModel, n_rows: int = 1, **changes: Any) -> dict[str, Any]:
    """Namespace of stars that no flag is raised for, with changes.

    Parameters
    ----------
    model : DataModel
    n_rows : int
    **changes
        Values or arrays by name, a dot written as two underscores: ``latent__age=np.nan``.
    """
    namespace: dict[str, Any] = {"status": np.full(n_rows, RowStatus.OK, np.uint8)}
    for name in sorted(model.required_names - {"status"}):
        head, dot, output = name.partition(".")
        value = _GOOD_OUTPUT.get(output, 1.0) if dot else _GOOD_STAR[head]
        namespace[name] = (
            value if isinstance(value, tuple) or output == "novelty_limit" else _column(name, value, n_rows)
        )
    for name, value in changes.items():
        name = name.replace("__", ".")
        if name not in namespace:
            raise KeyError(f"{model.name} needs no {name}")
        constant = value is None or isinstance(value, tuple) or name.endswith("novelty_limit")
        namespace[name] = value if constant else _column(name, value, n_rows)
    return namespace


def _column(name: str, value: Any, n_rows: int) -> np.ndarray:
    dtype: Any = np.float32 if "." in name else np.float64
    if name in _TEXT:
        dtype = np.dtypes.StringDType()
    elif name in _INTEGERS:
        dtype = np.int64
    elif name == "status":
        dtype = np.uint8
    return np.broadcast_to(np.asarray(value), (n_rows,)).astype(dtype)


def raised(model: DataModel, columns: dict[str, Any], row: int = 0) -> set[str]:
    """Names of the flags that are set in a row."""
    return {flag.name for flag in model.flags if int(columns["FLAG"][row]) >> flag.bit & 1}
