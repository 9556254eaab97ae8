"""What the batch systems have in common: settings, the job's script, and a cluster made of jobs."""

from __future__ import annotations

import inspect
import logging
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import dask
from distributed import Client
from pydantic import ConfigDict, Field, field_validator, model_validator

from cluster.drain import drain_before_leaving
from cluster.errors import ClusterError, unknown_key
from cluster.facts import remember_trouble
from cluster.quiet import quiet
from cluster.roll_call import RollCall
from cluster.security import credential_files
from cluster.settings import ClusterSettings
from cluster.threads import thread_environment
from cluster.walltime import Lifetime, lifetime_below, seconds_of

LOOPBACK_DASHBOARD = "127.0.0.1:0"

LISTS = (
    "job_extra_directives", "job_script_prologue", "job_directives_skip", "worker_extra_args",
    "job_extra", "env_extra", "extra", "header_skip",
)  # fmt: skip
"""Keys of dask-jobqueue that are lists."""

# Workers hold no results, and memory that a task holds is not given back by pausing.
WORKER_MEMORY = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{name}": "False" for name in ("TARGET", "SPILL", "PAUSE")}


class BatchSettings(ClusterSettings):
    """Keys of a cluster of batch jobs; whatever is not named here goes unchanged to dask-jobqueue.

    Attributes
    ----------
    jobs : int
        Number of jobs; one that ends is replaced.
    cores : int
        Dask threads of a job, hence worker processes, since each has one thread. CPUs beyond that, for the numerical
        libraries or for reading, are asked for with dask-jobqueue's ``job_cpu`` (Slurm) or ``resource_spec`` (PBS).
    threads : int or None
        Threads of the numerical libraries in each process; None takes the job's CPUs shared over its processes.
    tls : bool
        Encrypt and authenticate. Without it every user of the cluster could run code as you.
    dashboard : str
        Address and port of the dashboard, on the machine where the command runs.
    lifetime, lifetime_stagger, drain : float or None
        When workers leave [s]; None derives them from the walltime of the jobs.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    jobs: int = Field(default=1, ge=1)
    cores: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    walltime: str | None = None
    tls: bool = True
    dashboard: str = LOOPBACK_DASHBOARD
    lifetime: float | None = Field(default=None, gt=0)
    lifetime_stagger: float | None = Field(default=None, ge=0)
    drain: float | None = Field(default=None, ge=0)
    # Jobs may wait for a day in a queue.
    worker_timeout: float | None = 86400.0

    cluster_class: ClassVar[str]
    list_command: ClassVar[tuple[str, ...]]

    @field_validator("walltime", mode="before")
    @classmethod
    def _walltime_is_text(cls, value: object) -> object:
        # YAML reads 10:00:00 without quotes as the number 36000, which Slurm would take for minutes.
        if value is not None and not isinstance(value, str):
            raise ValueError('expected text in quotes, such as "10:00:00"')
        return value

    @model_validator(mode="after")
    def _passed_on_in_their_form(self) -> Self:
        """Refuse what dask-jobqueue would write into the job letter by letter, or fail on without a word of the key."""
        for name in LISTS:
            value = self.passed_through.get(name)
            if value is not None and not isinstance(value, list):
                raise ValueError(f'{name}: expected a list, such as ["{value}"], found {value!r}')
        memory = self.passed_through.get("memory")
        if memory is not None and not isinstance(memory, str):
            raise ValueError(f'memory: expected text with a unit, such as "16 GiB", found {memory!r}')
        return self

    def open(self, *, scratch: Path, workers: int | None) -> Any:
        """Submit the jobs, and keep their number until the end."""
        return self._open(scratch, workers)

    @contextmanager
    def _open(self, scratch: Path, workers: int | None) -> Iterator[Client]:
        jobs = self.jobs if workers is None else math.ceil(workers / self.processes)
        log_directory = Path(self.passed_through.get("log_directory") or scratch / "logs")
        log_directory.mkdir(parents=True, exist_ok=True)
        shared = Path(self.passed_through.get("shared_temp_directory") or scratch).expanduser()
        with (
            dask.config.set(SCHEDULING),
            quiet(),
            credential_files(shared) if self.tls else nullcontext() as security,
            self._cluster(scratch, security) as cluster,
            Client(cluster, security=security, set_as_default=False) as client,
        ):
            lifetime = self.lifetimes
            if lifetime is not None:
                drain_before_leaving(client, lifetime.drain)
            roll_call = RollCall(cluster, jobs, self.list_command, log_directory)
            remember_trouble(client, roll_call.trouble)
            with roll_call:
                yield client

    @property
    def passed_through(self) -> dict[str, Any]:
        """Keys for dask-jobqueue."""
        return dict(self.model_extra or {})

    @property
    def processes(self) -> int:
        """Worker processes of a job."""
        return self.cores

    @property
    def cpus(self) -> int:
        """CPUs of a job, as far as the file tells."""
        return max(self.cores, int(self.passed_through.get("job_cpu") or 0))

    @property
    def lifetimes(self) -> Lifetime | None:
        """When workers leave, or None where jobs have no walltime, here or in the site's Dask configuration."""
        self._class()  # the defaults of dask-jobqueue are there once it is imported
        walltime = self.walltime or dask.config.get(f"jobqueue.{self.kind}.walltime", None)
        derived = None if walltime is None else lifetime_below(seconds_of(str(walltime)))
        if self.lifetime is None:
            return derived
        stagger = self.lifetime_stagger if self.lifetime_stagger is not None else self.lifetime / 20
        drain = self.drain if self.drain is not None else self.lifetime / 9
        return Lifetime(self.lifetime, stagger, drain)

    def job_keywords(self, scratch: Path) -> dict[str, Any]:
        """Everything that dask-jobqueue is told of a job."""
        given = self.passed_through
        self._class()  # the defaults of dask-jobqueue are there once it is imported
        if not (given.get("memory") or dask.config.get(f"jobqueue.{self.kind}.memory", None)):
            raise ClusterError('memory: missing; expected the memory of a job, such as "16 GiB"')
        processes = given.pop("processes", self.processes)
        if processes != self.processes:
            raise ClusterError(
                f"processes: expected {self.processes}, as many as cores, so that each has one Dask thread; found "
                f"{processes}. For more CPUs in a process set cores to the number of processes and ask for CPUs "
                "with job_cpu"
            )
        threads = self.threads or max(1, self.cpus // self.processes)
        variables = thread_environment(threads, self.processes) | WORKER_MEMORY
        prologue = [f"export {name}={value}" for name, value in variables.items()]
        arguments = ["--no-dashboard", "--dashboard-address", LOOPBACK_DASHBOARD]
        if (lifetime := self.lifetimes) is not None:
            arguments += ["--lifetime", f"{lifetime.duration:.0f}s"]
            arguments += ["--lifetime-stagger", f"{lifetime.stagger:.0f}s"]
        self._check_paths(scratch)
        return {
            "log_directory": str(scratch / "logs"),
            **given,
            "cores": self.cores,
            "processes": processes,
            "walltime": self.walltime,
            # The site's own lines come last, so that they win.
            "job_script_prologue": [*prologue, *given.get("job_script_prologue", [])],
            "worker_extra_args": [*arguments, *given.get("worker_extra_args", [])],
        }

    def _cluster(self, scratch: Path, security: Any) -> Any:
        keywords = self.job_keywords(scratch)
        self._check_keywords(keywords)
        options = {"dashboard_address": self.dashboard, **keywords.pop("scheduler_options", {})}
        keywords.setdefault("silence_logs", logging.CRITICAL)
        try:
            return self._class()(
                **keywords,
                scheduler_options=options,
                security=security,
                protocol="tls://" if security is not None else "tcp://",
            )
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise ClusterError(f"a cluster of kind {self.kind!r} could not be started: {error}") from error

    def script(self) -> str:
        """Text of the job of one worker; placeholders stand where only a run knows the value."""
        keywords = self.job_keywords(Path("<scratch>"))
        self._check_keywords(keywords)
        parameters = _parameters(self._class().job_cls)
        keywords = {name: value for name, value in keywords.items() if name in parameters}
        log_directory = str(keywords.pop("log_directory"))
        protocol = "tls://" if self.tls else "tcp://"
        directory = self.passed_through.get("shared_temp_directory") or "<scratch>"
        files = {
            "ca_file": f"{directory}/<credentials>/certificate.pem",
            "cert": f"{directory}/<credentials>/certificate.pem",
            "key": f"{directory}/<credentials>/key.pem",
        }
        security = SimpleNamespace(get_tls_config_for_role=lambda role: files) if self.tls else None
        # dask-jobqueue makes the directory of the logs, which is not wanted of a command that only shows.
        with tempfile.TemporaryDirectory() as stand_in:
            try:
                job = self._class().job_cls(
                    f"{protocol}<scheduler>:<port>",
                    name="<worker>",
                    protocol=protocol,
                    security=security,
                    log_directory=stand_in,
                    **keywords,
                )
            except (ValueError, TypeError) as error:
                raise ClusterError(f"a job of kind {self.kind!r} could not be written: {error}") from error
        return str(job.job_script()).replace(stand_in, log_directory)

    def _class(self) -> Any:
        try:
            import dask_jobqueue
        except ImportError as error:
            raise ClusterError(
                f"a cluster of kind {self.kind!r} needs dask-jobqueue: install stellar-catalogue[hpc]"
            ) from error
        return getattr(dask_jobqueue, self.cluster_class)

    def _check_paths(self, scratch: Path) -> None:
        """Refuse paths that neither a job's directives nor its command would keep in one piece."""
        defaults = {"log_directory": scratch, "shared_temp_directory": scratch, "python": sys.executable}
        for name, value in {**defaults, "local_directory": "", **self.passed_through}.items():
            if name in (*defaults, "local_directory") and re.search(r"[\s'\"\\]", str(value)):
                raise ClusterError(
                    f"{name}: expected a path without blanks, quotes and backslashes, which would break the job's "
                    f"script, found {str(value)!r}; set {name} in the cluster file to another one"
                )

    def _check_keywords(self, keywords: Mapping[str, Any]) -> None:
        cluster_class = self._class()
        known = _parameters(cluster_class) | _parameters(cluster_class.job_cls)
        unknown = sorted(set(keywords) - known)
        if unknown:
            every = sorted(known | set(BatchSettings.model_fields))
            reasons = "; ".join(f"{key}: {unknown_key(key, every)}" for key in unknown)
            raise ClusterError(f"{reasons}. Known to the project or to dask-jobqueue's {self.cluster_class}: {every}")


SCHEDULING = {
    "distributed.scheduler.worker-saturation": 1.0,
    # The roll call decides with the queue's own word when a job is gone.
    "distributed.deploy.lost-worker-timeout": "1 day",
}


def _parameters(cls: type) -> set[str]:
    """Names of the keywords that a class and its parents take."""
    names: set[str] = set()
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            names |= set(inspect.signature(vars(parent)["__init__"]).parameters)
    return names - {"self", "args", "kwargs", "base_class_kwargs", "job_kwargs", "scheduler", "loop", "asynchronous"}
