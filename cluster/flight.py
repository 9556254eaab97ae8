"""Tasks in flight: submitted, followed, and released as soon as their end is reported."""

from __future__ import annotations

import pickle
import queue
import time
import traceback
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from cluster.execution import Failure, Success, execute
from cluster.ledger import Attempt


@dataclass(frozen=True)
class Death:
    """The worker died that had the task.

    Attributes
    ----------
    worker : str
    started : bool
        The task had begun; otherwise it waited there behind another.
    alone : bool
        No other task ran there, so that this one, or nothing of ours, was the cause.
    """

    worker: str
    started: bool
    alone: bool


@dataclass(frozen=True)
class Lost:
    """The scheduler no longer knows the task."""

    reason: str


@dataclass(frozen=True)
class Landing:
    """The end of one submission."""

    attempt: Attempt
    result: Success | Failure | Death | Lost


@dataclass
class _Submission:
    attempt: Attempt
    future: Future
    pinned: str | None
    running_on: str | None = None


class Flight:
    """The submissions whose end is not yet known.

    Parameters
    ----------
    client : Client
    out_of_memory_keyword : str
    """

    def __init__(self, client: Client, out_of_memory_keyword: str) -> None:
        self._client = client
        self._keyword = out_of_memory_keyword
        self._run = uuid.uuid4().hex[:8]
        self._topic = f"tasks-{self._run}"
        self._submissions: dict[str, _Submission] = {}
        self._missing: set[str] = set()
        self._crowds: dict[str, int] = {}
        # Filled in the client's event loop and its thread of callbacks, in the order in which the scheduler spoke.
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Flight:
        self._client.subscribe_topic(self._topic, self._take_report)
        return self

    def __exit__(self, *error: object) -> None:
        self.drop()
        with suppress(Exception):
            self._client.unsubscribe_topic(self._topic)

    def __len__(self) -> int:
        return len(self._submissions)

    def _take_report(self, event: tuple[float, dict[str, Any]]) -> None:
        self._news.put((event[1]["key"], event[1]["message"]))

    def submit(self, attempt: Attempt, time_limit: float | None, worker: str | None = None) -> None:
        """Submit a task, to any worker or to one alone."""
        task = attempt.task
        # A new key every time: what the scheduler remembers of an earlier submission can never be taken for this one's.
        key = f"{task.key}-{self._run}-{attempt.submitted}"
        future = self._client.submit(
            execute,
            task.function,
            task.arguments,
            attempt.keywords(self._keyword),
            time_limit,
            self._topic,
            key,
            key=key,
            pure=False,
            retries=0,
            workers=None if worker is None else [worker],
            allow_other_workers=False,
        )
        self._submissions[key] = _Submission(attempt, future, worker)
        future.add_done_callback(lambda done: self._news.put((key, done)))

    def wait(self, timeout: float) -> list[Landing]:
        """Everything that has landed, waiting for the first news at most ``timeout`` seconds."""
        landings = []
        try:
            news = self._news.get(timeout=max(0.0, timeout))
            while True:
                landing = self._read(*news)
                if landing is not None:
                    landings.append(landing)
                news = self._news.get_nowait()
        except queue.Empty:
            return landings

    def wait_for_all(self, timeout: float) -> list[Landing]:
        """Everything that lands within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        landings: list[Landing] = []
        while self._submissions and (left := deadline - time.monotonic()) > 0:
            landings += self.wait(min(left, 0.2))
        return landings

    def _read(self, key: str, news: str | bytes | Future) -> Landing | None:
        submission = self._submissions.get(key)
        if submission is None:
            return None  # it has landed before, or was taken back
        if isinstance(news, str):
            submission.running_on = news
            return None
        result = pickle.loads(news) if isinstance(news, bytes) else self._end_without_report(submission)
        del self._submissions[key]
        submission.future.release()
        return Landing(submission.attempt, result)

    def _end_without_report(self, submission: _Submission) -> Failure | Death | Lost:
        """What it means that a future is over although its task reported no end."""
        future = submission.future
        if future.status != "error":
            return Lost(f"the scheduler calls it {future.status}")
        error = future.exception()
        if isinstance(error, KilledWorker):
            worker = error.last_worker.address
            return Death(worker, submission.running_on == worker, self._crowd(worker) <= 1)
        description = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            return Failure(submission.running_on or "unknown", "storage", description, "")
        # Outside the task's function: the worker could not read the function or its arguments.
        text = "".join(traceback.format_exception(error))
        return Failure(submission.running_on or "unknown", "program", description, text)

    def _crowd(self, worker: str) -> int:
        """How many of our tasks were running on a worker when the first news of its death came."""
        if worker not in self._crowds:
            self._crowds[worker] = sum(one.running_on == worker for one in self._submissions.values())
        return self._crowds[worker]

    def has_pinned(self) -> bool:
        """Whether suspects are in flight."""
        return any(one.pinned is not None for one in self._submissions.values())

    def has_shared(self) -> bool:
        """Whether tasks are in flight that may be at any worker."""
        return any(one.pinned is None for one in self._submissions.values())

    def pinned_workers(self) -> set[str]:
        """Workers that have a task for themselves."""
        return {one.pinned for one in self._submissions.values() if one.pinned is not None}

    def drop_waiting(self) -> None:
        """Cancel what has not begun."""
        waiting = [key for key, one in self._submissions.items() if one.running_on is None]
        dropped = [self._submissions.pop(key).future for key in waiting]
        if dropped and self._client.status == "running":
            self._client.cancel(dropped, force=True)

    def take_back_pinned(self, present: set[str]) -> list[Attempt]:
        """Cancel the tasks that wait for a worker that has left; returns them.

        A worker must be missing in two calls: the news of its death, which counts, may come after the first.
        """
        missing = self.pinned_workers() - present
        gone = [key for key, one in self._submissions.items() if one.pinned in missing & self._missing]
        self._missing = missing
        taken = [self._submissions.pop(key) for key in gone]
        if taken:
            self._client.cancel([one.future for one in taken], force=True)
        return [one.attempt for one in taken]

    def drop(self) -> None:
        """Cancel whatever is in flight; a task that runs is not ended by this, only forgotten."""
        futures = [one.future for one in self._submissions.values()]
        self._submissions.clear()
        if futures and self._client.status == "running":
            with suppress(Exception):
                self._client.cancel(futures, force=True)
        for future in futures:
            with suppress(Exception):
                future.release()
