"""Fixed-shape granules, each computed by one thread: why results do not depend on how work is cut."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_T = TypeVar("_T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
_HEAP_BYTES = 32 << 20
"""The largest allocation that glibc can be told to take from the heap."""


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep up to 256 MiB of freed memory of this process for the next granule.

    Every granule allocates and frees the same arrays of about a megabyte. glibc returns such memory to
    the system at once, above all under Dask's nannies, which set ``MALLOC_TRIM_THRESHOLD_=65536``, and the
    page faults that follow cost more than the arithmetic: 122 instead of 42 ms for a granule of SPT.

    Returns
    -------
    bool
        Whether it was done; False where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch operations of this thread on one core.

    How a matrix product or a sum is cut over threads changes its rounding. A granule is therefore
    computed by one thread, and it is granules that run side by side.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_granules(function: Callable[[int], _T], count: int, threads: int | None = None) -> list[_T]:
    """``[function(0), ..., function(count - 1)]``, each computed by one single-threaded worker.

    Parameters
    ----------
    function : callable
        Of the granule's index. Torch releases the interpreter inside its operations.
    count : int
    threads : int, optional
        Granules computed at the same time; None takes ``torch.get_num_threads()``, so that whoever
        owns the process decides with ``torch.set_num_threads``.
    """
    keep_freed_memory()
    threads = min(threads or torch.get_num_threads(), count)
    if threads <= 1:
        with single_threaded():
            return [function(index) for index in range(count)]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, range(count)))
    finally:
        torch.set_num_threads(before)  # the pool's initialiser also set the default of later threads
