"""VOTable 1.4 with TABLEDATA, streamed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel
from catalogue.writers.base import Writer, check_rows

_TYPES = {
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "unsignedByte",
    "float32": "float",
    "float64": "double",
    "bool": "boolean",
    "str": "unicodeChar",
}


class VotableWriter(Writer):
    """One TABLE; missing values are empty cells."""

    format = "votable"
    suffix = ".vot"

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._stream = self.partial.open("w", encoding="utf-8")
        self._stream.write(_head(data_model, n_rows, provenance))

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows."""
        cells = [_cells(column, columns[column.name]) for column in self.data_model.columns]
        for row in zip(*cells, strict=True):
            self._stream.write("<TR>" + "".join(f"<TD>{cell}</TD>" for cell in row) + "</TR>\n")
        self.rows_written += len(cells[0])

    def close(self) -> None:
        """Close the document, flush and rename."""
        check_rows(self)
        self._stream.write("</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.partial.replace(self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._stream.close()
        self.partial.unlink(missing_ok=True)


def _head(data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        "<RESOURCE>",
        f"<DESCRIPTION>{escape(data_model.title)}</DESCRIPTION>",
    ]
    lines += [f"<INFO name={quoteattr(name)} value={quoteattr(str(value))}/>" for name, value in provenance.items()]
    lines.append(f'<TABLE name={quoteattr(data_model.name)} nrows="{n_rows}">')
    lines += [_field(column) for column in data_model.columns]
    return "\n".join([*lines, "<DATA><TABLEDATA>"]) + "\n"


def _field(column: Column) -> str:
    attributes = {"name": column.name, "ID": column.name, "datatype": _TYPES[column.dtype]}
    if column.dtype == "str":
        attributes["arraysize"] = "*"
    if column.unit:
        attributes["unit"] = column.unit
    if column.ucd:
        attributes["ucd"] = column.ucd
    text = " ".join(f"{name}={quoteattr(value)}" for name, value in attributes.items())
    values = f'<VALUES null="{column.missing}"/>' if column.missing is not None else ""
    return f"<FIELD {text}><DESCRIPTION>{escape(column.description)}</DESCRIPTION>{values}</FIELD>"


def _cells(column: Column, values: NDArray[Any]) -> list[str]:
    if column.dtype == "str":
        return [escape(text) for text in values.tolist()]
    if column.dtype == "bool":
        return ["true" if value else "false" for value in values.tolist()]
    if column.dtype.startswith("float"):
        return ["" if value != value else str(value) for value in values]
    return [str(value) for value in values.tolist()]
