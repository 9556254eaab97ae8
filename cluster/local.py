"""Worker processes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from distributed import Client, LocalCluster

SCHEDULING = {
    # A task waits at the scheduler until a thread is free, so that a dying worker takes only the task it runs with it.
    "distributed.scheduler.worker-saturation": 1.0,
    # Deaths are counted by the driver, per task, and reported at the first one.
    "distributed.scheduler.allowed-failures": 0,
}


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def local(scratch: Path, workers: int | None = None, dashboard: str = "127.0.0.1:0") -> Iterator[Client]:
    """Start processes with one thread each, listening on the loopback alone.

    Parameters
    ----------
    scratch : Path
        Workers' local directory.
    workers : int, optional
        Number of processes; None takes one per core, so that every core is used once.
    dashboard : str
        Address of the dashboard.
    """
    with (
        dask.config.set(SCHEDULING),
        LocalCluster(
            n_workers=available_cores() if workers is None else workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=dashboard,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
