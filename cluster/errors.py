"""What can go wrong outside the science: the cluster, its storage, or a fault in a task's own code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClusterError(RuntimeError):
    """The cluster cannot be described, started or used; the message says what to change."""


class NoWorkersError(ClusterError):
    """No worker was there for longer than the policy allows."""


class SchedulerLostError(ClusterError):
    """The connection to the scheduler is gone and could not be made again."""


class StorageFullError(ClusterError):
    """A task could not write because the storage is full, over quota or read-only."""


class TooManyFailuresError(ClusterError):
    """Many tasks in a row were set aside, so that the cause is not in the tasks."""


class TaskFailed(RuntimeError):  # noqa: N818 - named by the event, as in the driver's description
    """A task raised an exception that repeating it would not cure: a programming error.

    Attributes
    ----------
    key : str
        Of the task.
    worker : str
        Address of the worker that ran it.
    exception : str
        Type and message of the exception.
    traceback : str
        The traceback on the worker, as text.
    """

    def __init__(self, key: str, worker: str, exception: str, traceback: str) -> None:
        self.key = key
        self.worker = worker
        self.exception = exception
        self.traceback = traceback
        super().__init__(f"task {key} failed on worker {worker}: {exception}\n\nTraceback on the worker:\n{traceback}")

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, str, str, str]]:
        return type(self), (self.key, self.worker, self.exception, self.traceback)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What is said of a key that nothing knows."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "")
