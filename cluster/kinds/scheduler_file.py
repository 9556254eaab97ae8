"""A scheduler that already runs, by the file that it wrote (``dask scheduler --scheduler-file``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from distributed import Client

from cluster.errors import ClusterError
from cluster.kinds.address import ExistingSettings


class Settings(ExistingSettings):
    """Keys of a scheduler known by its file.

    Attributes
    ----------
    scheduler_file : Path
        On a file system that this machine sees, relative to the working directory.
    """

    kind: Literal["scheduler_file"]
    scheduler_file: Path

    @contextmanager
    def open(self, *, scratch: Path, workers: int | None) -> Iterator[Client]:
        """Read the address and connect."""
        try:
            address = json.loads(self.scheduler_file.read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self.scheduler_file}: expected the file of a running Dask scheduler: {type(error).__name__}: {error}"
            ) from error
        with self.connected(str(address)) as client:
            yield client
