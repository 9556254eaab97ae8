"""Arrow schema and batches of a data model: what the CSV and the Parquet writer share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
        }
        kept = {key: value for key, value in facts.items() if value} if metadata else None
        fields.append(pa.field(column.name, _TYPES[column.dtype], metadata=kept))
    return pa.schema(fields)


def schema_metadata(data_model: DataModel, provenance: Mapping[str, str]) -> dict[str, str]:
    """Metadata of the whole file: title, provenance cards, flag bits and statuses."""
    flags = [{"bit": f.bit, "name": f.name, "level": f.level, "description": f.description} for f in data_model.flags]
    statuses = {status.name: int(status) for status in RowStatus}
    return {"title": data_model.title, **provenance, "flags": json.dumps(flags), "statuses": json.dumps(statuses)}


def record_batch(data_model: DataModel, schema: pa.Schema, columns: Mapping[str, NDArray[Any]]) -> pa.RecordBatch:
    """Batch of rows; NaN, the column's missing integer and the empty string become null."""
    arrays = [_array(column, schema.field(column.name).type, columns[column.name]) for column in data_model.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(column: Column, kind: pa.DataType, values: NDArray[Any]) -> pa.Array:
    if column.dtype == "str":
        return _text(values)
    if column.is_float:
        return pa.array(values, kind, mask=np.isnan(values))
    if column.missing is not None:
        return pa.array(values, kind, mask=values == column.missing)
    return pa.array(values, kind)


def _text(values: NDArray[Any]) -> pa.Array:
    try:
        text = pa.array(values, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        # Earlier releases of pyarrow do not know numpy's StringDType.
        text = pa.array(values.tolist(), pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
