"""Where the work runs, and the driver that keeps a bounded window of it in flight.

Nothing here knows of spectra or catalogues: `connect` gives a `distributed.Client` for a laptop, a GPU machine, a
batch system or a scheduler that already runs; `run_tasks` runs independent tasks on it and survives the loss of
workers, nodes and patience.
"""

from __future__ import annotations

from cluster.connect import connect, job_script
from cluster.driver import run_tasks
from cluster.errors import (
    ClusterError,
    NoWorkersError,
    SchedulerLostError,
    StorageFullError,
    TaskFailed,
    TooManyFailuresError,
)
from cluster.tasks import Outcome, Progress, RetryPolicy, SetAside, Task

__all__ = [
    "ClusterError",
    "NoWorkersError",
    "Outcome",
    "Progress",
    "RetryPolicy",
    "SchedulerLostError",
    "SetAside",
    "StorageFullError",
    "Task",
    "TaskFailed",
    "TooManyFailuresError",
    "connect",
    "job_script",
    "run_tasks",
]
