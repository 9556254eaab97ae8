"""One run per directory: a lock that names its owner and is recognised when stale."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

HEARTBEAT_SECONDS = 20.0
STALE_AFTER_SECONDS = 180.0
_START_TOLERANCE = 3.0  # the system states its own start in whole seconds [s]


class RunLocked(Exception):  # noqa: N818 - it states a fact, not a fault
    """Another run owns the directory; the message names its host and process."""


class RunLock:
    """Context manager that holds ``run.lock``.

    On one host a lock is stale when its process has gone (its id may have been given to another process,
    so its start time is compared too). Across hosts and users, where processes may not be seen, it is stale
    when its heartbeat is older than :data:`STALE_AFTER_SECONDS`. Neither depends on the clocks of the hosts,
    which may be wrong or set anew while a run lasts.

    Parameters
    ----------
    path : Path
    on_loss : callable
        Called in another thread when the lock was taken over by another run, as after this one stood still for so
        long on a suspended machine.

    Raises
    ------
    RunLocked
        On entry, if a living run holds the lock; on leaving, if another run has taken it over.
    """

    def __init__(self, path: Path, on_loss: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._on_loss = on_loss
        self._content = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="run-lock heartbeat")

    def __enter__(self) -> RunLock:
        self._content = json.dumps(
            {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(psutil.Process())}
        )
        for _ in range(2):
            try:
                self._create()
            except FileExistsError:
                owner = lock_owner(self.path)
                if owner is not None:
                    raise RunLocked(f"{self.path.parent} is in use by {owner}") from None
                self._remove_stale()
                continue
            self._thread.start()
            return self
        raise RunLocked(f"{self.path.parent} was taken by another run at this moment")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_lost():
            raise RunLocked(
                f"{self.path.parent} was taken over by {lock_owner(self.path) or 'another run'} while this one stood "
                "still; what it had finished is kept"
            ) from error
        self.path.unlink(missing_ok=True)

    def _create(self) -> None:
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(self._content)

    def _is_lost(self) -> bool:
        """Whether the lock names another run; where there is none, or no answer, nobody has taken it."""
        try:
            return self.path.read_text() not in ("", self._content)
        except OSError:
            return False

    def _remove_stale(self) -> None:
        """Take the lock away, and put it back if another run replaced the stale one in the meantime."""
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if lock_owner(aside) is not None:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self._is_lost():
                self._on_loss()
                return
            # A file system that fails for a while, as with a stale handle, is no reason to stop for good.
            with contextlib.suppress(OSError):
                try:
                    os.utime(self.path)
                except FileNotFoundError:
                    self._create()


def lock_owner(path: Path) -> str | None:
    """Host and process that hold the lock, or None if there is none or it is stale."""
    try:
        content = json.loads(path.read_text())
        facts = path.stat()
        host, pid, started = content["host"], int(content["pid"]), float(content["started"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # A process that died between creating and filling the lock leaves it empty.
        try:
            return (
                None
                if _now_at(path.parent) - path.stat().st_mtime > HEARTBEAT_SECONDS
                else "a run that is just starting"
            )
        except FileNotFoundError:
            return None
    owner = f"process {pid} on {host}"
    # Many login nodes hide the processes of other users.
    if host != socket.gethostname() or facts.st_uid != os.getuid():
        return None if _now_at(path.parent) - facts.st_mtime > STALE_AFTER_SECONDS else owner
    try:
        return owner if abs(_started(psutil.Process(pid)) - started) < _START_TOLERANCE else None
    except psutil.NoSuchProcess:
        return None


def _started(process: psutil.Process) -> float:
    """Start of a process since the start of the system [s], which setting the clock does not change."""
    return float(process.create_time() - psutil.boot_time())


def _now_at(directory: Path) -> float:
    """Time by the clock that dates the files of a directory, on a shared file system the server's."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()
