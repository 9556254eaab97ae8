"""A data model with every dtype and awkward values, and rows for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import DataModel

STRING = np.dtypes.StringDType()

PROVENANCE = {
    "DATE": "2026-01-02T03:04:05",
    "CREATOR": "stellar-catalogue test",
    "INPUTDG": "0123456789abcdef" * 4,
    "NOTE": "a value that is longer than the sixty-eight characters that fit on one card, with a 'quote' & <brackets>",
}


def every_dtype_model(**changes: Any) -> DataModel:
    """A product with one column of every dtype, nulls, units and three flags."""
    long = "a description that is far longer than the sixty-eight characters of one FITS card, & <its> 'quotes' too"
    content: dict[str, Any] = {
        "name": "every_dtype",
        "version": 1,
        "title": "One column of every dtype",
        "survey": "lamost-lrs",
        "columns": [
            {"name": "obsid", "value": "obsid", "dtype": "int64", "missing": -9999, "description": long, "role": "key"},
            {"name": "ra", "value": "ra", "dtype": "float64", "unit": "deg", "ucd": "pos.eq.ra", "description": "ra"},
            {"name": "class", "value": "class", "dtype": "str", "width": 12, "description": "class"},
            {"name": "visits", "value": "visits", "dtype": "int16", "missing": -1, "description": "visits"},
            {"name": "Age", "value": "age", "dtype": "float32", "unit": "Gyr", "ucd": "time.age", "description": "age"},
            {"name": "flat", "value": "visits", "dtype": "int32", "description": "never missing"},
            {"name": "STATUS", "value": "status", "dtype": "uint8", "role": "status", "description": "status"},
            {"name": "FLAG", "dtype": "int32", "role": "flag", "description": "bits"},
            {"name": "FLAG_WARN", "dtype": "bool", "description": "some warn bit"},
            {"name": "FLAG_BAD", "dtype": "bool", "description": "some bad bit"},
        ],
        "flags": [
            {"bit": 0, "name": "OLD", "level": "warn", "when": "age > 13.8", "description": long},
            {"bit": 2, "name": "NO_AGE", "level": "bad", "when": "isnan(age)", "description": "no age"},
            {"bit": 23, "name": "FEW", "level": "info", "when": "visits == 1", "description": "one visit"},
        ],
        "retired_bits": [1],
    }
    return DataModel.model_validate({**content, **changes})


def every_dtype_rows(n_rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Columns of :func:`every_dtype_model`, with missing and extreme values where there are enough rows."""
    rng = np.random.default_rng(seed)
    obsid = rng.integers(0, 2**62, n_rows)
    ra = rng.uniform(0, 360, n_rows)
    age = rng.lognormal(1, 1, n_rows).astype(np.float32)
    visits = rng.integers(1, 32000, n_rows)
    classes = np.array(["STAR", "GALAXY", "", "QSO"], STRING)[rng.integers(0, 4, n_rows)]
    if n_rows >= 8:
        obsid[:3] = [-9999, 2**63 - 1, -(2**62)]
        ra[:4] = [np.nan, 1e-300, -0.0, 0.1 + 0.2]
        age[:4] = [np.nan, 0.1, 16777216, 1e-38]
        visits[:3] = [-1, 32767, 1]
        classes[:4] = ["", "a b", "x;y", "O'Neil"]
    namespace = {
        "status": rng.integers(0, 15, n_rows).astype(np.uint8),
        "obsid": obsid,
        "ra": ra,
        "age": age,
        "visits": visits,
        "class": classes,
    }
    return every_dtype_model().evaluate(namespace)


def part(columns: dict[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows ``start`` to ``stop``."""
    return {name: values[start:stop] for name, values in columns.items()}


def classifier_model() -> DataModel:
    """A product of a model that knows neither ages nor masses."""
    numbers = ("teff", "logg", "feh", "snrg")
    content: dict[str, Any] = {
        "name": "screened",
        "version": 1,
        "title": "Blue stars",
        "survey": "lamost-lrs",
        "uses": {"screen": "screen"},
        "columns": [
            {
                "name": "obsid",
                "value": "obsid",
                "dtype": "int64",
                "missing": -9999,
                "description": "key",
                "role": "key",
            },
            *({"name": name, "value": name, "dtype": "float64", "description": name} for name in numbers),
            {"name": "Probability", "value": "screen.probability", "dtype": "float32", "description": "of being blue"},
            {"name": "Probability_Error", "value": "screen.error", "dtype": "float32", "description": "its error"},
            {"name": "STATUS", "value": "status", "dtype": "uint8", "role": "status", "description": "status"},
            {"name": "FLAG", "dtype": "int32", "role": "flag", "description": "bits"},
        ],
        "flags": [{"bit": 0, "name": "NOTHING", "level": "bad", "when": "not usable", "description": "no spectrum"}],
    }
    return DataModel.model_validate(content)


def classified_columns(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Columns of :func:`classifier_model`; every fifth row has no spectrum."""
    random = np.random.default_rng(seed)
    status = np.where(np.arange(rows) % 5 == 0, 2, 1).astype(np.uint8)
    names = {name: random.uniform(low, high, rows) for name, low, high in (
        ("teff", 4000, 7000), ("logg", 1, 5), ("feh", -2, 0.4), ("snrg", 10, 200),
    )}  # fmt: skip
    found = {"screen.probability": random.random(rows), "screen.error": random.uniform(0.01, 0.1, rows)}
    found = {name: np.where(status == 1, values, np.nan) for name, values in found.items()}
    return classifier_model().evaluate({"obsid": np.arange(rows) + 7, "status": status, **names, **found})
