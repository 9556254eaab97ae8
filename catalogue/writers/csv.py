"""Gzipped CSV, streamed: one header line of names, empty where missing; units and descriptions beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
from isal import isal_zlib
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.arrow import record_batch, schema_of
from catalogue.writers.base import Writer, check_rows
from catalogue.writers.blocks import Blocks

BLOCK_ROWS = 65536
# Identification, deflate, no flags, no time, no extra flags, unknown system: nothing that changes from run to run.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class CsvWriter(Writer):
    """CSV in one gzip stream; floats with the fewest digits that read back the same."""

    format = "csv"
    suffix = ".csv.gz"

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._schema = schema_of(data_model, metadata=False)
        self._blocks = Blocks(BLOCK_ROWS)
        self._deflate = isal_zlib.compressobj(level=2, wbits=-15)
        self._crc = 0
        self._size = 0
        self._stream = self.partial.open("wb")
        self._stream.write(_GZIP_HEADER)
        self._append((",".join(self._schema.names) + "\n").encode())

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows."""
        self.rows_written += len(next(iter(columns.values())))
        for block in self._blocks.add(columns):
            self._write_block(block)

    def _write_block(self, block: Mapping[str, NDArray[np.generic]]) -> None:
        sink = io.BytesIO()
        options = pa_csv.WriteOptions(include_header=False, quoting_style="needed")
        with pa_csv.CSVWriter(sink, self._schema, write_options=options) as writer:
            writer.write_batch(record_batch(self.data_model, self._schema, block))
        self._append(sink.getvalue())

    def _append(self, text: bytes) -> None:
        self._crc = isal_zlib.crc32(text, self._crc)
        self._size += len(text)
        self._stream.write(self._deflate.compress(text))

    def close(self) -> None:
        """Flush, rename, and write the column descriptions beside it."""
        check_rows(self)
        if (rest := self._blocks.rest()) is not None:
            self._write_block(rest)
        self._stream.write(self._deflate.flush())
        self._stream.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        description = self.path.with_name(self.path.name.removesuffix(".gz") + ".txt")
        description.write_text(_description(self.data_model, self.provenance))
        self.partial.replace(self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._stream.close()
        self.partial.unlink(missing_ok=True)


def _description(data_model: DataModel, provenance: Mapping[str, str]) -> str:
    lines = [data_model.title, ""]
    lines += [f"{keyword:8} {value}" for keyword, value in provenance.items()]
    lines += ["", f"{'column':24} {'type':8} {'unit':10} description"]
    lines += [f"{c.name:24} {c.dtype:8} {c.unit or '-':10} {c.description}" for c in data_model.columns]
    if data_model.flags:
        lines += ["", "bits of FLAG"]
        lines += [f"{flag.bit:3} {flag.name:24} {flag.level:5} {flag.description}" for flag in data_model.flags]
    return "\n".join(lines) + "\n"
