"""Parquet, streamed in row groups of one size, with units, UCDs and descriptions in the fields' metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.arrow import record_batch, schema_metadata, schema_of
from catalogue.writers.base import Writer, check_rows
from catalogue.writers.blocks import Blocks

ROW_GROUP_ROWS = 131072


class ParquetWriter(Writer):
    """One Parquet file; missing values are nulls."""

    format = "parquet"
    suffix = ".parquet"

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._schema = schema_of(data_model).with_metadata(schema_metadata(data_model, provenance))
        self._blocks = Blocks(ROW_GROUP_ROWS)
        self._writer = pq.ParquetWriter(self.partial, self._schema, compression="zstd")

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows."""
        self.rows_written += len(next(iter(columns.values())))
        for block in self._blocks.add(columns):
            self._write_block(block)

    def _write_block(self, block: Mapping[str, NDArray[np.generic]]) -> None:
        self._writer.write_batch(record_batch(self.data_model, self._schema, block), row_group_size=ROW_GROUP_ROWS)

    def close(self) -> None:
        """Write the footer, flush and rename."""
        check_rows(self)
        if (rest := self._blocks.rest()) is not None:
            self._write_block(rest)
        self._writer.close()
        with self.partial.open("rb") as stream:
            os.fsync(stream.fileno())
        self.partial.replace(self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._writer.close()
        self.partial.unlink(missing_ok=True)
