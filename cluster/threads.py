"""What worker processes that share a machine may use of it, so that every core is used once, and a GPU by one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


PROCESSES = "CLUSTER_PROCESSES"
"""Tells a worker process how many there are beside each other, itself among them, that see the same GPUs."""


def thread_environment(threads: int, processes: int = 1) -> dict[str, str]:
    """Environment variables that give every numerical library ``threads`` threads in each of some processes.

    They must be set before the libraries are imported, hence before the worker process starts.
    """
    return {**{name: str(threads) for name in VARIABLES}, PROCESSES: str(processes)}


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Context that leaves the environment of this process as it was.

    Nannies write into it what their workers are to find when they start, and what they find there they hand on: another
    cluster of the same process would have the threads of the one before.
    """
    names = (*VARIABLES, "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def limit_torch_threads() -> None:
    """Give torch, if this process has imported it, the threads that the environment grants, else one.

    torch takes all cores of the machine where the variable is missing, for example on a cluster that others started;
    its memory on a CPU grows with the number of threads.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads"):
        return
    granted = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    threads = int(granted) if granted.isdigit() and int(granted) > 0 else 1
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
