"""Who counts the deaths of workers: the driver, since the scheduler cannot tell a murderer from its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distributed import Client


@contextmanager
def deaths_counted_here(client: Client) -> Iterator[None]:
    """Context in which the scheduler reports a task as failed at the first death of its worker.

    Otherwise it would itself give the task to three more workers, beside other tasks, and the number of executions
    would no longer be the driver's.
    """
    before = client.run_on_scheduler(_allow(0))
    try:
        yield
    finally:
        # The scheduler may be gone, which is then the smaller trouble.
        with suppress(Exception):
            if client.status == "running":
                client.run_on_scheduler(_allow(before))


def _allow(failures: int) -> Callable[..., int]:
    # A function inside a function travels by value: a scheduler that others started need not have this package.
    def change(dask_scheduler: Any) -> int:
        before: int = dask_scheduler.allowed_failures
        dask_scheduler.allowed_failures = failures
        return before

    return change
