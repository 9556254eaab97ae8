"""Planning of a large run, its merge, and a run with nothing to do, with generated predictions.

Run: ``python -m benchmarks.planning [--rows 10000000] [--runs 5] [--formats fits csv]``

Every command runs in a process of its own, so that times include starting Python and importing, and peak memory is
that of the driver.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.generated_run import Finished, command, pretend_done, write_configuration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=["fits", "csv"])
    parser.add_argument("--scratch", type=Path, help="keep the run here, and go on with one that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        configuration = scratch / "run.yaml"
        if not configuration.exists():
            configuration = write_configuration(scratch, options.rows, tuple(options.formats))
            show("plan of a new table, import included", command("plan", str(configuration)), options.rows)
            began = time.perf_counter()
            run = pretend_done(configuration)
            units = len(list(run.directory.ingest_records.iterdir()))
            print(f"{units} units of each stage; generated in {time.perf_counter() - began:.0f} s")
        show("build: merge and report", command("build", str(configuration)), options.rows)
        for name in ("build", "plan", "status"):
            found = [command(name, str(configuration)) for _ in range(options.runs)]
            assert all(one.code == 0 for one in found), found[0].output
            middle = sorted(found, key=lambda one: one.seconds)[options.runs // 2]
            show(f"{name} with nothing to do, median of {options.runs}", middle, options.rows)
            print("  seconds:", " ".join(f"{one.seconds:.2f}" for one in found))


def show(what: str, found: Finished, rows: int) -> None:
    print(
        f"{rows:>9} rows  {what:44s} {found.seconds:8.2f} s  CPU {found.cpu:7.2f} s  peak {found.peak:5.0f} MiB"
        f"  exit {found.code}  | {found.output.strip().splitlines()[0] if found.output.strip() else ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
