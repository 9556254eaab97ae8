"""A file that is written by a thread of its own, so that the next block is made while the last one is stored."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_WAITING = 2
"""Blocks that may wait for the disk: enough to keep it busy, little memory."""


class BackgroundFile:
    """A new file to which blocks are written in order.

    An error of the disk is raised by a later call, at the latest by :meth:`close`.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._waiting: deque[Future[None]] = deque()
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        """Append a block, which must not change afterwards."""
        self._waiting.append(self._thread.submit(_write_all, self._descriptor, data))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def overwrite(self, offset: int, data: bytes) -> None:
        """Wait until everything is written, then replace bytes from ``offset`` on."""
        self.wait()
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        _write_all(self._descriptor, data)

    def wait(self) -> None:
        """Wait until everything is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Wait and close."""
        try:
            self.wait()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close without caring for what waits. May be called again."""
        self._thread.shutdown(cancel_futures=True)
        if self._open:
            self._open = False
            os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write everything; a single call may write less, and never more than 2 GB."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
