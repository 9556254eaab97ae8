"""Data models: one YAML per product, and the code that reads it."""

from __future__ import annotations

from catalogue.datamodels.datamodel import (
    Column,
    DataModel,
    DataModelError,
    Flag,
    data_model_names,
    load_data_model,
    numpy_dtype,
)

__all__ = [
    "Column",
    "DataModel",
    "DataModelError",
    "Flag",
    "data_model_names",
    "load_data_model",
    "numpy_dtype",
]
