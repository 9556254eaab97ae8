"""Worker processes on this machine, one Dask thread each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from pydantic import Field

from cluster.quiet import quiet
from cluster.security import loopback_security
from cluster.settings import ClusterSettings
from cluster.threads import VARIABLES, thread_environment, unchanged_environment

LOOPBACK = "127.0.0.1"


class Settings(ClusterSettings):
    """Keys of a local cluster.

    Attributes
    ----------
    workers : int or None
        Processes; None takes one per core that this process may use.
    threads : int or None
        Threads of the numerical libraries in each; None shares the cores out, at least one each.
    memory_limit : str or float
        Memory at which a worker is ended and its task repeated, as "4 GiB" or a fraction of the machine's;
        0 sets none.
    tls : bool or None
        Encrypt and authenticate although only the loopback is used, since every user of the machine reaches that;
        None does so where the package cryptography is installed.
    dashboard : str
        Address and port of the dashboard.
    """

    kind: Literal["local"]
    workers: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    memory_limit: str | float = 0
    tls: bool | None = None
    dashboard: str = f"{LOOPBACK}:0"

    @contextmanager
    def open(self, *, scratch: Path, workers: int | None) -> Iterator[Client]:
        """Start the processes."""
        scratch.mkdir(parents=True, exist_ok=True)
        count = workers or self.workers or max(1, CPU_COUNT // (self.threads or 1))
        threads = self.threads or max(1, CPU_COUNT // count)
        security = loopback_security(self.tls)
        with (
            unchanged_environment(),
            dask.config.set(local_configuration(threads, count)),
            quiet(),
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host=LOOPBACK,
                dashboard_address=self.dashboard,
                memory_limit=self.memory_limit,
                local_directory=str(scratch),
                preload=["cluster.shield"],
                security=security,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, security=security, set_as_default=False) as client,
        ):
            # A worker whose nanny died is not started again by itself; this keeps the number.
            cluster.adapt(minimum=count, maximum=count)
            yield client


def local_configuration(threads: int, processes: int = 1) -> dict[str, object]:
    """Dask configuration of worker processes that hold no results and share the machine's cores.

    ``processes`` of them see the same GPUs.

    Nothing is spilled and no worker is paused: memory is the task's own, which neither would give back.
    """
    # Dask lets what the user has set win over these.
    environment = thread_environment(threads, processes)
    # needed before a process starts, for which a nanny sets them in its own
    at_start = {"MALLOC_TRIM_THRESHOLD_": 65536, **{name: environment.pop(name) for name in VARIABLES}}
    return {
        "distributed.nanny.pre-spawn-environ": at_start,
        "distributed.nanny.environ": {**dask.config.get("distributed.nanny.environ", {}), **environment},
        # Tasks wait at the scheduler where it can, so that a dying worker takes few with it.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.multiprocessing-method": os.environ.get(
            "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "spawn"
        ),
    }
