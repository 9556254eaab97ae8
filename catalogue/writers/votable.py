"""VOTable 1.4 with BINARY2 data, streamed."""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel
from catalogue.spectra.primitives import RowStatus
from catalogue.writers.base import Writer, publish
from catalogue.writers.rows import packed_rows, row_dtype

_TYPES = {
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "unsignedByte",
    "float32": "float",
    "float64": "double",
    "bool": "boolean",
    "str": "char",
}


class VotableWriter(Writer):
    """One TABLE; missing integers are null in BINARY2, missing floats are NaN, text is ASCII as in FITS."""

    format = "votable"
    suffix = ".vot"
    # Three rows are whole groups of base64 whatever the width of a row.
    block_rows = 3 * 4096

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._fields = row_dtype(data_model)
        self._nulls = -(-len(data_model.columns) // 8)
        self._stream = self.partial.open("wb")
        self._stream.write(_head(data_model, n_rows, self.provenance).encode())

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        fields = packed_rows(self.data_model, self._fields, block)
        rows = np.empty((len(fields), self._nulls + self._fields.itemsize), np.uint8)
        rows[:, : self._nulls] = self._null_bits(block, len(fields))
        rows[:, self._nulls :] = fields.view(np.uint8).reshape(len(fields), -1)
        self._stream.write(binascii.b2a_base64(rows.data))

    def _null_bits(self, block: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.uint8]:
        null = np.zeros((rows, len(self.data_model.columns)), bool)
        for number, column in enumerate(self.data_model.columns):
            if column.missing is not None:
                null[:, number] = block[column.name] == column.missing
        return np.packbits(null, axis=1)

    def _finish(self) -> None:
        """Close the document, flush and rename."""
        self._stream.write(b"</STREAM></BINARY2></DATA></TABLE></RESOURCE></VOTABLE>\n")
        self._stream.close()
        publish(self.partial, self.path)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        self.partial.unlink(missing_ok=True)


def _head(data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        "<RESOURCE>",
        f"<DESCRIPTION>{escape(data_model.title)}</DESCRIPTION>",
    ]
    lines += [_info(name, value) for name, value in provenance.items()]
    lines += [
        _info(f"FLAG_bit_{flag.bit}", f"{flag.name} ({flag.level}): {flag.description}") for flag in data_model.flags
    ]
    if any(column.role == "status" for column in data_model.columns):
        lines += [_info(f"status_{int(status)}", f"{status.name}: {status.meaning}") for status in RowStatus]
    lines.append(f'<TABLE name={quoteattr(data_model.name)} nrows="{n_rows}">')
    lines += [_field(column) for column in data_model.columns]
    return "\n".join([*lines, '<DATA><BINARY2><STREAM encoding="base64">']) + "\n"


def _info(name: str, value: str) -> str:
    return f"<INFO name={quoteattr(name)} value={quoteattr(str(value))}/>"


def _field(column: Column) -> str:
    attributes = {"name": column.name, "ID": column.name, "datatype": _TYPES[column.dtype]}
    if column.dtype == "str":
        attributes["arraysize"] = str(column.width)
    if column.unit:
        attributes["unit"] = column.unit
    if column.ucd:
        attributes["ucd"] = column.ucd
    text = " ".join(f"{name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<FIELD {text}><DESCRIPTION>{escape(column.description)}</DESCRIPTION></FIELD>"
