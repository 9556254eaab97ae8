"""Worker processes in jobs of PBS."""

from __future__ import annotations

import getpass
from typing import ClassVar, Literal

from cluster.batch import BatchSettings


class Settings(BatchSettings):
    """Keys of a cluster of PBS jobs: those of every batch system and dask-jobqueue's ``PBSCluster``."""

    kind: Literal["pbs"]
    cluster_class: ClassVar[str] = "PBSCluster"
    list_command: ClassVar[tuple[str, ...]] = ("qselect", "-u", getpass.getuser())
