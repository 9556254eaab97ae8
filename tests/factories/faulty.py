"""Task functions that fail by plan, per input and execution, and count their executions on disk."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


class UnpicklableError(Exception):
    """Cannot be made again from its message alone."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def executions(directory: Path, name: str) -> int:
    """How often a task of this name has begun."""
    file = Path(directory) / f"{name}.count"
    return file.stat().st_size if file.exists() else 0


def all_executions(directory: Path) -> dict[str, int]:
    return {file.stem: file.stat().st_size for file in sorted(Path(directory).glob("*.count"))}


def _begin(directory: str, name: str) -> int:
    """Count an execution, durably before anything can go wrong; returns its number from 1."""
    descriptor = os.open(Path(directory) / f"{name}.count", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, b"x")
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def run(directory: str, name: str, plan: tuple[str, ...] = ()) -> str:
    """Do what ``plan`` says for this execution: its n-th entry for the n-th, the last one for all further ones."""
    number = _begin(directory, name)
    action = plan[min(number, len(plan)) - 1] if plan else "work"
    ACTIONS[action](directory, name)
    return name


def run_with_halvings(directory: str, name: str, needed: int, halvings: int = 0) -> int:
    """Run out of memory until the batch has been halved ``needed`` times."""
    _begin(directory, name)
    if halvings < needed:
        raise OutOfMemoryError("CUDA out of memory")
    return halvings


def wait_for(directory: str, name: str, others: tuple[str, ...]) -> str:
    """Wait until files of these names are there, having made one's own: only ends beside the others."""
    _begin(directory, name)
    (Path(directory) / f"{name}.here").touch()
    deadline = time.monotonic() + 60
    while not all((Path(directory) / f"{other}.here").exists() for other in others):
        if time.monotonic() > deadline:
            raise AssertionError(f"{name} waited for {others} in vain")
        time.sleep(0.01)
    return name


def facts(directory: str, name: str) -> dict[str, object]:
    """What a worker process is like."""
    import sys

    _begin(directory, name)
    return {
        "pid": os.getpid(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "thread": threading.current_thread().name,
        "torch": "torch" in sys.modules,
    }


def paused_facts(directory: str, name: str) -> dict[str, object]:
    """The same after a while, so that others get tasks too."""
    time.sleep(0.2)
    return facts(directory, name)


def return_lock() -> object:
    return threading.Lock()


def load_once(directory: str, name: str) -> str:
    """Take what the plugin holds for this process."""
    from distributed import get_worker

    _begin(directory, name)
    return str(get_worker().plugins["once"].get())


def _raise_program(directory, name):
    raise UnpicklableError("one", "two")


def _raise_system(directory, name):
    raise OSError(errno.EIO, "input/output error")


def _raise_full(directory, name):
    raise OSError(errno.ENOSPC, "no space left on device")


def _raise_memory(directory, name):
    raise OutOfMemoryError("CUDA out of memory")


def _hang_holding_the_lock(directory, name):
    # A regular expression that backtracks for ever never gives up the interpreter's lock.
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


def _wait_to_be_killed(directory, name):
    (Path(directory) / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(600)


ACTIONS = {
    "work": lambda directory, name: None,
    "nap": lambda directory, name: time.sleep(0.05),
    "pause": lambda directory, name: time.sleep(0.5),
    "raise": _raise_program,
    "system": _raise_system,
    "full": _raise_full,
    "memory": _raise_memory,
    "exit": lambda directory, name: os._exit(1),
    "kill": lambda directory, name: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang_holding_the_lock,
    "wait": _wait_to_be_killed,
}
