"""The work of one unit, as functions of plain paths and ids that any worker can run.

Each task writes its rows, then its record, and returns a small summary. Running it twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.models import InferenceSettings, Model, SpectraBatch, load_model
from catalogue.models.contract import check_predictions
from catalogue.pipeline.faults import fault_point
from catalogue.pipeline.file_digests import file_digests, files_of_unit
from catalogue.pipeline.records import Record, record_with_files, remove_record, write_record
from catalogue.spectra.ingest import ingest_unit, input_digest
from catalogue.spectra.paths import SpectraRoot
from catalogue.spectra.primitives import is_usable
from catalogue.spectra.store import read_rows, write_rows


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """What the driver needs to know of a finished unit."""

    unit: int
    rows: int
    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class IngestTask:
    """Rows to bring from files into the spectra store."""

    unit: int
    start: int
    stop: int
    store: str
    parent: str
    survey: str
    root: str
    records: str
    inputs: dict[str, str]
    reuse: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ModelTask:
    """One model's part of an inference unit."""

    bundle: str
    digest: str
    predictions: str
    records: str
    inputs: dict[str, str]
    settings: InferenceSettings


@dataclass(frozen=True, slots=True)
class InferTask:
    """Rows whose spectra are read once and given to each of ``models``."""

    unit: int
    start: int
    stop: int
    store: str
    chunk_rows: int
    models: tuple[ModelTask, ...]


def ingest(task: IngestTask) -> UnitSummary:
    """Read the files of a unit into the store and record it."""
    began = time.perf_counter()
    done = _done_before(task.records, task.unit, task.inputs, task.store)
    if done is not None:
        return UnitSummary(task.unit, task.stop - task.start, done.seconds, dict(done.counts))
    fault_point("ingest", task.unit, "before")
    remove_record(Path(task.records), task.unit)
    store, parent, root = Path(task.store), Path(task.parent), Path(task.root)
    inputs = task.inputs
    if "rows" not in inputs:
        # Before the files are read: one that is replaced meanwhile is found stale.
        inputs = {**inputs, "rows": input_digest(parent, SpectraRoot(root), task.start, task.stop)}
    summary = ingest_unit(store, parent, task.survey, root, task.start, task.stop, reuse=task.reuse)
    fault_point("ingest", task.unit, "written")
    seconds = time.perf_counter() - began
    files = file_digests(Path(task.store), files_of_unit(Path(task.store), task.start, task.stop))
    record = Record(
        task.start, task.stop, inputs, summary.digest, dict(summary.counts), seconds, _worker(),
        summary.n_reused, files,
    )  # fmt: skip
    write_record(Path(task.records), task.unit, record)
    fault_point("ingest", task.unit, "after")
    return UnitSummary(task.unit, task.stop - task.start, seconds, dict(summary.counts))


_loaded: dict[str, Model] = {}


def _model(path: str, digest: str) -> Model:
    """Load a bundle once per process; a worker keeps the models that it has met."""
    if digest not in _loaded:
        _loaded[digest] = load_model(Path(path), digest)
    return _loaded[digest]


def infer(task: InferTask, halvings: int = 0) -> UnitSummary:
    """Apply every model of a unit to its spectra, chunk by chunk, and record it.

    Parameters
    ----------
    task : InferTask
    halvings : int
        How often an earlier attempt ran out of device memory: so often is the number of granules worked on together
        halved, which never changes a result on the CPU.
    """
    began = time.perf_counter()
    parts = [
        part for part in task.models if _done_before(part.records, task.unit, part.inputs, part.predictions) is None
    ]
    if not parts:
        return UnitSummary(task.unit, task.stop - task.start, 0.0, {})
    fault_point("infer", task.unit, "before")
    models = [_model(part.bundle, part.digest) for part in parts]
    results: list[dict[str, NDArray[Any]]] = [
        {output.name: np.full(task.stop - task.start, np.nan, output.dtype) for output in model.outputs}
        for model in models
    ]
    usable_rows = 0
    for batch in _batches(task, models):
        at = slice(batch.first_row - task.start, batch.first_row - task.start + len(batch))
        usable_rows += int(batch.usable.sum())
        for part, model, result in zip(parts, models, results, strict=True):
            settings = part.settings
            settings = replace(settings, granules=max(settings.granules >> halvings, 1))
            predictions = model.predict(batch, settings)
            check_predictions(model, batch, predictions)
            for name, values in predictions.items():
                result[name][at] = values
    seconds = time.perf_counter() - began
    for part, result in zip(parts, results, strict=True):
        store = Path(part.predictions)
        remove_record(Path(part.records), task.unit)
        write_rows(store, result, task.start)
        fault_point("infer", task.unit, "written")
        counts = {"usable": usable_rows}
        files = file_digests(store, files_of_unit(store, task.start, task.stop))
        # each model's record tells its share, so that the sum over models is what the unit took
        record = Record(
            task.start, task.stop, part.inputs, content_digest(result), counts, seconds / len(parts), _worker(),
            files=files,
        )  # fmt: skip
        write_record(Path(part.records), task.unit, record)
    fault_point("infer", task.unit, "after")
    return UnitSummary(task.unit, task.stop - task.start, seconds, {"usable": usable_rows})


def _batches(task: InferTask, models: list[Model]) -> Iterator[SpectraBatch]:
    """Chunks of a unit in order, the next being read while the model works on one."""
    inputs = sorted({name for model in models for name in model.inputs})
    starts = range(task.start, task.stop, task.chunk_rows)
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(_read_batch, task, inputs, starts[0])
        for following in [*starts[1:], None]:
            batch = pending.result()
            if following is not None:
                pending = reader.submit(_read_batch, task, inputs, following)
            if batch is not None:
                yield batch


def _read_batch(task: InferTask, inputs: list[str], start: int) -> SpectraBatch | None:
    """Read one chunk, or nothing of it if no row of it can be used."""
    stop = min(start + task.chunk_rows, task.stop)
    store = Path(task.store)
    columns = read_rows(store, ["status", *inputs], start, stop)
    usable = is_usable(columns["status"])
    if not usable.any():
        return None
    spectra = read_rows(store, ["flux", "ivar", "mask"], start, stop)
    return SpectraBatch(start, spectra["flux"], spectra["ivar"], spectra["mask"], usable, columns)


def content_digest(columns: dict[str, NDArray[Any]]) -> str:
    """SHA-256, hexadecimal, over names, dtypes and bytes of per-row arrays, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = np.ascontiguousarray(columns[name])
        digest.update(f"{name}:{values.dtype.str}:{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _done_before(records: str, unit: int, inputs: dict[str, str], store: str) -> Record | None:
    """Record of an attempt whose answer was lost on its way to the driver, as when its worker died just afterwards."""
    record = record_with_files(Path(records), unit, Path(store))
    return record if record is not None and inputs.items() <= record.inputs.items() else None


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
