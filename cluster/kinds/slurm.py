"""Worker processes in jobs of Slurm."""

from __future__ import annotations

import getpass
from typing import ClassVar, Literal

from cluster.batch import BatchSettings


class Settings(BatchSettings):
    """Keys of a cluster of Slurm jobs: those of every batch system and dask-jobqueue's ``SLURMCluster``."""

    kind: Literal["slurm"]
    cluster_class: ClassVar[str] = "SLURMCluster"
    list_command: ClassVar[tuple[str, ...]] = ("squeue", "--noheader", "--user", getpass.getuser(), "--format=%A")
