"""How cost grows: with rows, with dropout passes, with workers.

Run: ``python -m benchmarks.growth DATA rows|generated|passes|workers [--sizes ...]`` with DATA a directory of LAMOST
``.fits.gz`` files with OBSID.

``rows``: ``catalogue build`` from files to FITS and CSV over 10^3 rows and more; the survey is links to the files.
``generated``: plan, merge and a build with nothing to do over generated predictions. ``passes``: the model alone over
T. ``workers``: ``rows`` with one and two workers. Memory is resident, of all processes of a command together, polled.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
import yaml
from astropy.io import fits

from benchmarks.generated_run import command, pretend_done, write_configuration
from benchmarks.infer_share import apogee, lamost
from catalogue.models import InferenceSettings, find_bundle, load_model

STAGES = ("ingest", "infer", "merge")


def write_survey(data: Path, scratch: Path, rows: int, workers: int) -> Path:
    """Links to the files, a parent table and a configuration."""
    paths = sorted(data.glob("*.fits.gz"))
    obsids = [int(fits.getheader(path)["OBSID"]) for path in paths]
    lines = ["obsid,filename"]
    copied = [scratch / path.name for path in paths]
    for path, copy in zip(paths, copied, strict=True):
        copy.write_bytes(path.read_bytes())
    for row in range(rows):
        number, file = divmod(row, len(paths))
        name = f"{number:05d}/{paths[file].name}"
        place = scratch / "spectra" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(copied[file], place)
        lines.append(f"{obsids[file]},{name}")
    (scratch / "parent.csv").write_text("\n".join(lines) + "\n")
    content = {
        "survey": "lamost-lrs",
        "parent": {"path": "parent.csv", "key": "obsid"},
        "spectra": {"root": "spectra", "path": "{filename}"},
        "model": "spt-lamost",
        "product": "lamost_age_mass",
        "output": {"directory": "run", "formats": ["fits", "csv"], "report": False},
        "workers": workers,
        "inference": {"device": "cpu"},
    }
    path = scratch / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def watched(configuration: Path) -> tuple[str, float, float]:
    """Output, seconds and peak memory in MiB of a build."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "catalogue", "build", str(configuration)], stdout=subprocess.PIPE, text=True
    )
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(one.memory_info().rss for one in family))
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    output, _ = process.communicate()
    over.set()
    if process.returncode:
        raise RuntimeError(output)
    return output, time.perf_counter() - began, peak[0] / 2**20


def on_disk(directory: Path) -> tuple[int, float]:
    """Files and megabytes below a directory."""
    sizes = [entry.stat().st_size for entry in directory.rglob("*") if entry.is_file()]
    return len(sizes), sum(sizes) / 1e6


def grow_rows(data: Path, sizes: list[int], workers: list[int]) -> None:
    print(f"{'rows':>8s} workers {'ingest s':>9s} {'infer s':>8s} {'merge s':>8s} {'all s':>8s} {'rows/s':>7s} "
          f"{'MiB':>6s} {'files':>6s} {'MB on disk':>10s}")  # fmt: skip
    for rows in sizes:
        for count in workers:
            with tempfile.TemporaryDirectory() as directory:
                scratch = Path(directory)
                output, seconds, peak = watched(write_survey(data, scratch, rows, count))
                found = dict(re.findall(r"(\w+)[\w ]*: [\d,]+ rows in ([\d.]+) s", output))
                files, size = on_disk(scratch / "run")
                times = [float(found.get(stage, "nan")) for stage in STAGES]
                print(
                    f"{rows:8d} {count:7d} {times[0]:9.1f} {times[1]:8.1f} {times[2]:8.1f} {seconds:8.1f} "
                    f"{rows / sum(times):7.0f} {peak:6.0f} {files:6d} {size:10.1f}",
                    flush=True,
                )


def grow_generated(sizes: list[int]) -> None:
    print(f"{'rows':>9s} {'units':>6s} {'plan s':>7s} {'MiB':>5s} {'merge s':>8s} {'MiB':>5s} {'nothing s':>9s} "
          f"{'MiB':>5s} {'files':>6s} {'MB on disk':>10s}")  # fmt: skip
    for rows in sizes:
        with tempfile.TemporaryDirectory() as directory:
            configuration = write_configuration(Path(directory), rows)
            plan = command("plan", str(configuration))
            run = pretend_done(configuration)
            units = len(list(run.directory.ingest_records.iterdir()))
            merge = command("build", str(configuration))
            again = command("build", str(configuration))
            assert "nothing to do" in again.output, again.output
            files, size = on_disk(run.directory.root)
            print(
                f"{rows:9d} {units:6d} {plan.seconds:7.2f} {plan.peak:5.0f} {merge.seconds:8.1f} {merge.peak:5.0f} "
                f"{again.seconds:9.2f} {again.peak:5.0f} {files:6d} {size:10.1f}",
                flush=True,
            )


def grow_passes(sizes: list[int], rows: int = 512) -> None:
    torch.set_num_threads(1)
    print(f"model alone, {rows} rows, one thread: ms per star (and what the first call takes, s)")
    for bundle, make in (("spt-lamost", lamost), ("astronn-bcnn-apogee-simulated", apogee)):
        for passes in sizes:
            model = load_model(find_bundle(bundle, Path.cwd()))
            batch, settings = make(model, rows), InferenceSettings(device="cpu", passes=passes)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                model.predict(batch, settings)
                times.append(time.perf_counter() - began)
            print(f"{bundle:32s} T = {passes:4d} {1000 * min(times[1:]) / rows:9.3f} {times[0]:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("what", choices=["rows", "generated", "passes", "workers"])
    parser.add_argument("--sizes", type=int, nargs="+")
    options = parser.parse_args()
    if options.what == "rows":
        grow_rows(options.data, options.sizes or [1000, 10_000, 100_000], [2])
    elif options.what == "generated":
        grow_generated(options.sizes or [10**n for n in range(3, 8)])
    elif options.what == "passes":
        grow_passes(options.sizes or [2, 10, 50, 100, 200, 400])
    else:
        grow_rows(options.data, options.sizes or [10_000], [1, 2])


if __name__ == "__main__":
    main()
