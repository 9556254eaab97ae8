"""A build in a process whose clock is set during it: ``python -m tests.faults.stepped_clock CONFIG OVERRIDE SECONDS``.

The clock is replaced before anything else is imported, because Dask and Tornado each keep a reference of their own: if
only one of them saw the step, every wait would be too long by it.
"""

from __future__ import annotations

import time

_now, _offset = time.time, [0.0]
time.time = lambda: _now() + _offset[0]

import json  # noqa: E402
import sys  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from pathlib import Path  # noqa: E402

import psutil  # noqa: E402

from catalogue.pipeline.build import Quiet, build  # noqa: E402
from tests.factories.runs import build_here, load  # noqa: E402


class SetTheClock(Quiet):
    """Progress that sets the clock when the first rows are done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began, self._created = psutil.boot_time, psutil.Process.create_time
        psutil.boot_time = lambda: self._began() + _offset[0]
        psutil.Process.create_time = lambda process: self._created(process) + _offset[0]

    def advance(self, rows: int) -> None:
        _offset[0] = self.seconds

    def stage(self, name: str, rows: int, dashboard: str | None) -> nullcontext:
        return nullcontext(self.advance)


if __name__ == "__main__":
    configuration, override, seconds = Path(sys.argv[1]), *sys.argv[2:]
    digests = build_here(configuration, override, progress=SetTheClock(float(seconds)))
    again = build(load(configuration, override))
    print(json.dumps({"digests": digests, "nothing_to_do": again.nothing_to_do}))
