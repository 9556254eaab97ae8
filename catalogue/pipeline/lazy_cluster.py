"""The cluster of a build, started only if there is work for it.

``cluster`` is imported then: it brings Dask, which takes longer to import than a run with nothing to do takes to find
that out.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from catalogue.config import ConfigurationError
from catalogue.pipeline.run import Run


class LazyCluster:
    """The run's cluster, started when the first task needs it, and ended with the context.

    Parameters
    ----------
    run : Run
    client : distributed.Client or None
        A cluster that already runs, which is left as it is.
    """

    def __init__(self, run: Run, client: Any) -> None:
        self.run = run
        self.client = client
        self._context: Any = None

    def __enter__(self) -> LazyCluster:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            # All results are on disk: workers too busy to answer when they are told to go spoil nothing.
            with suppress(TimeoutError):
                self._context.__exit__(*error)
            # The logs stay until a build ends well: the message of one that does not sends the reader there.
            for entry in self.run.directory.scratch.glob("*/"):
                if entry.name != "logs":
                    shutil.rmtree(entry, ignore_errors=True)

    def get(self) -> Any:
        """Client of the cluster.

        Raises
        ------
        ConfigurationError
            If workers are to be started on this machine and the device that they are to use is not there.
        """
        if self.client is None:
            import cluster

            configuration = self.run.configuration
            if configuration.cluster == "local":  # workers of another cluster may see what this machine lacks
                _check_device(configuration.inference.device)
            self._context = cluster.connect(
                configuration.cluster,
                relative_to=Path.cwd(),
                scratch=self.run.directory.scratch,
                workers=configuration.workers,
            )
            self.client = self._context.__enter__()
        return self.client


def _check_device(name: str) -> None:
    from catalogue.models.device import DeviceError, choose_device

    try:
        choose_device(name)
    except DeviceError as error:
        raise ConfigurationError(str(error)) from error
