"""Where the work runs, and the driver that keeps a bounded window of it in flight."""

from __future__ import annotations

from cluster.connection import connect
from cluster.driver import ClusterError, Outcome, RetryPolicy, SetAside, Task, TaskFailed, run_tasks

__all__ = ["ClusterError", "Outcome", "RetryPolicy", "SetAside", "Task", "TaskFailed", "connect", "run_tasks"]
