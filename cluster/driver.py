"""The driver: a bounded window of tasks in flight, released at once, retried by cause.

Nothing here is kept in memory but keys: a task writes its result to disk and returns a small summary. Causes of failure
are told apart, because only some are worth another attempt:

* infrastructure (a worker that died, a lost connection, an operating-system error of a file system): again, later;
* a device out of memory: again, with the keywords that the task has for that case;
* a disk that is full or forbidden: the run stops, since every other task would meet it too;
* anything else is a mistake in the program: the run stops at once, with the worker's traceback.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker
from distributed.comm import CommClosedError

_NO_USE_RETRYING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class ClusterError(Exception):
    """A cluster that cannot be started or reached, or that has no workers."""


class TaskFailed(Exception):  # noqa: N818 - it states what happened
    """A task failed for a reason that another attempt would meet again.

    The message holds the task's key and description, the worker and its traceback.
    """


@dataclass(frozen=True)
class Task:
    """A piece of work that may be run more than once with the same effect.

    Attributes
    ----------
    key : str
        Names the task in messages.
    function : callable
        Importable on the workers.
    arguments : tuple
    description : str
        What the task works on, for messages.
    after_out_of_memory : tuple of mappings
        Keywords for the attempts after the device ran out of memory, in order.
    """

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    description: str = ""
    after_out_of_memory: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, a task is tried again.

    Attributes
    ----------
    deaths : int
        Worker deaths after which a task is set aside.
    attempts : int
        Attempts after other infrastructure failures, in all.
    first_delay, longest_delay : float
        Back-off in seconds; it doubles with each attempt.
    window_per_worker : int
        Tasks in flight for each worker.
    no_workers : float
        Seconds without any worker after which the run gives up.
    grace : float
        Seconds that tasks in flight are given to finish when the run is stopped.
    """

    deaths: int = 3
    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 60.0
    window_per_worker: int = 2
    no_workers: float = 900.0
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class SetAside:
    """A task that was given up, and why."""

    task: Task
    reason: str

    def __str__(self) -> str:
        return f"{self.task.key} {self.task.description}: {self.reason}".replace("  ", " ")


@dataclass
class Outcome:
    """What became of the tasks."""

    done: int = 0
    set_aside: list[SetAside] = field(default_factory=list)
    retried: int = 0
    stopped: bool = False


@dataclass
class _Attempts:
    deaths: int = 0
    failures: int = 0
    out_of_memory: int = 0


def run_tasks(
    client: Client,
    tasks: Iterable[Task],
    policy: RetryPolicy | None = None,
    *,
    on_done: Callable[[Task, Any], None] = lambda task, result: None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run tasks on the workers of ``client``.

    Parameters
    ----------
    client : distributed.Client
    tasks : iterable of Task
        Consumed as the window moves, never held as a whole.
    policy : RetryPolicy, optional
    on_done : callable
        Called in this thread with each finished task and its result.
    stop : threading.Event, optional
        When set, nothing new is started, what is in flight is given ``policy.grace`` seconds, and the rest is dropped.

    Returns
    -------
    Outcome

    Raises
    ------
    TaskFailed
        For a failure that is not worth another attempt.
    ClusterError
        If there are no workers for ``policy.no_workers`` seconds.
    """
    window = _Window(client, iter(tasks), policy or RetryPolicy(), stop or threading.Event())
    try:
        for task, future in window.finished():
            if future.status == "finished":
                result = future.result()
                future.release()
                window.outcome.done += 1
                on_done(task, result)
            else:
                window.judge(task, future)
        return window.outcome
    finally:
        window.drop()


class _Window:
    """Tasks in flight, tasks waiting for another attempt, and tasks not yet started."""

    def __init__(self, client: Client, tasks: Iterator[Task], policy: RetryPolicy, stop: threading.Event) -> None:
        self.client = client
        self.tasks = tasks
        self.policy = policy
        self.stop = stop
        self.outcome = Outcome()
        self.in_flight: dict[str, tuple[Task, Future]] = {}
        self.later: list[tuple[float, int, Task]] = []
        self.attempts: dict[str, _Attempts] = {}
        self.exhausted = False
        self.arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.number = itertools.count()
        self.last_worker = time.monotonic()
        self.workers = 1

    def finished(self) -> Iterator[tuple[Task, Future]]:
        """Futures as they finish, well or badly, until nothing is left or the run is stopped."""
        stopped_at: float | None = None
        while True:
            if self.stop.is_set():
                self.outcome.stopped = True
                stopped_at = stopped_at or time.monotonic()
                if not self.in_flight or time.monotonic() - stopped_at > self.policy.grace:
                    return
            else:
                self._fill()
                if not self.in_flight and not self.later and self.exhausted:
                    return
            try:
                key = self.arrived.get(timeout=0.2)
            except queue.Empty:
                continue
            yield self.in_flight.pop(key)

    def _fill(self) -> None:
        self._count_workers()
        limit = max(1, self.workers * self.policy.window_per_worker)
        while len(self.in_flight) < limit:
            task = self._next()
            if task is None:
                return
            self._submit(task)

    def _next(self) -> Task | None:
        if self.later and self.later[0][0] <= time.monotonic():
            return heapq.heappop(self.later)[2]
        if self.exhausted:
            return None
        task = next(self.tasks, None)
        self.exhausted = task is None
        return task

    def _submit(self, task: Task) -> None:
        attempts = self.attempts.get(task.key, _Attempts())
        keywords: Mapping[str, Any] = {}
        if attempts.out_of_memory:
            keywords = task.after_out_of_memory[attempts.out_of_memory - 1]
        # A key per attempt: the scheduler must never answer a new attempt with what it remembers of an old one.
        key = f"{task.key}-{next(self.number)}-{id(self):x}"
        future = self.client.submit(task.function, *task.arguments, key=key, pure=False, retries=0, **keywords)
        self.in_flight[key] = (task, future)
        future.add_done_callback(lambda done: self.arrived.put(done.key))

    def _count_workers(self) -> None:
        now = time.monotonic()
        self.workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
        if self.workers:
            self.last_worker = now
        elif now - self.last_worker > self.policy.no_workers:
            raise ClusterError(f"expected workers, found none for {now - self.last_worker:.0f} s")

    def judge(self, task: Task, future: Future) -> None:
        """Decide what a failed attempt means, and arrange for it."""
        error, trace = _failure(future)
        future.release()
        attempts = self.attempts.setdefault(task.key, _Attempts())
        if isinstance(error, KilledWorker):
            attempts.deaths += 1
            if attempts.deaths >= self.policy.deaths:
                reason = f"{attempts.deaths} workers died while they ran it"
                self.outcome.set_aside.append(SetAside(task, reason))
                return
            self._again(task, attempts.deaths)
        elif type(error).__name__ == "OutOfMemoryError" and attempts.out_of_memory < len(task.after_out_of_memory):
            attempts.out_of_memory += 1
            self._again(task, 0)
        elif _is_infrastructure(error):
            attempts.failures += 1
            if attempts.failures >= self.policy.attempts:
                reason = f"{attempts.failures} attempts failed, the last with {type(error).__name__}: {error}"
                self.outcome.set_aside.append(SetAside(task, reason))
                return
            self._again(task, attempts.failures)
        else:
            raise TaskFailed(f"{task.key} {task.description}: {type(error).__name__}: {error}\n{trace}") from error

    def _again(self, task: Task, attempt: int) -> None:
        delay = min(self.policy.first_delay * 2 ** max(attempt - 1, 0), self.policy.longest_delay)
        heapq.heappush(self.later, (time.monotonic() + delay, next(self.number), task))
        self.outcome.retried += 1

    def drop(self) -> None:
        """Forget what is in flight; what it has not recorded will be done again by another run."""
        futures = [future for _, future in self.in_flight.values()]
        if futures:
            self.client.cancel(futures, force=True)


def _failure(future: Future) -> tuple[BaseException, str]:
    """Exception of a failed or lost future, and the worker's traceback as text."""
    if future.status in ("cancelled", "lost"):
        return CancelledError(f"lost ({future.status})"), ""
    try:
        error = future.exception(timeout=30)
        trace = future.traceback(timeout=30)
    except (CancelledError, CommClosedError, TimeoutError) as lost:
        return lost, ""
    return error, "".join(traceback.format_tb(trace)) if trace is not None else ""


def _is_infrastructure(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno not in _NO_USE_RETRYING
    return isinstance(error, (CommClosedError, CancelledError, TimeoutError, ConnectionError, MemoryError))
