"""Costs of a run on this machine, in CPU time, for `benchmarks.scaling_simulation`.

Run: ``python -m benchmarks.scaling_costs DATA [--copies 6] [--rows 100000]`` with DATA a directory of LAMOST
``.fits.gz`` files with OBSID; prints JSON. CPU time is not the clock's, so that other work on the machine hardly
counts. Rows without a spectrum fill the table, since merging costs the same for all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from distributed import Client

import cluster
from benchmarks.ingest import write_survey
from benchmarks.scaling_simulation import Costs
from catalogue.config import RunConfiguration, parse
from catalogue.models import InferenceSettings, load_model
from catalogue.models.bundle import SHIPPED
from catalogue.pipeline.build import Quiet, build
from catalogue.pipeline.run import resolve_run
from catalogue.spectra.ingest import input_digest
from catalogue.spectra.paths import SpectraRoot
from catalogue.surveys import load_survey
from tests.factories.apogee import spectra_batch

TASKS = 2000
IMPORTED = 1.4e-6
"""Seconds a row that importing and planning a new parent table takes: ``benchmarks.planning``, ten million rows."""


def nothing(number: int) -> int:
    return number


def task_cost(scratch: Path) -> float:
    """CPU time of driver and scheduler, which are one process here, per task [s]."""
    tasks = [cluster.Task(f"infer-{n}-rows-{n}", nothing, (n,)) for n in range(TASKS)]
    with cluster.connect("local", relative_to=scratch, scratch=scratch, workers=2) as client:
        began = time.process_time()
        cluster.run_tasks(client, tasks, on_done=lambda *_: None)
        return (time.process_time() - began) / TASKS


def start_cost() -> float:
    """CPU time of a process until it has imported what a unit needs and loaded a model [s]."""
    code = "import distributed, catalogue.pipeline.tasks as t; t._model(*__import__('sys').argv[1:])"
    model = load_model(SHIPPED / "spt-lamost").bundle
    before = os.times()
    subprocess.run([sys.executable, "-c", code, str(model.path), model.digest], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


class Stages(Quiet):
    """Adds up the CPU time of this process by the stage of a build."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, rows: int, dashboard: str | None) -> Iterator[Callable[[int], None]]:
        began = time.process_time()
        yield lambda finished: None
        self.seconds[name.split()[0]] = time.process_time() - began


def build_once(data: Path, copies: int, empty_rows: int, passes: int) -> tuple[dict[str, float], int, int]:
    """CPU time by stage of a build in this process and of planning it; bytes of files and of pixels per spectrum."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        parent, names = write_survey(data, copies, scratch)
        with parent.open("a") as stream:
            stream.writelines(f"{n},\n" for n in range(empty_rows))
        content = {
            "survey": "lamost-lrs", "parent": {"path": str(parent), "key": "obsid"}, "model": "spt-lamost",
            "spectra": {"root": str(scratch / "spectra"), "path": "{filename}"}, "product": "lamost_age_mass",
            "output": {"directory": str(scratch / "run"), "formats": ["fits", "csv", "parquet", "zarr"]},
            "inference": {"passes": passes, "device": "cpu"},
        }  # fmt: skip
        stages = Stages()
        with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
            build(resolve_run(parse(RunConfiguration, content, "benchmark")), client=client, progress=stages)
        began = time.process_time()
        input_digest(scratch / "run" / "parent.parquet", SpectraRoot(scratch / "spectra"), 0, len(names))
        stages.seconds["plan"] = time.process_time() - began
        pixels = [scratch / "run" / "spectra.zarr" / name for name in ("flux", "ivar", "mask")]
        stored = sum(file.stat().st_size for array in pixels for file in array.rglob("*") if file.is_file())
        size = sum((scratch / "spectra" / name).stat().st_size for name in names)
        return stages.seconds, round(size / len(names)), round(stored / len(names))


def measure(data: Path, copies: int, rows: int, passes: int) -> Costs:
    """Cost of one more row, from builds that differ in nothing but the number of spectra or of rows without one."""
    spectra = len(list(data.glob("*.fits.gz")))
    build_once(data, 1, 0, 2)  # whatever is done once in a process is done here
    few, size, stored = build_once(data, 1, 0, passes)
    many, _, _ = build_once(data, copies, 0, passes)
    long, _, _ = build_once(data, 1, rows, passes)
    more = spectra * (copies - 1)
    with tempfile.TemporaryDirectory() as name:
        task = task_cost(Path(name))
    plan, ingest, infer = ((many[name] - few[name]) / more for name in ("plan", "ingest", "infer"))
    return Costs(
        IMPORTED, plan, ingest, infer, (long["merge"] - few["merge"]) / rows, size, stored, task, start_cost(),
    )  # fmt: skip


def apogee_costs(directory: Path, rows: int, passes: int) -> dict[str, float]:
    """CPU time per row of reading APOGEE files, and of each shipped APOGEE model on simulated pixels [s]."""
    files = sorted(directory.rglob("apStar*.fits"))
    survey = load_survey("apogee")
    work: dict[str, tuple[Callable[[], object], int]] = {
        "apogee read": (lambda: [survey.read(file) for _ in range(50) for file in files], 50 * len(files))
    }
    for path in sorted(SHIPPED.glob("*apogee*")):
        model = load_model(path)
        batch = spectra_batch(rows, columns={name: np.full(rows, 4800.0) for name in model.inputs})
        work[path.name] = (partial(model.predict, batch, InferenceSettings(passes, device="cpu")), rows)
    found = {}
    for name, (once, n) in work.items():
        once()
        began = time.process_time()
        once()
        found[name] = (time.process_time() - began) / n
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--apogee", type=Path, help="directory of apStar files: print the costs of APOGEE instead")
    given = parser.parse_args()
    if given.apogee:
        torch.set_num_threads(1)
        print(json.dumps(apogee_costs(given.apogee, 512, given.passes), indent=1))
        raise SystemExit
    print(json.dumps(asdict(measure(given.data, given.copies, given.rows, given.passes)), indent=1))
