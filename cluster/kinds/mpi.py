"""One big allocation: the command runs on its first node and starts a worker per task with ``srun`` or ``mpirun``.

dask-jobqueue's ``SLURMRunner`` and dask-mpi run the whole command once per task instead, where each task finds out
which part it plays; everything that the command does before would be done as many times. Here only workers are
started by the launcher, so that nothing else has to know.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import dask
from distributed import Client, Scheduler, SpecCluster
from pydantic import Field

from cluster.batch import LOOPBACK_DASHBOARD, SCHEDULING, WORKER_MEMORY
from cluster.drain import drain_before_leaving
from cluster.errors import ClusterError
from cluster.facts import remember_trouble
from cluster.quiet import quiet
from cluster.security import credential_files
from cluster.settings import ClusterSettings
from cluster.threads import thread_environment
from cluster.walltime import Lifetime


class Settings(ClusterSettings):
    """Keys of a cluster inside one allocation.

    Attributes
    ----------
    launcher : list of str
        Command that runs what follows it once per task of the allocation, as ``[srun, --ntasks=64]`` or
        ``[mpirun, -np, "64"]``.
    threads : int
        Threads of the numerical libraries in each worker process.
    interface : str or None
        Network interface of scheduler and workers, as ib0.
    python : str
        Interpreter on the nodes.
    tls : bool
        Encrypt and authenticate. Without it every user of the machine could run code as you.
    dashboard : str
        Address and port of the dashboard, on the machine where the command runs.
    lifetime : float or None
        Workers leave at this age [s]; None lets them stay until the allocation ends.
    worker_arguments : list of str
        Further arguments of ``dask worker``.
    """

    kind: Literal["mpi"]
    launcher: list[str] = Field(default=["srun"], min_length=1)
    threads: int = Field(default=1, ge=1)
    interface: str | None = None
    python: str = sys.executable
    tls: bool = True
    dashboard: str = LOOPBACK_DASHBOARD
    lifetime: float | None = Field(default=None, gt=0)
    worker_arguments: list[str] = Field(default_factory=list)

    @contextmanager
    def open(self, *, scratch: Path, workers: int | None) -> Iterator[Client]:
        """Start a scheduler here and the workers with the launcher."""
        logs = scratch / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (
            dask.config.set(SCHEDULING),
            quiet(),
            credential_files(scratch) if self.tls else contextlib.nullcontext() as security,
            self._scheduler(security) as cluster,
            Client(cluster, security=security, set_as_default=False) as client,
        ):
            if self.lifetime is not None:
                drain_before_leaving(client, Lifetime(self.lifetime, 0.0, self.lifetime / 9).drain)
            with self._launched(cluster.scheduler_address, security, logs / "workers.log") as process:
                remember_trouble(client, lambda: self._trouble(process, logs / "workers.log"))
                yield client

    def _scheduler(self, security: Any) -> SpecCluster:
        options = {
            "protocol": "tls://" if security is not None else "tcp://",
            "security": security,
            "interface": self.interface,
            "dashboard_address": self.dashboard,
            "port": 0,
        }
        return SpecCluster(workers={}, scheduler={"cls": Scheduler, "options": options}, security=security)

    def command(self, address: str, security: Any) -> list[str]:
        """Command line that starts the workers of a scheduler."""
        command = [*self.launcher, self.python, "-m", "distributed.cli.dask_worker", address]
        command += ["--nthreads", "1", "--nworkers", "1", "--memory-limit", "0", "--death-timeout", "60"]
        command += ["--no-dashboard", "--dashboard-address", LOOPBACK_DASHBOARD]
        if self.interface is not None:
            command += ["--interface", self.interface]
        if self.lifetime is not None:
            command += ["--lifetime", f"{self.lifetime:.0f}s"]
        if security is not None:
            files = security.get_tls_config_for_role("worker")
            command += ["--protocol", "tls://", "--tls-ca-file", files["ca_file"]]
            command += ["--tls-cert", files["cert"], "--tls-key", files["key"]]
        return command + self.worker_arguments

    @contextmanager
    def _launched(self, address: str, security: Any, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        environment = os.environ | thread_environment(self.threads) | WORKER_MEMORY
        with log.open("ab") as file:
            try:
                # A session of its own: Ctrl-C is for the command, which lets the tasks finish.
                process = subprocess.Popen(
                    self.command(address, security),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ClusterError(f"launcher: {self.launcher[0]} could not be started: {error}") from error
            try:
                yield process
            finally:
                end_group(process)

    def _trouble(self, process: subprocess.Popen[bytes], log: Path) -> str | None:
        code = process.poll()
        return None if code is None else f"the launcher {self.launcher[0]} ended with {code}; look at {log}"


def end_group(process: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    """End a process and its children, by force where asking does not help within ``patience`` seconds."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, order)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
