"""Arrow schema and batches of a data model: what the CSV and the Parquet writer share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel
from catalogue.spectra.primitives import RowStatus

_TYPES = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "str": pa.string(),
}


def schema_of(data_model: DataModel, metadata: bool = True) -> pa.Schema:
    """Arrow schema, with unit, UCD and description of every field if ``metadata``."""
    fields = []
    for column in data_model.columns:
        facts = {
            "unit": column.unit,
            "ucd": column.ucd,
            "description": column.description,
            "source": column.source,
            "role": column.role,
            "null_value": "" if column.missing is None else str(column.missing),
        }
        kept = {key: value for key, value in facts.items() if value} if metadata else None
        fields.append(pa.field(column.name, _TYPES[column.dtype], metadata=kept))
    return pa.schema(fields)


def schema_metadata(data_model: DataModel, provenance: Mapping[str, str]) -> dict[str, str]:
    """Metadata of the whole file: title, provenance cards, flag bits and statuses."""
    flags = [{"bit": f.bit, "name": f.name, "level": f.level, "description": f.description} for f in data_model.flags]
    statuses = {status.name: int(status) for status in RowStatus}
    # The names under which astropy's reader looks for the widths of strings.
    widths = {f"table::len::{column.name}": str(column.width) for column in data_model.columns if column.width}
    return {
        "title": data_model.title,
        **provenance,
        "flags": json.dumps(flags),
        "statuses": json.dumps(statuses),
        **widths,
    }


def record_batch(data_model: DataModel, schema: pa.Schema, columns: Mapping[str, NDArray[Any]]) -> pa.RecordBatch:
    """Batch of rows. NaN becomes null; missing integers keep the value that the column declares.

    Integers with nulls are read as floating point by pandas and astropy, and long identifiers lose digits then.
    """
    arrays = [_array(column, schema.field(column.name).type, columns[column.name]) for column in data_model.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(column: Column, kind: pa.DataType, values: NDArray[Any]) -> pa.Array:
    if column.is_float:
        return pa.array(values, kind, mask=np.isnan(values))
    try:
        return pa.array(values, kind)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        # Earlier releases of pyarrow do not know numpy's StringDType.
        return pa.array(values.tolist(), kind)
