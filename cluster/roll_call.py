"""The number of jobs is kept: one that has left the queue is submitted again.

Dask's own adaptive scaling is not used: it never notices a job that ended before its worker came, nor any job that has
several workers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed.core import Status

from cluster.errors import ClusterError

INTERVAL = 5.0  # between roll calls [s]
PATIENCE = 10.0  # a job without workers for so long is looked up in the queue [s]
VAIN_JOBS = 3  # so many rounds of jobs that end without ever having had a worker are no accident


class RollCall:
    """Submits jobs and replaces those that ended.

    Parameters
    ----------
    cluster : dask_jobqueue.core.JobQueueCluster
    jobs : int
        How many there shall be.
    list_command : sequence of str
        Prints the identifiers of the user's jobs that wait or run.
    log_directory : Path
        Where the jobs' logs are, for messages.
    """

    def __init__(self, cluster: Any, jobs: int, list_command: Sequence[str], log_directory: Path) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._list_command = list_command
        self._log_directory = log_directory
        self._last_seen: dict[str, float] = {}
        self._had_worker: set[str] = set()
        self._in_vain = 0
        self._trouble: str | None = None
        self._last_error = ""
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> RollCall:
        try:
            self._cluster.sync(self._start)
        except RuntimeError as error:
            self._cluster.sync(self._stop)
            raise ClusterError(f"the batch system does not take the job: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.sync(self._stop)

    def trouble(self) -> str | None:
        """Why no workers will come, or None."""
        return self._trouble

    async def _start(self) -> None:
        while len(self._cluster.worker_spec) < self._jobs:
            self._cluster.worker_spec.update(self._cluster.new_worker_spec())
        await self._cluster
        self._task = asyncio.create_task(self._forever())

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for job in self._cluster._created:
            # Dask takes a job that the batch system refused for one that was never tried, and fails at closing.
            if job.status == Status.created:
                job.status = Status.failed

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            if self._trouble is None:
                try:
                    await self._call()
                except (RuntimeError, OSError) as error:
                    # A batch system that does not answer for a while is common, and no reason to stop.
                    self._last_error = f"; the batch system said last: {error}"

    async def _call(self) -> None:
        """Look which jobs have workers, ask the queue for the others, submit again those that it does not know."""
        silent = self._silent_jobs()
        if silent:
            listed = await self._listed()
            for name in silent:
                job = self._cluster.workers.get(name)
                if job is not None and _number(job.job_id) not in listed:
                    self._drop(name)
        if set(self._cluster.worker_spec) - set(self._cluster.workers):
            await self._cluster

    def _silent_jobs(self) -> list[str]:
        now = time.monotonic()
        present = {str(worker["name"]) for worker in self._cluster.scheduler_info["workers"].values()}
        silent = []
        for name in list(self._cluster.workers):
            seen = self._last_seen.setdefault(name, now)
            if present & self._worker_names(name):
                self._last_seen[name] = now
                self._had_worker.add(name)
                self._in_vain = 0
            elif now - seen > PATIENCE:
                silent.append(name)
        return silent

    def _worker_names(self, name: str) -> set[str]:
        group = self._cluster.worker_spec.get(name, {}).get("group")
        return {f"{name}{suffix}" for suffix in group} if group else {str(name)}

    def _drop(self, name: str) -> None:
        if name not in self._had_worker:
            self._in_vain += 1
            if self._in_vain >= VAIN_JOBS * self._jobs:
                self._trouble = (
                    f"{self._in_vain} jobs in a row ended before a worker came, the last being "
                    f"{self._cluster.workers[name].job_id}; look at the logs in {self._log_directory}{self._last_error}"
                )
        self._had_worker.discard(name)
        self._last_seen.pop(name, None)
        del self._cluster.workers[name]

    async def _listed(self) -> set[str]:
        process = await asyncio.create_subprocess_exec(
            *self._list_command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{self._list_command[0]} answered {process.returncode}: {err.decode().strip()}")
        return {_number(line) for line in out.decode().split()}


def _number(job_id: str | None) -> str:
    """Digits of a job's identifier, without the server that PBS appends."""
    match = re.match(r"\d+", job_id or "")
    return match.group() if match else ""
