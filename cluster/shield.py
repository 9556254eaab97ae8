"""Preloaded by local workers: orders to stop are for the command, which lets its tasks finish.

Ctrl-C and a hangup go to all processes of a terminal, and batch systems send their first warning to all processes of a
job. Workers that followed it would be gone before the command could wait for them. When the command itself is gone,
they notice and end.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP in a worker process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
