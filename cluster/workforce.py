"""How many workers there are, looked at once in a while."""

from __future__ import annotations

import time

from distributed import Client

from cluster.errors import SchedulerLostError

INTERVAL = 0.5  # between looks at a small cluster [s]
INTERVAL_PER_WORKER = 0.005  # added for each worker, since the answer lists them all [s]


class Workforce:
    """Addresses and threads of the workers, and for how long there were none.

    Parameters
    ----------
    client : Client
    limit : float or None
        Longest time without workers [s].
    """

    def __init__(self, client: Client, limit: float | None) -> None:
        self.limit = limit
        self.addresses: set[str] = set()
        self.threads = 0
        self._client = client
        self._next_look = 0.0
        self._last_seen = time.monotonic()

    def look(self) -> bool:
        """Ask the scheduler if it is time; returns whether it was asked.

        Raises
        ------
        SchedulerLostError
            The client is closed: it has tried to connect again and given up.
        """
        if self._client.status in ("closed", "closing"):
            raise SchedulerLostError(
                "the connection to the scheduler is lost and could not be made again; "
                "what is finished is on disk, run again to go on"
            )
        now = time.monotonic()
        if now < self._next_look or self._client.status != "running":
            return False
        try:
            threads = self._client.nthreads()
        except (OSError, RuntimeError):
            # The client notices by itself and connects again or closes.
            self._next_look = now + INTERVAL
            return False
        self.addresses = set(threads)
        self.threads = sum(threads.values())
        self._next_look = now + INTERVAL + INTERVAL_PER_WORKER * len(threads)
        if threads:
            self._last_seen = time.monotonic()
        return True

    def without_workers(self) -> float:
        """Time since a worker was last seen [s]."""
        return time.monotonic() - self._last_seen

    def is_overdue(self) -> bool:
        """Whether there was no worker for longer than the limit."""
        return not self.addresses and self.limit is not None and self.without_workers() > self.limit
