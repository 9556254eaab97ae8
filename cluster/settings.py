"""What the settings of every kind of cluster have in common."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from distributed import Client
from pydantic import BaseModel, ConfigDict


class ClusterSettings(BaseModel):
    """The keys of a cluster file, validated.

    Attributes
    ----------
    kind : str
        Module of `cluster.kinds`.
    worker_timeout : float or None
        Longest time without any worker before the run stops with an error [s]; None waits for ever.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    worker_timeout: float | None = 120.0

    @abstractmethod
    def open(self, *, scratch: Path, workers: int | None) -> AbstractContextManager[Client]:
        """Start or reach the cluster.

        Parameters
        ----------
        scratch : Path
            Directory for files of this run, seen by all workers where there are several machines.
        workers : int or None
            Number of worker processes that overrides the file's.

        Returns
        -------
        context manager of Client
            On leaving it, whatever it started is ended and whatever it wrote is removed.
        """

    def script(self) -> str:
        """Text of the batch job of one worker; only batch systems have one."""
        from cluster.errors import ClusterError

        raise ClusterError(f"a cluster of kind {self.kind!r} submits no batch jobs: expected kind slurm or pbs")
