"""How a worker runs a task, and how it reports so that no report is lost."""

from __future__ import annotations

import errno
import faulthandler
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distributed import get_worker
from distributed.utils import sync

from cluster.threads import limit_torch_threads

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

Cause = Literal["storage", "full", "memory", "program"]


@dataclass(frozen=True)
class Success:
    """A task that ended well."""

    worker: str
    seconds: float
    value: Any


@dataclass(frozen=True)
class Failure:
    """A task that raised: text only, since exceptions need not survive pickling."""

    worker: str
    cause: Cause
    exception: str
    traceback: str


def execute(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    time_limit: float | None,
    topic: str,
    key: str,
) -> None:
    """Run a task's function on a worker, telling the driver before it begins and when it has ended.

    Both reports are acknowledged by the scheduler before the worker goes on. Thus, whatever kills the worker, the
    driver knows which task it was running, and a task that has ended is not repeated because the next one killed
    the worker before its result was fetched.
    """
    worker = get_worker()
    report(worker, topic, key, worker.address)
    limit_torch_threads()
    limited = time_limit is not None and worker.state.nthreads == 1 and sys.__stderr__ is not None
    if limited:
        # Kept by a thread that needs no lock of the interpreter, so that a hang inside C code is ended too; it ends
        # the process, because nothing less ends such a call.
        faulthandler.dump_traceback_later(time_limit, exit=True, file=sys.__stderr__)  # type: ignore[arg-type]
    start = time.perf_counter()
    try:
        value = function(*arguments, **keywords)
        end: Success | Failure = Success(worker.address, time.perf_counter() - start, value)
        payload = pickle.dumps(end)
    except (Exception, SystemExit) as error:
        exception = f"{type(error).__name__}: {error}"
        payload = pickle.dumps(Failure(worker.address, cause_of(error), exception, traceback.format_exc()))
        # An error that is part of a cycle lives until the collector comes by, and with it what its frames hold: the
        # memory that the next attempt needs.
        traceback.clear_frames(error.__traceback__)
    finally:
        if limited:
            faulthandler.cancel_dump_traceback_later()
    report(worker, topic, key, payload)


def report(worker: Any, topic: str, key: str, message: str | bytes) -> None:
    """Send a message to whoever listens to ``topic``, and wait until the scheduler has it."""
    sync(worker.loop, worker.scheduler.log_event, topic=topic, msg={"key": key, "message": message})


def cause_of(error: BaseException) -> Cause:
    """Sort an exception by what is to be done about it.

    Returns
    -------
    str
        ``full``: stop, since every other task will meet it; ``storage``: repeat; ``memory``: repeat with a smaller
        batch; ``program``: stop, since repeating gives the same again.
    """
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return "memory"
    if isinstance(error, OSError):
        return "full" if error.errno in FULL else "storage"
    return "program"
