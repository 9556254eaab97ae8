"""The driver: a bounded window of tasks in flight, results taken at once, failures sorted by their cause.

It holds no results and keeps nothing on disk: a task writes its output and returns a small summary, so that the driver,
too, can die at any moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Client, WorkerPlugin

from cluster.deaths import deaths_counted_here
from cluster.errors import NoWorkersError, StorageFullError, TaskFailed
from cluster.execution import Failure, Success
from cluster.facts import facts_of
from cluster.flight import Death, Flight, Landing, Lost
from cluster.ledger import Ledger
from cluster.tasks import Outcome, Progress, RetryPolicy, Task
from cluster.workforce import Workforce

TICK = 0.2  # longest time to a look at the order to stop and at the clock [s]


def run_tasks(
    client: Client,
    tasks: Iterable[Task],
    policy: RetryPolicy | None = None,
    *,
    on_done: Callable[[Task, Any], None],
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    worker_plugin: WorkerPlugin | None = None,
) -> Outcome:
    """Run independent tasks on a cluster.

    Failures are sorted by cause. *Infrastructure* (a worker or node is lost, an `OSError` in the task, CUDA out of
    memory): the task is repeated after a growing wait, and set aside at a limit. The death of a worker counts against
    the task that it ran, not against those that waited there. *Any other exception* is a programming error and ends
    the run at once.

    Parameters
    ----------
    client : Client
        From `cluster.connect`.
    tasks : iterable of Task
        Taken as the window allows; keys are unique.
    policy : RetryPolicy, optional
    on_done : callable
        Called in this thread with every finished task and what its function returned.
    on_progress : callable, optional
        Called in this thread after every change and at least once a second.
    stop : threading.Event, optional
        When set, nothing new starts; what is in flight has ``policy.stop_grace`` seconds to finish.
    worker_plugin : WorkerPlugin, optional
        Installed on every worker, also on those that join later; the place for what a process loads once.

    Returns
    -------
    Outcome

    Raises
    ------
    TaskFailed
        A task raised an exception of its own.
    NoWorkersError, SchedulerLostError, StorageFullError, TooManyFailuresError
        The run cannot go on; what is finished is finished.
    ValueError
        Two tasks have the same key.
    """
    policy = policy or RetryPolicy()
    if worker_plugin is not None:
        client.register_plugin(worker_plugin)
    with deaths_counted_here(client), Flight(client, policy.out_of_memory_keyword) as flight:
        run = _Run(client, flight, Ledger(tasks, policy), policy, on_done, on_progress)
        return run.to_the_end(stop or threading.Event())


class _Run:
    """One call of `run_tasks`."""

    def __init__(
        self,
        client: Client,
        flight: Flight,
        ledger: Ledger,
        policy: RetryPolicy,
        on_done: Callable[[Task, Any], None],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.flight = flight
        self.ledger = ledger
        self.policy = policy
        self.on_done = on_done
        self.on_progress = on_progress
        facts = facts_of(client)
        limit = policy.worker_timeout if policy.worker_timeout is not None else facts.worker_timeout
        self.trouble = facts.trouble
        self.workforce = Workforce(client, limit)
        self.done = 0
        self.task_seconds = 0.0

    def to_the_end(self, stop: threading.Event) -> Outcome:
        """Submit and settle until nothing is left or the order to stop comes."""
        while not stop.is_set():
            self._look_at_workers()
            self._submit()
            if not self.flight and self.ledger.is_empty():
                return self._outcome(stopped=False)
            self._settle(self.flight.wait(min(TICK, self.ledger.until_due())))
        self._finish_in_flight()
        return self._outcome(stopped=True)

    def _look_at_workers(self) -> None:
        if not self.workforce.look():
            return
        self._tell()
        if not self.workforce.addresses and (trouble := self.trouble()) is not None:
            raise NoWorkersError(trouble)
        if self.workforce.is_overdue():
            raise NoWorkersError(
                f"no worker for {self.workforce.without_workers():.0f} s (limit {self.workforce.limit:.0f} s), "
                f"{len(self.flight)} tasks are waiting; look at the workers' logs and at the queue, then run again"
            )
        for attempt in self.flight.take_back_pinned(self.workforce.addresses):
            self.ledger.return_unstarted(attempt)

    def _submit(self) -> None:
        window = max(self.policy.tasks_per_thread * self.workforce.threads, self.policy.tasks_per_thread)
        while len(self.flight) < window and not self.flight.has_pinned():
            attempt = self.ledger.next_attempt()
            if attempt is None:
                break
            self.flight.submit(attempt, self.policy.time_limit)
        if not self.ledger.only_suspects_left() or self.flight.has_shared():
            return
        for address in self.workforce.addresses - self.flight.pinned_workers():
            attempt = self.ledger.next_suspect()
            if attempt is None:
                break
            self.flight.submit(attempt, self.policy.time_limit, worker=address)

    def _settle(self, landings: list[Landing]) -> None:
        for landing in landings:
            self._settle_one(landing)
        if landings:
            self._tell()

    def _settle_one(self, landing: Landing) -> None:
        attempt, result = landing.attempt, landing.result
        match result:
            case Success():
                self.done += 1
                self.task_seconds += result.seconds
                self.ledger.finished(attempt)
                self.on_done(attempt.task, result.value)
            case Failure(cause="program"):
                raise TaskFailed(attempt.task.key, result.worker, result.exception, result.traceback)
            case Failure(cause="full"):
                raise StorageFullError(
                    f"task {attempt.task.key} on worker {result.worker}: {result.exception}: "
                    "make room or permit writing, then run again"
                )
            case Failure():
                self.ledger.failed(attempt, result)
            case Death():
                self.ledger.died(attempt, result.worker, started=result.started, alone=result.alone)
            case Lost():
                self.ledger.lost(attempt, result.reason)

    def _finish_in_flight(self) -> None:
        """Settle what ends within the grace; an error in it must not hide that the run was stopped."""
        landed = self.flight.wait(0.0)
        self.flight.drop_waiting()
        for landing in landed + self.flight.wait_for_all(self.policy.stop_grace):
            if isinstance(landing.result, Success):
                self._settle_one(landing)
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is not None:
            aside = len(self.ledger.set_aside)
            self.on_progress(Progress(self.done, len(self.flight), aside, len(self.workforce.addresses)))

    def _outcome(self, *, stopped: bool) -> Outcome:
        return Outcome(self.done, tuple(self.ledger.set_aside), self.ledger.repeated, stopped, self.task_seconds)
