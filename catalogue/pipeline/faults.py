"""Deliberate faults for the tests: silent unless ``CATALOGUE_FAULTS`` names a plan.

The plan is a JSON file: a list of ``{"point": "infer/3/written", "action": "kill", "times": 1}``. Each time a
planned point is passed, a byte is appended to ``<plan>.<n>``, so that the number of executions can be asserted
across processes and reruns, and the action is taken while its count is at most ``times``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

VARIABLE = "CATALOGUE_FAULTS"


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
    plan = os.environ.get(VARIABLE)
    if not plan:
        return
    point = f"{stage}/{unit}/{moment}"
    for number, fault in enumerate(json.loads(Path(plan).read_text())):
        if fault["point"] == point:
            counter = Path(f"{plan}.{number}")
            with counter.open("ab") as stream:
                stream.write(b".")
            if counter.stat().st_size <= fault.get("times", 1):
                _act(fault["action"])


def _act(action: str) -> None:
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
        time.sleep(3600)
