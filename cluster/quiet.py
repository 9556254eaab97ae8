"""A cluster's life and end without noise: the driver itself counts and reports lost workers and repeated tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which Dask logs only what is critical, except where its logging was set to debug."""
    changed: list[tuple[logging.Logger, int]] = []
    known = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    for name in ["distributed", *known]:
        logger = logging.getLogger(name)
        if (name == "distributed" or logger.level != logging.NOTSET) and logger.level != logging.DEBUG:
            changed.append((logger, logger.level))
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in changed:
            logger.setLevel(level)
