"""Run directories of any number of rows whose units are recorded as done: generated spectra columns and predictions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from catalogue.config import load_run_configuration
from catalogue.models import model_class
from catalogue.pipeline.build import _create_predictions, _prepare
from catalogue.pipeline.file_digests import file_digests, files_of_unit
from catalogue.pipeline.plan import plan_infer, plan_ingest
from catalogue.pipeline.records import Record, write_record
from catalogue.pipeline.run import Run, resolve_run
from catalogue.pipeline.tasks import content_digest
from catalogue.spectra.parent import read_parent_rows
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import fill_value, write_rows

_GROUP = 1_000_000


def write_parent(path: Path, rows: int) -> None:
    """A parent table like LAMOST's, as Parquet; four rows of five name a file."""
    with pq.ParquetWriter(path, _parent_rows(0, 1).schema) as writer:
        for start in range(0, rows, _GROUP):
            writer.write_table(_parent_rows(start, min(start + _GROUP, rows)))


def _parent_rows(start: int, stop: int) -> pa.Table:
    random = np.random.default_rng(start)
    count = stop - start
    obsid = np.arange(100_000_000 + start, 100_000_000 + stop)
    names = [f"{n // 250:06d}/spec-{n}.fits.gz" if n % 5 else "" for n in obsid.tolist()]
    return pa.table(
        {
            "obsid": obsid,
            "ra": random.uniform(0, 360, count).round(7),
            "dec": random.uniform(-10, 60, count).round(7),
            "snrg": random.lognormal(4, 0.6, count).round(2),
            "teff": random.normal(4800, 250, count).round(2),
            "logg": random.normal(2.6, 0.4, count).round(3),
            "feh": random.normal(-0.2, 0.3, count).round(3),
            "z": random.normal(0, 1e-4, count).round(8),
            "class": pa.array(["STAR"] * count),
            "subclass": pa.array(np.array(["G5", "G8", "K0", "K1", "K3", "K5"])[random.integers(0, 6, count)]),
            "filename": pa.array(names),
        }
    )


def write_configuration(directory: Path, rows: int, formats: tuple[str, ...] = ("fits", "csv")) -> Path:
    """Parent table and configuration of a run of ``rows`` rows with the shipped LAMOST bundle; nothing is done yet."""
    (directory / "spectra").mkdir(parents=True, exist_ok=True)
    write_parent(directory / "parent.parquet", rows)
    content = {
        "survey": "lamost-lrs",
        "parent": {"path": str(directory / "parent.parquet"), "key": "obsid"},
        "spectra": {"root": str(directory / "spectra"), "path": "{filename}", "check": "none"},
        "model": "spt-lamost",
        "product": "lamost_age_mass",
        "output": {"directory": str(directory / "run"), "formats": list(formats), "report": False},
        "inference": {"device": "cpu"},
    }
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def pretend_done(configuration: Path) -> Run:
    """Fill in all per-row columns, predictions and records, as if every unit had been ingested and inferred."""
    run = resolve_run(load_run_configuration(configuration))
    run.directory.root.mkdir(exist_ok=True)
    manifest, _ = _prepare(run, False)
    for unit in plan_ingest(run, manifest, run.directory.parent).units:
        columns = _spectra_columns(run, unit.start, unit.stop)
        write_rows(run.directory.spectra, columns, unit.start)
        counts = Counter(RowStatus(int(value)).name for value in columns["status"])
        inputs = {**unit.inputs, "rows": f"{unit.unit:064x}"}
        files = file_digests(run.directory.spectra, files_of_unit(run.directory.spectra, unit.start, unit.stop))
        record = Record(
            unit.start, unit.stop, inputs, f"{unit.unit:064x}", dict(counts), 60.0, "generated", files=files
        )
        write_record(run.directory.ingest_records, unit.unit, record)
    _create_predictions(run, manifest)
    plan = plan_ingest(run, manifest, run.directory.parent)
    for model in run.models:
        outputs = model_class(model.bundle.kind)(model.bundle).outputs
        store = run.directory.predictions(model.identity)
        for unit in plan_infer(run, model, plan).units:
            random = np.random.default_rng(unit.unit)
            values = {
                output.name: (0.1 + random.gamma(3, 2, unit.stop - unit.start)).astype(output.dtype)
                for output in outputs
            }
            write_rows(store, values, unit.start)
            files = file_digests(store, files_of_unit(store, unit.start, unit.stop))
            record = Record(
                unit.start, unit.stop, unit.inputs, content_digest(values), {}, 60.0, "generated", files=files
            )
            write_record(run.directory.infer_records(model.identity), unit.unit, record)
    return run


def _spectra_columns(run: Run, start: int, stop: int) -> dict[str, np.ndarray]:
    count = stop - start
    columns = dict(read_parent_rows(run.directory.parent, start, stop, run.survey))
    wanted = {column.name: column.dtype for column in run.survey.columns}
    values = {}
    for name, dtype in wanted.items():
        kind = np.dtypes.StringDType() if dtype == "str" else np.dtype(dtype)
        values[name] = columns.get(name, np.full(count, fill_value(dtype), kind))
    values["status"] = np.full(count, RowStatus.OK, np.uint8)
    values["reason"] = np.full(count, "", np.dtypes.StringDType())
    for name in ("file_size", "file_mtime_ns"):
        values[name] = np.full(count, 40_000, np.int64)
    return values


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    seconds: float
    cpu: float
    peak: float
    code: int
    output: str


def command(*arguments: str) -> Finished:
    """Run ``catalogue`` in a process of its own; peak memory in MiB is that process's, without its workers."""
    program = (
        "import sys, re, atexit; from pathlib import Path\n"
        "def peak():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    print('PEAK', re.search(r'VmHWM:\\s*(\\d+)', text)[1], file=sys.stderr)\n"
        "atexit.register(peak)\n"
        "from catalogue.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    began, used = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    seconds, now = time.perf_counter() - began, os.times()
    found = re.search(r"PEAK (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(done.stderr)
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return Finished(seconds, cpu, int(found[1]) / 1024, done.returncode, done.stdout + done.stderr)
