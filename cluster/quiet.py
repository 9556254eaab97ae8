"""A cluster's end without noise: what Dask logs while its parts leave in any order tells nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Every one of them logs lost connections and killed tasks, which the driver counts and reports itself.
NOISY = (
    "distributed.batched",
    "distributed.client",
    "distributed.comm",
    "distributed.core",
    "distributed.deploy",
    "distributed.nanny",
    "distributed.scheduler",
    "distributed.worker",
)


@contextmanager
def quiet_close() -> Iterator[None]:
    """Context in which Dask logs only what is critical, unless its logging was configured more talkative."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, levels, strict=True):
        if level > logging.INFO or level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
