"""How much of the model's own rate the infer stage keeps: store to predictions on disk against arrays in memory.

Run: ``python -m benchmarks.infer_share [--rows 2048] [--chunk 512] [--passes 100] [--runs 5] [--threads 1]``

One worker's task over one unit (chunks read ahead, every row's outputs digested, written and recorded) against
``predict`` on the same rows held in memory, in turn, after one warm-up; both must give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.dropout import spectra
from catalogue.models import InferenceSettings, Model, SpectraBatch, find_bundle, load_model
from catalogue.models.spt import SpectralTransformer
from catalogue.pipeline.tasks import InferTask, ModelTask, infer
from catalogue.spectra.primitives import RowColumn, RowStatus
from catalogue.spectra.store import create_row_arrays, create_store, read_rows, write_rows
from catalogue.surveys import load_survey
from tests.factories.apogee import spectra_batch


def lamost(model: Model, rows: int) -> SpectraBatch:
    """Spectra spread as the training set's."""
    assert isinstance(model, SpectralTransformer)
    return spectra(model, rows)


def apogee(model: Model, rows: int) -> SpectraBatch:
    """Spectra with gaps, bad pixels and a slope, all of them usable."""
    made = spectra_batch(rows)
    return replace(made, flux=np.nan_to_num(made.flux), usable=np.ones(rows, bool))


def write_store(path: Path, survey_name: str, batch: SpectraBatch, chunk_rows: int) -> None:
    """A store of one unit that holds the batch."""
    survey, rows = load_survey(survey_name), len(batch)
    create_store(path, survey, rows, chunk_rows, rows + -rows % chunk_rows, survey.default_key)
    columns = {name: np.asarray(values, np.float64) for name, values in batch.columns.items()}
    status = np.full(rows, RowStatus.OK, np.uint8)
    write_rows(path, {"flux": batch.flux, "ivar": batch.ivar, "mask": batch.mask, "status": status, **columns}, 0)


def times_of(
    bundle: str,
    survey: str,
    make: Callable[[Model, int], SpectraBatch],
    options: argparse.Namespace,
    device: str = "cpu",
    watched: Callable[[str], AbstractContextManager[object]] = lambda name: nullcontext(),
) -> dict[str, list[float]]:
    """Seconds of every run of ``alone`` and of ``stage``, which must give the same bytes; each run is ``watched``."""
    model = load_model(find_bundle(bundle, Path.cwd()))
    settings = InferenceSettings(device=device, passes=options.passes)
    batch = make(model, options.rows)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        write_store(scratch / "spectra.zarr", survey, batch, options.chunk)
        columns = [RowColumn(output.name, output.dtype, "", "") for output in model.outputs]
        create_row_arrays(scratch / "predictions.zarr", columns, options.rows, options.rows)
        part = ModelTask(
            str(model.bundle.path), model.bundle.digest, str(scratch / "predictions.zarr"), str(scratch / "records"),
            {"spectra": ""}, settings,
        )  # fmt: skip
        task = InferTask(0, 0, options.rows, str(scratch / "spectra.zarr"), options.chunk, (part,))
        stored = read_rows(scratch / "spectra.zarr", ["status", *model.inputs], 0, options.rows)

        def alone() -> dict[str, np.ndarray]:
            parts = []
            for start in range(0, options.rows, options.chunk):
                rows = slice(start, start + options.chunk)
                some = {name: values[rows] for name, values in stored.items()}
                piece = SpectraBatch(
                    start, batch.flux[rows], batch.ivar[rows], batch.mask[rows], batch.usable[rows], some
                )
                parts.append(model.predict(piece, settings))
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        def stage() -> None:
            shutil.rmtree(scratch / "records", ignore_errors=True)
            infer(task)

        times: dict[str, list[float]] = {"alone": [], "stage": []}
        for run in range(options.runs + 1):
            for name, function in (("alone", alone), ("stage", stage)):
                with watched(name) if run else nullcontext():
                    began = time.perf_counter()
                    function()
                    took = time.perf_counter() - began
                if run:
                    times[name].append(took)
        expected = alone()
        found = read_rows(scratch / "predictions.zarr", list(expected), 0, options.rows)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    return times


def compare(bundle: str, survey: str, make: Callable[[Model, int], SpectraBatch], options: argparse.Namespace) -> None:
    """Print one line of the table."""
    times = times_of(bundle, survey, make, options)
    shares = [a / b for a, b in zip(times["alone"], times["stage"], strict=True)]
    print(
        f"{bundle:32s} model alone {options.rows / statistics.median(times['alone']):8.1f} stars/s   "
        f"store to disk {options.rows / statistics.median(times['stage']):8.1f} stars/s   "
        f"share {statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 2048), ("chunk", 512), ("passes", 100), ("runs", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.rows} rows in chunks of {options.chunk}, T = {options.passes}, {options.threads} thread(s)")
    compare("spt-lamost", "lamost-lrs", lamost, options)
    compare("astronn-bcnn-apogee-simulated", "apogee", apogee, options)


if __name__ == "__main__":
    main()
