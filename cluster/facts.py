"""What `connect` knows of a client's cluster and `run_tasks` wants to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from distributed import Client

DEFAULT_WORKER_TIMEOUT = 120.0  # for clients of clusters that others started [s]


def _no_trouble() -> str | None:
    return None


@dataclass(frozen=True)
class Facts:
    """Of one cluster.

    Attributes
    ----------
    worker_timeout : float or None
        Longest time without any worker that is not an error there [s].
    trouble : callable
        Gives, while there are no workers, why there will be none, or None.
    """

    worker_timeout: float | None = DEFAULT_WORKER_TIMEOUT
    trouble: Callable[[], str | None] = _no_trouble


_facts: WeakKeyDictionary[Client, Facts] = WeakKeyDictionary()


def facts_of(client: Client) -> Facts:
    """What is known of a client's cluster."""
    return _facts.get(client, Facts())


def remember_worker_timeout(client: Client, seconds: float | None) -> None:
    """Note for how long a cluster may be without workers [s]."""
    _facts[client] = replace(facts_of(client), worker_timeout=seconds)


def remember_trouble(client: Client, trouble: Callable[[], str | None]) -> None:
    """Note where to ask why no workers come."""
    _facts[client] = replace(facts_of(client), trouble=trouble)
