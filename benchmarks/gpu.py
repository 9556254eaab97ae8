"""What a GPU does with the models: stars per second, utilisation, time in I/O, and the share of the GPU's limits.

Run on a GPU node: ``python -m benchmarks.gpu [--rows 32768] [--passes 100] [--runs 5] [--device cuda]``

For every model the infer stage (store to predictions on disk) against ``predict`` on the same rows in memory, in turn,
after one warm-up; both must give the same bytes. The limits are computed before anything is timed, from operations
and bytes a star (:mod:`benchmarks.device_work`) and from what this GPU does with one large product and one large copy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.device_work import work
from benchmarks.infer_share import apogee, lamost, times_of
from catalogue.models import find_bundle, load_model
from catalogue.spectra.primitives import GRANULE_ROWS

MODELS = (
    ("spt-lamost", "lamost-lrs", lamost, "LAMOST DR10", 11_400_000),
    ("astronn-bcnn-apogee-simulated", "apogee", apogee, "APOGEE DR17", 733_901),
)
"""Bundle, survey, spectra, release and its number of spectra."""


class Utilisation:
    """Share of the time in which the GPU was at work, as its driver samples it, by what was going on."""

    def __init__(self, device: torch.device) -> None:
        self._uuid = str(torch.cuda.get_device_properties(device).uuid)
        self._seen: dict[str, list[float]] = {}

    def query(self, what: str) -> str:
        """What ``nvidia-smi`` says of the device, empty where there is no such command."""
        command = ["nvidia-smi", f"--id=GPU-{self._uuid}", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
        return ""

    @contextlib.contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Sample while the block runs."""
        over = threading.Event()

        def sample() -> None:
            while not over.wait(0.2):
                with contextlib.suppress(ValueError):
                    self._seen.setdefault(name, []).append(float(self.query("utilization.gpu")))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def of(self, name: str) -> str:
        """Mean of the samples."""
        seen = self._seen.get(name, [])
        return f"{statistics.mean(seen):.0f} %" if seen else "not sampled"


def best(function: Callable[[], object], runs: int = 5) -> float:
    """Seconds of the fastest of some runs on the device."""
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def limits(device: torch.device) -> tuple[float, float]:
    """Operations and bytes a second: of a float32 product without TF32, and of a copy, counted in both directions."""
    size = 8192
    matrix = torch.randn(size, size, device=device)
    operations = 2 * size**3 / best(lambda: matrix @ matrix)
    many = torch.zeros(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(many)
    return operations, 2 * len(many) / best(lambda: target.copy_(many))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 32768), ("chunk", 4096), ("passes", 100), ("runs", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device is seen by torch: run it on a GPU node, with torch built for CUDA")
        return 2
    device = torch.device(options.device)
    torch.cuda.set_device(device.index or 0)
    torch.backends.cuda.matmul.allow_tf32 = False
    facts = Utilisation(device)
    driver = facts.query("driver_version") or "unknown"
    print(f"{torch.cuda.get_device_name(device)}, driver {driver}, torch {torch.__version__}, {os.cpu_count()} cores")
    operations, transfer = limits(device)
    print(f"float32 product {operations / 1e12:.1f} TFLOP/s, copy {transfer / 1e12:.2f} TB/s")
    print(f"{options.rows} rows in chunks of {options.chunk}, T = {options.passes}, medians of {options.runs} runs\n")
    print("| model | limit, stars/s: operations, bytes | alone, stars/s | of the limit | utilisation ", end="")
    print(
        "| store to disk, stars/s | utilisation | time added by I/O | all of |\n|---|---|---|---|---|---|---|---|---|"
    )
    for bundle, survey, make, release, spectra in MODELS:
        model = load_model(find_bundle(bundle, Path.cwd()))
        flops, moved = work(model, make(model, GRANULE_ROWS), options.passes)
        bounds = operations / flops, transfer / moved
        seen = Utilisation(device)
        times = times_of(bundle, survey, make, options, options.device, seen.watched)
        alone, stage = (options.rows / statistics.median(times[name]) for name in ("alone", "stage"))
        print(
            f"| {bundle} | {bounds[0]:,.0f}, {bounds[1]:,.0f} | {alone:,.0f} | {alone / min(bounds):.0%} | "
            f"{seen.of('alone')} | {stage:,.0f} | {seen.of('stage')} | {1 - stage / alone:.0%} | "
            f"{release}, {spectra:,} spectra: {spectra / stage / 60:.1f} min |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
