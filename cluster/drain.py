"""A worker that will soon leave finishes what it runs and starts nothing new."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import psutil
from distributed import Client, WorkerPlugin
from distributed.core import Status

LOOK = 0.2  # between looks at whether the worker is idle [s]


class DrainBeforeLeaving(WorkerPlugin):
    """Let a worker that has a lifetime finish its task before it leaves.

    Dask's own retirement gives a task that is running to another worker at once: it would be done twice.

    Parameters
    ----------
    seconds : float
        For so long before the end of its lifetime a worker starts nothing new [s].
    """

    name = "drain-before-leaving"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._drain: asyncio.Task[None] | None = None

    def setup(self, worker: Any) -> None:
        """Set the clock of a worker that starts, or of one that has been running."""
        if worker.lifetime is None:
            return
        wait = max(0.0, worker.lifetime - job_age(has_nanny=worker.nanny is not None) - self.seconds)
        self._drain = asyncio.get_running_loop().create_task(self._leave(worker, wait))

    def teardown(self, worker: Any) -> None:
        """Stop the clock of a worker that closes for another reason."""
        if self._drain is not None and asyncio.current_task() is not self._drain:
            self._drain.cancel()

    async def _leave(self, worker: Any, wait: float) -> None:
        await asyncio.sleep(wait)
        # A paused worker keeps what it runs; the scheduler gives it nothing more.
        worker.status = Status.paused
        while worker.state.executing:
            await asyncio.sleep(LOOK)
        self._drain = None
        # Closing removes the plugins, and with them this coroutine's task: let another one do it.
        worker.loop.add_callback(worker.close_gracefully, reason="walltime is near")


def job_age(*, has_nanny: bool) -> float:
    """Time since the process that a job started began [s].

    A worker that its nanny started again has a new lifetime, but its job has not.
    """
    process = psutil.Process(os.getppid() if has_nanny else os.getpid())
    return max(0.0, time.time() - process.create_time())


def drain_before_leaving(client: Client, seconds: float) -> None:
    """Have all workers of a client, also those that join later, drain before the end of their lifetime."""
    client.register_plugin(DrainBeforeLeaving(seconds))
