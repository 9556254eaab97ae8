"""What is still to do: fresh tasks, tasks that wait for their repetition, and suspects that must run alone."""

from __future__ import annotations

import heapq
import inspect
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import TooManyFailuresError
from cluster.execution import Failure
from cluster.tasks import RetryPolicy, SetAside, Task


@dataclass
class Attempt:
    """A task with its history in this run."""

    task: Task
    submitted: int = 0
    deaths: int = 0
    failures: int = 0
    unstarted: int = 0
    suspect: bool = False
    halvings: int = 0
    workers: list[str] = field(default_factory=list)

    def keywords(self, out_of_memory_keyword: str) -> dict[str, Any]:
        """Keywords for the function, with how often to halve its batch if it wants to know."""
        keywords = dict(self.task.keywords)
        if self.halvings and accepts(self.task, out_of_memory_keyword):
            keywords[out_of_memory_keyword] = self.halvings
        return keywords


class Ledger:
    """Tasks that are not done, in three lanes.

    Fresh tasks come from the iterable; tasks whose infrastructure failed wait for their time; suspects come last, one
    to a worker: they ran beside others, on a worker of several threads, when it died.
    """

    def __init__(self, tasks: Iterable[Task], policy: RetryPolicy) -> None:
        self.policy = policy
        self.set_aside: list[SetAside] = []
        self.repeated = 0
        self._fresh: Iterator[Task] | None = iter(tasks)
        self._keys: set[str] = set()
        self._waiting: list[tuple[float, int, Attempt]] = []
        self._suspects: deque[Attempt] = deque()
        self._order = itertools.count()
        self._halvings = 0
        self._aside_in_a_row = 0

    def is_empty(self) -> bool:
        """Whether nothing is left to submit."""
        return self._fresh is None and not self._waiting and not self._suspects

    def only_suspects_left(self) -> bool:
        """Whether the other lanes are empty."""
        return self._fresh is None and not self._waiting

    def until_due(self) -> float:
        """Time until the next waiting task is due [s], infinite when none waits."""
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else float("inf")

    def next_attempt(self) -> Attempt | None:
        """Next task for any worker, or None when there is none now."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            attempt = heapq.heappop(self._waiting)[2]
            if not attempt.suspect:
                return self._ready(attempt)
            self._suspects.append(attempt)
        if self._fresh is None:
            return None
        task = next(self._fresh, None)
        if task is None:
            self._fresh = None
            return None
        if task.key in self._keys:
            raise ValueError(f"tasks need different keys, found {task.key!r} twice")
        self._keys.add(task.key)
        return self._ready(Attempt(task))

    def next_suspect(self) -> Attempt | None:
        """Next task that must be alone on its worker."""
        return self._ready(self._suspects.popleft()) if self._suspects else None

    def finished(self, attempt: Attempt) -> None:
        """A task is done."""
        self._aside_in_a_row = 0

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """The infrastructure failed under a task, but the worker lives."""
        attempt.failures += 1
        attempt.workers.append(failure.worker)
        if failure.cause == "memory":
            # The other tasks are as large: remember for all that follow.
            attempt.halvings += 1
            self._halvings = max(self._halvings, attempt.halvings)
        self._again(attempt, f"failed {attempt.failures} times, last with {failure.exception}")

    def died(self, attempt: Attempt, worker: str, *, started: bool, alone: bool) -> None:
        """The worker that had the task died; only a task that had begun can be to blame."""
        if started:
            attempt.workers.append(worker)
            attempt.deaths += 1
            attempt.suspect = attempt.suspect or not alone
            self._again(attempt, f"its worker died {attempt.deaths} times")
        else:
            attempt.unstarted += 1
            self._again(attempt, f"its worker died {attempt.unstarted} times before it began")

    def lost(self, attempt: Attempt, reason: str) -> None:
        """The task's result was lost with the connection to the scheduler."""
        attempt.failures += 1
        self._again(attempt, f"lost {attempt.failures} times: {reason}")

    def return_unstarted(self, attempt: Attempt) -> None:
        """A suspect's worker left before it could begin."""
        self._suspects.appendleft(attempt)

    def _ready(self, attempt: Attempt) -> Attempt:
        attempt.submitted += 1
        attempt.halvings = max(attempt.halvings, self._halvings)
        return attempt

    def _again(self, attempt: Attempt, reason: str) -> None:
        policy = self.policy
        if (
            attempt.deaths >= policy.deaths
            or attempt.failures >= policy.attempts
            or attempt.unstarted >= policy.unstarted
        ):
            workers = tuple(attempt.workers)
            where = ", ".join(dict.fromkeys(workers)) or "no worker"
            self.set_aside.append(SetAside(attempt.task.key, f"{reason} ({where})", workers))
            self._aside_in_a_row += 1
            if self._aside_in_a_row >= self.policy.give_up_after:
                raise TooManyFailuresError(
                    f"{self._aside_in_a_row} tasks in a row were set aside, the last being {self.set_aside[-1]}; "
                    "the cause is hardly in the tasks: look at the file system and at the workers' logs, then run again"
                )
            return
        self.repeated += 1
        # A task that only waited behind another goes on at once, unless that becomes a habit.
        failures = attempt.deaths + attempt.failures + attempt.unstarted // 2
        due = time.monotonic() + (policy.delay(failures) if failures else 0.0)
        heapq.heappush(self._waiting, (due, next(self._order), attempt))


def accepts(task: Task, keyword: str) -> bool:
    """Whether a task's function has a parameter of this name."""
    try:
        return keyword in inspect.signature(task.function).parameters
    except (TypeError, ValueError):
        return False
