"""A made-up catalogue of 30 columns for the benchmarks of the writers, and each side of them in its own process."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.table import Table

from catalogue.datamodels import DataModel, load_data_model
from catalogue.spectra.primitives import RowStatus
from catalogue.writers import writer_for

BLOCK_ROWS = 100_000
BLOCKS = 4
STRING = np.dtypes.StringDType()


def thirty_columns() -> DataModel:
    """The LAMOST product without three of its 33 columns."""
    model = load_data_model("lamost_age_mass")
    kept = tuple(column for column in model.columns if column.name not in ("z", "Novelty", "Bad_Fraction"))
    assert len(kept) == 30
    return model.model_copy(update={"columns": kept})


def blocks() -> list[dict[str, np.ndarray]]:
    """A few blocks of rows, through the data model; a catalogue repeats them."""
    return [_block(seed) for seed in range(BLOCKS)]


def stream(made: list[dict[str, np.ndarray]], n_rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Blocks in turn, ``n_rows`` rows in all."""
    for number, start in enumerate(range(0, n_rows, BLOCK_ROWS)):
        rows = min(BLOCK_ROWS, n_rows - start)
        yield {name: values[:rows] for name, values in made[number % BLOCKS].items()}


def _block(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = BLOCK_ROWS
    age = rng.gamma(3, 2, rows).clip(0.3, 15)
    mass = 1.02 * (10 / age) ** 0.3
    status = np.where(rng.random(rows) < 0.2, RowStatus.NO_SPECTRUM, RowStatus.OK).astype(np.uint8)
    namespace = {
        "status": status,
        "obsid": 100_000_000 + seed * rows + np.arange(rows),
        "ra": rng.uniform(0, 360, rows).round(7),
        "dec": rng.uniform(-10, 60, rows).round(7),
        "class": np.full(rows, "STAR", object).astype(STRING),
        "subclass": np.array(["G5", "G8", "K0", "K1", "K3", "K5"], STRING)[rng.integers(0, 6, rows)],
        "snrg": rng.lognormal(4, 0.6, rows).round(2),
        "teff": rng.normal(4800, 250, rows).round(2),
        "logg": rng.normal(2.6, 0.4, rows).round(3),
        "feh": rng.normal(-0.2, 0.3, rows).round(3),
        "z": rng.normal(0, 1e-4, rows).round(8),
        "file_z": rng.normal(0, 1e-4, rows).round(8),
        "file_snrg": rng.lognormal(4, 0.6, rows).round(2),
        "prediction.domain.teff": (3800.0, 5500.0),
        "prediction.domain.logg": (0.5, 3.6),
        "prediction.domain.feh": (-2.5, 0.6),
        "prediction.novelty_limit": 1.0,
    }
    for name in sorted(thirty_columns().required_names | {"prediction.novelty", "prediction.bad_fraction"}):
        if name.startswith("prediction.") and name not in namespace:
            base = mass if "mass" in name else age
            scale = 0.2 if "error" in name else 1.0
            values = scale * base * rng.normal(1, 0.1, rows)
            namespace[name] = np.where(status == RowStatus.OK, values, np.nan).astype(np.float32)
    return thirty_columns().evaluate(namespace)


def table_in_memory(n_rows: int) -> Table:
    """All columns as arrays, text of fixed width, as astropy wants them."""
    made = blocks()
    columns = {}
    for column in thirty_columns().columns:
        values = np.concatenate([block[column.name] for block in stream(made, n_rows)])
        columns[column.name] = np.array(values.tolist()) if column.dtype == "str" else values
    return Table(columns, copy=False)


def measure_writer(name: str, path: Path, n_rows: int) -> None:
    """Our side: the blocks through a streaming writer."""
    made, model = blocks(), thirty_columns()
    start, cpu = time.perf_counter(), time.process_time()
    with writer_for(name)(path, model, n_rows, {"DATE": "2026-01-01"}) as writer:
        for block in stream(made, n_rows):
            writer.write(block)
    report(start, cpu)


def compare_sides(
    module: str,
    description: str | None,
    sides: dict[str, Callable[[Path, int], None]],
    check: Callable[[Path, Path], None],
) -> None:
    """The command of a benchmark: with ``--side`` one side in this process, without it all of them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--side", choices=[*sides])
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.side:
        sides[options.side](options.path, options.rows)
    else:
        run_sides(module, tuple(sides), options.rows, options.runs, check)


def run_sides(module: str, sides: tuple[str, ...], n_rows: int, runs: int, check: Callable[[Path, Path], None]) -> None:
    """Run both sides in turn in processes of their own, check their files against each other, print medians."""
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as directory:
        files = {side: Path(directory) / side for side in sides}
        for run in range(runs):
            for side in sides:
                command = [
                    sys.executable,
                    "-m",
                    module,
                    "--side",
                    side,
                    "--rows",
                    str(n_rows),
                    "--path",
                    str(files[side]),
                ]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                measured[side].append(json.loads(output.splitlines()[-1]))
            if run == 0:
                check(files[sides[0]], files[sides[1]])
        sizes = {side: files[side].stat().st_size for side in sides}
    first = statistics.median(result["seconds"] for result in measured[sides[0]])
    print(f"{n_rows} rows x 30 columns, median of {runs} runs; both files hold the same values")
    for side in sides:
        seconds = [result["seconds"] for result in measured[side]]
        median = statistics.median(seconds)
        print(
            f"{side:12s} {median:8.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            f"  {n_rows / median / 1e6:6.2f} M rows/s"
            f"  {first / median:6.2f} x  CPU {statistics.median(r['cpu'] for r in measured[side]):6.2f} s"
            f"  peak memory {max(r['peak'] for r in measured[side]):6.0f} MB"
            f"  file {sizes[side] / 1e6:6.0f} MB"
        )


def report(start: float, cpu: float) -> None:
    """Print what one side took, for :func:`run_sides`."""
    seconds = time.perf_counter() - start
    # Not getrusage, whose maximum a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "peak": peak}))
