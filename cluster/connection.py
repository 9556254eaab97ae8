"""From ``cluster:`` in a run configuration to a connected client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from cluster.driver import ClusterError
from cluster.local import local


@contextmanager
def connect(
    where: str | Mapping[str, Any] | Client, *, relative_to: Path, scratch: Path, workers: int | None = None
) -> Iterator[Client]:
    """Connect to a cluster, starting it if need be.

    Parameters
    ----------
    where : str, mapping or Client
        ``local``; a client that is passed through and never closed.
    relative_to : Path
        Directory that relative files are relative to.
    scratch : Path
        Directory for the workers' files.
    workers : int, optional
        Number of workers, where this room starts them.

    Raises
    ------
    ClusterError
        If it cannot be started or reached.
    """
    if isinstance(where, Client):
        yield where
    elif where == "local" or (isinstance(where, Mapping) and where.get("kind") == "local"):
        with local(scratch, workers) as client:
            yield client
    else:
        raise ClusterError(f"cluster: expected local, found {where!r}")
