"""The cluster of a build, started only if there is work for it.

``cluster`` is imported then: it brings Dask, which takes longer to import than a run with nothing to do takes to find
that out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from catalogue.config import ConfigurationError
from catalogue.pipeline.run import Run

UNUSED_GPU = (
    "the GPU of this machine is left alone, as several processes would share it: "
    "--set cluster=cuda uses it (extra gpu), or --set workers=1"
)


class LazyCluster:
    """The run's cluster, started when the first task needs it, and ended with the context.

    Parameters
    ----------
    run : Run
    client : distributed.Client or None
        A cluster that already runs, which is left as it is.
    note : callable
        Called with what the user should know of the cluster.
    """

    def __init__(self, run: Run, client: Any, note: Callable[[str], None]) -> None:
        self.run = run
        self.client = client
        self._note = note
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
                self._check_device(configuration.inference.device, configuration.workers)
            self._context = cluster.connect(
                configuration.cluster,
                relative_to=Path.cwd(),
                scratch=self.run.directory.scratch,
                workers=configuration.workers,
            )
            self.client = self._context.__enter__()
        return self.client

    def _check_device(self, name: str, workers: int | None) -> None:
        from dask.system import CPU_COUNT

        from catalogue.models.device import DeviceError, choose_device

        try:
            device = choose_device(name)
        except DeviceError as error:
            raise ConfigurationError(str(error)) from error
        if name == "auto" and device.type == "cuda" and (workers or CPU_COUNT) > 1:
            self._note(UNUSED_GPU)
