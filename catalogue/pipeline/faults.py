"""Deliberate faults for the tests: silent unless ``CATALOGUE_FAULTS`` names a plan.

The plan is a JSON file: a list of ``{"point": "infer/3/written", "action": "kill"}``. A point is one that the pipeline
passes, ``stage/unit/moment``, or the use of a file: ``read:PATH``, ``write:PATH`` (before it is opened for writing) or
``rename:PATH`` (before it gets this name, its content being complete), PATH being a pattern such as ``*/flux/c/1/0``.
Each time a planned point is passed, a byte is appended to ``<plan>.<n>``, so that executions can be counted across
processes and reruns. The first ``spared`` passes (0) are left alone; the next ``times`` (1) meet the action, which is
``raise``, ``oserror``, ``exit``, ``kill``, ``kill parent``, ``hang`` (for ``seconds``), ``wait`` (until there is a file
``<plan>.go``) or ``none``.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

VARIABLE = "CATALOGUE_FAULTS"

_WRITING = os.O_WRONLY | os.O_RDWR
_busy = threading.local()


class PlannedFault(Exception):  # noqa: N818 - it is planned
    """Raised by the action ``raise``: stands for a programming error."""


def fault_point(stage: str, unit: int | str, moment: str) -> None:
    """Do what the plan, if there is one, has for this point.

    Parameters
    ----------
    stage : str
        ``ingest``, ``infer`` or ``merge``.
    unit : int or str
    moment : str
        ``before``, ``written`` or ``after``.
    """
    if VARIABLE in os.environ:
        _pass(f"{stage}/{unit}/{moment}")


def watch_files() -> None:
    """Have every file that this process opens or renames pass its points from now on."""
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename") or getattr(_busy, "here", False):
        return
    if event == "os.rename":
        point = f"rename:{os.fsdecode(arguments[1])}"
    elif isinstance(arguments[0], str | bytes | os.PathLike):
        point = f"{'write' if arguments[2] & _WRITING else 'read'}:{os.fsdecode(arguments[0])}"
    else:
        return
    _busy.here = True
    try:
        _pass(point)
    finally:
        _busy.here = False


def _pass(point: str) -> None:
    plan = os.environ.get(VARIABLE)
    if not plan or not Path(plan).is_file():
        return
    due = []
    for number, fault in enumerate(json.loads(Path(plan).read_text())):
        if fnmatch.fnmatchcase(point, fault["point"]):
            passed = _count(f"{plan}.{number}") - fault.get("spared", 0)
            if 1 <= passed <= fault.get("times", 1):
                due.append(fault)
    # All are counted before the first can end this process.
    for fault in due:
        _act(fault["action"], fault.get("seconds", 3600.0), f"{plan}.go")


def _count(path: str) -> int:
    """Append a byte, in one step over all processes; returns how many there are then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _act(action: str, seconds: float, go: str) -> None:
    if action == "raise":
        raise PlannedFault("planned")
    if action == "oserror":
        raise OSError(116, "Stale file handle (planned)")
    if action == "exit":
        os._exit(17)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(seconds)
    while action == "wait" and not Path(go).exists():
        time.sleep(0.02)


if VARIABLE in os.environ:
    watch_files()
