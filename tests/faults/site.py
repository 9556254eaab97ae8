"""A cluster of processes that may be killed one by one, and builds on it by a driver that may be killed too."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import dask
import psutil

import cluster
from catalogue.pipeline import faults
from catalogue.pipeline.build import build
from tests.factories.runs import load

ROOT = Path(__file__).resolve().parents[2]
START = 300  # longest wait for a process to be there [s]

# Its children have everything imported when they begin, and nothing of the test process.
_drivers = multiprocessing.get_context("forkserver")
_drivers.set_forkserver_preload([__name__])


class Site:
    """A scheduler and workers with their nannies, each in a process of its own.

    Parameters
    ----------
    directory : Path
    workers : int
    """

    def __init__(self, directory: Path, workers: int = 2) -> None:
        self.directory = directory
        self.workers = workers
        self.plan = directory / "faults.json"
        self.scheduler: subprocess.Popen | None = None
        self.nannies: list[subprocess.Popen] = []
        self._log = (directory / "log").open("wb")

    @property
    def address(self) -> str:
        return json.loads((self.directory / "scheduler.json").read_text())["address"]

    def repair(self) -> None:
        """Start whatever is not there."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.stop()
            (self.directory / "scheduler.json").unlink(missing_ok=True)
            arguments = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
            arguments += ["--idle-timeout", "30 minutes"]  # should this process be killed itself
            self.scheduler = self._start("distributed.cli.dask_scheduler", *arguments)
            wait_for(lambda: (self.directory / "scheduler.json").exists())
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < self.workers:
            arguments = [
                "--host",
                "127.0.0.1",
                "--nthreads",
                "1",
                "--memory-limit",
                "0",
                "--no-dashboard",
                "--death-timeout",
                "60",
            ]
            self.nannies.append(self._start("tests.faults.nanny", *arguments))

    def _start(self, module: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", module, *arguments]
        command += ["--scheduler-file", str(self.directory / "scheduler.json")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), faults.VARIABLE: str(self.plan), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=environment, cwd=self.directory, start_new_session=True
        )

    def stop(self) -> None:
        for process in [*self.nannies, *([self.scheduler] if self.scheduler else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.nannies, self.scheduler = [], None

    def worker_process(self, number: int) -> psutil.Process | None:
        """Process of a worker, None while its nanny is starting it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            # The nanny's children are a tracker and a server, whose child is the worker.
            for child in psutil.Process(self.nannies[number].pid).children():
                for worker in child.children():
                    return worker
        return None

    def plan_faults(self, *planned: dict[str, object]) -> None:
        for counter in self.directory.glob("faults.json.*"):
            counter.unlink()
        self.plan.write_text(json.dumps(planned))

    def times_passed(self, number: int) -> int:
        counter = self.directory / f"faults.json.{number}"
        return counter.stat().st_size if counter.exists() else 0

    def go(self) -> None:
        """Let go on whatever waits."""
        Path(f"{self.plan}.go").touch()

    def begin(self, configuration: Path, directory: Path, *, with_cluster: bool = True, **policy: object) -> Driver:
        """Begin a build in a process of its own."""
        where = self.address if with_cluster else None
        return Driver(configuration, directory, where, len(self.nannies), self.plan, policy)

    def build(self, configuration: Path, directory: Path, **keywords: object) -> Driver:
        """Build to the end."""
        driver = self.begin(configuration, directory, **keywords)
        driver.wait()
        return driver


class Driver:
    """A build in a process of its own."""

    def __init__(self, configuration, directory, address, workers, plan, policy) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / "driver.log"
        self.log.unlink(missing_ok=True)
        self.mark = directory / "driver.began"
        self.mark.unlink(missing_ok=True)
        arguments = (configuration, directory, address, workers, plan, policy)
        self.process = _drivers.Process(target=_drive, args=arguments, daemon=True)
        self.process.start()

    def wait_until_begun(self) -> None:
        wait_for(lambda: self.mark.exists() or not self.process.is_alive())

    def wait(self) -> None:
        self.process.join(600)
        assert self.process.exitcode is not None, f"still running: {self.told}"

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _drive(configuration, directory, address, workers, plan, policy) -> None:
    log = os.open(directory / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ |= {faults.VARIABLE: str(plan), "SOURCE_DATE_EPOCH": "1700000000"}
    faults.watch_files()
    try:
        _build(configuration, directory, address, workers, policy)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # Not by the usual way: a client without its scheduler takes long to take its leave.
        os._exit(1)
    os._exit(0)


def _build(configuration, directory, address, workers, policy) -> None:
    cluster.run_tasks = functools.partial(cluster.run_tasks, policy=cluster.RetryPolicy(first_delay=0.1, **policy))
    run = load(configuration, f"output.directory={directory / 'run'}")
    if address is None:
        (directory / "driver.began").touch()
        build(run)
        return
    where = {"kind": "address", "address": address, "timeout": 30}
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
        cluster.connect(where, relative_to=directory, scratch=directory) as client,
    ):
        client.wait_for_workers(workers, timeout=START)
        # What a killed driver left running would be counted with ours.
        wait_for(lambda: not any(client.run(_executing).values()))
        (directory / "driver.began").touch()
        build(run, client=client)


def _executing(dask_worker) -> int:
    return len(dask_worker.state.executing)


def wait_for(condition) -> None:
    deadline = time.monotonic() + START
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def partial_files(directory: Path) -> list[Path]:
    """What killed processes left half-written."""
    return sorted(path for path in directory.rglob("*") if "partial" in path.name)
