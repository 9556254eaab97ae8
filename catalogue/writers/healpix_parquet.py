"""One Parquet file in the order of HEALPix, so that a reader of a region reads few row groups."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.base import Writer, publish
from catalogue.writers.healpix import HealpixRows


class HealpixParquetWriter(Writer):
    """Every row of the catalogue, sorted by HEALPix, one pixel or less to a row group.

    Rows have a ``row_number``, the row of the catalogue, and a ``_healpix_29``; those without a position come last.
    """

    format = "parquet-healpix"
    suffix = ".healpix.parquet"
    block_rows = 131072

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        unsorted = path.with_name(path.name + ".unsorted.partial")
        self._rows = HealpixRows(unsorted, data_model, provenance)
        self._stream = self.partial.open("wb")

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        self._rows.add(block)

    def _finish(self) -> None:
        """Write the row groups and the footer, flush and rename."""
        with pq.ParquetWriter(
            pa.PythonFile(self._stream), self._rows.schema, compression="zstd", write_page_checksum=True
        ) as writer:
            for table in self._rows.tables(self.block_rows):
                writer.write_table(table, row_group_size=self.block_rows)
        self._stream.close()
        self._rows.discard()
        publish(self.partial, self.path)

    def _discard(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        self._rows.discard()
        self.partial.unlink(missing_ok=True)
