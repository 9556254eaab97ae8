"""One worker process per GPU of this machine."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import dask
from dask.system import CPU_COUNT
from distributed import Client
from pydantic import Field

from cluster.errors import ClusterError
from cluster.kinds.local import LOOPBACK, local_configuration
from cluster.quiet import quiet
from cluster.security import loopback_security
from cluster.settings import ClusterSettings
from cluster.threads import unchanged_environment


class Settings(ClusterSettings):
    """Keys of a cluster of the GPUs of this machine.

    Attributes
    ----------
    devices : list of int or str, or None
        Indices or UUIDs of the GPUs; None takes those of ``CUDA_VISIBLE_DEVICES``, else all.
    threads : int or None
        Threads of the numerical libraries in each process; None shares the machine's cores over the GPUs.
    tls : bool or None
        As for the local cluster.
    dashboard : str
        Address and port of the dashboard.
    """

    kind: Literal["cuda"]
    devices: list[int | str] | None = Field(default=None, min_length=1)
    threads: int | None = Field(default=None, ge=1)
    tls: bool | None = None
    dashboard: str = f"{LOOPBACK}:0"

    @contextmanager
    def open(self, *, scratch: Path, workers: int | None) -> Iterator[Client]:
        """Start a process for each GPU."""
        scratch.mkdir(parents=True, exist_ok=True)
        cluster_class = cuda_cluster_class()
        found = visible_gpus()
        devices = self.devices or found
        count = workers or len(devices)
        if count > len(devices):
            raise ClusterError(f"expected at most {len(devices)} workers, one for each GPU, found {count}")
        threads = self.threads or max(1, CPU_COUNT // count)
        security = loopback_security(self.tls)
        keywords = self.cluster_keywords(devices, count, scratch, security)
        with (
            unchanged_environment(),
            dask.config.set(local_configuration(threads)),
            quiet(),
            _started(cluster_class, keywords) as cluster,
            Client(cluster, security=security, set_as_default=False) as client,
        ):
            # A worker whose nanny died is not started again by itself; this keeps the number.
            cluster.adapt(minimum=count, maximum=count)
            yield client

    def cluster_keywords(
        self, devices: Sequence[int | str], count: int, scratch: Path, security: Any
    ) -> dict[str, Any]:
        """Keywords of dask-cuda's ``LocalCUDACluster``."""
        return {
            "CUDA_VISIBLE_DEVICES": list(devices),
            "n_workers": count,
            "threads_per_worker": 1,
            # Workers hold no results, on the device or off it: nothing is to be spilled.
            "memory_limit": 0,
            "device_memory_limit": None,
            "data": dict,
            "host": LOOPBACK,
            "dashboard_address": self.dashboard,
            "local_directory": str(scratch),
            "preload": ["cluster.shield"],
            "security": security,
            "silence_logs": logging.CRITICAL,
        }


def cuda_cluster_class() -> Any:
    """Class ``LocalCUDACluster`` of dask-cuda.

    Raises
    ------
    ClusterError
        It cannot be imported; the message names the extra.
    """
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            "a cluster of kind 'cuda' needs dask-cuda and torch built for CUDA: install stellar-catalogue[gpu] "
            f"({error})"
        ) from error
    return LocalCUDACluster


def visible_gpus() -> list[int | str]:
    """Indices or UUIDs of the GPUs that this process may use.

    Raises
    ------
    ClusterError
        There is none.
    """
    from dask_cuda.utils import get_gpu_count

    # Asked of the driver first: without a device dask-cuda would start its workers again and again.
    try:
        found, reason = list[int | str](range(int(get_gpu_count()))), "the driver lists none"
    except Exception as error:  # the errors of NVML have no public parent
        found, reason = [], str(error)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found and visible is not None:
        # CUDA itself stops at the first entry that is no device, for which -1 and nothing are in use; dask-cuda does
        # not, and would give the first worker the device -1.
        entries = (entry.strip() for entry in visible.split(","))
        found = list(itertools.takewhile(lambda entry: entry not in ("", "-1"), entries))
        reason = f"CUDA_VISIBLE_DEVICES is {visible!r}"
    if not found:
        raise ClusterError(f"no NVIDIA GPU was found: {reason}; use cluster: local, or run on a GPU node")
    return found


@contextmanager
def _started(cluster_class: Any, keywords: dict[str, Any]) -> Iterator[Any]:
    try:
        cluster = cluster_class(**keywords)
    except Exception as error:  # dask-cuda, NVML and CUDA raise what they like
        raise ClusterError(f"workers on GPUs could not be started: {type(error).__name__}: {error}") from error
    with cluster:
        yield cluster
