"""Gzipped CSV, streamed: one header line of names, NaN where missing; units and descriptions beside it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from isal import isal_zlib
from numpy.typing import NDArray

from catalogue.datamodels import Column, DataModel
from catalogue.spectra.primitives import RowStatus
from catalogue.writers.arrow import record_batch, schema_of
from catalogue.writers.base import Writer, publish

# Identification, deflate, no flags, no time, no extra flags, unknown system: nothing that changes from run to run.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"
"""An empty final block, which ends a deflate stream."""
_LEVEL = 3
"""Of ISA-L's 0 to 3: as fast as level 1 on catalogue text, and the smallest."""


class CsvWriter(Writer):
    """CSV in one gzip stream; floats with the fewest digits that read back the same.

    Blocks are formatted and compressed in parallel threads, each as a run of whole deflate blocks, and written
    in order: the file is the same for any number of threads. Text is quoted only where it must be, missing numbers
    are ``NaN``, booleans ``True`` and ``False``. A file ``.csv.txt`` beside it describes the columns.
    """

    format = "csv"
    suffix = ".csv.gz"
    block_rows = 16384

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        self._schema = schema_of(data_model, metadata=False)
        self._crc = 0
        self._size = 0
        self._threads = min(4, usable_cpus())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="csv")
        self._pending: deque[Future[tuple[bytes, int, int]]] = deque()
        self._stream = self.partial.open("wb")
        self._stream.write(_GZIP_HEADER)
        self._append(_compressed((",".join(self._schema.names) + "\n").encode()))

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        self._pending.append(self._pool.submit(self._block_bytes, dict(block)))
        while len(self._pending) > self._threads + 1:
            self._append(self._pending.popleft().result())

    def _block_bytes(self, block: Mapping[str, NDArray[Any]]) -> tuple[bytes, int, int]:
        return _compressed(csv_text(record_batch(self.data_model, self._schema, block)))

    def _append(self, part: tuple[bytes, int, int]) -> None:
        data, crc, size = part
        self._stream.write(data)
        self._crc = isal_zlib.crc32_combine(self._crc, crc, size)
        self._size += size

    def _finish(self) -> None:
        """Write the end of the stream and the description, flush and rename."""
        while self._pending:
            self._append(self._pending.popleft().result())
        self._pool.shutdown()
        self._stream.write(_LAST_BLOCK)
        self._stream.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))
        self._stream.close()
        description = self.path.with_name(self.path.name.removesuffix(".gz") + ".txt")
        partial = description.with_name(description.name + ".partial")
        try:
            partial.write_text(_description(self.data_model, self.provenance, self.n_rows), encoding="utf-8")
            publish(partial, description)
        finally:
            partial.unlink(missing_ok=True)
        publish(self.partial, self.path)

    def _discard(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):  # a full disk: what is still buffered is not wanted either
            self._stream.close()
        self.partial.unlink(missing_ok=True)


def usable_cpus() -> int:
    """CPUs that the process may use, where the system says so; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compressed(text: bytes) -> tuple[bytes, int, int]:
    """Deflate blocks that end on a byte and refer to nothing before them, with CRC-32 and length of the text."""
    deflate = isal_zlib.compressobj(level=_LEVEL, wbits=-15)
    data = deflate.compress(text) + deflate.flush(isal_zlib.Z_SYNC_FLUSH)
    return data, isal_zlib.crc32(text), len(text)


def csv_text(batch: pa.RecordBatch) -> bytes:
    """Rows as CSV, without a header.

    Joining the columns as text is faster than Arrow's own CSV writer, and leaves the spelling to us.

    Parameters
    ----------
    batch : RecordBatch
        Nulls in columns of floats only.

    Returns
    -------
    bytes
        UTF-8; missing floats are ``NaN``, text is quoted only if it holds a comma, a quote or a line break.
    """
    cells = [_spelled(column) for column in batch.columns]
    rows = pc.binary_join_element_wise(*cells, ",", null_handling="replace", null_replacement="NaN")
    _, offsets, text = pc.binary_join_element_wise(rows, "", "\n").buffers()
    end = np.frombuffer(offsets, np.int32)[len(batch)] if len(batch) else 0
    return text.slice(0, end).to_pybytes() if end else b""


def _spelled(column: pa.Array) -> pa.Array:
    """Column as text that every reader takes for what it is."""
    if pa.types.is_string(column.type):
        return _quoted(column)
    if pa.types.is_boolean(column.type):
        # Arrow's own "true" is text for astropy.
        return pc.if_else(column, "True", "False")
    return column.cast(pa.string())


def _quoted(column: pa.Array) -> pa.Array:
    odd = pc.match_substring_regex(column, '[,"\r\n]')
    if not pc.any(odd).as_py():
        return column
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(column, '"', '""'), '"', "")
    return pc.if_else(odd, quoted, column)


def _null(column: Column) -> str:
    if column.is_float:
        return "NaN"
    return "-" if column.missing is None else str(column.missing)


def _description(data_model: DataModel, provenance: Mapping[str, str], n_rows: int) -> str:
    lines = [data_model.title, ""]
    if data_model.description:
        lines += [data_model.description.strip(), ""]
    lines += [f"{n_rows} rows, one per row of the parent table, in its order.", ""]
    lines += [f"{keyword:8} {value}" for keyword, value in provenance.items()]
    # Two blanks at least, because a unit may hold one.
    lines += ["", f"{'column':24}  {'type':8}  {'unit':10}  {'null':6}  description"]
    lines += [
        f"{c.name:24}  {c.dtype:8}  {c.unit or '-':10}  {_null(c):6}  {c.description}" for c in data_model.columns
    ]
    if data_model.flags:
        lines += ["", "bits of FLAG"]
        lines += [f"{flag.bit:3} {flag.name:24} {flag.level:5} {flag.description}" for flag in data_model.flags]
    for column in data_model.columns:
        if column.role == "status":
            lines += ["", f"values of {column.name}"]
            lines += [f"{int(status):3} {status.name:24} {status.meaning}" for status in RowStatus]
    return "\n".join(lines) + "\n"
