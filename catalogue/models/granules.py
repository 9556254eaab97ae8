"""Fixed-shape granules, each computed by one thread: why results do not depend on how work is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_T = TypeVar("_T")


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
