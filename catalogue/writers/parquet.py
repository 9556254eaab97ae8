"""Parquet, streamed in row groups of one size, with units, UCDs and descriptions in the fields' metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.arrow import record_batch, schema_metadata, schema_of
from catalogue.writers.base import Writer, publish


class ParquetWriter(Writer):
    """One Parquet file; missing floats are nulls, missing integers the value that the field's metadata states."""

    format = "parquet"
    suffix = ".parquet"
    block_rows = 131072

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._schema = schema_of(data_model).with_metadata(schema_metadata(data_model, provenance))
        # A stream of our own: pyarrow, given a path, removes the file of its own accord when an error occurs.
        self._stream = self.partial.open("wb")
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._stream), self._schema, compression="zstd", write_page_checksum=True
        )

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        self._writer.write_batch(record_batch(self.data_model, self._schema, block), row_group_size=self.block_rows)

    def _finish(self) -> None:
        """Write the footer, flush and rename."""
        self._writer.close()
        self._stream.close()
        publish(self.partial, self.path)

    def _discard(self) -> None:
        for stream in (self._writer, self._stream):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        self.partial.unlink(missing_ok=True)
