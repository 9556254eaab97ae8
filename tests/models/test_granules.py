from __future__ import annotations

import os
import sys
import threading

import pytest
import torch

from catalogue.models.granules import keep_freed_memory, map_granules, single_threaded


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_every_worker_computes_on_one_thread(threads):
    seen = map_granules(lambda i: (i, torch.get_num_threads()), 7, threads)
    assert seen == [(i, 1) for i in range(7)]


def test_several_workers_run_at_the_same_time():
    together = threading.Barrier(2, timeout=30)
    assert map_granules(lambda _: together.wait() >= 0, 2, 2) == [True, True]


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_to_do_is_no_work(threads):
    assert map_granules(lambda _: pytest.fail("called"), 0, threads) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_granule_reaches_the_caller_and_leaves_the_threads_as_they_were(threads):
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        map_granules(lambda i: 1 // i, 4, threads)
    assert torch.get_num_threads() == before
    assert map_granules(lambda _: torch.get_num_threads(), 1, threads) == [1]


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded():
            assert torch.get_num_threads() == 1
        map_granules(lambda i: i, 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_freed_memory_is_kept_where_the_c_library_can():
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() == (sys.platform.startswith("linux") and os.confstr("CS_GNU_LIBC_VERSION") is not None)
