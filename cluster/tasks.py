"""Tasks, the policy under which they are repeated, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """One piece of work: a function at module level and small arguments, never arrays or models.

    Attributes
    ----------
    key : str
        Unique among the tasks of one call of `run_tasks`.
    function : callable
    arguments : tuple
    keywords : mapping of str to object
    """

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RetryPolicy:
    """When a task is repeated, set aside, or the run is given up.

    Attributes
    ----------
    deaths : int
        A task whose worker died so often while it ran the task is set aside.
    attempts : int
        A task is set aside after so many failures of the infrastructure that left the worker alive (an `OSError`,
        CUDA out of memory, a lost result).
    unstarted : int
        A task that was given to so many workers that died before it began is set aside; mostly it only waited behind
        another.
    first_delay, longest_delay : float
        Wait before the first repetition and the longest wait between repetitions, which double [s].
    tasks_per_thread : int
        Tasks in flight per worker thread: one that runs and those that wait at the worker.
    time_limit : float or None
        A task that runs longer is taken as hung: its worker process prints its stack and exits, which counts as a
        death [s]. None waits for ever, and so do workers of several threads, which only others start.
    worker_timeout : float or None
        Longest time without any worker [s]. None takes what suits the kind of cluster: a minute or two on one
        machine, a day in a queue.
    stop_grace : float
        After the order to stop, wait so long for the tasks in flight [s].
    out_of_memory_keyword : str
        Keyword by which a task is told how often to halve its batch after CUDA ran out of memory; tasks without
        such a keyword are repeated unchanged.
    give_up_after : int
        Stop when so many tasks in a row were set aside and none finished in between.
    """

    deaths: int = 3
    attempts: int = 5
    unstarted: int = 10
    first_delay: float = 1.0
    longest_delay: float = 60.0
    tasks_per_thread: int = 2
    time_limit: float | None = 7200.0
    worker_timeout: float | None = None
    stop_grace: float = 10.0
    out_of_memory_keyword: str = "halvings"
    give_up_after: int = 20

    def delay(self, failures: int) -> float:
        """Wait before the repetition that follows the ``failures``-th failure [s]."""
        return float(min(self.longest_delay, self.first_delay * 2.0 ** max(0, failures - 1)))


@dataclass(frozen=True)
class SetAside:
    """A task that was given up so that the others could go on.

    Attributes
    ----------
    key : str
    reason : str
        In words, with the numbers.
    workers : tuple of str
        Addresses of the workers on which it failed, in order.
    """

    key: str
    reason: str
    workers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@dataclass(frozen=True)
class Progress:
    """Where a call of `run_tasks` stands."""

    done: int
    in_flight: int
    set_aside: int
    workers: int


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks.

    Attributes
    ----------
    done : int
    set_aside : tuple of SetAside
    repeated : int
        Executions that were ordered again after a failure of the infrastructure.
    stopped : bool
        The order to stop came; tasks that are neither done nor set aside were not run to their end.
    task_seconds : float
        Time inside the functions of the finished tasks, summed over tasks [s].
    """

    done: int
    set_aside: tuple[SetAside, ...]
    repeated: int
    stopped: bool
    task_seconds: float
