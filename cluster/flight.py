"""Tasks in flight: submitted, followed, and released as soon as their small result is here."""

from __future__ import annotations

import queue
import time
import traceback
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from cluster.errors import SchedulerLostError
from cluster.ledger import Attempt
from cluster.tasks import Failure, Success, execute


@dataclass(frozen=True)
class Death:
    """The worker at ``worker`` died while it had the task."""

    worker: str


@dataclass(frozen=True)
class Lost:
    """The scheduler no longer knows the task."""

    reason: str


@dataclass(frozen=True)
class Landing:
    """The end of one submission."""

    attempt: Attempt
    result: Success | Failure | Death | Lost


class Flight:
    """The submissions whose end is not yet known."""

    def __init__(self, client: Client, out_of_memory_keyword: str) -> None:
        if client.loop is None:
            raise SchedulerLostError("the client is closed")
        self._client = client
        self._loop = client.loop
        self._keyword = out_of_memory_keyword
        self._run = uuid.uuid4().hex[:8]
        self._flying: dict[str, tuple[Attempt, Future, str | None]] = {}
        self._missing: set[str] = set()
        self._landed: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Flight:
        return self

    def __exit__(self, *error: object) -> None:
        self.drop()

    def __len__(self) -> int:
        return len(self._flying)

    def submit(self, attempt: Attempt, time_limit: float | None, worker: str | None = None) -> None:
        """Submit a task, to any worker or to one alone."""
        task = attempt.task
        # A new key every time: results of an earlier submission can never be taken for those of a later one.
        key = f"{task.key}-{self._run}-{attempt.submitted}"
        future = self._client.submit(
            execute,
            task.function,
            task.arguments,
            attempt.keywords(self._keyword),
            time_limit,
            key=key,
            pure=False,
            retries=0,
            workers=None if worker is None else [worker],
            allow_other_workers=False,
        )
        self._flying[key] = (attempt, future, worker)
        self._loop.add_callback(self._follow, key, future)

    async def _follow(self, key: str, future: Future) -> None:
        """Wait for a future in the client's event loop and hand its end to the driver's thread."""
        try:
            self._landed.put((key, await future))
        except BaseException as error:
            self._landed.put((key, error))

    def wait(self, timeout: float) -> list[Landing]:
        """Everything that has landed, waiting for the first at most ``timeout`` seconds."""
        landings = []
        try:
            landing = self._landing(*self._landed.get(timeout=max(0.0, timeout)))
            while True:
                if landing is not None:
                    landings.append(landing)
                landing = self._landing(*self._landed.get_nowait())
        except queue.Empty:
            return landings

    def wait_for_all(self, timeout: float) -> list[Landing]:
        """Everything that lands within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        landings: list[Landing] = []
        while self._flying and (left := deadline - time.monotonic()) > 0:
            landings += self.wait(min(left, 0.2))
        return landings

    def _landing(self, key: str, result: Any) -> Landing | None:
        if key not in self._flying:
            return None  # taken back
        attempt, future, _ = self._flying.pop(key)
        future.release()
        return Landing(attempt, _sorted_end(result))

    def has_pinned(self) -> bool:
        """Whether suspects are in flight."""
        return any(worker is not None for _, _, worker in self._flying.values())

    def has_shared(self) -> bool:
        """Whether tasks are in flight that may be at any worker."""
        return any(worker is None for _, _, worker in self._flying.values())

    def pinned_workers(self) -> set[str]:
        """Workers that have a task for themselves."""
        return {worker for _, _, worker in self._flying.values() if worker is not None}

    def take_back_pinned(self, present: set[str]) -> list[Attempt]:
        """Cancel the tasks that wait for a worker that has left; returns them.

        A worker must be missing in two calls: the news of its death, which counts, may come after the first.
        """
        missing = self.pinned_workers() - present
        gone = [
            (key, attempt, future)
            for key, (attempt, future, worker) in self._flying.items()
            if worker in missing & self._missing and future.status == "pending"
        ]
        self._missing = missing
        for key, _, future in gone:
            del self._flying[key]
            self._client.cancel([future], force=True)
        return [attempt for _, attempt, _ in gone]

    def drop(self) -> None:
        """Cancel whatever is in flight; a task that runs is not ended by this, only forgotten."""
        futures = [future for _, future, _ in self._flying.values()]
        self._flying.clear()
        if futures and self._client.status == "running":
            with suppress(Exception):
                self._client.cancel(futures, force=True)
        for future in futures:
            with suppress(Exception):
                future.release()


def _sorted_end(result: Any) -> Success | Failure | Death | Lost:
    """What the end of a future means."""
    if isinstance(result, Success | Failure):
        return result
    if isinstance(result, KilledWorker):
        return Death(result.last_worker.address)
    if isinstance(result, OSError):
        return Failure("unknown", "storage", f"{type(result).__name__}: {result}", "")
    if type(result).__name__ in ("CancelledError", "FutureCancelledError"):
        return Lost(str(result))
    # Raised before or after the function: it could not be read by the worker, or its result not by us.
    text = "".join(traceback.format_exception(result))
    return Failure("unknown", "program", f"{type(result).__name__}: {result}", text)
