"""Data models: one YAML per product, and the code that reads it."""

from __future__ import annotations

from catalogue.datamodels.datamodel import DataModel, DataModelError, data_model_names, load_data_model
from catalogue.datamodels.parts import Column, Flag, Option
from catalogue.datamodels.values import missing_value, numpy_dtype

__all__ = [
    "Column",
    "DataModel",
    "DataModelError",
    "Flag",
    "Option",
    "data_model_names",
    "load_data_model",
    "missing_value",
    "numpy_dtype",
]
